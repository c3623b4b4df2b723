//! Random policies over a small world: six workloads on two nodes, groups of every kind, rules of every shape.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nv_policy::{PolicyInput, rule};
use nv_types::{
    Action, Application, Contention, Criterion, CriterionOp, Group, GroupKind, Interface, IpProto, Mode,
    Node, NodeId, Tier, Workload, WorkloadId,
};

use crate::dice::Dice;

/// Applications that rules ask for; `unknown` is one that a rule can name, too.
pub const APPS: [Application; 5] = [
    Application::HTTP,
    Application::SSH,
    Application::REDIS,
    Application::DNS,
    Application::UNKNOWN,
];

const GROUPS: [&str; 9] = [
    "g0",
    "g1",
    "g2",
    "net0",
    "net1",
    "empty",
    "external",
    "nodes",
    "containers",
];
const PORTS: [&str; 12] = [
    "any",
    "icmp",
    "tcp/80",
    "tcp/any",
    "tcp/8000-8100,udp/53",
    "udp/any",
    "tcp/79-81",
    "tcp/8050",
    "80,443,icmp",
    "sctp/1-65535",
    "sctp/3868",
    "udp/53",
];
const MODES: [Mode; 3] = [Mode::Discover, Mode::Monitor, Mode::Protect];

/// Where the endpoints are.
pub fn node() -> NodeId {
    "n1".parse().unwrap()
}

/// The workloads of that node.
pub fn locals() -> [WorkloadId; 3] {
    ["w0", "w2", "w4"].map(|name| name.parse().unwrap())
}

/// Addresses of a workload, IPv4 first.
pub fn addresses(number: usize) -> [IpAddr; 2] {
    [format!("10.0.0.{}", number + 1), format!("fd00::{}", number + 1)].map(|text| text.parse().unwrap())
}

/// Peers that tell apart everything that the groups can, of both families.
pub fn peers() -> Vec<IpAddr> {
    [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.9",
        "192.0.2.1",
        "192.0.2.64",
        "192.0.2.70",
        "192.0.2.99",
        "192.0.2.100",
        "172.16.0.1",
        "8.8.8.8",
        "fd00::1",
        "fd00::2",
        "fd00::3",
        "fd00::4",
        "fd00::5",
        "fd77::1",
        "2001:db8::1",
    ]
    .iter()
    .map(|text| text.parse().unwrap())
    .collect()
}

/// What is asked: protocol and server's port.
pub const ASKED: [(IpProto, u16); 12] = [
    (IpProto::TCP, 80),
    (IpProto::TCP, 79),
    (IpProto::TCP, 443),
    (IpProto::TCP, 8000),
    (IpProto::TCP, 8050),
    (IpProto::TCP, 65535),
    (IpProto::UDP, 53),
    (IpProto::UDP, 1),
    (IpProto::ICMP, 0),
    (IpProto::SCTP, 3868),
    (IpProto::SCTP, 9),
    (IpProto(47), 0),
];

fn group(name: &str, kind: GroupKind, criteria: &[(&str, &str)]) -> Group {
    let criterion = |(key, value): &(&str, &str)| Criterion {
        key: (*key).into(),
        value: (*value).into(),
        op: CriterionOp::Equal,
    };
    Group {
        name: name.parse().unwrap(),
        kind,
        origin: Some(Tier::User),
        comment: String::new(),
        domain: String::new(),
        criteria: criteria.iter().map(criterion).collect(),
    }
}

fn workload(dice: &mut Dice, number: usize) -> Workload {
    let node = if number.is_multiple_of(2) { "n1" } else { "n2" };
    let [v4, v6] = addresses(number);
    Workload {
        name: format!("w{number}"),
        runtime: "test".into(),
        image: "img".into(),
        labels: BTreeMap::from([("l".to_owned(), dice.below(3).to_string())]),
        domain: dice.pick(&["", "d"]).into(),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            host_index: Some(1),
            addresses: vec![(v4, 24), (v6, 64)],
            ..Interface::default()
        }],
        ..Workload::new(
            format!("w{number}").parse().unwrap(),
            node.parse().unwrap(),
            format!("s{}", number % 3),
        )
    }
}

fn rules(dice: &mut Dice) -> Vec<nv_types::Rule> {
    let mut rules = Vec::new();
    for at in 0..dice.below(14) {
        let id = dice.pick(&[1_u32, 10_000, 100_000, 110_000]) + u32::try_from(at).unwrap();
        let ports = [dice.pick(&PORTS), dice.pick(&PORTS)];
        let ports = &ports[..1 + dice.below(2)];
        let action = if dice.one_in(2) {
            Action::Allow
        } else {
            Action::Deny
        };
        let mut rule = rule(
            id,
            dice.pick(&GROUPS),
            dice.pick(&GROUPS),
            &ports.join(","),
            action,
        )
        .unwrap();
        rule.applications = (0..dice.below(3)).map(|_| dice.pick(&APPS)).collect();
        rule.applications.sort();
        rule.applications.dedup();
        rule.disable = dice.one_in(10);
        rules.push(rule);
    }
    rules
}

/// A policy.
pub fn policy(dice: &mut Dice) -> PolicyInput {
    let mut input = PolicyInput::default();
    input.settings.contention = dice.pick(&[Contention::Basic, Contention::Restrictive]);
    input.settings.icmp_policy = dice.one_in(2);
    input.settings.network_mode = dice.one_in(5).then(|| dice.pick(&MODES));
    if dice.one_in(4) {
        input.settings.bounded_domains.insert("d".into());
    }
    for number in 0..6 {
        let workload = workload(dice, number);
        input.add_service_group(&workload);
        input.workloads.insert(workload.id.clone(), workload);
    }
    for group in [
        group("g0", GroupKind::Container, &[("l", "0")]),
        group("g1", GroupKind::Container, &[("l", "1"), ("l", "0")]),
        group("g2", GroupKind::Container, &[("service", "s1")]),
        group(
            "net0",
            GroupKind::Address,
            &[("address", "192.0.2.0/24"), ("address", "fd77::/16")],
        ),
        group(
            "net1",
            GroupKind::Address,
            &[("address", "192.0.2.64-192.0.2.99"), ("address", "172.16.0.1")],
        ),
        group("empty", GroupKind::Container, &[]),
    ] {
        input.groups.insert(group.name.clone(), group);
    }
    for name in ["nv.s0", "nv.s1", "nv.s2", "nodes"] {
        if !dice.one_in(4) {
            input.modes.insert(name.parse().unwrap(), dice.pick(&MODES));
        }
    }
    let own = Node {
        addresses: vec!["172.16.0.1".parse().unwrap(), "192.0.2.70".parse().unwrap()],
        ..Node::new(node())
    };
    input.nodes.insert(node(), own);
    input.rules = rules(dice);
    input
}
