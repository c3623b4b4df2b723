//! `nvctl policy replay` on captures that are made here. No controller is asked but where a test says so.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use nv_capture::{
    CaptureSink as _, InterfaceInfo, LinkType, Packet, PacketDirection, PcapngSink, SectionInfo,
};
use nv_types::Timestamp;
use serde_json::Value;

const NOBODY: &str = "http://127.0.0.1:9";
const START: u64 = 1_700_000_000_000_000_000;
const FRONT: (&str, [u8; 6]) = ("10.0.0.2", [2, 0, 0, 0, 0, 2]);
const SHOP: (&str, [u8; 6]) = ("10.0.0.3", [2, 0, 0, 0, 0, 3]);
const DB: (&str, [u8; 6]) = ("10.0.0.4", [2, 0, 0, 0, 0, 4]);
const SHOP6: (&str, [u8; 6]) = ("fd00::3", SHOP.1);
const DB6: (&str, [u8; 6]) = ("fd00::4", DB.1);
const OFFICE: (&str, [u8; 6]) = ("198.51.100.7", [2, 0, 0, 0, 0, 1]);
const WORKLOADS: &str = "workloads:\n\
    - {name: front-1, service: front, labels: {tier: front}, address: 10.0.0.2, mac: '02:00:00:00:00:02'}\n\
    - {name: shop-1, service: shop, addresses: [10.0.0.3, 'fd00::3'], mac: '02:00:00:00:00:03'}\n\
    - {name: db-1, service: db, addresses: [10.0.0.4, 'fd00::4'], mac: '02:00:00:00:00:04'}\n";

type End = (&'static str, [u8; 6]);

fn ip(from: End, to: End) -> PacketBuilderStep<IpHeaders> {
    let builder = PacketBuilder::ethernet2(from.1, to.1);
    match (from.0.parse().unwrap(), to.0.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("one family"),
    }
}

fn segment(from: (End, u16), to: (End, u16), flags: &str, (seq, ack): (u32, u32), payload: &[u8]) -> Vec<u8> {
    let mut step = ip(from.0, to.0).tcp(from.1, to.1, seq, 1024);
    if flags.contains('S') {
        step = step.syn();
    }
    if flags.contains('A') {
        step = step.ack(ack);
    }
    let mut frame = Vec::new();
    step.write(&mut frame, payload).unwrap();
    frame
}

/// Handshake, what the client says, what the server says.
fn conversation(client: (End, u16), server: (End, u16), request: &[u8], answer: &[u8]) -> Vec<Vec<u8>> {
    let said = u32::try_from(request.len()).unwrap();
    vec![
        segment(client, server, "S", (100, 0), b""),
        segment(server, client, "SA", (500, 101), b""),
        segment(client, server, "A", (101, 501), b""),
        segment(client, server, "A", (101, 501), request),
        segment(server, client, "A", (501, 101 + said), answer),
    ]
}

/// A day at the shop.
fn frames() -> Vec<Vec<u8>> {
    let get = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n".as_slice();
    let ok = b"HTTP/1.1 200 OK\r\n\r\n".as_slice();
    let mut frames = conversation((FRONT, 40_001), (SHOP, 8080), get, ok);
    frames.extend(conversation(
        (FRONT, 40_002),
        (SHOP, 8080),
        b"SSH-2.0-x\r\n",
        b"SSH-2.0-y\r\n",
    ));
    frames.extend(conversation(
        (FRONT, 40_003),
        (DB, 5432),
        b"hello there",
        b"well met",
    ));
    frames.extend(conversation(
        (SHOP6, 40_004),
        (DB6, 5432),
        b"hello there",
        b"well met",
    ));
    frames.extend(conversation(
        (OFFICE, 40_005),
        (FRONT, 443),
        b"12345678",
        b"87654321",
    ));
    // The database with the front's address, strangers among themselves, and noise.
    let liar = (FRONT.0, DB.1);
    frames.push(segment((liar, 40_006), (SHOP, 8080), "S", (1, 0), b""));
    frames.push(segment(
        (OFFICE, 1),
        (("192.0.2.9", [2, 0, 0, 0, 0, 9]), 2),
        "S",
        (1, 0),
        b"",
    ));
    frames.push(vec![0; 5]);
    frames
}

fn pcapng(frames: &[Vec<u8>], snap: usize) -> Vec<u8> {
    let mut sink = PcapngSink::new(Vec::new(), &SectionInfo::new("shop", ""), 65_535).unwrap();
    sink.begin_interface(&InterfaceInfo::new("br0", LinkType::ETHERNET))
        .unwrap();
    for (at, frame) in (0_u64..).zip(frames) {
        sink.write(&Packet {
            timestamp: Timestamp(START + at * 1_000_000),
            interface: 0,
            direction: PacketDirection::Unknown,
            original_len: frame.len().try_into().unwrap(),
            data: &frame[..frame.len().min(snap)],
            ..Packet::default()
        })
        .unwrap();
    }
    sink.finish(&[], Timestamp(START)).unwrap();
    sink.into_inner()
}

/// The same without Ethernet headers, in the old format.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for frame in frames.iter().filter(|frame| frame.len() > 34) {
        let body = &frame[14..];
        let len = u32::try_from(body.len()).unwrap();
        for word in [1_700_000_000, 0, len, len] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(body);
    }
    file
}

struct Scene(tempfile::TempDir);

impl Scene {
    fn new(capture: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.pcapng"), capture).unwrap();
        std::fs::write(folder.path().join("w.yaml"), WORKLOADS).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn replay(&self, server: &str, args: &[&str]) -> (i32, String, String) {
        let capture = self.path("c.pcapng");
        let args = [&["policy", "replay", &capture], args].concat();
        common::nvctl(server, "secret", &args)
    }

    /// Offline, with the sample policy.
    fn offline(&self, args: &[&str]) -> (i32, String, String) {
        let (policy, workloads) = (shop(), self.path("w.yaml"));
        let mut all = vec!["--policy", policy.to_str().unwrap(), "--workloads", &workloads];
        all.extend(args);
        self.replay(NOBODY, &all)
    }
}

fn shop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/policy/shop.yaml")
}

/// (from, to, port, application, verdict, rule, reason, packets that pass, packets that do not).
type Row = (String, String, String, String, String, u64, String, u64, u64);

fn rows(answer: &Value) -> Vec<Row> {
    let text = |flow: &Value, path: &str| {
        flow.pointer(path)
            .and_then(Value::as_str)
            .unwrap_or("-")
            .to_owned()
    };
    let number = |flow: &Value, field: &str| flow[field].as_u64().unwrap();
    answer["flows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flow| {
            (
                text(flow, "/client/name"),
                text(flow, "/server/name"),
                text(flow, "/port"),
                text(flow, "/application"),
                text(flow, "/verdict"),
                number(flow, "rule"),
                text(flow, "/reason"),
                number(flow, "packets"),
                number(flow, "denied_packets"),
            )
        })
        .collect()
}

#[test]
fn every_flow_has_a_verdict_a_rule_and_a_reason() {
    let scene = Scene::new(&pcapng(&frames(), usize::MAX));
    let (code, out, err) = scene.offline(&["-o", "json"]);
    assert_eq!(code, 0, "{err}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    let row =
        |from: &str, to: &str, port: &str, app: &str, verdict: &str, rule, reason: &str, packets, denied| {
            let text = str::to_owned;
            (
                text(from),
                text(to),
                text(port),
                text(app),
                text(verdict),
                rule,
                text(reason),
                packets,
                denied,
            )
        };
    assert_eq!(
        rows(&answer),
        [
            row("front-1", "shop-1", "tcp/8080", "HTTP", "allow", 1, "rule", 5, 0),
            // Packets without payload pass until the application is known.
            row("front-1", "shop-1", "tcp/8080", "SSH", "deny", 0, "default", 3, 2),
            row("front-1", "db-1", "tcp/5432", "-", "deny", 0, "default", 0, 5),
            row("shop-1", "db-1", "tcp/5432", "-", "allow", 2, "rule", 5, 0),
            row(
                "198.51.100.7",
                "front-1",
                "tcp/443",
                "-",
                "allow",
                3,
                "rule",
                5,
                0
            ),
        ]
    );
    let totals = &answer["totals"];
    assert_eq!(totals["packets"], 28);
    assert_eq!(totals["not_policed"], 2, "strangers and noise");
    assert_eq!(
        totals["flows"],
        serde_json::json!({"allow": 3, "alert": 0, "deny": 2})
    );
    assert_eq!(
        totals["by_reason"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["reason"] == "spoofed")
            .unwrap(),
        &serde_json::json!({"direction": "egress", "reason": "spoofed", "packets": 1})
    );
    assert_eq!(answer["flows"][0]["first_seen"], START);
    assert_eq!(answer["flows"][0]["last_seen"], START + 4_000_000);
    assert!(
        err.contains("28 packets in 5 flows: 3 allow, 0 alert, 2 deny"),
        "{err}"
    );
}

#[test]
fn a_capture_without_ethernet_headers_and_one_that_is_cut_short_are_read() {
    let scene = Scene::new(&pcap(&frames()));
    let (code, out, err) = scene.offline(&["-o", "jsonl"]);
    assert_eq!(code, 0, "{err}");
    let verdicts: Vec<String> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["verdict"].to_string())
        .collect();
    // Without Ethernet addresses a liar cannot be told: it is the front.
    assert_eq!(
        verdicts.join(" "),
        r#""allow" "deny" "deny" "allow" "allow" "allow""#
    );
    let scene = Scene::new(&pcapng(&frames(), 60));
    let (code, _, err) = scene.offline(&["-o", "jsonl"]);
    assert_eq!(code, 0);
    assert!(err.contains("were captured in part"), "{err}");
    let whole = pcapng(&frames(), usize::MAX);
    let scene = Scene::new(&whole[..whole.len() / 2]);
    let (code, out, err) = scene.offline(&["-o", "name"]);
    assert_eq!((code, out.lines().next()), (1, Some("front-1")), "{err}");
    assert!(err.contains("the file breaks off"), "{err}");
    let scene = Scene::new(b"not a capture");
    let (code, _, err) = scene.offline(&[]);
    assert!(code == 1 && err.contains("not a capture file"), "{code} {err}");
}

#[test]
fn another_policy_beside_it_shows_what_it_would_change() {
    let scene = Scene::new(&pcapng(&frames(), usize::MAX));
    let text = std::fs::read_to_string(shop()).unwrap();
    // Rule 2 goes, and the front may speak anything to the shop.
    let next = text
        .replace("ports: tcp/5432\naction: allow", "ports: tcp/5432\naction: deny")
        .replace("applications: [HTTP]\n", "");
    let other = scene.path("next.yaml");
    std::fs::write(&other, next).unwrap();
    let (code, out, err) = scene.offline(&["--against", &other, "--fail-on", "change", "-o", "json"]);
    assert_eq!(code, 4, "{err}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    let changes: Vec<_> = answer["flows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flow| {
            (
                flow["changed"].as_bool().unwrap(),
                flow["against"]["verdict"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        changes,
        [
            (false, "allow"),
            (true, "allow"),
            (false, "deny"),
            (true, "deny"),
            (false, "allow")
        ]
    );
    assert_eq!(answer["totals"]["changed"], 2);
    let same = shop();
    let (code, out, err) = scene.offline(&["--against", same.to_str().unwrap(), "--fail-on", "change"]);
    assert_eq!(code, 0, "{err}");
    let head = out.lines().next().unwrap();
    assert!(head.contains("FROM") && head.contains("AGAINST"), "{out}");
    assert_eq!(out.lines().count(), 6);
    assert!(err.contains("0 flows would have another verdict"), "{err}");
}

#[test]
fn verdicts_can_be_chosen_and_fail_a_script() {
    let scene = Scene::new(&pcapng(&frames(), usize::MAX));
    let (code, out, _) = scene.offline(&["--verdict", "deny", "--fail-on", "deny", "--no-headers"]);
    assert_eq!((code, out.lines().count()), (4, 2), "{out}");
    let calm = Scene::new(&pcapng(&frames()[..5], usize::MAX));
    assert_eq!(calm.offline(&["--fail-on", "deny,alert"]).0, 0);
    let (code, _, err) = calm.offline(&["--verdict", "drop"]);
    assert!(code == 2 && err.contains("allow, alert or deny"), "{err}");
    let (code, _, err) = calm.replay(NOBODY, &["--workloads", &calm.path("w.yaml")]);
    assert!(code == 2 && err.contains("--policy"), "{err}");
}

#[test]
fn without_a_list_the_workloads_are_the_controllers() {
    let scene = Scene::new(&pcapng(&frames(), usize::MAX));
    let server = common::stub(|head| match common::path(head).split('?').next().unwrap() {
        "/v1/workload" => (
            "200 OK",
            r#"{"workloads": [{"id": "w1", "name": "db-1", "host_id": "n1", "service": "db", "domain": "", "image": "i", "labels": {},
                "interfaces": {"eth0": [{"ip": "10.0.0.4", "ip_prefix": 24}, {"ip": "fd00::4", "ip_prefix": 64}]}}]}"#,
        ),
        "/v1/group" => ("200 OK", r#"{"groups": []}"#),
        "/v1/policy/rule" => ("200 OK", r#"{"rules": []}"#),
        "/v1/settings" => ("200 OK", r#"{"settings": {}}"#),
        _ => ("404 Not Found", r#"{"error": "x", "message": "not here"}"#),
    });
    let policy = shop();
    let (code, out, err) = scene.replay(&server, &["--policy", policy.to_str().unwrap(), "-o", "json"]);
    assert_eq!(code, 0, "{err}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    let seen: Vec<_> = rows(&answer)
        .into_iter()
        .map(|row| (row.0, row.1, row.4))
        .collect();
    let row = |from: &str| (from.to_owned(), "db-1".to_owned(), "deny".to_owned());
    assert_eq!(seen, [row("10.0.0.2"), row("fd00::3")]);
}
