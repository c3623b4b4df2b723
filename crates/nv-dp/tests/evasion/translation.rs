//! NAT of the node: the verdict is on the ends that a packet has where it is judged.

use std::net::IpAddr;

use crate::play::{Act, Row, SYN};
use crate::town::Who;

pub const ROWS: &[Row] = &[
    Row::new(17, "service address: rule on the pod's port", service_address),
    Row::new(
        18,
        "hairpin through the own service address; peers on one node",
        hairpin,
    )
    .both(),
    Row::new(19, "NodePort with source NAT", node_port),
    Row::new(
        30,
        "an address that somebody else's service claims",
        claimed_address,
    )
    .both(),
];

/// What the node translates: a destination and its port to another, and whether the source becomes the node's.
struct Nat {
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    masquerade: bool,
}

fn translate(act: &Act<'_>, list: &[Nat]) {
    let (family, word) = if act.way.v6 { ("ip6", "ip6") } else { ("ip", "ip") };
    let node = &act.town.node;
    let run = |line: String| {
        let output = node.run(move || std::process::Command::new("nft").arg(line).output().unwrap());
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    run(format!("add table {family} town"));
    run(format!(
        "add chain {family} town in {{ type nat hook prerouting priority -100; }}"
    ));
    run(format!(
        "add chain {family} town out {{ type nat hook postrouting priority 100; }}"
    ));
    for Nat { from, to, masquerade } in list {
        let target = std::net::SocketAddr::new(to.0, to.1);
        run(format!(
            "add rule {family} town in {word} daddr {} tcp dport {} dnat to {target}",
            from.0, from.1
        ));
        if *masquerade {
            run(format!(
                "add rule {family} town out {word} daddr {} tcp dport {} masquerade",
                to.0, to.1
            ));
        }
    }
}

fn stop(act: &Act<'_>) {
    let family = if act.way.v6 { "ip6" } else { "ip" };
    assert!(act.town.node.try_run(&format!("nft delete table {family} town")));
}

/// The sender of the way asks the service; behind it is the other end.
fn service_address(act: &mut Act<'_>) {
    let (client, server) = act.ends(Who::Friend);
    let service = act.addr(Who::Virtual);
    translate(
        act,
        &[
            Nat {
                from: (service, 80),
                to: (server, 8080),
                masquerade: false,
            },
            // The service's port is one that rules allow; the pod's is not.
            Nat {
                from: (service, 8080),
                to: (server, 9090),
                masquerade: false,
            },
            Nat {
                from: (service, 5000),
                to: (server, 9091),
                masquerade: false,
            },
        ],
    );
    if !act.way.egress {
        // Judged behind the translation: the real port is allowed, whatever the service's is.
        let from = (client, act.port());
        let good = act.routed(act.tcp(from, (service, 80), SYN, b""));
        act.allowed(&[good]);
    }
    let frames = [8080, 5000].map(|port| {
        let from = (client, act.port());
        act.routed(act.tcp(from, (service, port), SYN, b""))
    });
    act.fire(&frames);
    stop(act);
}

/// Through the service address to the same workload, on a port that is not allowed, and straight to a peer on the same node.
fn hairpin(act: &mut Act<'_>) {
    let (client, server) = act.ends(Who::Stranger);
    let service = act.addr(Who::Virtual);
    translate(
        act,
        &[Nat {
            from: (service, 8080),
            to: (server, 9090),
            masquerade: false,
        }],
    );
    let from = (client, act.port());
    let through = act.routed(act.tcp(from, (service, 8080), SYN, b""));
    let straight = act.frame(act.tcp((client, from.1 + 1000), (server, 9090), SYN, b""));
    act.fire(&[through, straight]);
    stop(act);
}

/// The friend comes as the node; nothing is allowed to the node.
fn node_port(act: &mut Act<'_>) {
    let (client, server) = act.ends(Who::Friend);
    let node = act.addr(Who::Node);
    translate(
        act,
        &[Nat {
            from: (node, 30_080),
            to: (server, 8080),
            masquerade: true,
        }],
    );
    let from = (client, act.port());
    let frames = [act.routed(act.tcp(from, (node, 30_080), SYN, b""))];
    act.fire(&frames);
    stop(act);
}

/// Traffic for a friend is led to a stranger, who is under guard as well and lets nobody in.
fn claimed_address(act: &mut Act<'_>) {
    // From the workload to its friend; or from the stranger to an address outside that was claimed for the workload.
    let (from, claimed, real) = if act.way.egress {
        (act.addr(Who::Web), act.addr(Who::Friend), act.addr(Who::Stranger))
    } else {
        (
            act.addr(Who::Stranger),
            act.addr(Who::Virtual),
            act.addr(Who::Web),
        )
    };
    translate(
        act,
        &[Nat {
            from: (claimed, 8080),
            to: (real, 8080),
            masquerade: false,
        }],
    );
    let port = act.port();
    let frames = [act.routed(act.tcp((from, port), (claimed, 8080), SYN, b""))];
    act.fire(&frames);
    stop(act);
}
