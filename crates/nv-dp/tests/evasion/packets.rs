//! Packets that a policy of ports does not expect.

use std::net::IpAddr;

use crate::play::{Act, Row, SYN};
use crate::town::Who;
use crate::wire::{self, TCP, UDP};

pub const ROWS: &[Row] = &[
    Row::new(3, "SCTP, GRE, ESP, UDP-Lite, DCCP, 253", other_protocols),
    Row::new(
        4,
        "fragments: without a first one, overlapping, tiny, last first",
        fragments,
    ),
    Row::new(5, "the other family, and addresses inside addresses", families),
    Row::new(6, "ICMP echo as a channel", echo),
    Row::new(7, "ICMP errors with a forged quote", forged_quotes),
    Row::new(28, "tunnels: VXLAN, GENEVE, WireGuard, IP in IP, GRE", tunnels),
    Row::new(29, "the cloud's metadata service", metadata),
];

fn other_protocols(act: &mut Act<'_>) {
    let ends = act.ends(Who::Friend);
    let frames = [132, 47, 50, 136, 33, 253].map(|proto| {
        // Ports that are allowed, where the protocol has them: it is not TCP's 8080.
        let mut body = [8080_u16.to_be_bytes(), 8080_u16.to_be_bytes()].concat();
        body.extend_from_slice(&[0; 12]);
        body.extend_from_slice(&act.mark);
        act.frame(wire::ip(ends.0, ends.1, proto, &body))
    });
    act.fire(&frames);
}

fn fragments(act: &mut Act<'_>) {
    let ends = act.ends(Who::Friend);
    let port = act.port();
    let id = 0x100 + act.town.fresh();
    let whole = wire::udp((ends.0, port), (ends.1, 5000), &[0x5a; 40]);
    let rest = act.marked(&[0x5a; 10]);
    // One that is allowed, in order: both parts arrive.
    let legal = {
        let body = wire::udp((ends.0, port), (ends.1, 5000), &act.marked(&[0x5a; 42]));
        let first = act.piece(ends, UDP, Some((id, 0, true)), &body[..24]);
        let later = act.piece(ends, UDP, Some((id, 24, false)), &body[24..]);
        [first, later]
    };
    let [first, later] = legal;
    act.lay(false, first);
    let later = act.frame(later);
    act.allowed(&[later]);
    let rest = [&rest[..10], &act.mark].concat();
    let mut frames = Vec::new();
    // Without a first one.
    frames.push(act.piece(ends, UDP, Some((id + 0x1000, 24, false)), &rest));
    frames.push(act.piece(ends, UDP, Some((id + 0x1001, 1480, false)), &rest));
    // Last first.
    frames.push(act.piece(ends, UDP, Some((id + 0x2000, 48, false)), &rest));
    // Over the ports of the first one.
    let overlapped = act.piece(ends, UDP, Some((id + 0x3000, 0, true)), &whole[..24]);
    act.lay(false, overlapped);
    frames.push(act.piece(ends, UDP, Some((id + 0x3000, 8, false)), &rest));
    frames.push(act.piece(
        ends,
        UDP,
        Some((id + 0x3000, 16, true)),
        &[&rest[..], &[0; 8]].concat(),
    ));
    // A first one that ends before the flags of its TCP header, and the one that would bring them.
    let mut numbers = [0; 8];
    numbers[..6].copy_from_slice(&act.mark);
    let segment = wire::tcp((ends.0, port), (ends.1, 8080), SYN, numbers, &act.mark);
    frames.push(act.piece(ends, TCP, Some((id + 0x4000, 0, true)), &segment[..16]));
    frames.push(act.piece(ends, TCP, Some((id + 0x4000, 8, false)), &segment[8..]));
    let frames: Vec<_> = frames.into_iter().map(|packet| act.frame(packet)).collect();
    act.fire(&frames);
}

fn families(act: &mut Act<'_>) {
    let (from, to) = act.ends(Who::Friend);
    let port = act.port();
    let mut frames = vec![
        act.udp((from, port), (to, 9090), b"hello"),
        act.tcp((from, port), (to, 9090), SYN, b""),
    ];
    if act.way.v6 {
        // Forms of the friend's IPv4 address, whom IPv4 rules allow these ports.
        let web = act.addr(Who::Web);
        for form in [
            "::ffff:10.77.0.10",
            "::10.77.0.10",
            "2002:a4d:a::1",
            "2001:0:a4d:a::1",
            "64:ff9b::10.77.0.10",
        ] {
            let form: IpAddr = form.parse().unwrap();
            let (from, to) = if act.way.egress { (web, form) } else { (form, web) };
            frames.push(act.udp((from, port), (to, 5000), b"hello"));
            frames.push(act.tcp((from, port), (to, 8080), SYN, b""));
        }
        let mapped: IpAddr = "::ffff:10.77.0.2".parse().unwrap();
        let friend: IpAddr = "::ffff:10.77.0.10".parse().unwrap();
        let (from, to) = if act.way.egress {
            (mapped, friend)
        } else {
            (friend, mapped)
        };
        frames.push(act.udp((from, port), (to, 5000), b"hello"));
        frames.push(act.tcp((from, port), (to, 8080), SYN, b""));
    }
    let frames: Vec<_> = frames.into_iter().map(|packet| act.frame(packet)).collect();
    act.fire(&frames);
}

fn echo(act: &mut Act<'_>) {
    let (from, to) = act.ends(Who::Friend);
    let payload = act.marked(&[0x41; 64]);
    let kinds = if act.way.v6 { [128, 129] } else { [8, 0] };
    let frames = kinds.map(|kind| {
        let id = act.port().to_be_bytes();
        act.frame(act.icmp(from, to, (kind, 0), [id[0], id[1], 0, 1], &payload))
    });
    act.fire(&frames);
}

fn forged_quotes(act: &mut Act<'_>) {
    let (from, to) = act.ends(Who::Friend);
    let port = act.port();
    // What is quoted went the other way, to a port where nothing was asked; the second was tried, and denied.
    let quote = |port: u16| {
        let back = [(to, port), (from, 9090)];
        wire::ip(to, from, UDP, &wire::udp(back[0], back[1], &[0; 16]))
    };
    let denied = quote(port + 1);
    act.lay(true, denied);
    let kinds: [(u8, u8); 3] = if act.way.v6 {
        [(1, 4), (3, 0), (2, 0)]
    } else {
        [(3, 3), (11, 0), (3, 4)]
    };
    let mut frames = Vec::new();
    for port in [port, port + 1] {
        for kind in kinds {
            let payload = act.marked(&quote(port).1);
            frames.push(act.frame(act.icmp(from, to, kind, [0; 4], &payload)));
        }
    }
    act.fire(&frames);
}

fn tunnels(act: &mut Act<'_>) {
    let (from, to) = act.ends(Who::Friend);
    let port = act.port();
    // Inside is what would be allowed outside.
    let inner = act.tcp((from, port), (to, 8080), SYN, b"").1;
    let mut frames: Vec<_> = [4789, 8472, 6081, 51_820, 4754]
        .into_iter()
        .map(|server| act.udp((from, port), (to, server), &inner))
        .collect();
    let (family, kind) = if act.way.v6 {
        (41, [0x86, 0xdd])
    } else {
        (4, [8, 0])
    };
    frames.push(wire::ip(from, to, family, &act.marked(&inner)));
    let gre = [&[0, 0], &kind[..], &inner].concat();
    frames.push(wire::ip(from, to, 47, &act.marked(&gre)));
    let frames: Vec<_> = frames.into_iter().map(|packet| act.frame(packet)).collect();
    act.fire(&frames);
}

fn metadata(act: &mut Act<'_>) {
    let service: IpAddr = if act.way.v6 {
        "fd00:ec2::254"
    } else {
        "169.254.169.254"
    }
    .parse()
    .unwrap();
    let web = act.addr(Who::Web);
    let port = act.port();
    let (from, to) = if act.way.egress {
        ((web, port), (service, 80))
    } else {
        ((service, 80), (web, port))
    };
    let frames = [
        act.tcp(from, to, SYN, b""),
        act.udp(from, to, b"GET /latest/meta-data/"),
    ]
    .map(|packet| act.frame(packet));
    act.fire(&frames);
}
