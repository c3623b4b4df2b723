//! Starts, restarts, changes of policy: moments in which a guard may look away.

use nv_dp::EndpointSpec;
use nv_types::Verdict;

use crate::play::{ACK, Act, Expect, Row, SYN};
use crate::sys::Wire;
use crate::town::{Law, PEER_MAC, Town, WEB_MAC, Who};
use crate::wire::{self, Mac};

pub const ROWS: &[Row] = &[
    Row::new(
        14,
        "first packets after the start, before the workload is known",
        first_packets,
    ),
    Row::new(15, "a start while the agent is down", start_without_agent).expect(|_| Expect::Gap(2)),
    Row::new(16, "the agent restarts", agent_restarts),
    Row::new(
        21,
        "a connection that was opened before it was denied",
        opened_before,
    ),
    Row::new(
        23,
        "one workload fills the table of flows: the others' new connections",
        exhaustion,
    )
    .expect(|_| Expect::Stated),
    Row::new(
        36,
        "a label that joins a trusted group, and is taken away",
        label_edit,
    ),
    Row::new(37, "a dead pod's address at a new pod", address_reuse),
    Row::new(39, "a privileged container detaches the programs", detached).expect(|_| Expect::Stated),
];

fn denied_frames(act: &mut Act<'_>) -> Vec<Vec<u8>> {
    let (from, to) = act.ends(Who::Friend);
    let port = act.port();
    [
        act.udp((from, port), (to, 9090), b"hello"),
        act.tcp((from, port), (to, 9090), SYN, b""),
    ]
    .map(|packet| act.frame(packet))
    .to_vec()
}

/// The interface is guarded before anything is known of its workload, under `unknown_endpoint = deny`.
fn first_packets(act: &mut Act<'_>) {
    if act.guarded {
        let index = act.town.web_index;
        act.town.detach_all();
        act.town.config.unknown = Verdict::Deny;
        act.town.apply(Law::Usual);
        act.town.attach(EndpointSpec {
            ifindex: index,
            name: "web".into(),
            workload: None,
            mac: None,
            addresses: vec![],
            quarantine: false,
        });
    }
    let (from, to) = act.ends(Who::Friend);
    let port = act.port();
    let frames = [
        act.udp((from, port), (to, 5000), b"hello"),
        act.tcp((from, port), (to, 8080), SYN, b""),
        act.udp((from, port), (to, 9090), b"hello"),
    ]
    .map(|packet| act.frame(packet));
    count_without_fence(act, &frames);
    act.town.config = crate::common::image::config();
}

/// Where nothing is allowed, the fence is not either: what arrives within a while counts.
fn count_without_fence(act: &mut Act<'_>, frames: &[Vec<u8>]) {
    let mut buffer = [0; 2048];
    let (sender, receiver) = if act.way.egress {
        (&act.town.web_wire, &act.town.peer_wire)
    } else {
        (&act.town.peer_wire, &act.town.web_wire)
    };
    for frame in frames {
        sender.send(frame);
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut arrived = 0;
    while let Some(frame) = receiver.recv(&mut buffer) {
        arrived += usize::from(frame.windows(6).any(|window| window == act.mark));
    }
    act.sent += frames.len();
    act.delivered += arrived;
}

/// A new interface that nobody attaches: programs of others keep what is guarded, but nothing is on this one. The hook of the
/// container runtime refuses such a start.
fn start_without_agent(act: &mut Act<'_>) {
    const MAC: Mac = [2, 0, 0, 0, 0x77, 4];
    let town: &mut Town = act.town;
    if act.guarded {
        town.stop_agent();
    }
    town.node.add_port(&town.web, "late", "eth9", MAC);
    let late = town.web.run(|| Wire::open("eth9"));
    let nobody = act.addr(Who::Nobody);
    let friend = act.addr(Who::Friend);
    let port = act.port();
    let (from, to) = if act.way.egress {
        (nobody, friend)
    } else {
        (friend, nobody)
    };
    let packets = [
        act.udp((from, port), (to, 9090), b"hello"),
        act.tcp((from, port), (to, 9090), SYN, b""),
    ];
    let macs = if act.way.egress {
        (PEER_MAC, MAC)
    } else {
        (MAC, PEER_MAC)
    };
    let frames = packets.map(|packet| wire::eth(macs.0, macs.1, packet.0, &packet.1));
    if act.way.egress {
        act.fire_by(&frames, |_, frame| late.send(frame));
    } else {
        let usual = std::mem::replace(&mut act.town.web_wire, late);
        count_without_fence(act, &frames);
        act.town.web_wire = usual;
    }
    act.town.node.ip("link del late");
    if act.guarded {
        act.town.start_agent();
    }
}

/// The agent is gone, comes back, and replaces the programs, while denied packets are sent without a pause.
fn agent_restarts(act: &mut Act<'_>) {
    let frames = denied_frames(act);
    if act.guarded {
        act.town.stop_agent();
    }
    act.fire(&frames);
    let (sender, mark) = (act.way, act.mark);
    let inside = if sender.egress {
        &act.town.web
    } else {
        &act.town.peer
    };
    let wire = inside.run(|| Wire::open("eth0"));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let volley = frames.clone();
    let fire = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            for frame in &volley {
                wire.send(frame);
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    });
    if act.guarded {
        act.town.start_agent();
    } else {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    fire.join().unwrap();
    // What has piled up at the receiver since the last fence.
    let receiver = if sender.egress {
        &act.town.peer_wire
    } else {
        &act.town.web_wire
    };
    let mut buffer = [0; 2048];
    let mut arrived = 0;
    while let Some(frame) = receiver.recv(&mut buffer) {
        arrived += usize::from(frame.windows(6).any(|window| window == mark));
    }
    if act.guarded {
        assert_eq!(arrived, 0, "{sender}: packets during the restart");
    } else {
        assert!(arrived > 0, "{sender}: nothing was sent during the restart");
    }
    act.fire(&frames);
}

fn opened_before(act: &mut Act<'_>) {
    let (client, server) = act.ends(Who::Friend);
    let mut open = Vec::new();
    for port in [8080, 8080] {
        let (from, to) = ((client, act.port()), (server, port));
        act.handshake(from, to);
        let before = act.frame(act.tcp(from, to, ACK, b"still allowed"));
        act.allowed(&[before]);
        open.push((from, to));
    }
    let datagrams = ((client, act.port()), (server, 5000));
    let before = act.frame(act.udp(datagrams.0, datagrams.1, b"still allowed"));
    act.allowed(&[before]);
    act.town.apply(Law::Strict);
    let mut frames: Vec<_> = open
        .iter()
        .flat_map(|(from, to)| {
            [
                act.tcp(*from, *to, ACK, b"no more"),
                act.tcp(*from, *to, ACK, b""),
            ]
        })
        .collect();
    frames.push(act.udp(datagrams.0, datagrams.1, b"no more"));
    let frames: Vec<_> = frames.into_iter().map(|packet| act.frame(packet)).collect();
    act.fire(&frames);
}

/// The other end, under guard as well, opens more flows than it has a share of; then the workload's friends open theirs.
fn exhaustion(act: &mut Act<'_>) {
    let spec = act.town.peer_spec();
    if act.guarded {
        act.town.attach(spec);
    }
    let (_, to) = act.ends(Who::Friend);
    let noisy = act.addr(Who::Stranger);
    // The fence's own flow is there before, and goes on.
    act.town
        .deliver(false, [0xfd; 6], &[], |wire, frame| wire.send(frame));
    // The fence's port is allowed, so that each of these is a flow.
    for volley in 0..3_u16 {
        let frames: Vec<_> = (0..2000_u16)
            .map(|at| {
                let port = 10_000 + volley * 2000 + at;
                let web = act.addr(Who::Web);
                let flood = wire::ip(
                    noisy,
                    web,
                    wire::UDP,
                    &wire::udp((noisy, port), (web, 7777), b"x"),
                );
                wire::eth(WEB_MAC, PEER_MAC, flood.0, &flood.1)
            })
            .collect();
        act.town
            .deliver(false, [0xfd; 6], &frames, |wire, frame| wire.send(frame));
    }
    let index = act.town.peer_index;
    if act.guarded {
        act.town
            .with(move |datapath| nv_dp::Datapath::detach(datapath, index).unwrap());
    }
    let (from, _) = act.ends(Who::Friend);
    let frames: Vec<_> = (0..50)
        .map(|_| {
            let port = act.port();
            act.frame(act.tcp((from, port), (to, 8080), SYN, b""))
        })
        .collect();
    act.fire(&frames);
}

fn label_edit(act: &mut Act<'_>) {
    let (from, to) = act.ends(Who::Stranger);
    let (client, server) = ((from, act.port()), (to, 8080));
    act.town.apply(Law::Joined);
    act.handshake(client, server);
    let joined = act.frame(act.tcp(client, server, ACK, b"as a friend"));
    act.allowed(&[joined]);
    act.town.apply(Law::Usual);
    let again = act.port();
    let frames = [
        act.tcp(client, server, ACK, b"as a stranger"),
        act.tcp((from, again), server, SYN, b""),
    ]
    .map(|packet| act.frame(packet));
    act.fire(&frames);
}

fn address_reuse(act: &mut Act<'_>) {
    let (from, to) = act.ends(Who::Friend);
    let (client, server) = ((from, act.port()), (to, 8080));
    act.handshake(client, server);
    let alive = act.frame(act.tcp(client, server, ACK, b"alive"));
    act.allowed(&[alive]);
    // The friend is gone; whoever has the address next is nobody that rules speak of.
    act.town.apply(Law::Friendless);
    let again = act.port();
    let frames = [
        act.tcp(client, server, ACK, b"from the grave"),
        act.tcp((from, again), server, SYN, b""),
        act.udp((from, again), (to, 5000), b"hello"),
    ]
    .map(|packet| act.frame(packet));
    act.fire(&frames);
}

/// Who is root on the node can take the programs away: stated. An agent that starts puts them back.
fn detached(act: &mut Act<'_>) {
    let frames = denied_frames(act);
    if act.guarded {
        act.town.stop_agent();
        for entry in std::fs::read_dir(act.town.pins().join("links")).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        // The kernel takes a link down some time after its last holder has gone.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    act.fire(&frames);
    if act.guarded {
        act.town.start_agent();
        // An agent that starts puts them back.
        let arrived = act
            .town
            .deliver(act.way.egress, act.mark, &frames, |wire, frame| wire.send(frame));
        assert_eq!(arrived, 0, "{}: after the agent is back", act.way);
    }
}
