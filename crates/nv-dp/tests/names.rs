//! DNS messages on the real kernel: which are shown, which wait, and that none is lost without a listener. The software datapath says the same of
//! every frame.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed"
)]
#![allow(dead_code, reason = "helpers are shared with other tests")]

mod common;

use std::net::UdpSocket;
use std::time::Duration;

use common::image::{Builder, config, endpoint, rule};
use common::netns::{Bed, Cleanup, is_root, pin_dir};
use etherparse::PacketBuilder;
use nv_dp::{
    Datapath, DatapathConfig, DnsMessage, EbpfConfig, EbpfDatapath, NameGate, NameTap, Overheard,
    SoftwareDatapath,
};
use nv_types::{AppMask, Direction, IpProto, Mode, PolicyImage, Verdict};

const HOST: &str = "10.9.0.1";
const OWN: [&str; 1] = ["10.9.0.2"];
const SHORT: Duration = Duration::from_millis(300);
const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";

fn image() -> PolicyImage {
    let allowed: &[_] = &[(AppMask::ANY, rule(Verdict::Allow, 7))];
    Builder::new(Mode::Protect)
        .friend(HOST)
        .rules(
            Direction::Egress,
            &[
                (IpProto::UDP, Some(53), allowed),
                (IpProto::TCP, Some(53), allowed),
            ],
        )
        .port(Direction::Ingress, IpProto::UDP, 5300, rule(Verdict::Allow, 8))
        .build()
}

fn with_names(names: bool) -> DatapathConfig {
    DatapathConfig { names, ..config() }
}

fn take(tap: &mut NameTap) -> Vec<DnsMessage> {
    tap.take(64, Duration::from_millis(50)).unwrap()
}

fn received(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 512];
    let count = socket.recv(&mut buffer).ok()?;
    Some(buffer[..count].to_vec())
}

fn started(bed: &Bed, dir: &std::path::Path) -> (EbpfDatapath, NameTap, NameGate) {
    let (dir, ifindex) = (dir.to_owned(), bed.ifindex);
    bed.host.run(move || {
        let mut datapath = EbpfDatapath::open(EbpfConfig::new(&dir)).unwrap();
        datapath.apply(&image(), &with_names(true)).unwrap();
        datapath.attach(&endpoint(ifindex, "veth0", &OWN)).unwrap();
        let (tap, gate) = datapath.names().unwrap();
        (datapath, tap, gate)
    })
}

#[test]
fn an_answer_waits_for_the_listener_and_passes_without_one() {
    if !is_root("an_answer_waits_for_the_listener_and_passes_without_one") {
        return;
    }
    let bed = Bed::new();
    let dir = pin_dir();
    let _cleanup = Cleanup(dir.clone());
    let (mut datapath, mut tap, gate) = started(&bed, &dir);
    let resolver = bed.host.run(|| UdpSocket::bind((HOST, 53)).unwrap());
    let stub = bed.workload.run(|| {
        let socket = UdpSocket::bind("10.9.0.2:4000").unwrap();
        socket.connect((HOST, 53)).unwrap();
        socket
    });
    for socket in [&resolver, &stub] {
        socket.set_read_timeout(Some(SHORT)).unwrap();
    }
    let answer = |text: &[u8]| {
        stub.send(QUERY).unwrap();
        let mut buffer = [0; 64];
        let (_, from) = resolver.recv_from(&mut buffer).unwrap();
        resolver.send_to(text, from).unwrap();
    };
    let reply = [QUERY, b"the answer"].concat();

    // Nobody listens: it passes, and nobody is told.
    answer(&reply);
    assert_eq!(received(&stub).as_deref(), Some(&reply[..]));
    assert!(take(&mut tap).is_empty());

    gate.keep_open(Duration::from_secs(60)).unwrap();
    answer(&reply);
    assert_eq!(received(&stub), None, "it waits");
    let seen = take(&mut tap);
    let [question, answered] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!(
        (question.direction, question.message.as_deref()),
        (Direction::Egress, Some(QUERY))
    );
    assert!(question.held.is_none(), "a question passes");
    assert_eq!(answered.message.as_deref(), Some(&reply[..]));
    assert_eq!(
        (answered.peer.to_string(), answered.local.to_string()),
        ("10.9.0.1:53".into(), "10.9.0.2:4000".into())
    );
    let before = datapath.status().unwrap().endpoints[&bed.ifindex].ingress.packets;
    gate.release(answered.held.as_ref().unwrap()).unwrap();
    assert_eq!(received(&stub).as_deref(), Some(&reply[..]), "as it was sent");
    let after = datapath.status().unwrap().endpoints[&bed.ifindex].ingress.packets;
    assert_eq!(before, after, "counted once");
    assert!(take(&mut tap).is_empty(), "told once");

    // From the same port, but nobody has asked: it is judged as any packet, denied here, and never shown.
    resolver.send_to(&reply, "10.9.0.2:4001").unwrap();
    // Allowed, but opened from outside.
    let server = bed.workload.run(|| UdpSocket::bind("10.9.0.2:5300").unwrap());
    server.set_read_timeout(Some(SHORT)).unwrap();
    resolver.send_to(&reply, "10.9.0.2:5300").unwrap();
    assert_eq!(received(&server).as_deref(), Some(&reply[..]));
    assert!(take(&mut tap).is_empty());

    // No group speaks of names.
    datapath.apply(&image(), &with_names(false)).unwrap();
    answer(&reply);
    assert_eq!(received(&stub).as_deref(), Some(&reply[..]));
    datapath.apply(&image(), &with_names(true)).unwrap();
    answer(&reply);
    assert_eq!(received(&stub), None);
    // Told in words that nobody listens, and by saying nothing.
    gate.keep_open(Duration::ZERO).unwrap();
    answer(&reply);
    assert!(received(&stub).is_some());
    gate.keep_open(Duration::from_millis(1)).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    answer(&reply);
    assert!(received(&stub).is_some(), "a listener that died holds nothing");
    assert_eq!(tap.lost().unwrap(), 0);

    // More than the ring has room for: what finds none passes, counted.
    gate.keep_open(Duration::from_secs(60)).unwrap();
    let long = vec![7; 1400];
    let mut passed = 0;
    for _ in 0..500 {
        answer(&long);
        if let Ok(lost) = tap.lost()
            && lost > 0
        {
            passed += usize::from(received(&stub).is_some());
        }
        if passed == 3 {
            break;
        }
    }
    assert_eq!(passed, 3, "a full ring lets answers pass");
    bed.host.run(move || datapath.purge().unwrap());
}

fn frame(proto: IpProto, from: (&str, u16), to: (&str, u16), payload: &[u8]) -> Vec<u8> {
    let v4 = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let ip = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(v4(from.0), v4(to.0), 64);
    let mut frame = Vec::new();
    if proto == IpProto::TCP {
        let segment = ip.tcp(from.1, to.1, 1, 512).ack(1).psh();
        segment.write(&mut frame, payload).unwrap();
    } else {
        ip.udp(from.1, to.1).write(&mut frame, payload).unwrap();
    }
    frame
}

#[test]
fn both_datapaths_hold_the_same_answers() {
    if !is_root("both_datapaths_hold_the_same_answers") {
        return;
    }
    let bed = Bed::new();
    let dir = pin_dir();
    let _cleanup = Cleanup(dir.clone());
    let (mut datapath, mut tap, gate) = started(&bed, &dir);
    gate.keep_open(Duration::from_secs(60)).unwrap();
    let mut software = SoftwareDatapath::default();
    software.apply(&image(), &with_names(true)).unwrap();
    software.attach(&endpoint(bed.ifindex, "veth0", &OWN)).unwrap();
    software.listen(1000);
    let (own, stranger) = ("10.9.0.2", "10.9.0.77");
    let short = &QUERY[..11];
    let steps = [
        (
            "nobody has asked",
            Direction::Ingress,
            IpProto::UDP,
            (HOST, 53),
            (own, 4009),
            QUERY,
            Overheard::Nothing,
        ),
        (
            "a question",
            Direction::Egress,
            IpProto::UDP,
            (own, 4000),
            (HOST, 53),
            QUERY,
            Overheard::Copied,
        ),
        (
            "its answer",
            Direction::Ingress,
            IpProto::UDP,
            (HOST, 53),
            (own, 4000),
            QUERY,
            Overheard::Held,
        ),
        (
            "another port",
            Direction::Ingress,
            IpProto::UDP,
            (HOST, 53),
            (own, 4001),
            QUERY,
            Overheard::Nothing,
        ),
        (
            "another host",
            Direction::Ingress,
            IpProto::UDP,
            (stranger, 53),
            (own, 4000),
            QUERY,
            Overheard::Nothing,
        ),
        (
            "another service",
            Direction::Ingress,
            IpProto::UDP,
            (HOST, 54),
            (own, 4000),
            QUERY,
            Overheard::Nothing,
        ),
        (
            "no header",
            Direction::Ingress,
            IpProto::UDP,
            (HOST, 53),
            (own, 4000),
            short,
            Overheard::Nothing,
        ),
        (
            "not allowed",
            Direction::Egress,
            IpProto::UDP,
            (own, 4000),
            (stranger, 53),
            QUERY,
            Overheard::Nothing,
        ),
        (
            "over TCP",
            Direction::Egress,
            IpProto::TCP,
            (own, 4000),
            (HOST, 53),
            QUERY,
            Overheard::Copied,
        ),
        (
            "over TCP back",
            Direction::Ingress,
            IpProto::TCP,
            (HOST, 53),
            (own, 4000),
            QUERY,
            Overheard::Held,
        ),
        (
            "a TCP acknowledgement",
            Direction::Ingress,
            IpProto::TCP,
            (HOST, 53),
            (own, 4000),
            b"",
            Overheard::Nothing,
        ),
    ];
    for (what, direction, proto, from, to, payload, expected) in steps {
        let frame = frame(proto, from, to, payload);
        let outcome = software.exchange(bed.ifindex, direction, &frame, 1_000_000_000);
        assert_eq!(outcome.overheard, expected, "{what}");
        let ifindex = bed.ifindex;
        let (back, passes) = bed.host.run(move || {
            let passes = datapath.run_frame(ifindex, direction, &frame).unwrap();
            (datapath, passes)
        });
        datapath = back;
        let seen = take(&mut tap);
        let by_kernel = match &seen[..] {
            [] => Overheard::Nothing,
            [one] if one.held.is_some() => Overheard::Held,
            [_] => Overheard::Copied,
            more => panic!("{more:?}"),
        };
        assert_eq!(by_kernel, expected, "{what}, in the kernel");
        let allowed = outcome.verdict != Verdict::Deny && expected != Overheard::Held;
        assert_eq!(passes, allowed, "{what}");
    }
    bed.host.run(move || datapath.purge().unwrap());
}
