//! Ports, replies, and applications that are not what their port says.

use std::net::IpAddr;

use crate::play::{ACK, Act, Expect, Row, SYN};
use crate::town::Who;

pub const ROWS: &[Row] = &[
    Row::new(8, "DNS tunnel: only to the resolver that is allowed", dns_tunnel),
    Row::new(9, "DNS to 8.8.8.8, DNS over TLS, DNS over HTTPS", other_resolvers),
    Row::new(20, "forged X-Forwarded-For", forwarded_for),
    Row::new(
        22,
        "a server that uses its reply direction for new ports",
        reply_direction,
    )
    .expect(|_| {
        // A TCP segment in the middle, from the server's port to one above 32768, is taken for the reply of a flow that began before
        // the guard did: two of the three.
        Expect::Gap(2)
    }),
    Row::new(24, "port scan at line rate", port_scan),
    Row::new(32, "QUIC in place of TLS, a Host that lies", quic_for_tls),
    Row::new(
        33,
        "first payload byte by byte, out of order, in the SYN",
        split_payload,
    ),
    Row::new(34, "another protocol on an allowed port", other_protocol),
    Row::new(35, "second request of a kept-alive connection", second_request).expect(|_| Expect::Stated),
];

const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.9\r\n";

/// A query for a long name.
fn query() -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["ifqw64tfonqwo2lt", "orxw4zlcebsgk3tu", "example", "com"] {
        query.push(label.len().try_into().unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 16, 0, 1]);
    query
}

/// Stated in the documentation: what goes through the resolver that is allowed, goes through.
fn dns_tunnel(act: &mut Act<'_>) {
    let query = query();
    let port = act.port();
    let (from, to) = act.ends(Who::Friend);
    let stated = act.frame(act.udp((from, port), (to, 53), &query));
    act.allowed(&[stated]);
    let (from, to) = act.ends(Who::Stranger);
    let mut frames = vec![
        act.udp((from, port), (to, 53), &query),
        act.tcp((from, port), (to, 53), SYN, b""),
        // An answer that nobody asked for.
        act.udp((from, 53), (to, port), &query),
    ];
    let (from, to) = act.ends(Who::Friend);
    frames.push(act.udp((from, 53), (to, port + 1000), &query));
    let frames: Vec<_> = frames.into_iter().map(|packet| act.frame(packet)).collect();
    act.fire(&frames);
}

fn other_resolvers(act: &mut Act<'_>) {
    let public: IpAddr = if act.way.v6 {
        "2001:4860:4860::8888"
    } else {
        "8.8.8.8"
    }
    .parse()
    .unwrap();
    let web = act.addr(Who::Web);
    let mut frames = Vec::new();
    for server in [53, 853, 443, 8853] {
        let port = act.port();
        let (from, to) = if act.way.egress {
            ((web, port), (public, server))
        } else {
            ((public, server), (web, port))
        };
        frames.push(act.udp(from, to, &query()));
        frames.push(act.tcp(from, to, SYN, b""));
        frames.push(act.tcp(from, to, ACK, b"\x16\x03\x01\x00\x05\x01"));
    }
    let frames: Vec<_> = frames.into_iter().map(|packet| act.frame(packet)).collect();
    act.fire(&frames);
}

fn forwarded_for(act: &mut Act<'_>) {
    let (from, to) = act.ends(Who::Stranger);
    let port = act.port();
    let request = b"GET / HTTP/1.1\r\nHost: web\r\nX-Forwarded-For: 10.77.0.10\r\nForwarded: for=\"[fd77::10]\"\r\n\r\n";
    let frames = [
        act.tcp((from, port), (to, 80), SYN, b""),
        act.tcp((from, port), (to, 80), ACK, b""),
        act.tcp((from, port), (to, 80), ACK, request),
    ]
    .map(|packet| act.frame(packet));
    act.fire(&frames);
}

/// The sender of the way has been asked on 8080 and answers; now it wants to reach ports that did not ask.
fn reply_direction(act: &mut Act<'_>) {
    let (server, client) = act.ends(Who::Friend);
    let port = act.port();
    let segment = |from: IpAddr, to, flags| {
        use crate::wire;
        wire::ip(
            from,
            to,
            wire::TCP,
            &wire::tcp((from, 8080), (to, port), flags, [0; 8], b""),
        )
    };
    let asked = crate::wire::ip(
        client,
        server,
        crate::wire::TCP,
        &crate::wire::tcp((client, port), (server, 8080), SYN, [0; 8], b""),
    );
    act.lay(true, asked);
    act.lay(false, segment(server, client, SYN | ACK));
    let answer = act.frame(act.tcp((server, 8080), (client, port), ACK, b"an answer"));
    act.allowed(&[answer]);
    let other = act.port();
    let frames = [
        act.tcp((server, 8080), (client, other), ACK, b"nobody asked"),
        act.tcp((server, 8080), (client, other + 1000), SYN, b""),
        act.tcp(
            (server, 8080),
            (client, other),
            ACK,
            b"nobody asked for this either",
        ),
    ]
    .map(|packet| act.frame(packet));
    act.fire(&frames);
}

fn port_scan(act: &mut Act<'_>) {
    const PORTS: u16 = 2000;
    let (from, to) = act.ends(Who::Stranger);
    let port = act.port();
    let frames: Vec<_> = (0..PORTS)
        .map(|at| act.frame(act.tcp((from, port), (to, 9000 + at), SYN, b"")))
        .collect();
    let before = act.guarded.then(|| denied(act));
    act.fire(&frames);
    if let Some(before) = before {
        assert_eq!(
            denied(act) - before,
            u64::from(PORTS),
            "each one is counted, whatever became of its event"
        );
    }
}

fn denied(act: &mut Act<'_>) -> u64 {
    let index = act.town.web_index;
    let status = act.town.status();
    let endpoint = &status.endpoints[&index];
    if act.way.egress {
        endpoint.egress.denied
    } else {
        endpoint.ingress.denied
    }
}

fn quic_for_tls(act: &mut Act<'_>) {
    let (from, to) = act.ends(Who::Friend);
    let port = act.port();
    // A long header, version 1, as an Initial has it (RFC 9000, 17.2).
    let mut initial = vec![0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e];
    initial.resize(1200, 0x5a);
    let quic = [
        act.udp((from, port), (to, 443), &initial),
        act.udp((from, port), (to, 80), &initial),
    ]
    .map(|packet| act.frame(packet));
    act.fire(&quic);
    // A friend's name in the Host of a request to a stranger.
    let (from, to) = act.ends(Who::Stranger);
    let lie = [
        act.tcp((from, port), (to, 80), SYN, b""),
        act.tcp(
            (from, port),
            (to, 80),
            ACK,
            b"GET / HTTP/1.1\r\nHost: friend.example\r\n\r\n",
        ),
    ]
    .map(|packet| act.frame(packet));
    act.fire(&lie);
}

/// Only frames with payload count: the handshake may pass.
fn split_payload(act: &mut Act<'_>) {
    let (client, server) = act.ends(Who::Friend);
    let mut frames = Vec::new();
    for (server_port, bytes) in [
        (80, SSH),
        (443, SSH),
        (80, b"\x16\x03\x01\x00\x05\x01".as_slice()),
    ] {
        // Byte by byte.
        let (from, to) = ((client, act.port()), (server, server_port));
        act.handshake(from, to);
        frames.extend(bytes.iter().take(6).map(|byte| act.tcp(from, to, ACK, &[*byte])));
        // The end first.
        let from = (client, act.port());
        act.handshake(from, to);
        frames.push(act.tcp(from, to, ACK, &bytes[4..]));
        frames.push(act.tcp(from, to, ACK, &bytes[..4]));
        // In the SYN.
        let from = (client, act.port());
        frames.push(act.tcp(from, to, SYN, bytes));
        frames.push(act.tcp(from, to, ACK, bytes));
    }
    let frames: Vec<_> = frames.into_iter().map(|packet| act.frame(packet)).collect();
    act.fire(&frames);
}

fn other_protocol(act: &mut Act<'_>) {
    let (client, server) = act.ends(Who::Friend);
    let (from, to) = ((client, act.port()), (server, 80));
    act.handshake(from, to);
    let honest = act.frame(act.tcp(from, to, ACK, b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"));
    act.allowed(&[honest]);
    let redis = b"*1\r\n$4\r\nPING\r\n".as_slice();
    let mut frames = Vec::new();
    for (port, bytes) in [
        (80, SSH),
        (443, SSH),
        (80, redis),
        (443, b"GET / HTTP/1.1\r\n\r\n"),
    ] {
        let (from, to) = ((client, act.port()), (server, port));
        act.handshake(from, to);
        for _ in 0..5 {
            frames.push(act.frame(act.tcp(from, to, ACK, bytes)));
        }
    }
    // And DNS's port over UDP.
    let (from, to) = ((client, act.port()), (server, 53));
    for _ in 0..5 {
        frames.push(act.frame(act.udp(from, to, &[0xff; 64])));
    }
    act.fire(&frames);
}

/// Applications are known per connection, by its first payload.
fn second_request(act: &mut Act<'_>) {
    let (client, server) = act.ends(Who::Friend);
    let (from, to) = ((client, act.port()), (server, 80));
    act.handshake(from, to);
    let first = act.frame(act.tcp(from, to, ACK, b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"));
    act.allowed(&[first]);
    let frames = [b"GET /second HTTP/1.1\r\n\r\n".as_slice(), SSH]
        .map(|bytes| act.frame(act.tcp(from, to, ACK, bytes)));
    act.fire(&frames);
}
