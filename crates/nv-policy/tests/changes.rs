//! What `review` and `diff` say is what the reference does.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use nv_policy::{Book, Diagnostic, Party, Peers, PolicyInput, diff, reference::evaluate, review, rule};
use nv_types::{
    Action, Application, Contention, Criterion, CriterionOp, Group, GroupKind, Interface, IpProto, Mode,
    Node, Tier, Workload,
};
use proptest::prelude::*;

const MODES: [Mode; 3] = [Mode::Discover, Mode::Monitor, Mode::Protect];
const GROUPS: [&str; 10] = [
    "g0",
    "g1",
    "net0",
    "net1",
    "nv.s0",
    "nv.s1",
    "external",
    "nodes",
    "containers",
    "Workload:ingress",
];
const PORTS: [&str; 8] = [
    "any",
    "icmp",
    "tcp/80",
    "tcp/any",
    "tcp/79-90,udp/53",
    "80,443",
    "tcp/85-95",
    "udp/any",
];
const APPS: [Application; 3] = [Application::HTTP, Application::SSH, Application::UNKNOWN];

#[derive(Clone, Debug)]
struct Spec {
    modes: [usize; 3],
    labels: [u8; 2],
    nets: [u8; 2],
    rules: Vec<(usize, usize, usize, usize, bool, bool)>,
    basic: bool,
    icmp: bool,
    /// Which of two domains have a boundary.
    bounded: u8,
    /// What the name of the group `net1` was answered with.
    answer: Option<u8>,
}

fn spec() -> impl Strategy<Value = Spec> {
    let one = (
        0..GROUPS.len(),
        0..GROUPS.len(),
        0..PORTS.len(),
        0..4_usize,
        any::<bool>(),
        prop::bool::weighted(0.1),
    );
    (
        prop::array::uniform3(0..3_usize),
        prop::array::uniform2(0..3_u8),
        prop::array::uniform2(28..33_u8),
        prop::collection::vec(one, 0..9),
        any::<bool>(),
        any::<bool>(),
        0..8_u8,
        prop::option::of(0..20_u8),
    )
        .prop_map(
            |(modes, labels, nets, rules, basic, icmp, bounded, answer)| Spec {
                modes,
                labels,
                nets,
                rules,
                basic,
                icmp,
                bounded,
                answer,
            },
        )
}

fn group(name: &str, kind: GroupKind, key: &str, value: String) -> Group {
    Group {
        name: name.parse().unwrap(),
        kind,
        origin: Some(Tier::User),
        comment: String::new(),
        domain: String::new(),
        criteria: vec![Criterion {
            key: key.into(),
            value,
            op: CriterionOp::Equal,
        }],
    }
}

/// Four workloads of three services, two groups by label, two networks, one node.
fn policy(spec: &Spec) -> PolicyInput {
    let mut input = PolicyInput::default();
    for number in 0..4_u8 {
        let id = format!("w{number}");
        let workload = Workload {
            name: id.clone(),
            // Services of one name in two domains are two.
            domain: ["", "d"][usize::from(number % 3 == 2)].into(),
            labels: BTreeMap::from([("l".to_owned(), (number % 2).to_string())]),
            interfaces: vec![Interface {
                name: "eth0".into(),
                addresses: vec![(format!("10.0.0.{}", number + 1).parse().unwrap(), 24)],
                ..Interface::default()
            }],
            ..Workload::new(
                id.parse().unwrap(),
                "n1".parse().unwrap(),
                format!("s{}", number % 3),
            )
        };
        input.add_service_group(&workload);
        input.workloads.insert(workload.id.clone(), workload);
    }
    let node = Node {
        addresses: vec!["10.9.0.1".parse().unwrap(), "10.9.0.2".parse().unwrap()],
        tunnels: vec!["10.9.0.2".parse().unwrap()],
        ..Node::new("n1".parse().unwrap())
    };
    input.nodes.insert(node.id.clone(), node);
    for (number, mode) in spec.modes.iter().enumerate() {
        input.modes.insert(
            format!("nv.s{number}{}", if number == 2 { ".d" } else { "" })
                .parse()
                .unwrap(),
            MODES[*mode],
        );
    }
    for number in 0..2 {
        let by_label = group(
            &format!("g{number}"),
            GroupKind::Container,
            "l",
            spec.labels[number].to_string(),
        );
        let net = format!("192.0.2.{}/{}", 8 * number, spec.nets[number]);
        let mut by_net = group(&format!("net{number}"), GroupKind::Address, "address", net);
        if number == 1 {
            let name = group("net", GroupKind::Address, "address", "*.example.com".into());
            by_net.criteria.extend(name.criteria);
        }
        input.groups.insert(by_label.name.clone(), by_label);
        input.groups.insert(by_net.name.clone(), by_net);
    }
    input.settings.bounded_domains = [(1, ""), (2, "d")]
        .into_iter()
        .filter(|(bit, _)| spec.bounded & 4 == 0 && spec.bounded & bit != 0)
        .map(|(_, name)| name.to_owned())
        .collect();
    if let Some(last) = spec.answer {
        let address = format!("192.0.2.{last}").parse().unwrap();
        input.names.put("n1", "a.example.com", &[address].into()).unwrap();
    }
    for (id, (from, to, ports, apps, allow, disable)) in (1..).zip(&spec.rules) {
        // Some are learned.
        let id = if id % 3 == 0 { 10_000 + id } else { id };
        let action = if *allow { Action::Allow } else { Action::Deny };
        let mut rule = rule(id, GROUPS[*from], GROUPS[*to], PORTS[*ports], action).unwrap();
        rule.applications = match apps {
            0 | 1 => vec![],
            2 => vec![Application::HTTP],
            _ => vec![Application::HTTP, Application::SSH],
        };
        rule.disable = *disable;
        input.rules.push(rule);
    }
    input.settings.contention = if spec.basic {
        Contention::Basic
    } else {
        Contention::Restrictive
    };
    input.settings.icmp_policy = spec.icmp;
    input
}

fn addresses() -> Vec<std::net::IpAddr> {
    let inside = (1..5).map(|last| format!("10.0.0.{last}"));
    let outside = [0, 1, 7, 8, 9, 15, 16, 19, 200].map(|last| format!("192.0.2.{last}"));
    inside
        .chain(outside)
        .chain(["10.9.0.1".into(), "10.9.0.2".into(), "2001:db8::1".into()])
        .map(|text| text.parse().unwrap())
        .collect()
}

const FLOWS: [(IpProto, u16); 13] = [
    (IpProto::TCP, 0),
    (IpProto::TCP, 79),
    (IpProto::TCP, 80),
    (IpProto::TCP, 84),
    (IpProto::TCP, 90),
    (IpProto::TCP, 95),
    (IpProto::TCP, 443),
    (IpProto::TCP, 65_535),
    (IpProto::UDP, 53),
    (IpProto::UDP, 54),
    (IpProto::SCTP, 80),
    (IpProto::ICMP, 0),
    (IpProto(47), 0),
];

type Sample = (usize, usize, (IpProto, u16), Application);

/// Some of all flows that there can be.
fn flows() -> impl Strategy<Value = Vec<Sample>> {
    let ends = 0..addresses().len();
    let one = (
        ends.clone(),
        ends,
        prop::sample::select(&FLOWS[..]),
        prop::sample::select(&APPS[..]),
    );
    prop::collection::vec(one, 60)
}

/// Whether the party is one of these peers: by name, or by being where their representative is.
fn is_one(peers: &Peers, party: &Party, books: &(Book<'_>, Book<'_>), address: std::net::IpAddr) -> bool {
    match (&party.workload, peers.address) {
        (Some(id), _) => peers.workloads.contains(id),
        (None, Some(example)) => [&books.0, &books.1]
            .iter()
            .all(|book| book.address(example).groups == book.address(address).groups),
        (None, None) => false,
    }
}

/// Ten thousand cases in CI, a few elsewhere, or as many as PROPTEST_CASES says.
fn cases() -> ProptestConfig {
    let few = if std::env::var_os("CI").is_some() {
        10_000
    } else {
        300
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
    fn a_shadowed_rule_decides_nothing(spec in spec(), flows in flows()) {
        let input = policy(&spec);
        let shadowed: Vec<_> = review(&input).into_iter().filter_map(|found| match found {
            Diagnostic::Shadowed { rule, .. } => Some(rule),
            _ => None,
        }).collect();
        let mut without = input.clone();
        without.rules.retain(|rule| !shadowed.contains(&rule.id));
        let book = Book::new(&input);
        let parties: Vec<_> = addresses().into_iter().map(|address| book.address(address)).collect();
        for (client, server, at, app) in flows {
            let (client, server) = (&parties[client], &parties[server]);
            let (decision, _) = evaluate(&input, client, server, at, app);
            prop_assert!(!shadowed.contains(&decision.rule));
            prop_assert_eq!(decision, evaluate(&without, client, server, at, app).0);
        }
    }

    #[test]
    fn a_flow_changes_if_and_only_if_the_difference_names_it(before in spec(), after in spec(), related in any::<bool>(), flows in flows()) {
        let old = policy(&before);
        // Most changes leave most of a policy as it is.
        let after = if related { Spec { rules: after.rules, ..before } } else { after };
        let (old, new) = (old, policy(&after));
        let found = diff(&old, &new, usize::MAX);
        prop_assert_eq!((found.omitted, found.not_compared), (0, 0));
        let books = (Book::new(&old), Book::new(&new));
        let places = addresses();
        for (client, server, at, app) in flows {
            let (client, server) = (places[client], places[server]);
            let old_ends = (books.0.address(client), books.0.address(server));
            let new_ends = (books.1.address(client), books.1.address(server));
            let (was, _) = evaluate(&old, &old_ends.0, &old_ends.1, at, app);
            let (is, _) = evaluate(&new, &new_ends.0, &new_ends.1, at, app);
            let named = found.list.iter().find(|difference| {
                difference.ports.contains(at.0, at.1)
                    && difference.applications.contains(app)
                    && is_one(&difference.from, &new_ends.0, &books, client)
                    && is_one(&difference.to, &new_ends.1, &books, server)
            });
            let itself = old_ends.0.workload.is_some() && old_ends.0.workload == old_ends.1.workload;
            if was.verdict == is.verdict {
                prop_assert!(itself || named.is_none(), "{client} {server} {at:?} {app}: {named:?}");
            } else {
                let named = named.map(|named| (named.before.verdict, named.after.verdict));
                prop_assert_eq!(named, Some((was.verdict, is.verdict)), "{} {} {:?} {}", client, server, at, app);
            }
        }
    }
}

#[test]
fn differences_in_words() {
    let mut input = PolicyInput::default();
    let workload = |name: &str, address: &str| Workload {
        name: name.into(),
        interfaces: vec![Interface {
            name: "eth0".into(),
            addresses: vec![(address.parse().unwrap(), 24)],
            ..Interface::default()
        }],
        ..Workload::new(name.parse().unwrap(), "n1".parse().unwrap(), name)
    };
    for (name, address) in [("web", "10.0.0.1"), ("app", "10.0.0.2")] {
        let workload = workload(name, address);
        input.add_service_group(&workload);
        input
            .modes
            .insert(workload.service_group().unwrap(), Mode::Protect);
        input.workloads.insert(workload.id.clone(), workload);
    }
    input
        .rules
        .push(rule(3, "nv.web", "nv.app", "tcp/8000-8100", Action::Allow).unwrap());
    let mut new = input.clone();
    new.rules[0].ports = "tcp/8000-8080".parse().unwrap();
    let mut web = rule(4, "nv.web", "nv.app", "tcp/9000", Action::Allow).unwrap();
    web.applications = vec![Application::HTTP];
    new.rules.push(web);
    let found = diff(&input, &new, 10);
    let words: Vec<_> = found.list.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "nv.web -> nv.app tcp/8081-8100: allow by rule 3 -> deny (no rule matches)",
            "nv.web -> nv.app tcp/9000 as HTTP: deny (no rule matches) -> allow by rule 4",
        ]
    );
    let short = diff(&input, &new, 1);
    assert_eq!((short.list.len(), short.omitted), (1, 1));
    assert_eq!(diff(&input, &input, 10), nv_policy::Differences::default());
}
