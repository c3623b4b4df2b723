//! Whose addresses, whose interface.

use std::net::IpAddr;

use nv_dp_common::layout::{ANSWER_MARK, RELEASE_MARK};

use crate::play::{Act, Expect, Row, SYN};
use crate::sys::Wire;
use crate::town::{PEER_MAC, Town, WEB_MAC, Who, spec};
use crate::wire::{self, Mac, UDP};

pub const ROWS: &[Row] = &[
    Row::new(1, "source address of another pod", foreign_source).both(),
    Row::new(2, "source MAC changed", foreign_mac).both(),
    Row::new(11, "loopback inside the pod", loopback).expect(|_| Expect::Stated),
    Row::new(
        12,
        "NET_ADMIN: qdiscs, rules and addresses changed from inside",
        net_admin,
    ),
    Row::new(13, "macvlan on top of eth0", macvlan).both(),
    Row::new(
        25,
        "ARP and neighbour advertisements for another's address",
        neighbour_lies,
    )
    .both(),
    Row::new(26, "rogue router, rogue DHCP server", rogue_router).both(),
    Row::new(27, "multicast, broadcast, mDNS, LLMNR, NetBIOS", multicast),
    Row::new(38, "a second interface, a second address", second_interface),
    Row::new(40, "AF_PACKET past the queueing discipline", past_qdisc),
];

/// What the matrix does not have.
pub const BEYOND: &[Row] = &[Row::new(
    41,
    "the marks that let the node's own packets pass",
    marked,
)];

const LIAR_MAC: Mac = [2, 0, 0, 0, 0x66, 0x66];

/// To a port that the address's owner may reach.
fn foreign_source(act: &mut Act<'_>) {
    let (_, to) = act.ends(Who::Friend);
    let liar = act.addr(if act.way.egress { Who::Nobody } else { Who::Friend });
    let port = act.port();
    let frames = [
        act.udp((liar, port), (to, 5000), b"hello"),
        act.tcp((liar, port), (to, 8080), SYN, b""),
        act.icmp(
            liar,
            to,
            if act.way.v6 { (128, 0) } else { (8, 0) },
            [0, 7, 0, 1],
            &act.mark,
        ),
    ]
    .map(|packet| act.frame(packet));
    act.fire(&frames);
}

fn foreign_mac(act: &mut Act<'_>) {
    // The stranger's own address, so that only the MAC is wrong; the fence's port is allowed to everybody.
    let (from, to) = act.ends(Who::Stranger);
    let port = act.port();
    let packet = act.udp((from, port), (to, 7777), b"hello");
    let good = act.frame(packet);
    act.allowed(&[good]);
    let packet = act.udp((from, port), (to, 7777), b"hello");
    let other = if act.way.egress { PEER_MAC } else { WEB_MAC };
    let frames = [LIAR_MAC, other, [2, 0, 0, 0, 0x66, 0x67]].map(|mac| act.frame_from(mac, packet.clone()));
    act.fire(&frames);
}

fn loopback(act: &mut Act<'_>) {
    let v6 = act.way.v6;
    let inside = if act.way.egress {
        &act.town.web
    } else {
        &act.town.peer
    };
    let arrived = inside.run(move || {
        let address = if v6 { "[::1]:0" } else { "127.0.0.1:0" };
        let server = std::net::UdpSocket::bind(address).unwrap();
        server
            .set_read_timeout(Some(std::time::Duration::from_secs(1)))
            .unwrap();
        let client = std::net::UdpSocket::bind(address).unwrap();
        let mut arrived = 0;
        for _ in 0..3 {
            client.send_to(b"inside", server.local_addr().unwrap()).unwrap();
            arrived += usize::from(server.recv(&mut [0; 16]).is_ok());
        }
        arrived
    });
    act.sent += 3;
    act.delivered += arrived;
}

fn net_admin(act: &mut Act<'_>) {
    let extra = act.addr(Who::Nobody);
    let prefix = if act.way.v6 { 64 } else { 24 };
    for line in [
        "tc qdisc del dev eth0 clsact",
        "tc qdisc del dev eth0 ingress",
        "tc qdisc replace dev eth0 root pfifo",
        "nft flush ruleset",
        "ip link set eth0 down",
        "ip link set eth0 up",
        &format!("ip addr replace {extra}/{prefix} dev eth0"),
    ] {
        act.town.web.try_run(line);
    }
    // The link is up again once a frame has passed it.
    act.town
        .deliver(act.way.egress, [0xfd; 6], &[], |wire, frame| wire.send(frame));
    let (from, to) = act.ends(Who::Friend);
    let port = act.port();
    let (as_other, to_other) = if act.way.egress {
        (extra, to)
    } else {
        (from, extra)
    };
    let frames = [
        act.udp((from, port), (to, 9090), b"hello"),
        act.tcp((from, port), (to, 9090), SYN, b""),
        act.udp((as_other, port), (to_other, 9090), b"hello"),
    ]
    .map(|packet| act.frame(packet));
    act.fire(&frames);
    act.town.web.try_run("ip addr flush dev eth0");
    act.town.web.try_run("tc qdisc del dev eth0 root");
}

/// A new interface with a MAC and an address of its own, in another namespace of the same workload.
fn macvlan(act: &mut Act<'_>) {
    let town = &mut *act.town;
    let inside = if act.way.egress { &town.web } else { &town.peer };
    let hidden = crate::common::netns::Namespace::new();
    inside.ip("link add link eth0 name mv0 address 02:00:00:00:66:66 type macvlan mode bridge");
    inside.ip(&format!("link set mv0 netns {}", hidden.tid()));
    hidden.sysctl("net/ipv6/conf/mv0/disable_ipv6", "1");
    hidden.ip("link set mv0 up");
    let wire = hidden.run(|| Wire::open("mv0"));
    let (from, to) = act.ends(Who::Stranger);
    let nobody = act.addr(Who::Nobody);
    let port = act.port();
    let frames = [from, nobody].map(|from| {
        let packet = act.udp((from, port), (to, 7777), b"hello");
        act.frame_from(LIAR_MAC, packet)
    });
    act.fire_by(&frames, |_, frame| wire.send(frame));
    hidden.ip("link del mv0");
}

fn neighbour_lies(act: &mut Act<'_>) {
    let victim = act.addr(if act.way.egress { Who::Friend } else { Who::Nobody });
    let mac = if act.way.egress { WEB_MAC } else { PEER_MAC };
    let own = act.addr(if act.way.egress { Who::Web } else { Who::Stranger });
    let frames: Vec<Vec<u8>> = match (victim, own) {
        (IpAddr::V4(victim), IpAddr::V4(own)) => {
            let mark = act.mark;
            let arp = |operation: u8, mac: Mac, sender: [u8; 4], target: [u8; 4]| {
                let mut body = vec![0, 1, 8, 0, 6, 4, 0, operation];
                body.extend_from_slice(&mac);
                body.extend_from_slice(&sender);
                body.extend_from_slice(&mark);
                body.extend_from_slice(&target);
                (0x0806, body)
            };
            let victim = victim.octets();
            let honest = act.frame(arp(1, mac, own.octets(), [10, 77, 0, 1]));
            act.allowed(&[honest]);
            let mark = act.mark;
            let remark = |(kind, mut body): (u16, Vec<u8>)| {
                body[18..24].copy_from_slice(&mark);
                (kind, body)
            };
            [
                // A reply, a gratuitous request, one in another's name.
                remark(arp(2, mac, victim, own.octets())),
                remark(arp(1, mac, victim, victim)),
                remark(arp(2, LIAR_MAC, own.octets(), [10, 77, 0, 1])),
            ]
            .map(|packet| act.frame(packet))
            .to_vec()
        }
        (victim, own) => {
            let all: IpAddr = "ff02::1".parse().unwrap();
            let advertisement = |source: IpAddr| {
                let IpAddr::V6(target) = victim else {
                    unreachable!()
                };
                let mut payload = target.octets().to_vec();
                payload.extend_from_slice(&[2, 1]);
                payload.extend_from_slice(&act.mark);
                let (proto, body) = wire::icmp(source, all, 136, 0, [0x20, 0, 0, 0], &payload);
                wire::ip_with(source, all, proto, &body, 255, None)
            };
            [advertisement(own), advertisement(victim)]
                .map(|packet| act.frame(packet))
                .to_vec()
        }
    };
    act.fire(&frames);
}

fn rogue_router(act: &mut Act<'_>) {
    let own = act.addr(if act.way.egress { Who::Web } else { Who::Stranger });
    let (_, to) = act.ends(Who::Stranger);
    let mark = act.mark;
    let frames: Vec<Vec<u8>> = if act.way.v6 {
        let link_local: IpAddr = "fe80::77:2".parse().unwrap();
        let all: IpAddr = "ff02::1".parse().unwrap();
        let discovery = |source: IpAddr, target: IpAddr, kind: u8, payload: &[u8]| {
            let (proto, body) = wire::icmp(source, target, kind, 0, [64, 0, 7, 8], payload);
            wire::ip_with(source, target, proto, &body, 255, None)
        };
        let mut advertisement = vec![0; 8];
        advertisement.extend_from_slice(&[1, 1]);
        advertisement.extend_from_slice(&mark);
        let mut redirect = vec![0; 32];
        redirect.extend_from_slice(&[2, 1]);
        redirect.extend_from_slice(&mark);
        let offer = |from: IpAddr, to: IpAddr| act.udp((from, 547), (to, 546), &[2, 1, 2, 3]);
        vec![
            discovery(link_local, all, 134, &advertisement),
            discovery(own, to, 134, &advertisement),
            discovery(link_local, to, 137, &redirect),
            offer(own, to),
            offer(link_local, to),
        ]
    } else {
        let everybody: IpAddr = "255.255.255.255".parse().unwrap();
        let mut lease = vec![0; 240];
        lease[0] = 2;
        lease[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        let mut redirect = vec![0; 28];
        redirect[0] = 0x45;
        redirect.extend_from_slice(&mark);
        vec![
            act.udp((own, 67), (everybody, 68), &lease),
            act.udp((own, 67), (to, 68), &lease),
            act.icmp(own, to, (5, 1), [10, 77, 0, 2], &redirect),
        ]
    }
    .into_iter()
    .map(|packet| act.frame(packet))
    .collect();
    act.fire(&frames);
}

fn multicast(act: &mut Act<'_>) {
    let (from, _) = act.ends(Who::Stranger);
    let groups: &[(&str, u16)] = if act.way.v6 {
        &[
            ("ff02::fb", 5353),
            ("ff02::1:3", 5355),
            ("ff02::1", 9090),
            ("ff05::2", 1900),
        ]
    } else {
        &[
            ("224.0.0.251", 5353),
            ("224.0.0.252", 5355),
            ("239.255.255.250", 1900),
            ("255.255.255.255", 137),
            ("10.77.0.255", 138),
        ]
    };
    let frames: Vec<_> = groups
        .iter()
        .map(|(group, port)| {
            let source = act.port();
            let group: IpAddr = group.parse().unwrap();
            let (kind, packet) = act.udp((from, source), (group, *port), b"anybody there");
            let mac = match group {
                IpAddr::V4(group) if group.is_multicast() => {
                    let [_, b, c, d] = group.octets();
                    [1, 0, 0x5e, b & 0x7f, c, d]
                }
                IpAddr::V4(_) => [0xff; 6],
                IpAddr::V6(group) => {
                    let tail = group.octets();
                    [0x33, 0x33, tail[12], tail[13], tail[14], tail[15]]
                }
            };
            wire::eth(
                mac,
                if act.way.egress { WEB_MAC } else { PEER_MAC },
                kind,
                &packet,
            )
        })
        .collect();
    act.fire(&frames);
}

fn second_interface(act: &mut Act<'_>) {
    const MAC: Mac = [2, 0, 0, 0, 0x77, 3];
    let town: &mut Town = act.town;
    town.node.add_port(&town.web, "web1", "eth1", MAC);
    let index = town.node.ifindex("web1");
    if act.guarded {
        town.attach(nv_dp::EndpointSpec {
            workload: Some(crate::common::image::workload("web")),
            ..spec(index, "web1", MAC, Who::Nobody)
        });
    }
    let wire = town.web.run(|| Wire::open("eth1"));
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
    if act.way.egress {
        let frames = packets.map(|packet| wire::eth(PEER_MAC, MAC, packet.0, &packet.1));
        act.fire_by(&frames, |_, frame| wire.send(frame));
    } else {
        // Counted where they arrive: at the second interface.
        let frames = packets.map(|packet| wire::eth(MAC, PEER_MAC, packet.0, &packet.1));
        let main = std::mem::replace(&mut act.town.web_wire, wire);
        let fence = act.udp((act.addr(Who::Stranger), port), (nobody, 7777), b"");
        act.sent += frames.len();
        act.delivered += count_at_second(act, &frames, &wire::eth(MAC, PEER_MAC, fence.0, &fence.1));
        act.town.web_wire = main;
    }
    let town: &mut Town = act.town;
    if act.guarded {
        town.with(move |datapath| nv_dp::Datapath::detach(datapath, index).unwrap());
    }
    town.node.ip("link del web1");
}

/// Frames that arrived before one that is allowed, and that carries the mark as well.
fn count_at_second(act: &Act<'_>, frames: &[Vec<u8>], fence: &[u8]) -> usize {
    let mut buffer = [0; 2048];
    for frame in frames {
        act.town.peer_wire.send(frame);
    }
    act.town.peer_wire.send(fence);
    let start = std::time::Instant::now();
    let mut count = 0;
    while start.elapsed() < std::time::Duration::from_secs(5) {
        match act.town.web_wire.recv(&mut buffer) {
            // On the way the padding may have gone.
            Some(frame) if fence.starts_with(frame) => return count,
            Some(frame) => count += usize::from(frame.windows(6).any(|window| window == act.mark)),
            None => std::thread::sleep(std::time::Duration::from_micros(200)),
        }
    }
    panic!("the fence did not arrive at the second interface");
}

fn past_qdisc(act: &mut Act<'_>) {
    let town: &mut Town = act.town;
    let inside = if act.way.egress { &town.web } else { &town.peer };
    let wire = inside.run(|| Wire::open("eth0"));
    wire.bypass_qdisc();
    let (from, to) = act.ends(Who::Friend);
    let port = act.port();
    let frames = [
        act.udp((from, port), (to, 9090), b"hello"),
        act.tcp((from, port), (to, 9090), SYN, b""),
        wire::ip(from, to, UDP, &wire::udp((from, port), (to, 9091), &act.mark)),
    ]
    .map(|packet| act.frame(packet));
    act.fire_by(&frames, |_, frame| wire.send(frame));
}

/// The marks by which the programs know their own answers and the agent's.
fn marked(act: &mut Act<'_>) {
    let town: &mut Town = act.town;
    let inside = if act.way.egress { &town.web } else { &town.peer };
    let wire = inside.run(|| Wire::open("eth0"));
    let (from, to) = act.ends(Who::Friend);
    for mark in [RELEASE_MARK, ANSWER_MARK] {
        wire.mark(mark);
        let port = act.port();
        let frames = [
            act.udp((from, port), (to, 9090), b"hello"),
            act.tcp((from, port), (to, 9090), SYN, b""),
        ]
        .map(|packet| act.frame(packet));
        act.fire_by(&frames, |_, frame| wire.send(frame));
    }
}
