//! Compiled tables, and explanations, decide as the naive reference does, whatever the policy.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use nv_policy::reference::evaluate;
use nv_policy::{Book, PolicyInput, Query, Tables, compile, explain, rule};
use nv_types::{
    Action, Application, Contention, Criterion, CriterionOp, Direction, Group, GroupKind, Interface, IpProto,
    Mode, Node, NodeId, Revision, Tier, Workload,
};
use proptest::prelude::*;

const DOMAINS: [&str; 3] = ["", "d", "kube-system"];
const NAMES: [&str; 3] = ["api.example.com", "b.c.example.com", "other.example.org"];
const ANSWERS: [&str; 5] = ["192.0.2.64", "198.51.100.1", "10.0.0.2", "192.0.2.70", "10.9.9.9"];
const GROUPS: [&str; 11] = [
    "g0",
    "names",
    "g1",
    "g2",
    "net0",
    "net1",
    "empty",
    "external",
    "nodes",
    "containers",
    "Workload:ingress",
];
const PORTS: [&str; 10] = [
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
];
const APPS: [Application; 3] = [Application::HTTP, Application::REDIS, Application::UNKNOWN];
const MODES: [Mode; 3] = [Mode::Discover, Mode::Monitor, Mode::Protect];

fn workload(number: usize, label: usize, node: &str) -> Workload {
    Workload {
        name: format!("w{number}"),
        runtime: "test".into(),
        image: "img".into(),
        labels: BTreeMap::from([("l".to_owned(), label.to_string())]),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            host_index: Some(1),
            addresses: vec![
                (format!("10.0.0.{}", number + 1).parse().unwrap(), 24),
                (format!("fd00::{}", number + 1).parse().unwrap(), 64),
            ],
            ..Interface::default()
        }],
        ..Workload::new(
            format!("w{number}").parse().unwrap(),
            node.parse().unwrap(),
            format!("s{}", number % 3),
        )
    }
}

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

prop_compose! {
    fn rules()(list in proptest::collection::vec(
        (0usize..4, 0..GROUPS.len(), 0..GROUPS.len(), proptest::collection::vec(0..PORTS.len(), 1..3), proptest::collection::vec(0usize..2, 0..3), any::<bool>(), 0u8..10),
        0..14,
    )) -> Vec<nv_types::Rule> {
        list.into_iter().enumerate().map(|(at, (tier, from, to, ports, apps, allow, disabled))| {
            let id = [1, 10_000, 100_000, 110_000][tier] + u32::try_from(at).unwrap();
            let ports: Vec<_> = ports.into_iter().map(|port| PORTS[port]).collect();
            let action = if allow { Action::Allow } else { Action::Deny };
            let mut rule = rule(id, GROUPS[from], GROUPS[to], &ports.join(","), action).unwrap();
            let mut apps: Vec<_> = apps.into_iter().map(|app| APPS[app]).collect();
            apps.sort();
            apps.dedup();
            rule.applications = apps;
            rule.disable = disabled == 0;
            rule
        }).collect()
    }
}

prop_compose! {
    fn inputs()(
        labels in proptest::collection::vec(0usize..3, 2..6),
        modes in proptest::collection::vec(0usize..4, 4),
        rules in rules(),
        basic: bool,
        icmp_policy: bool,
        network_mode in 0_usize..12,
        domains in proptest::collection::vec(0usize..4, 6),
        bounded in 0_u8..8,
        labelled in 0_usize..8,
        answers in proptest::collection::vec((0..2usize, 0..NAMES.len(), 0..5usize), 0..5),
        internal: bool,
    ) -> PolicyInput {
        let mut input = PolicyInput::default();
        input.settings.contention = if basic { Contention::Basic } else { Contention::Restrictive };
        input.settings.icmp_policy = icmp_policy;
        input.settings.network_mode = network_mode.checked_sub(9).map(|mode: usize| MODES[mode]);
        // Of three policies two have no boundaries, or few of the tables below would be of the plain kind.
        let named = (0..3).filter(|at| bounded < 4 && bounded & 1 << at != 0);
        input.settings.bounded_domains = named.map(|at| DOMAINS[at].to_owned()).collect();
        input.settings.internal_names = internal.then(|| "*.example.com".to_owned()).into_iter().collect();
        for (source, name, answer) in answers {
            let mut addresses: std::collections::BTreeSet<_> = input.names.told(NAMES[name]);
            addresses.insert(ANSWERS[answer].parse().unwrap());
            input.names.put(["n1", "n2"][source], NAMES[name], &addresses).unwrap();
        }
        for (number, label) in labels.into_iter().enumerate() {
            let mut workload = workload(number, label, if number % 2 == 0 { "n1" } else { "n2" });
            workload.domain = DOMAINS[domains[number] % 3].into();
            if number == labelled {
                workload.namespace_labels.insert("NeuvectorNamespaceBoundary".into(), "enabled".into());
            }
            input.add_service_group(&workload);
            input.workloads.insert(workload.id.clone(), workload);
        }
        for group in [
            group("g0", GroupKind::Container, &[("l", "0")]),
            group("g1", GroupKind::Container, &[("l", "1"), ("l", "0")]),
            group("g2", GroupKind::Container, &[("service", "s1")]),
            group("net0", GroupKind::Address, &[("address", "192.0.2.0/24"), ("address", "fd77::/16")]),
            group("net1", GroupKind::Address, &[("address", "192.0.2.64-192.0.2.99"), ("address", "172.16.0.1")]),
            group("names", GroupKind::Address, &[("address", "*.example.com"), ("address", "vh:other.example.org")]),
            group("empty", GroupKind::Container, &[]),
        ] {
            input.groups.insert(group.name.clone(), group);
        }
        for (place, mode) in modes.iter().enumerate() {
            let name = if place == 3 { "nodes".to_owned() } else { format!("nv.s{place}") };
            if let Some(mode) = MODES.get(*mode) {
                input.modes.insert(name.parse().unwrap(), *mode);
            }
        }
        input.nodes.insert("n1".parse().unwrap(), Node {
            addresses: vec!["172.16.0.1".parse().unwrap(), "192.0.2.70".parse().unwrap()],
            tunnels: vec!["192.0.2.70".parse().unwrap()],
..Node::new("n1".parse().unwrap())
});
        input.rules = rules;
        input
    }
}

/// Peers that tell apart everything that the groups above can.
fn probes() -> Vec<IpAddr> {
    [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.9",
        "fd00::1",
        "fd00::4",
        "192.0.2.1",
        "192.0.2.64",
        "192.0.2.70",
        "192.0.2.99",
        "192.0.2.100",
        "172.16.0.1",
        "8.8.8.8",
        "198.51.100.1",
        "10.9.9.9",
        "fd77::1",
        "2001:db8::1",
    ]
    .iter()
    .map(|text| text.parse().unwrap())
    .collect()
}

const ASKED: [(IpProto, u16); 12] = [
    (IpProto::TCP, 80),
    (IpProto::TCP, 79),
    (IpProto::TCP, 443),
    (IpProto::TCP, 8000),
    (IpProto::TCP, 8100),
    (IpProto::TCP, 65535),
    (IpProto::UDP, 53),
    (IpProto::UDP, 1),
    (IpProto::ICMP, 0),
    (IpProto::ICMPV6, 0),
    (IpProto::SCTP, 0),
    (IpProto(47), 0),
];

fn node() -> NodeId {
    "n1".parse().unwrap()
}

/// Ten thousand cases in CI, a few elsewhere, or as many as PROPTEST_CASES says.
fn cases() -> ProptestConfig {
    let few = if std::env::var_os("CI").is_some() {
        10_000
    } else {
        400
    };
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(few),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn tables_decide_as_the_reference(input in inputs()) {
        let compiled = compile(&input, &node(), Revision(7)).unwrap();
        prop_assert!(compiled.image.decisions.iter().all(nv_types::Chain::is_valid));
        let tables = Tables::new(&compiled.image);
        let book = Book::new(&input);
        for local in input.workloads.values().filter(|workload| workload.node == node()) {
            let own = book.workload(local);
            for peer in probes() {
                let other = book.address(peer);
                if other.workload == own.workload {
                    continue; // the datapath's own matter: it sees both ends
                }
                for (proto, port) in ASKED {
                    for app in APPS {
                        for (direction, client, server) in
                            [(Direction::Egress, &own, &other), (Direction::Ingress, &other, &own)]
                        {
                            let (expected, _) = evaluate(&input, client, server, (proto, port), app);
                            let got = tables.lookup(&local.id, direction, peer, proto, port, Some(app)).unwrap();
                            prop_assert_eq!(got.decision(), Some(expected), "{} {:?} {} {}/{} {}", local.id, direction, peer, proto, port, app);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn explanations_decide_as_the_reference(input in inputs()) {
        let book = Book::new(&input);
        for peer in probes().into_iter().step_by(3) {
            for (proto, port) in ASKED.into_iter().step_by(4) {
                let (client, server) = (book.address("10.0.0.1".parse().unwrap()), book.address(peer));
                let query = Query { client: ("a".into(), client.clone()), server: ("b".into(), server.clone()), proto, port, app: Some(Application::HTTP) };
                let explanation = explain(&input, &query);
                let (decision, mode) = evaluate(&input, &client, &server, (proto, port), Application::HTTP);
                prop_assert_eq!(explanation.decision, decision);
                prop_assert_eq!(explanation.mode, mode);
                prop_assert_eq!(explanation.rule.map(|rule| rule.id.0).unwrap_or(0), decision.rule.0);
                prop_assert!(explanation.near_misses.iter().all(|near| near.rule.id != decision.rule));
            }
        }
    }

    #[test]
    fn equal_input_gives_an_equal_image(input in inputs()) {
        let first = compile(&input, &node(), Revision(1)).unwrap();
        prop_assert_eq!(&first, &compile(&input, &node(), Revision(1)).unwrap());
        let text = serde_json::to_string(&first.image).unwrap();
        prop_assert_eq!(serde_json::from_str::<nv_types::PolicyImage>(&text).unwrap(), first.image);
    }

    /// A group without members matches nobody: a rule that names it changes nothing, in memory and after a round trip
    /// through its stored form.
    #[test]
    fn an_empty_group_is_never_anybody(input in inputs(), from_empty: bool, ports in 0..PORTS.len()) {
        let (from, to) = if from_empty { ("empty", "containers") } else { ("containers", "empty") };
        let mut with = input.clone();
        with.rules.insert(0, rule(9_999, from, to, PORTS[ports], Action::Allow).unwrap());
        let text = serde_json::to_string(&with.groups).unwrap();
        with.groups = serde_json::from_str(&text).unwrap();
        let (without, with) = (compile(&input, &node(), Revision(1)).unwrap(), compile(&with, &node(), Revision(1)).unwrap());
        let (a, b) = (Tables::new(&without.image), Tables::new(&with.image));
        for local in without.image.locals {
            for peer in probes() {
                for (proto, port) in ASKED {
                    for direction in [Direction::Ingress, Direction::Egress] {
                        let ask = |tables: &Tables| tables.lookup(&local.workload, direction, peer, proto, port, None).map(|j| j.step);
                        prop_assert_eq!(ask(&a), ask(&b));
                    }
                }
            }
        }
    }
}

#[test]
fn too_many_applications_on_a_port_are_refused_by_name() {
    let mut input = PolicyInput::default();
    for number in 0..2 {
        let workload = workload(number, 0, "n1");
        input.workloads.insert(workload.id.clone(), workload);
    }
    for (at, app) in Application::all().take(8).enumerate() {
        let action = if at % 2 == 0 { Action::Allow } else { Action::Deny };
        let mut rule = rule(
            u32::try_from(at).unwrap() + 1,
            "containers",
            "containers",
            "any",
            action,
        )
        .unwrap();
        rule.applications = vec![app];
        input.rules.push(rule);
    }
    let error = compile(&input, &node(), Revision(1)).unwrap_err();
    assert!(error.to_string().contains("1, 2, 3, 4, 5, 6, 7, 8"), "{error}");
}

#[test]
fn the_image_and_an_explanation_as_text() {
    let mut input = PolicyInput::default();
    for (number, mode) in [(0, Mode::Discover), (1, Mode::Protect)] {
        let workload = workload(number, 0, "n1");
        input.add_service_group(&workload);
        input.modes.insert(workload.service_group().unwrap(), mode);
        input.workloads.insert(workload.id.clone(), workload);
    }
    input
        .rules
        .push(rule(1, "nv.s0", "nv.s1", "tcp/8080", Action::Allow).unwrap());
    let mut http = rule(10_000, "nv.s1", "external", "any", Action::Allow).unwrap();
    http.applications = vec![Application::HTTP];
    input.rules.push(http);
    let image = compile(&input, &node(), Revision(3)).unwrap().image;
    insta::assert_json_snapshot!("image", image);
    let book = Book::new(&input);
    let party = |id: &str| (id.to_owned(), book.workload(&input.workloads[id]));
    let query = Query {
        client: party("w0"),
        server: party("w1"),
        proto: IpProto::TCP,
        port: 9090,
        app: None,
    };
    insta::assert_snapshot!("denied", explain(&input, &query).text);
    let query = Query {
        client: party("w1"),
        server: ("8.8.8.8".into(), book.address("8.8.8.8".parse().unwrap())),
        proto: IpProto::TCP,
        port: 80,
        app: None,
    };
    insta::assert_snapshot!("depends_on_application", explain(&input, &query).text);
}
