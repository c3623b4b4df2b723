//! What every backend must do: each scenario runs on the software datapath and on the kernel's programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed"
)]

mod common;

use common::bench::{Backend, Bench, on_kernel, on_remote, on_software};
use common::frames::{ACK, FIN, Path, RST, SYN, arp, echo, fragments, tagged, tcp, tcp_at, udp, unreachable};
use common::image::{Builder, config, only, rule, workload};
use nv_dp::{DatapathConfig, DatapathError, DatapathEvent, EndpointSpec};
use nv_types::{
    AppMask, Application, Decision, Direction, FlowState, IpProto, Mode, PolicyImage, PortSpec, Reason,
    RuleId, Verdict,
};

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn software() {
                super::on_software(super::$name);
            }
            #[test]
            fn remote() {
                super::on_remote(super::$name);
            }
            #[test]
            fn kernel() {
                super::on_kernel(stringify!($name), super::$name);
            }
        }
    )*};
}

scenarios! {
    ruled_port_passes_and_others_do_not,
    modes_decide_what_no_rule_does,
    replies_and_both_families,
    an_application_is_held_until_it_is_known,
    a_server_that_speaks_first_is_recognized,
    an_application_is_remembered_for_display_without_rules,
    a_policy_change_cuts_an_open_flow,
    an_image_that_does_not_fit_is_refused_whole,
    unknown_endpoints_follow_the_switch,
    a_workload_that_becomes_known_is_judged_again,
    spoofed_packets,
    arp_and_neighbours,
    echo_pairs_and_errors,
    fragments_follow_their_first,
    tags_and_lies,
    failsafe_ports,
    reused_ports_begin_anew,
    counters_and_events,
    tcp_life,
    a_half_closed_connection_ends,
    settled_flows_keep_their_guards,
    settled_flows_count_at_their_endpoint,
}

#[path = "conformance/churn.rs"]
mod churn;
#[path = "conformance/guards.rs"]
mod guards;

const OWN: &str = "10.9.0.2";
const PEER: &str = "10.9.0.9";
const STRANGER: &str = "10.9.0.77";
const HTTP: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.2\r\n";

fn allow_in(port: u16) -> PolicyImage {
    Builder::new(Mode::Protect)
        .friend(PEER)
        .friend("fd09::9")
        .port(Direction::Ingress, IpProto::TCP, port, rule(Verdict::Allow, 7))
        .build()
}

fn to_own(port: u16) -> Path {
    Path::new(PEER, 40_000, OWN, port)
}

fn ruled_port_passes_and_others_do_not(bench: &mut Bench) {
    bench.start(&allow_in(80));
    assert!(bench.receive(&tcp(to_own(80), SYN, b"")));
    assert!(!bench.receive(&tcp(to_own(81), SYN, b"")));
    assert!(!bench.receive(&udp(to_own(80), b"x")), "another protocol");
    assert!(
        !bench.receive(&tcp(Path::new(STRANGER, 40_000, OWN, 80), SYN, b"")),
        "another peer"
    );
    assert!(
        !bench.send(&tcp(Path::new(OWN, 40_000, PEER, 80), SYN, b"")),
        "another direction"
    );
    let flows = bench.flows();
    let of = |port: u16, proto| {
        flows
            .iter()
            .find(|f| f.key.local_port == port && f.key.proto == proto)
            .unwrap()
    };
    assert_eq!(of(80, IpProto::TCP).decision, rule(Verdict::Allow, 7));
    assert_eq!(
        of(81, IpProto::TCP).decision,
        Decision::implicit(Verdict::Deny, Reason::Default)
    );
    assert_eq!(of(81, IpProto::TCP).key.direction, Direction::Ingress);
}

fn modes_decide_what_no_rule_does(bench: &mut Bench) {
    let frame = |port| tcp(to_own(port), SYN, b"");
    for (mode, passes, verdict) in [
        (Mode::Discover, true, Verdict::Allow),
        (Mode::Monitor, true, Verdict::Alert),
        (Mode::Protect, false, Verdict::Deny),
    ] {
        bench.start(&Builder::new(mode).build());
        let port = 1000 + mode as u16;
        assert_eq!(bench.receive(&frame(port)), passes, "{mode}");
        let flow = *bench.flows().iter().find(|f| f.key.local_port == port).unwrap();
        assert_eq!(flow.decision, Decision::implicit(verdict, Reason::Default));
        let ifindex = bench.spec.ifindex;
        assert_eq!(bench.status().endpoints[&ifindex].mode, Some(mode));
    }
}

fn replies_and_both_families(bench: &mut Bench) {
    bench.start(&allow_in(80));
    for path in [to_own(80), Path::new("fd09::9", 40_001, "fd09::2", 80)] {
        assert!(bench.receive(&tcp(path, SYN, b"")));
        assert!(bench.send(&tcp(path.back(), SYN | ACK, b"")));
        assert!(bench.receive(&tcp(path, ACK, b"hello")));
        assert!(bench.send(&tcp(path.back(), ACK, b"world")));
    }
    assert_eq!(bench.flows().len(), 2, "both directions are one flow");
    let flow = bench.flows()[0];
    assert_eq!((flow.tx_packets, flow.rx_packets), (2, 2));
    // A reply that nobody asked for, picked up in the middle: the side of the known port is the server.
    let stray = Path::new(PEER, 80, OWN, 50_000);
    assert!(!bench.receive(&tcp(stray, ACK, b"x")));
    let flows = bench.flows();
    let stray = flows.iter().find(|f| f.key.local_port == 50_000).unwrap();
    assert_eq!(stray.key.direction, Direction::Egress);
}

fn app_image(first: Verdict, rest: Verdict) -> PolicyImage {
    let chain = [
        (only(Application::HTTP), rule(first, 1)),
        (AppMask::ANY, Decision::implicit(rest, Reason::Default)),
    ];
    Builder::new(Mode::Protect)
        .friend(PEER)
        .rules(
            Direction::Ingress,
            &[(IpProto::TCP, Some(80), &chain), (IpProto::UDP, None, &chain)],
        )
        .build()
}

fn an_application_is_held_until_it_is_known(bench: &mut Bench) {
    bench.start(&app_image(Verdict::Allow, Verdict::Deny));
    let path = to_own(80);
    assert!(bench.receive(&tcp(path, SYN, b"")), "no payload, no harm");
    assert!(bench.send(&tcp(path.back(), SYN | ACK, b"")));
    assert_eq!(
        bench.flows()[0].decision,
        Decision::implicit(Verdict::Allow, Reason::Pending)
    );
    assert!(!bench.receive(&tcp(path, ACK, b"G")), "not known yet: held");
    assert!(bench.receive(&tcp(path, ACK, HTTP)), "sent again, whole");
    assert!(bench.receive(&tcp(path, ACK, b"anything after that")));
    assert_eq!(bench.flows()[0].decision, rule(Verdict::Allow, 1));
    assert_eq!(bench.flows()[0].application, Some(Application::HTTP));
    // Another application on the allowed port: its first byte does not pass.
    let ssh = Path {
        from: (path.from.0, 40_100),
        ..path
    };
    assert!(bench.receive(&tcp(ssh, SYN, b"")));
    assert!(!bench.receive(&tcp(ssh, ACK, SSH)));
    assert!(
        !bench.receive(&tcp(ssh, ACK, b"")),
        "denied now, whatever it carries"
    );
    // Nothing that anybody knows: unknown after three.
    let odd = Path {
        from: (path.from.0, 40_200),
        ..path
    };
    for _ in 0..3 {
        assert!(!bench.receive(&udp(odd, &[0xfe; 40])));
    }
    let flows = bench.flows();
    let odd = flows.iter().find(|f| f.key.peer_port == 40_200).unwrap();
    assert_eq!(odd.application, Some(Application::UNKNOWN));
    assert_eq!(odd.decision, Decision::implicit(Verdict::Deny, Reason::Default));
}

fn a_server_that_speaks_first_is_recognized(bench: &mut Bench) {
    let chain = [
        (only(Application::SSH), rule(Verdict::Deny, 5)),
        (AppMask::ANY, rule(Verdict::Allow, 6)),
    ];
    let image = Builder::new(Mode::Protect)
        .friend(PEER)
        .rules(Direction::Ingress, &[(IpProto::TCP, Some(80), &chain)])
        .build();
    bench.start(&image);
    let path = to_own(80);
    assert!(bench.receive(&tcp(path, SYN, b"")));
    assert!(
        !bench.send(&tcp(path.back(), ACK, SSH)),
        "the server's banner gives it away"
    );
    assert_eq!(bench.flows()[0].decision, rule(Verdict::Deny, 5));
    // What is not named may pass, if unknown may.
    let other = Path {
        from: (path.from.0, 40_100),
        ..path
    };
    assert!(bench.receive(&tcp(other, SYN, b"")));
    for _ in 0..4 {
        assert!(bench.receive(&tcp(other, ACK, &[1, 2, 3])));
    }
    let flows = bench.flows();
    let other = flows.iter().find(|f| f.key.peer_port == 40_100).unwrap();
    assert_eq!(
        (other.application, other.decision),
        (Some(Application::UNKNOWN), rule(Verdict::Allow, 6))
    );
}

fn an_application_is_remembered_for_display_without_rules(bench: &mut Bench) {
    bench.start(&Builder::new(Mode::Discover).build());
    assert!(bench.receive(&tcp(to_own(80), SYN, b"")));
    assert_eq!(bench.flows()[0].application, None);
    assert!(bench.receive(&tcp(to_own(80), ACK, HTTP)));
    assert_eq!(bench.flows()[0].application, Some(Application::HTTP));
    // The image that comes later finds it known.
    bench.apply(&app_image(Verdict::Allow, Verdict::Deny));
    assert!(bench.receive(&tcp(to_own(80), ACK, b"more")));
}

fn a_policy_change_cuts_an_open_flow(bench: &mut Bench) {
    bench.start(&allow_in(80));
    let path = to_own(80);
    assert!(bench.receive(&tcp(path, SYN, b"")));
    assert!(bench.send(&tcp(path.back(), SYN | ACK, b"")));
    assert!(bench.receive(&tcp(path, ACK, b"x")));
    bench.apply(&Builder::new(Mode::Protect).friend(PEER).revision(2).build());
    assert!(
        !bench.receive(&tcp(path, ACK, b"x")),
        "the next packet is judged again"
    );
    assert!(!bench.send(&tcp(path.back(), ACK, b"x")));
    assert_eq!(bench.status().revision.map(|r| r.0), Some(2));
    bench.apply(&Builder::new(Mode::Monitor).build());
    assert!(bench.receive(&tcp(path, ACK, b"x")), "and again");
    assert_eq!(
        bench.flows()[0].decision,
        Decision::implicit(Verdict::Alert, Reason::Default)
    );
}

fn an_image_that_does_not_fit_is_refused_whole(bench: &mut Bench) {
    bench.start(&allow_in(80));
    let mut large = allow_in(81);
    large.decisions.extend(vec![large.decisions[0].clone(); 70_000]);
    let refused = bench.datapath().apply(&large, &config()).unwrap_err();
    assert!(
        matches!(
            refused,
            DatapathError::TooLarge {
                table: "decisions",
                needed: 70_003,
                capacity: 65_536
            }
        ),
        "{refused}"
    );
    let mut broken = allow_in(81);
    broken.decisions[0].0.clear();
    assert!(matches!(
        bench.datapath().apply(&broken, &config()),
        Err(DatapathError::InvalidImage(_))
    ));
    assert_eq!(bench.status().revision.map(|r| r.0), Some(1));
    assert!(
        bench.receive(&tcp(to_own(80), SYN, b"")),
        "the old policy is in force"
    );
    assert!(!bench.receive(&tcp(to_own(81), SYN, b"")));
}

fn with_unknown(verdict: Verdict) -> DatapathConfig {
    DatapathConfig {
        unknown: verdict,
        ..config()
    }
}

fn unknown_endpoints_follow_the_switch(bench: &mut Bench) {
    bench.spec = EndpointSpec {
        workload: None,
        mac: None,
        addresses: vec![],
        ..bench.spec.clone()
    };
    bench.start_with(&allow_in(80), &with_unknown(Verdict::Deny));
    assert!(!bench.receive(&tcp(to_own(80), SYN, b"")));
    assert!(!bench.send(&udp(to_own(53).back(), b"x")));
    assert!(
        bench.send(&arp([10, 9, 0, 2], [10, 9, 0, 1])),
        "neighbours must find each other"
    );
    assert_eq!(
        bench.flows()[0].decision,
        Decision::implicit(Verdict::Deny, Reason::UnknownEndpoint)
    );
    bench
        .datapath()
        .apply(&allow_in(80), &with_unknown(Verdict::Allow))
        .unwrap();
    assert!(bench.receive(&tcp(to_own(80), SYN, b"")));
    let ifindex = bench.spec.ifindex;
    assert_eq!(bench.status().endpoints[&ifindex].mode, None);
}

fn a_workload_that_becomes_known_is_judged_again(bench: &mut Bench) {
    let full = bench.spec.clone();
    bench.spec = EndpointSpec {
        workload: None,
        mac: None,
        addresses: vec![],
        ..full.clone()
    };
    bench.start_with(&allow_in(80), &with_unknown(Verdict::Allow));
    assert!(bench.receive(&tcp(to_own(81), SYN, b"")));
    bench.datapath().attach(&full).unwrap();
    bench.spec = full;
    assert!(
        !bench.receive(&tcp(to_own(81), ACK, b"x")),
        "the flow that was open is cut"
    );
    assert!(bench.receive(&tcp(to_own(80), SYN, b"")));
    // A workload that the image does not know is not policed.
    let other = EndpointSpec {
        workload: Some(workload("other")),
        ..bench.spec.clone()
    };
    bench.datapath().attach(&other).unwrap();
    assert!(bench.receive(&tcp(to_own(81), ACK, b"x")));
    let flows = bench.flows();
    let flow = flows.iter().find(|f| f.key.local_port == 81).unwrap();
    assert_eq!(
        flow.decision,
        Decision::implicit(Verdict::Allow, Reason::NoPolicy)
    );
}

fn spoofed_packets(bench: &mut Bench) {
    let open = |mode| {
        Builder::new(mode)
            .friend(PEER)
            .port(Direction::Egress, IpProto::UDP, 53, rule(Verdict::Allow, 1))
            .build()
    };
    bench.start(&open(Mode::Protect));
    assert!(bench.send(&udp(Path::new(OWN, 5000, PEER, 53), b"x")));
    let spoofed = udp(Path::new("10.9.0.3", 5000, PEER, 53), b"x");
    assert!(!bench.send(&spoofed));
    let mut other_mac = udp(Path::new(OWN, 5001, PEER, 53), b"x");
    other_mac[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 99]);
    assert!(!bench.send(&other_mac));
    // A flow that is settled is no way around it.
    for _ in 0..5 {
        assert!(bench.send(&udp(Path::new(OWN, 5001, PEER, 53), b"x")));
    }
    assert!(!bench.send(&other_mac));
    assert!(
        !bench.send(&udp(Path::new("10.9.0.3", 5000, "224.0.0.5", 53), b"x")),
        "multicast too"
    );
    assert_eq!(
        bench.counters(Direction::Egress).by_reason[Reason::Spoofed as usize],
        4
    );
    assert!(
        bench.send(&udp(Path::new("0.0.0.0", 68, "255.255.255.255", 67), b"x")),
        "DHCP"
    );
    bench.apply(&open(Mode::Monitor));
    assert!(bench.send(&spoofed), "reported, not dropped");
    let counters = bench.counters(Direction::Egress);
    assert_eq!(
        (counters.by_reason[Reason::Spoofed as usize], counters.alerted),
        (5, 1)
    );
    let reported = bench.events().into_iter().any(|event| {
        matches!(
            event,
            DatapathEvent::Packet {
                reason: Reason::Spoofed,
                verdict: Verdict::Deny,
                direction: Direction::Egress,
                ..
            }
        )
    });
    assert!(reported);
}

fn neighbour(kind: u8, target: &str) -> Vec<u8> {
    // ICMPv6 needs hop limit 255; the checksum is not looked at.
    let target: std::net::Ipv6Addr = target.parse().unwrap();
    let mut frame = echo(Path::new("fd09::2", 0, "fd09::9", 0), 1, false);
    frame[14 + 7] = 255;
    frame.truncate(14 + 40 + 8);
    frame[14 + 40] = kind;
    frame.extend_from_slice(&target.octets());
    frame[14 + 4..14 + 6].copy_from_slice(&24_u16.to_be_bytes());
    frame
}

fn arp_and_neighbours(bench: &mut Bench) {
    bench.start(&Builder::new(Mode::Protect).build());
    assert!(bench.send(&arp([10, 9, 0, 2], [10, 9, 0, 1])));
    assert!(bench.send(&arp([0; 4], [10, 9, 0, 2])), "a probe");
    assert!(
        !bench.send(&arp([10, 9, 0, 1], [10, 9, 0, 9])),
        "speaks for the gateway"
    );
    assert!(bench.receive(&arp([10, 9, 0, 1], [10, 9, 0, 2])));
    assert!(bench.send(&neighbour(135, "fd09::9")), "solicitation");
    assert!(bench.send(&neighbour(136, "fd09::2")), "advertises its own");
    assert!(!bench.send(&neighbour(136, "fd09::1")), "advertises another's");
    assert!(!bench.send(&neighbour(134, "fd09::2")), "a workload is no router");
    assert!(bench.receive(&neighbour(134, "fd09::2")));
}

fn echo_pairs_and_errors(bench: &mut Bench) {
    let image = Builder::new(Mode::Protect)
        .friend(PEER)
        .friend("fd09::9")
        .rules(
            Direction::Egress,
            &[
                (IpProto::ICMP, None, &[(AppMask::ANY, rule(Verdict::Allow, 3))]),
                (IpProto::UDP, Some(53), &[(AppMask::ANY, rule(Verdict::Allow, 4))]),
            ],
        )
        .build();
    bench.start(&image);
    for (from, to) in [(OWN, PEER), ("fd09::2", "fd09::9")] {
        let path = Path::new(from, 0, to, 0);
        assert!(bench.send(&echo(path, 77, false)));
        assert!(bench.receive(&echo(path.back(), 77, true)), "the reply of {to}");
        assert!(!bench.receive(&echo(path.back(), 78, true)), "a reply to nothing");
        assert!(
            !bench.receive(&echo(path.back(), 79, false)),
            "a request from outside"
        );
        let query = Path::new(from, 5000, to, 53);
        let asked = udp(query, b"question");
        assert!(bench.send(&asked));
        let router = Path::new(if from == OWN { "10.9.0.1" } else { "fd09::1" }, 0, from, 0);
        assert!(
            bench.receive(&unreachable(router, &asked)),
            "an error for a live flow"
        );
        let never = udp(Path::new(from, 5001, to, 53), b"question");
        assert!(!bench.receive(&unreachable(router, &never)), "an error for none");
    }
    assert_eq!(
        bench.counters(Direction::Ingress).by_reason[Reason::Related as usize],
        2
    );
}

/// The end that has closed sends nothing but acknowledgements from then on, and they count.
fn a_half_closed_connection_ends(bench: &mut Bench) {
    bench.start(&allow_in(80));
    let path = to_own(80);
    assert!(bench.receive(&tcp_at(path, (1000, 0), SYN, b"")));
    assert!(bench.send(&tcp_at(path.back(), (1000, 1001), SYN | ACK, b"")));
    assert!(bench.receive(&tcp_at(path, (1001, 1001), ACK | FIN, b"")));
    assert!(bench.send(&tcp_at(path.back(), (1001, 1002), ACK, b"")));
    assert!(bench.send(&tcp_at(path.back(), (1001, 1002), ACK, &[0; 100])));
    assert!(bench.receive(&tcp_at(path, (1002, 1101), ACK, b"")));
    assert!(bench.send(&tcp_at(path.back(), (1101, 1002), ACK | FIN, b"")));
    assert_eq!(bench.flows().len(), 1);
    assert!(bench.receive(&tcp_at(path, (1002, 1102), ACK, b"")));
    assert_eq!(bench.flows(), []);
}

fn settled_flows_keep_their_guards(bench: &mut Bench) {
    let image = Builder::new(Mode::Protect)
        .friend(PEER)
        .port(Direction::Ingress, IpProto::UDP, 53, rule(Verdict::Allow, 4))
        .build();
    bench.start(&image);
    let settle = |bench: &mut Bench, path: Path| {
        for _ in 0..5 {
            assert!(bench.receive(&udp(path, &[7; 64])));
        }
    };
    settle(bench, to_own(53));
    let (first, second) = fragments(&udp(to_own(53), &[7; 64]), 32);
    assert!(bench.receive(&first));
    assert!(bench.receive(&second), "its first was remembered");
    // What comes for an address that is not the workload's own does not give it that address.
    let foreign = Path::new(PEER, 40_000, "10.9.0.99", 53);
    settle(bench, foreign);
    assert!(!bench.send(&udp(foreign.back(), &[7; 64])));
    let spoofed = bench.counters(Direction::Egress).by_reason[Reason::Spoofed as usize];
    assert_eq!(spoofed, 1);
}

fn settled_flows_count_at_their_endpoint(bench: &mut Bench) {
    let other = EndpointSpec {
        ifindex: 1,
        name: "lo".into(),
        workload: None,
        ..bench.spec.clone()
    };
    bench.datapath().attach(&other).unwrap();
    bench.start(&allow_in(80));
    let path = to_own(80);
    assert!(bench.receive(&tcp(path, SYN, b"")));
    for _ in 0..5 {
        assert!(bench.receive(&tcp(path, ACK, b"")));
    }
    assert_eq!(bench.counters(Direction::Ingress).packets, 6);
    assert_eq!(bench.status().endpoints[&1].ingress.packets, 0);
}

/// The kernel's clock cannot be moved on, so that only the software datapath can be asked.
#[test]
fn settled_flows_stay_as_long_as_they_are_used() {
    on_software(|bench| {
        bench.start(
            &Builder::new(Mode::Protect)
                .friend(PEER)
                .port(Direction::Ingress, IpProto::UDP, 53, rule(Verdict::Allow, 4))
                .build(),
        );
        for _ in 0..20 {
            assert!(bench.receive(&udp(to_own(53), &[7; 64])));
            let Backend::Software(datapath, now) = &mut bench.backend else {
                unreachable!()
            };
            *now += 20_000_000_000;
            datapath.advance(*now);
            assert_eq!(bench.flows().len(), 1, "UDP is kept for 30 seconds");
        }
    });
}

fn fragments_follow_their_first(bench: &mut Bench) {
    let image = Builder::new(Mode::Protect)
        .friend(PEER)
        .port(Direction::Ingress, IpProto::UDP, 53, rule(Verdict::Allow, 4))
        .build();
    bench.start(&image);
    let (first, second) = fragments(&udp(to_own(53), &[7; 64]), 32);
    assert!(!bench.receive(&second), "before its first");
    assert!(bench.receive(&first));
    assert!(bench.receive(&second));
    let (other_first, mut other_second) = fragments(&udp(to_own(54), &[7; 64]), 32);
    assert!(!bench.receive(&other_first), "the flow is not allowed");
    other_second[19] ^= 1;
    assert!(!bench.receive(&other_second), "of a datagram never seen");
    let (_, overlapping) = fragments(&udp(to_own(53), &[7; 64]), 16);
    assert!(!bench.receive(&overlapping), "would rewrite what was judged");
    let (_, tiny) = fragments(&tcp(to_own(80), SYN, &[1; 32]), 8);
    assert!(!bench.receive(&tiny), "would rewrite TCP flags");
    let reasons = bench.counters(Direction::Ingress).by_reason;
    assert_eq!(
        (
            reasons[Reason::Fragment as usize],
            reasons[Reason::Malformed as usize]
        ),
        (2, 2)
    );
}

fn tags_and_lies(bench: &mut Bench) {
    bench.start(&allow_in(80));
    let frame = tcp(to_own(80), SYN, b"");
    assert!(bench.receive(&tagged(&frame, 1)));
    assert!(bench.receive(&tagged(&frame, 2)));
    assert!(!bench.receive(&tagged(&frame, 3)), "three tags are none of ours");
    let lie = |place: usize, bytes: &[u8]| {
        let mut frame = frame.clone();
        frame[place..place + bytes.len()].copy_from_slice(bytes);
        frame
    };
    assert!(!bench.receive(&lie(16, &[4, 0])), "longer than the frame");
    assert!(!bench.receive(&lie(16, &[0, 19])), "shorter than its header");
    assert!(!bench.receive(&lie(14, &[0x44])), "a header of 16 bytes");
    assert!(
        !bench.receive(&lie(14 + 20 + 12, &[0x40])),
        "a TCP header of 16 bytes"
    );
    assert!(!bench.receive(&lie(14 + 20 + 13, &[0])), "no flags");
    assert!(
        !bench.receive(&lie(14 + 20 + 13, &[SYN | FIN])),
        "flags that contradict"
    );
    assert!(
        !bench.receive(&lie(12, &[0x88, 0x47])),
        "a protocol that is not judged"
    );
    assert_eq!(
        bench.counters(Direction::Ingress).by_reason[Reason::Malformed as usize],
        8
    );
    bench.apply(&Builder::new(Mode::Monitor).build());
    assert!(bench.receive(&lie(16, &[4, 0])), "reported only");
}

fn failsafe_ports(bench: &mut Bench) {
    let switches = DatapathConfig {
        unknown: Verdict::Allow,
        failsafe_ports: vec![
            "tcp/22".parse::<PortSpec>().unwrap(),
            "tcp/10443-10445".parse().unwrap(),
        ],
        failsafe_addresses: vec!["10.9.0.1".parse().unwrap()],
        ..DatapathConfig::default()
    };
    bench.start_with(&Builder::new(Mode::Protect).build(), &switches);
    let to = |addr: &str, port| tcp(Path::new(OWN, 40_000, addr, port), SYN, b"");
    assert!(bench.send(&to("10.9.0.1", 22)));
    assert!(bench.send(&to("10.9.0.1", 10_444)));
    assert!(!bench.send(&to("10.9.0.1", 10_446)));
    assert!(!bench.send(&to(PEER, 22)), "not a node");
    assert!(
        !bench.receive(&tcp(Path::new("10.9.0.1", 40_000, OWN, 22), SYN, b"")),
        "the workload's own port"
    );
    let flows = bench.flows();
    let flow = flows
        .iter()
        .find(|f| f.key.peer_port == 22 && f.decision.verdict == Verdict::Allow)
        .unwrap();
    assert_eq!(
        flow.decision,
        Decision::implicit(Verdict::Allow, Reason::Failsafe)
    );
}

fn reused_ports_begin_anew(bench: &mut Bench) {
    bench.start(&app_image(Verdict::Allow, Verdict::Deny));
    let path = to_own(80);
    assert!(bench.receive(&tcp(path, SYN, b"")));
    assert!(bench.send(&tcp(path.back(), SYN | ACK, b"")));
    assert!(bench.receive(&tcp(path, ACK, HTTP)));
    assert!(
        bench.receive(&tcp(path, SYN, b"")),
        "a new connection on the same ports"
    );
    assert!(
        !bench.receive(&tcp(path, ACK, SSH)),
        "is not HTTP because the one before was"
    );
}

fn counters_and_events(bench: &mut Bench) {
    bench.start(&allow_in(80));
    let frame = tcp(to_own(80), SYN, b"");
    assert!(bench.receive(&frame));
    assert!(bench.receive(&frame));
    assert!(!bench.receive(&tcp(to_own(81), SYN, b"")));
    let counters = bench.counters(Direction::Ingress);
    assert_eq!((counters.packets, counters.bytes), (3, 3 * frame.len() as u64));
    assert_eq!(
        (
            counters.flows,
            counters.allowed,
            counters.denied,
            counters.alerted
        ),
        (2, 2, 1, 0)
    );
    assert_eq!(counters.by_reason[Reason::Default as usize], 1);
    assert_eq!(bench.counters(Direction::Egress).packets, 0);
    let events = bench.events();
    let [DatapathEvent::Flow(first), DatapathEvent::Flow(second)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!((first.state, first.decision.rule), (FlowState::New, RuleId(7)));
    assert_eq!(
        (second.key.local_port, second.decision.verdict),
        (81, Verdict::Deny)
    );
    assert_eq!(first.key.peer, PEER.parse::<std::net::IpAddr>().unwrap());
    let status = bench.status();
    assert_eq!((status.flows, status.lost_events), (2, 0));
    assert_eq!(status.tables["decisions"].0, 3);
}

fn tcp_life(bench: &mut Bench) {
    bench.start(&allow_in(80));
    let path = to_own(80);
    assert!(bench.receive(&tcp(path, SYN, b"")));
    assert!(bench.send(&tcp(path.back(), SYN | ACK, b"")));
    assert!(bench.receive(&tcp_at(path, (1001, 1001), ACK | FIN, b"")));
    assert_eq!(bench.flows()[0].state, FlowState::Active);
    // A hundred bytes before the other FIN were lost on the way here: they are still to come.
    assert!(bench.send(&tcp_at(path.back(), (1101, 1002), ACK | FIN, b"")));
    assert_eq!(bench.flows()[0].state, FlowState::Closed);
    assert!(bench.receive(&tcp_at(path, (1002, 1001), ACK, b"")));
    assert_eq!(
        bench.flows().len(),
        1,
        "what was lost is sent again, in the same flow"
    );
    assert!(bench.send(&tcp_at(path.back(), (1001, 1002), ACK, &[0; 100])));
    assert_eq!(bench.flows()[0].rx_packets, 3);
    assert!(bench.receive(&tcp_at(path, (1002, 1102), ACK, b"")));
    assert_eq!(bench.flows(), [], "the last acknowledgement leaves nothing");
    assert!(bench.receive(&tcp_at(path, (1002, 1102), ACK, b"")));
    assert_eq!(bench.flows(), [], "nor does one that comes twice");
    let reset = Path {
        from: (path.from.0, 40_001),
        ..path
    };
    assert!(bench.receive(&tcp(reset, SYN, b"")));
    assert!(bench.send(&tcp(reset.back(), RST | ACK, b"")));
    let guessed = Path {
        from: (path.from.0, 40_002),
        ..path
    };
    assert!(bench.receive(&tcp(guessed, SYN, b"")));
    assert!(bench.send(&tcp(guessed.back(), SYN | ACK, b"")));
    assert!(bench.receive(&tcp_at(guessed, (5000, 0), RST, b"")));
    assert!(
        bench.flows().iter().any(|flow| flow.key.peer_port == 40_002),
        "a reset that stands elsewhere in the sequence does not make it forgotten"
    );
    assert!(bench.receive(&tcp_at(guessed, (1001, 0), RST, b"")));
    assert!(bench.flows().iter().all(|flow| flow.key.peer_port != 40_002));
    let ended = bench
        .events()
        .into_iter()
        .filter(|event| matches!(event, DatapathEvent::Flow(flow) if flow.state == FlowState::Closed))
        .count();
    assert_eq!(ended, 3, "each end is told once");
}
