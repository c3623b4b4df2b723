//! Filters, held against libpcap: `tcpdump -ddd` compiles, our interpreter runs both programs on the same packets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    reason = "a test fails by panic, and its numbers are small"
)]

mod common;

use std::process::Command;

use common::{Random, packets};
use nv_capture::{Filter, LinkType, Program};
use proptest::prelude::*;

/// False, by name, where tcpdump is not installed.
fn has_tcpdump(test: &str) -> bool {
    if Command::new("tcpdump").arg("--version").output().is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs tcpdump");
    eprintln!("SKIPPED {test}: needs tcpdump");
    false
}

/// libpcap's program, or what it has against the text.
///
/// Not optimized: its optimizer leaves out loads whose result cannot matter, and with them that a load past the end
/// of a packet leaves the packet.
fn libpcap(link: &str, text: &str) -> Result<Program, String> {
    let output = Command::new("tcpdump")
        .args(["-O", "-y", link, "-ddd", "--", text])
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(Program::from_decimal(&String::from_utf8(output.stdout).unwrap()).unwrap())
}

/// Holds one filter to libpcap on all packets; gives how many matched.
fn same_verdicts(link: LinkType, name: &str, text: &str, packets: &[Vec<u8>]) -> usize {
    let filter: Filter = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    let ours = filter.program(link).unwrap();
    let theirs = libpcap(name, text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut matched = 0;
    for packet in packets {
        let length = packet.len() as u32;
        let (our, their) = (ours.run(packet, length), theirs.run(packet, length));
        assert_eq!(
            our != 0,
            their != 0,
            "{text}\non {packet:02x?}\nours\n{ours}theirs\n{theirs}"
        );
        matched += usize::from(our != 0);
    }
    matched
}

/// Filters of every kind; the first group must each match something and leave something of the packets.
const TELLING: &[&str] = &[
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "sctp",
    "igmp",
    "host 10.0.0.1",
    "src host 10.0.0.1",
    "dst host 10.0.0.1",
    "src or dst host 10.0.0.2",
    "src 10.0.0.1",
    "dst 10.0.0.2",
    "ip host 10.0.0.1",
    "arp host 10.0.0.1",
    "ip src 10.0.0.2",
    "net 10.0.0.0/8",
    "net 10",
    "net 10.0",
    "src net 10.0.0",
    "net 10.0.0.0 mask 255.255.255.0",
    "host 2001:db8::1",
    "ip6 src host 2001:db8::2",
    "net 2001:db8::/32",
    "dst net 2001:db8::/33",
    "port 80",
    "tcp port 80",
    "udp port 53",
    "src port 443",
    "dst port 80",
    "tcp dst port 80",
    "sctp port 80",
    "port 80 or 443",
    "tcp port 80 or 443",
    "port (80 or 443 or 53)",
    "not port 80",
    "port http or domain",
    "portrange 0-1024",
    "tcp portrange 80-443",
    "udp src portrange 50-60",
    "portrange 443-80",
    "ether host 02:00:00:00:00:01",
    "ether src 02:00:00:00:00:02",
    "ether dst 02:00:00:00:00:01",
    "ether broadcast",
    "broadcast",
    "multicast",
    "ether multicast",
    "ip multicast",
    "ip6 multicast",
    "ether proto 0x0806",
    "ether proto \\ip6",
    "ip proto \\tcp",
    "ip proto 17",
    "ip6 proto 58",
    "proto \\udp",
    "proto 6",
    "stp",
    "ether proto 0x42",
    "vlan",
    "vlan 5",
    "vlan and tcp",
    "vlan 5 and tcp port 80",
    "not vlan",
    "vlan and vlan",
    "vlan 5 and vlan 6",
    "tcp[tcpflags] & tcp-syn != 0",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[13] = 2",
    "tcp[13] == 0x12",
    "ip[0] & 0xf != 5",
    "ip[8] < 64",
    "ip[8] <= 64",
    "ip[8] > 1",
    "ip[8] >= 64",
    "ip[2:2] > 100",
    "ip[6:2] & 0x1fff != 0",
    "ether[0] & 1 != 0",
    "udp[4:2] > 20",
    "icmp[icmptype] = icmp-echo",
    "icmp[icmptype] != icmp-echoreply",
    "icmp6[0] = 135",
    "ip6[6] = 58",
    "len > 100",
    "less 60",
    "greater 100",
    "len = 60 or len = 74",
    "ip[2:2] - ((ip[0]&0xf)<<2) - ((tcp[12]&0xf0)>>2) != 0",
    "tcp[((tcp[12]&0xf0)>>2):4] = 0x47455420",
    "ip[ip[0]&0xf] != 0",
    "len - 14 = ip[2:2]",
    "ip[16:4] & 0xff = 1",
    "ip[8] * 2 > 100",
    "ip[8] / 2 < 32",
    "-ip[8] < 0xffffffc1",
    "tcp and not (port 22 or port 443)",
    "(tcp or udp) and host 10.0.0.1",
    "ip and (tcp[13] & 2 != 0)",
    "not host 10.0.0.1 and 10.0.0.2",
    "host 10.0.0.1 or 10.0.0.2",
    "ip or ip6 and tcp",
    "tcp or udp and port 53",
    "!tcp",
    "! (tcp or arp)",
    "tcp && port 80",
    "udp || icmp",
    "not not tcp",
    "src host 10.0.0.1 and dst port 80",
    "src and dst net 10",
    "src and dst port 53",
    "dst port 53 or 80",
    "ip proto 6 or 17",
];

/// Filters that may match all or nothing.
const OTHERS: &[&str] = &[
    "",
    "rarp",
    "rarp host 10.0.0.1",
    "ah",
    "esp",
    "pim",
    "vrrp",
    "igrp",
    "decnet",
    "netbeui",
    "host 10",
    "host 10.0",
    "host 1.2.3.4 or 5.6.7.8 or 9.10.11.12",
    "net 0.0.0.0/0",
    "net ::/0",
    "port ssh",
    "port ntp",
    "udp port bootps",
    "src and dst host 10.0.0.1",
    "tcp[0] = 0",
    "tcp[1000] = 1",
    "not tcp[1000] = 1",
    "ip[0:4] = 0",
    "1 = 1",
    "1 > 2",
    "ip[0] / ip[1] = 1",
    "(ip[0]) = 0x45",
    "((ip[0])) = 0x45",
    "(1 + 2) * 3 = 9",
    "ip[(2):2] = 60",
    "ip[12 - 2] = 0",
    "tcp[tcpflags] = tcp-syn|tcp-ack",
    "0x45 = ip[0]",
    "5 < ip[8]",
    "len << 1 > 200",
    "len >> 1 > 50",
    "len & 1 = 0 or len | 1 = 5",
    "ether[12:2] = 0x800",
    "ether[ip[0]] = 1",
    "ether[14] & 0x0f = 5",
    "link[0] = 2",
    "sctp[0:2] = 80",
    "igmp[0] = 0x16",
    "vlan 5 or tcp",
    "vlan or vlan 6",
    "(vlan 5 and host 10.0.0.1) or icmp",
];

const ETHERNET: (LinkType, &str) = (LinkType::ETHERNET, "EN10MB");

#[test]
fn filters_say_what_libpcap_says() {
    if !has_tcpdump("filters_say_what_libpcap_says") {
        return;
    }
    let packets = packets(&mut Random(1), 2000);
    for text in TELLING {
        let matched = same_verdicts(ETHERNET.0, ETHERNET.1, text, &packets);
        assert!(
            matched > 0 && matched < packets.len(),
            "{text}: {matched} of {}",
            packets.len()
        );
    }
    for text in OTHERS {
        same_verdicts(ETHERNET.0, ETHERNET.1, text, &packets);
    }
}

#[test]
fn packets_that_start_with_ip_or_a_cooked_header_are_filtered_as_libpcap_does() {
    if !has_tcpdump("packets_that_start_with_ip_or_a_cooked_header_are_filtered_as_libpcap_does") {
        return;
    }
    let ethernet = packets(&mut Random(2), 500);
    let raw: Vec<_> = ethernet
        .iter()
        .map(|packet| packet.get(14..).unwrap_or_default().to_vec())
        .collect();
    let cooked: Vec<_> = ethernet
        .iter()
        .map(|packet| [&[0; 14], packet.get(12..).unwrap_or_default()].concat())
        .collect();
    for text in TELLING.iter().chain(OTHERS) {
        if text.contains("ether") || text.contains("cast") || text.contains("vlan") || text.contains("link") {
            continue;
        }
        // libpcap takes a packet without a link layer to be IP where it looks for other protocols.
        if !["stp", "decnet", "netbeui", "arp"]
            .iter()
            .any(|word| text.contains(word))
        {
            same_verdicts(LinkType::RAW, "RAW", text, &raw);
        }
        if !["stp", "netbeui"].iter().any(|word| text.contains(word)) {
            same_verdicts(LinkType::LINUX_SLL, "LINUX_SLL", text, &cooked);
        }
    }
}

/// A filter made of random primitives, nested.
fn expression(random: &mut Random, depth: u32) -> String {
    if depth == 0 || random.below(3) == 0 {
        let all = TELLING.len() + OTHERS.len();
        let text = TELLING
            .iter()
            .chain(OTHERS)
            .nth(random.below(all as u64) as usize)
            .unwrap();
        // A tag changes what follows it in the text, in libpcap's parentheses too: tested by itself.
        if text.is_empty() || text.contains("vlan") {
            "tcp".into()
        } else {
            format!("({text})")
        }
    } else {
        let (left, right) = (expression(random, depth - 1), expression(random, depth - 1));
        match random.below(4) {
            0 => format!("{left} and {right}"),
            1 => format!("{left} or {right}"),
            2 => format!("not ({left} and {right})"),
            _ => format!("({left} or {right})"),
        }
    }
}

#[test]
fn random_filters_say_what_libpcap_says() {
    if !has_tcpdump("random_filters_say_what_libpcap_says") {
        return;
    }
    let mut random = Random(3);
    let packets = packets(&mut random, 400);
    for _ in 0..250 {
        let text = expression(&mut random, 4);
        same_verdicts(ETHERNET.0, ETHERNET.1, &text, &packets);
    }
}

#[test]
fn tcpdump_picks_the_same_packets_out_of_a_file() {
    if !has_tcpdump("tcpdump_picks_the_same_packets_out_of_a_file") {
        return;
    }
    let packets = packets(&mut Random(4), 500);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.pcap");
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (n, packet) in packets.iter().enumerate() {
        for word in [n as u32, 0, packet.len() as u32, packet.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    std::fs::write(&path, file).unwrap();
    for text in TELLING.iter().step_by(3) {
        let output = Command::new("tcpdump")
            .arg("-r")
            .arg(&path)
            .args(["-w", "-", "--", text])
            .output()
            .unwrap();
        assert!(output.status.success());
        let mut theirs = Vec::new();
        let mut rest = output.stdout.get(24..).unwrap();
        while let Some(header) = rest.first_chunk::<16>() {
            theirs.push(u32::from_le_bytes(*header.first_chunk().unwrap()));
            let length = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
            rest = rest.get(16 + length..).unwrap();
        }
        let program = text
            .parse::<Filter>()
            .unwrap()
            .program(LinkType::ETHERNET)
            .unwrap();
        let ours: Vec<_> = (0_u32..)
            .zip(&packets)
            .filter(|(_, packet)| program.run(packet, packet.len() as u32) != 0)
            .map(|(n, _)| n)
            .collect();
        assert_eq!(ours, theirs, "{text}");
    }
}

#[test]
fn both_refuse_what_makes_no_sense() {
    let wrong: &[(&str, usize)] = &[
        ("tcp prot 80", 5),
        ("1.2.3.4", 1),
        ("foo", 1),
        ("tcp and", 8),
        ("tcp and and udp", 9),
        ("port 65536", 6),
        ("port frobnicate", 6),
        ("tcp host 1.2.3.4", 1),
        ("net 10.1.1.1/8", 5),
        ("net ::1/64", 5),
        ("host ::1/64", 6),
        ("ip6 host 1.2.3.4", 10),
        ("host 1.2.3.4.5", 6),
        ("tcp[0:3] = 1", 7),
        ("ip[0] = 1/0", 10),
        ("ip[0] << 32 = 1", 7),
        ("(tcp or udp", 1),
        ("tcp)", 4),
        ("tcp udp", 5),
        ("ether host 1.2.3.4", 12),
        ("vlan 4096", 6),
        ("net 10.0.0.0/33", 14),
        ("tcp[0", 6),
        ("host", 5),
        ("port 80 or", 11),
        ("tcp or 80", 8),
        ("len >", 6),
        ("src", 4),
        ("tcp net 10", 1),
        ("udp port ssh", 10),
    ];
    for (text, column) in wrong {
        let error = text.parse::<Filter>().expect_err(text);
        assert_eq!(error.column, *column, "{text}: {error}");
        if has_tcpdump("both_refuse_what_makes_no_sense") {
            libpcap("EN10MB", text).expect_err(text);
        }
    }
    // Refused by us alone: no DNS, no loops, no other links, and bounds of the kernel.
    for text in [
        "host www.example.com",
        "gateway 1.2.3.4",
        "ip6 protochain 6",
        "mpls",
        "pppoes",
        "wlan addr1 1:2:3:4:5:6",
        "ether[70000] = 1",
        "app FROBNICATE",
        "verdict maybe",
        "workload",
        "rule x",
    ] {
        text.parse::<Filter>().expect_err(text);
    }
    let deep = format!("{}tcp{}", "(".repeat(200), ")".repeat(200));
    assert!(
        deep.parse::<Filter>()
            .unwrap_err()
            .to_string()
            .contains("nested deeper")
    );
    let long = vec!["host 2001:db8::1"; 1000].join(" or ");
    assert!(
        long.parse::<Filter>()
            .unwrap_err()
            .to_string()
            .contains("4096 instructions")
    );
    let many = vec!["tcp"; 1025].join(" or ");
    assert!(
        many.parse::<Filter>()
            .unwrap_err()
            .to_string()
            .contains("1024 primitives")
    );
}

#[test]
fn jumps_farther_than_255_instructions_arrive() {
    if !has_tcpdump("jumps_farther_than_255_instructions_arrive") {
        return;
    }
    let packets = packets(&mut Random(5), 300);
    for count in [10, 40, 120] {
        let hosts: Vec<_> = (0..count)
            .map(|n| format!("host 10.0.{}.{}", n / 250, n % 250))
            .collect();
        let text = format!("not ({}) and (tcp port 80 or udp)", hosts.join(" or "));
        assert!(same_verdicts(ETHERNET.0, ETHERNET.1, &text, &packets) > 0);
    }
}

proptest! {
    /// No text breaks the parser, and what it takes is a program that the kernel would take.
    #[test]
    fn any_text_is_taken_or_refused_with_its_column(text in r#"([ ()\[\]:/+*%&|^=<>!"a-z0-9.-]|tcp|port|host|and|or|not|10\.|vlan|len|workload |::){0,60}"#) {
        match text.parse::<Filter>() {
            Ok(filter) => prop_assert!(filter.program(LinkType::ETHERNET).is_some()),
            Err(error) => prop_assert!(error.column <= text.chars().count() + 1),
        }
    }

    #[test]
    fn any_bytes_are_filtered_without_a_fault(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        for text in ["tcp port 80", "ip[ip[0]:4] = 1", "vlan and ip6", "tcp[((tcp[12]&0xf0)>>2):4] = 1"] {
            let filter: Filter = text.parse().unwrap();
            let _ = filter.program(LinkType::ETHERNET).unwrap().run(&data, 200);
            let _ = nv_capture::Headers::parse(LinkType::ETHERNET, &data);
        }
    }
}
