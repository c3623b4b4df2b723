//! Quarantine, answers to denied flows, shares of the table, and what a workload may not say to the network.

use std::net::IpAddr;

use etherparse::{PacketHeaders, SlicedPacket, TransportSlice};
use nv_dp::{DatapathConfig, EndpointSpec};
use nv_types::{AppMask, DenyResponse, Direction, IpProto, Mode, Reason, Verdict};

use super::common::bench::{Backend, Bench, on_kernel, on_remote, on_software};
use super::common::frames::{
    ACK, FIN, LOCAL_MAC, PEER_MAC, Path, RST, SYN, arp, echo, tcp, tcp_at, udp, unreachable,
};
use super::common::image::{Builder, config, rule};
use super::{OWN, PEER, allow_in, to_own};

scenarios! {
    quarantine_drops_all_but_neighbours,
    a_denied_client_gets_a_reset,
    a_cut_connection_is_reset_once_for_each_end,
    denied_datagrams_are_answered_by_icmp,
    what_is_not_answered,
    one_endpoint_takes_no_more_than_its_share,
    multicast_is_judged_like_any_peer,
    a_workload_does_not_configure_others,
    link_control_does_not_cross_a_closed_endpoint,
    other_protocols_by_policy,
}

fn quarantine_drops_all_but_neighbours(bench: &mut Bench) {
    let image = Builder::new(Mode::Discover).build();
    bench.start(&image);
    let path = to_own(80);
    assert!(bench.receive(&tcp(path, SYN, b"")));
    assert!(bench.send(&tcp(path.back(), SYN | ACK, b"")));
    let free = bench.spec.clone();
    let held = EndpointSpec {
        quarantine: true,
        ..free.clone()
    };
    bench.datapath().attach(&held).unwrap();
    assert!(!bench.receive(&tcp(path, ACK, b"x")), "an open connection is cut");
    assert!(!bench.send(&tcp(path.back(), ACK, b"x")));
    assert!(
        !bench.send(&udp(Path::new(OWN, 5000, PEER, 53), b"x")),
        "whatever the mode"
    );
    assert!(!bench.send(&echo(Path::new(OWN, 0, PEER, 0), 1, false)));
    assert!(
        bench.send(&arp([10, 9, 0, 2], [10, 9, 0, 1])),
        "neighbours find it"
    );
    // A new policy does not let it out.
    bench.apply(&image);
    assert!(!bench.receive(&tcp(path, ACK, b"x")));
    let ifindex = bench.spec.ifindex;
    assert!(bench.status().endpoints[&ifindex].spec.quarantine);
    let dropped =
        |bench: &mut Bench, direction| bench.counters(direction).by_reason[Reason::Quarantined as usize];
    assert_eq!(dropped(bench, Direction::Ingress), 2);
    assert_eq!(dropped(bench, Direction::Egress), 3);
    bench.datapath().attach(&free).unwrap();
    assert!(bench.receive(&tcp(path, ACK, b"x")), "let out, it goes on");
}

fn answering() -> DatapathConfig {
    DatapathConfig {
        deny_response: DenyResponse::Reset,
        ..config()
    }
}

/// An answer that etherparse reads, with checksums that are right: (from, to, source port, destination port, seq, ack, flags).
fn reset_of(frame: &[u8]) -> (IpAddr, IpAddr, u16, u16, u32, u32, u8) {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let tcp = headers.transport.unwrap().tcp().unwrap();
    assert_eq!(headers.payload.slice(), b"");
    let flags = [(tcp.rst, RST), (tcp.ack, ACK), (tcp.syn, SYN), (tcp.fin, FIN)]
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .fold(0, |flags, (_, flag)| flags | flag);
    let (from, to, sum): (IpAddr, IpAddr, u16) = match headers.net.unwrap() {
        etherparse::NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let sum = tcp.calc_checksum_ipv4(&ip, b"").unwrap();
            (ip.source.into(), ip.destination.into(), sum)
        }
        etherparse::NetHeaders::Ipv6(ip, _) => {
            let sum = tcp.calc_checksum_ipv6(&ip, b"").unwrap();
            (ip.source.into(), ip.destination.into(), sum)
        }
        etherparse::NetHeaders::Arp(_) => panic!("{frame:?}"),
    };
    assert_eq!(tcp.checksum, sum);
    (
        from,
        to,
        tcp.source_port,
        tcp.destination_port,
        tcp.sequence_number,
        tcp.acknowledgment_number,
        flags,
    )
}

fn a_denied_client_gets_a_reset(bench: &mut Bench) {
    bench.start_with(&allow_in(80), &answering());
    for path in [to_own(81), Path::new("fd09::9", 40_000, "fd09::2", 81)] {
        let ip = |at: (IpAddr, u16)| at.0;
        // Towards the workload, and from it; a SYN has no number to answer to but its own.
        let (passes, answer) = bench.answer(Direction::Ingress, &tcp_at(path, (7000, 0), SYN, b""));
        assert!(!passes);
        let answer = answer.unwrap();
        assert_eq!(answer[..6], LOCAL_MAC, "back to who sent it");
        assert_eq!(answer[6..12], PEER_MAC);
        assert_eq!(
            reset_of(&answer),
            (ip(path.to), ip(path.from), 81, 40_000, 0, 7001, RST | ACK)
        );
        let out = Path {
            to: (path.from.0, 22),
            from: (path.to.0, 50_000),
        };
        let (passes, answer) = bench.answer(Direction::Egress, &tcp_at(out, (9000, 0), SYN, b""));
        assert!(!passes);
        assert_eq!(
            reset_of(&answer.unwrap()),
            (ip(out.to), ip(out.from), 22, 50_000, 0, 9001, RST | ACK)
        );
    }
    // Without the switch: silence.
    bench.apply(&allow_in(80));
    assert_eq!(
        bench.answer(Direction::Ingress, &tcp_at(to_own(81), (7000, 0), SYN, b"")),
        (false, None)
    );
}

fn a_cut_connection_is_reset_once_for_each_end(bench: &mut Bench) {
    bench.start_with(&allow_in(80), &answering());
    let path = to_own(80);
    assert!(bench.receive(&tcp_at(path, (1000, 0), SYN, b"")));
    assert!(bench.send(&tcp_at(path.back(), (5000, 1001), SYN | ACK, b"")));
    assert!(bench.receive(&tcp_at(path, (1001, 5001), ACK, b"hello")));
    bench
        .datapath()
        .apply(
            &Builder::new(Mode::Protect).friend(PEER).revision(2).build(),
            &answering(),
        )
        .unwrap();
    let data = tcp_at(path, (1006, 5001), ACK, b"more");
    if let Backend::Software(datapath, now) = &mut bench.backend {
        // Only here is the other end's reset to be seen: in the kernel it is sent.
        let outcome = datapath.exchange(bench.spec.ifindex, Direction::Ingress, &data, *now);
        let [(on, to_server), (back, to_client)] = outcome.answers.as_slice() else {
            panic!("{outcome:?}")
        };
        assert_eq!((*on, *back), (Direction::Ingress, Direction::Egress));
        let (from, to, _, port, seq, ack, flags) = reset_of(to_server);
        assert_eq!((from, to, port), (path.from.0, path.to.0, 80));
        assert_eq!(
            (seq, ack, flags),
            (1006, 5001, RST | ACK),
            "where the server expects it"
        );
        let (.., seq, _, flags) = reset_of(to_client);
        assert_eq!((seq, flags), (5001, RST), "where the client expects it");
        let again = datapath.exchange(bench.spec.ifindex, Direction::Ingress, &data, *now);
        assert_eq!(
            again.answers.len(),
            1,
            "what goes on after that says nothing to the other end"
        );
    } else {
        let (passes, answer) = bench.answer(Direction::Ingress, &data);
        assert!(!passes);
        let (.., seq, _, flags) = reset_of(&answer.unwrap());
        assert_eq!((seq, flags), (5001, RST));
    }
}

fn denied_datagrams_are_answered_by_icmp(bench: &mut Bench) {
    bench.start_with(&Builder::new(Mode::Protect).build(), &answering());
    let (v4, v6) = (
        Path::new(OWN, 5000, PEER, 53),
        Path::new("fd09::2", 5000, "fd09::9", 53),
    );
    for payload in [&b""[..], b"x", &[7; 600]] {
        let frame = udp(v4, payload);
        let (passes, answer) = bench.answer(Direction::Egress, &frame);
        assert!(!passes);
        let answer = answer.unwrap();
        let quote = (frame.len() - 14).min(64);
        let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else {
            panic!("{answer:?}")
        };
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 13));
        assert_eq!(
            icmp.payload()[..quote],
            frame[14..14 + quote],
            "quotes what was denied"
        );
        assert_eq!(
            icmp.header().checksum,
            icmp.icmp_type().calc_checksum(icmp.payload()),
            "{} bytes",
            payload.len()
        );
        let frame = udp(v6, payload);
        let answer = bench.answer(Direction::Egress, &frame).1.unwrap();
        let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else {
            panic!("{answer:?}")
        };
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (1, 1));
        let Some(etherparse::NetSlice::Ipv6(ip)) = sliced.net else {
            panic!("{answer:?}")
        };
        assert_eq!(ip.header().source_addr().to_string(), "fd09::9");
        let sum = icmp
            .icmp_type()
            .calc_checksum(ip.header().source(), ip.header().destination(), icmp.payload())
            .unwrap();
        assert_eq!(icmp.header().checksum, sum);
    }
}

fn what_is_not_answered(bench: &mut Bench) {
    bench.start_with(&Builder::new(Mode::Protect).friend(PEER).build(), &answering());
    let path = Path::new(OWN, 40_000, PEER, 80);
    let silent = |bench: &mut Bench, frame: &[u8], why: &str| {
        assert_eq!(bench.answer(Direction::Egress, frame), (false, None), "{why}");
    };
    assert!(bench.answer(Direction::Egress, &tcp(path, SYN, b"")).1.is_some());
    silent(bench, &tcp(path, RST, b""), "a reset");
    silent(bench, &udp(Path::new("10.9.0.3", 1, PEER, 2), b"x"), "spoofed");
    silent(bench, &udp(Path::new(OWN, 1, "239.1.2.3", 2), b"x"), "to many");
    let never = udp(Path::new(PEER, 7, OWN, 8), b"x");
    silent(
        bench,
        &unreachable(Path::new(OWN, 0, PEER, 0), &never),
        "an error",
    );
    let mut burst = 0;
    for port in 0..200 {
        let frame = udp(Path::new(OWN, 1000 + port, PEER, 9), b"x");
        // Time stands still for those whose clock is the test's.
        let ifindex = bench.spec.ifindex;
        burst += match &mut bench.backend {
            Backend::Software(datapath, now) => datapath
                .exchange(ifindex, Direction::Egress, &frame, *now)
                .answers
                .len(),
            Backend::Remote(remote, now) => {
                let mut served = remote.served.0.lock().unwrap();
                served
                    .exchange(ifindex, Direction::Egress, &frame, *now)
                    .answers
                    .len()
            }
            Backend::Kernel(_) => usize::from(bench.answer(Direction::Egress, &frame).1.is_some()),
        };
    }
    assert!((1..200).contains(&burst), "ICMP is bounded: {burst}");
}

fn one_endpoint_takes_no_more_than_its_share(bench: &mut Bench) {
    let (size, share) = (65_536, 1);
    let most = size * share / 100;
    let bounded = DatapathConfig {
        flow_share: share.try_into().unwrap(),
        ..config()
    };
    let image = Builder::new(Mode::Protect)
        .friend(PEER)
        .rules(
            Direction::Egress,
            &[(IpProto::UDP, None, &[(AppMask::ANY, rule(Verdict::Allow, 1))])],
        )
        .build();
    bench.start_with(&image, &bounded);
    assert_eq!(bench.flows(), []);
    let spray = |bench: &mut Bench, count: usize| {
        let sent = |n: usize| udp(Path::new(OWN, u16::try_from(1000 + n).unwrap(), PEER, 9), b"");
        (0..count).filter(|n| bench.send(&sent(*n))).count()
    };
    assert_eq!(
        spray(bench, most + 100),
        most,
        "new flows beyond it follow the mode: Protect"
    );
    assert_eq!(
        bench.counters(Direction::Egress).by_reason[Reason::TableFull as usize],
        100
    );
    assert_eq!(bench.flows().len(), most);
    assert!(
        !bench.receive(&udp(Path::new(PEER, 7, OWN, 8), b"x")) && bench.flows().len() == most + 1,
        "what others open is judged by policy alone"
    );
    assert!(
        bench.send(&udp(Path::new(OWN, 1000, PEER, 9), b"")),
        "a flow that is there goes on"
    );
    // With the guard off they find room.
    let unbounded = DatapathConfig {
        flow_share: 0,
        ..config()
    };
    bench.datapath().apply(&image, &unbounded).unwrap();
    assert_eq!(spray(bench, most + 100), most + 100);
    assert_eq!(bench.flows().len(), most + 101);
    // In Monitor a flow without room passes, and is reported.
    bench
        .datapath()
        .apply(&Builder::new(Mode::Monitor).build(), &bounded)
        .unwrap();
    assert!(bench.send(&udp(Path::new(OWN, 999, PEER, 9), b"")));
    let events = bench.events();
    assert!(
        events.iter().any(|event| matches!(
            event,
            nv_dp::DatapathEvent::Packet {
                reason: Reason::TableFull,
                ..
            }
        )),
        "and says so"
    );
}

fn multicast_is_judged_like_any_peer(bench: &mut Bench) {
    let mdns = [
        Path::new(OWN, 5353, "224.0.0.251", 5353),
        Path::new("fd09::2", 5353, "ff02::fb", 5353),
    ];
    bench.start(&Builder::new(Mode::Protect).build());
    for path in mdns {
        assert!(!bench.send(&udp(path, b"x")), "not ruled");
    }
    assert!(!bench.receive(&udp(Path::new(PEER, 5353, "224.0.0.251", 5353), b"x")));
    assert!(
        !bench.send(&udp(Path::new(OWN, 5000, "255.255.255.255", 9), b"x")),
        "broadcast"
    );
    let open = Builder::new(Mode::Protect)
        .friend("224.0.0.251")
        .friend("ff02::fb")
        .port(Direction::Egress, IpProto::UDP, 5353, rule(Verdict::Allow, 3))
        .build();
    bench.apply(&open);
    for path in mdns {
        assert!(bench.send(&udp(path, b"x")), "ruled");
    }
    // What a host cannot do without: an address by DHCP, and listener reports.
    assert!(bench.send(&udp(Path::new("0.0.0.0", 68, "255.255.255.255", 67), b"x")));
    assert!(bench.receive(&udp(Path::new(PEER, 67, "255.255.255.255", 68), b"x")));
    let mut report = echo(Path::new("fd09::2", 0, "ff02::16", 0), 1, false);
    report[54] = 143;
    assert!(bench.send(&report));
}

fn a_workload_does_not_configure_others(bench: &mut Bench) {
    for (mode, passes) in [(Mode::Protect, false), (Mode::Monitor, true)] {
        bench.start(&Builder::new(mode).build());
        let before = bench.counters(Direction::Egress).by_reason[Reason::Spoofed as usize];
        assert_eq!(
            bench.send(&udp(Path::new(OWN, 67, PEER, 68), b"x")),
            passes,
            "DHCP"
        );
        assert_eq!(
            bench.send(&udp(Path::new(OWN, 67, "255.255.255.255", 68), b"x")),
            passes
        );
        let mut redirect = unreachable(Path::new(OWN, 0, PEER, 0), &udp(Path::new(PEER, 7, OWN, 8), b"x"));
        redirect[34] = 5;
        assert_eq!(bench.send(&redirect), passes, "ICMP redirect");
        assert_eq!(
            bench.send(&udp(Path::new("fd09::2", 547, "fd09::9", 546), b"x")),
            passes,
            "DHCPv6"
        );
        let after = bench.counters(Direction::Egress).by_reason[Reason::Spoofed as usize];
        assert_eq!(after - before, 4, "reported in every mode");
    }
    // A server that policy lets be asked answers.
    let image = Builder::new(Mode::Protect)
        .friend(PEER)
        .port(Direction::Ingress, IpProto::UDP, 67, rule(Verdict::Allow, 1))
        .build();
    bench.start(&image);
    assert!(bench.receive(&udp(Path::new(PEER, 68, OWN, 67), b"x")));
    assert!(bench.send(&udp(Path::new(OWN, 67, PEER, 68), b"x")));
    let mut odd = arp([10, 9, 0, 2], [10, 9, 0, 1]);
    odd[18] = 16;
    assert!(!bench.send(&odd), "ARP of other addresses than Ethernet's");
}

fn link_control_does_not_cross_a_closed_endpoint(bench: &mut Bench) {
    let lldp = {
        let mut frame = vec![0x01, 0x80, 0xc2, 0, 0, 0x0e];
        frame.extend_from_slice(&LOCAL_MAC);
        frame.extend_from_slice(&[0x88, 0xcc]);
        frame.extend_from_slice(&[0; 40]);
        frame
    };
    let of_type = |kind: u16| {
        let mut frame = udp(Path::new(OWN, 1, PEER, 2), b"x");
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        frame
    };
    bench.start(&Builder::new(Mode::Protect).build());
    for direction in [Direction::Egress, Direction::Ingress] {
        assert!(!bench.pass(direction, &lldp));
        for (kind, name) in [
            (0x8847, "MPLS"),
            (0x8863, "PPPoE"),
            (0x8864, "PPPoE"),
            (0x0040, "802.3"),
            (0x88e5, "MACsec"),
        ] {
            assert!(!bench.pass(direction, &of_type(kind)), "{name}");
        }
        let reasons = bench.counters(direction).by_reason;
        assert_eq!(reasons[Reason::NotPoliced as usize], 1);
        assert_eq!(reasons[Reason::Malformed as usize], 5);
    }
    bench.apply(&Builder::new(Mode::Discover).build());
    assert!(bench.send(&lldp));
}

fn other_protocols_by_policy(bench: &mut Bench) {
    let sctp = |port: u16| {
        let mut frame = udp(Path::new(PEER, 40_000, OWN, port), &[0; 16]);
        frame[23] = 132;
        frame
    };
    let gre = || {
        let mut frame = udp(Path::new(PEER, 0, OWN, 0), &[0; 16]);
        frame[23] = 47;
        frame
    };
    let nothing_next = || {
        let mut frame = udp(Path::new("fd09::9", 0, "fd09::2", 0), &[0; 16]);
        frame[20] = 59;
        frame
    };
    bench.start(&Builder::new(Mode::Protect).build());
    for frame in [sctp(9), gre(), nothing_next()] {
        assert!(!bench.receive(&frame));
    }
    let image = Builder::new(Mode::Protect)
        .friend(PEER)
        .friend("fd09::9")
        .rules(
            Direction::Ingress,
            &[
                (IpProto::SCTP, Some(9), &[(AppMask::ANY, rule(Verdict::Allow, 1))]),
                (IpProto(47), None, &[(AppMask::ANY, rule(Verdict::Allow, 2))]),
                (IpProto(59), None, &[(AppMask::ANY, rule(Verdict::Allow, 3))]),
            ],
        )
        .build();
    bench.apply(&image);
    for frame in [sctp(9), gre(), nothing_next()] {
        assert!(bench.receive(&frame));
    }
    assert!(!bench.receive(&sctp(10)), "another port");
}

/// The kernel's clock cannot be moved on, so that only the software datapath can be asked.
#[test]
fn idle_times_can_be_changed() {
    on_software(|bench| {
        let short = DatapathConfig {
            idle: nv_types::IdleTimes {
                udp: 2,
                ..nv_types::IdleTimes::default()
            },
            ..config()
        };
        let image = Builder::new(Mode::Discover).build();
        for (config, kept) in [(config(), 1), (short, 0)] {
            bench.start_with(&image, &config);
            assert!(bench.receive(&udp(to_own(53), b"x")));
            let Backend::Software(datapath, now) = &mut bench.backend else {
                unreachable!()
            };
            *now += 3_000_000_000;
            datapath.advance(*now);
            bench.flows();
            assert_eq!(bench.flows().len(), kept);
        }
    });
}
