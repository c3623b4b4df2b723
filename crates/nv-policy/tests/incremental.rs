//! Following changes gives what compiling anew gives, whatever changed in whatever order.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use nv_policy::{Book, Change, Compiler, PolicyInput, Tables, reference::evaluate, rule};
use nv_types::{
    Action, Application, Chain, Contention, Criterion, CriterionOp, Direction, Group, GroupKind, Identity,
    Interface, IpProto, Mode, Node, NodeId, PolicyImage, Revision, RuleId, Tier, Timestamp, Workload,
    WorkloadState,
};
use proptest::prelude::*;

const MODES: [Mode; 3] = [Mode::Discover, Mode::Monitor, Mode::Protect];
const GROUPS: [&str; 13] = [
    "g0",
    "g1",
    "g2",
    "net0",
    "net1",
    "nv.s0",
    "nv.s1",
    "nv.s2",
    "external",
    "nodes",
    "containers",
    "absent",
    "Workload:ingress",
];
const PORTS: [&str; 6] = ["any", "icmp", "tcp/80", "tcp/any", "tcp/79-90,udp/53", "80,443"];

#[derive(Clone, Debug)]
enum Step {
    Workload {
        number: usize,
        label: u8,
        service: u8,
        here: bool,
        running: bool,
        age: u64,
        address: u8,
        domain: u8,
    },
    NoWorkload(usize),
    Group {
        number: usize,
        content: usize,
    },
    NoGroup(usize),
    Mode {
        group: usize,
        mode: Option<Mode>,
    },
    Rule {
        id: u32,
        at: usize,
        from: usize,
        to: usize,
        ports: usize,
        apps: u32,
        allow: bool,
        disable: bool,
    },
    NoRule(u32),
    Move {
        from: usize,
        to: usize,
    },
    Node {
        number: u8,
        address: Option<u8>,
    },
    Contention(bool),
    Icmp(bool),
    Network(Option<usize>),
    /// Which of the domains the setting names.
    Bounded(u8),
    Name {
        source: u8,
        name: usize,
        addresses: Vec<u8>,
    },
    Internal(bool),
}

const DOMAINS: [&str; 3] = ["", "d", "kube-system"];
const NAMES: [&str; 3] = ["api.example.com", "b.c.example.com", "other.example.org"];
/// Addresses that names are answered with: public ones, a workload's, a node's.
const ANSWERS: [&str; 6] = [
    "192.0.2.1",
    "192.0.2.5",
    "198.51.100.1",
    "10.0.0.4",
    "192.0.2.9",
    "127.0.0.1",
];

#[allow(clippy::too_many_arguments, reason = "a step's fields")]
fn workload(
    number: usize,
    label: u8,
    service: u8,
    here: bool,
    running: bool,
    age: u64,
    address: u8,
    domain: u8,
) -> Workload {
    Workload {
        name: format!("w{number}"),
        runtime: "test".into(),
        image: "img".into(),
        labels: BTreeMap::from([("l".to_owned(), label.to_string())]),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            host_index: Some(1),
            addresses: vec![(format!("10.0.0.{address}").parse().unwrap(), 24)],
            ..Interface::default()
        }],
        state: if running {
            WorkloadState::Running
        } else {
            WorkloadState::Exited
        },
        started: Timestamp(age),
        domain: DOMAINS[usize::from(domain % 3)].into(),
        namespace_labels: if domain >= 3 {
            BTreeMap::from([("NeuvectorNamespaceBoundary".into(), "enabled".into())])
        } else {
            BTreeMap::new()
        },
        ..Workload::new(
            format!("w{number}").parse().unwrap(),
            if here { "n1" } else { "n2" }.parse().unwrap(),
            format!("s{service}"),
        )
    }
}

fn group(name: &str, content: usize) -> Group {
    let criteria: &[(&str, CriterionOp, &str)] = match content {
        0 => &[("l", CriterionOp::Equal, "0")],
        1 => &[("l", CriterionOp::Equal, "0"), ("l", CriterionOp::Equal, "1")],
        2 => &[("l", CriterionOp::NotEqual, "1")],
        3 => &[("service", CriterionOp::Equal, "s*")],
        4 => &[
            ("address", CriterionOp::Equal, "10.0.0.0/29"),
            ("address", CriterionOp::Equal, "192.0.2.0/24"),
        ],
        5 => &[("address", CriterionOp::Equal, "192.0.2.4-192.0.2.9")],
        6 => &[
            ("service", CriterionOp::Equal, "s1"),
            ("domain", CriterionOp::Equal, ""),
        ],
        7 => &[("l", CriterionOp::Regex, "(")],
        8 => &[
            ("address", CriterionOp::Equal, "*.example.com"),
            ("address", CriterionOp::Equal, "192.0.2.5"),
        ],
        9 => &[
            ("address", CriterionOp::Equal, "vh:api.example.com"),
            ("address", CriterionOp::Equal, "other.example.org"),
        ],
        _ => &[],
    };
    let criterion = |(key, op, value): &(&str, CriterionOp, &str)| Criterion {
        key: (*key).into(),
        value: (*value).into(),
        op: *op,
    };
    Group {
        name: name.parse().unwrap(),
        kind: if matches!(content, 4 | 5 | 8 | 9) {
            GroupKind::Address
        } else {
            GroupKind::Container
        },
        origin: Some(Tier::User),
        comment: String::new(),
        domain: String::new(),
        criteria: criteria.iter().map(criterion).collect(),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![3 => (0usize..3).prop_map(|mode| Some(MODES[mode])), 1 => Just(None)];
    prop_oneof![
        6 => (0usize..8, 0u8..3, 0u8..3, any::<bool>(), prop::bool::weighted(0.8), 0u64..3, 1u8..10, 0u8..5).prop_map(
            |(number, label, service, here, running, age, address, domain)| Step::Workload {
                number, label, service, here, running, age, address, domain
            }
        ),
        1 => (0usize..8).prop_map(Step::NoWorkload),
        2 => (0usize..8, 0usize..11).prop_map(|(number, content)| Step::Group { number, content }),
        1 => (0usize..8).prop_map(Step::NoGroup),
        3 => (5usize..10, mode).prop_map(|(group, mode)| Step::Mode { group, mode }),
        6 => (0u32..12, 0usize..12, 0..GROUPS.len(), 0..GROUPS.len(), 0..PORTS.len(), 0u32..12, any::<bool>(), prop::bool::weighted(0.1)).prop_map(
            |(id, at, from, to, ports, apps, allow, disable)| Step::Rule { id, at, from, to, ports, apps, allow, disable }
        ),
        2 => (0u32..12).prop_map(Step::NoRule),
        2 => (0usize..12, 0usize..12).prop_map(|(from, to)| Step::Move { from, to }),
        1 => (0u8..2, prop::option::of(1u8..10)).prop_map(|(number, address)| Step::Node { number, address }),
        1 => any::<bool>().prop_map(Step::Contention),
        1 => any::<bool>().prop_map(Step::Icmp),
        1 => prop::option::of(0_usize..3).prop_map(Step::Network),
        1 => (0u8..8).prop_map(Step::Bounded),
        3 => (0u8..2, 0..NAMES.len(), proptest::collection::vec(0..6u8, 0..3)).prop_map(
            |(source, name, addresses)| Step::Name { source, name, addresses }
        ),
        1 => any::<bool>().prop_map(Step::Internal),
    ]
}

/// Rules of all tiers: ids by twelfths.
fn rule_id(id: u32) -> u32 {
    [1, 10_000, 100_000, 110_000][id as usize % 4] + id
}

/// Does it to the input and says what changed.
fn perform(input: &mut PolicyInput, step: &Step) -> Vec<Change> {
    match step.clone() {
        Step::Workload {
            number,
            label,
            service,
            here,
            running,
            age,
            address,
            domain,
        } => {
            let workload = workload(number, label, service, here, running, age, address, domain);
            let id = workload.id.clone();
            let mut changes = vec![Change::Workload(id.clone())];
            // A service's group is made with its first workload, and the order in which both are told is no matter.
            changes.extend(input.add_service_group(&workload).map(Change::Group));
            if label == 2 {
                changes.reverse();
            }
            input.workloads.insert(id, workload);
            changes
        }
        Step::NoWorkload(number) => {
            let id = format!("w{number}").parse().unwrap();
            input.workloads.remove(&id);
            vec![Change::Workload(id)]
        }
        Step::Group { number, content } => {
            let group = group(GROUPS[number], content);
            let name = group.name.clone();
            input.groups.insert(name.clone(), group);
            vec![Change::Group(name)]
        }
        Step::NoGroup(number) => {
            let name = GROUPS[number].parse().unwrap();
            input.groups.remove(&name);
            vec![Change::Group(name)]
        }
        Step::Mode { group, mode } => {
            let name: nv_types::GroupName = GROUPS[group].parse().unwrap();
            match mode {
                Some(mode) => input.modes.insert(name.clone(), mode),
                None => input.modes.remove(&name),
            };
            vec![Change::Mode(name)]
        }
        Step::Rule {
            id,
            at,
            from,
            to,
            ports,
            apps,
            allow,
            disable,
        } => {
            let action = if allow { Action::Allow } else { Action::Deny };
            let mut rule = rule(rule_id(id), GROUPS[from], GROUPS[to], PORTS[ports], action).unwrap();
            rule.disable = disable;
            rule.applications = Application::all()
                .skip(apps as usize)
                .take((apps % 3) as usize)
                .collect();
            let id = rule.id;
            match input.rules.iter().position(|known| known.id == id) {
                Some(place) => input.rules[place] = rule,
                None => input.rules.insert(at.min(input.rules.len()), rule),
            }
            vec![Change::Rule(id)]
        }
        Step::NoRule(id) => {
            let id = RuleId(rule_id(id));
            input.rules.retain(|rule| rule.id != id);
            vec![Change::Rule(id)]
        }
        Step::Move { from, to } => {
            if from < input.rules.len() {
                let rule = input.rules.remove(from);
                input.rules.insert(to.min(input.rules.len()), rule);
            }
            vec![Change::Order]
        }
        Step::Node { number, address } => {
            let id: NodeId = format!("n{number}").parse().unwrap();
            match address {
                Some(address) => input.nodes.insert(id.clone(), node(&id, address)),
                None => input.nodes.remove(&id),
            };
            vec![Change::Node(id)]
        }
        Step::Contention(basic) => {
            input.settings.contention = if basic {
                Contention::Basic
            } else {
                Contention::Restrictive
            };
            Vec::new() // settings are compared
        }
        Step::Icmp(on) => {
            input.settings.icmp_policy = on;
            Vec::new()
        }
        Step::Network(mode) => {
            input.settings.network_mode = mode.map(|mode| MODES[mode]);
            Vec::new()
        }
        Step::Bounded(which) => {
            let named = (0..3).filter(|at| which & 1 << at != 0);
            input.settings.bounded_domains = named.map(|at| DOMAINS[at].to_owned()).collect();
            Vec::new()
        }
        Step::Name {
            source,
            name,
            addresses,
        } => {
            let addresses = addresses
                .iter()
                .map(|at| ANSWERS[usize::from(*at)].parse().unwrap());
            let source = format!("n{source}");
            input
                .names
                .put(&source, NAMES[name], &addresses.collect())
                .unwrap();
            vec![Change::Name(NAMES[name].to_owned())]
        }
        Step::Internal(believed) => {
            let names = believed.then(|| "*.example.com".to_owned());
            input.settings.internal_names = names.into_iter().collect();
            Vec::new()
        }
    }
}

fn node(id: &NodeId, address: u8) -> Node {
    Node {
        addresses: vec![format!("192.0.2.{address}").parse().unwrap()],
        // Every third one is an overlay's.
        tunnels: address
            .is_multiple_of(3)
            .then(|| format!("192.0.2.{address}").parse().unwrap())
            .into_iter()
            .collect(),
        ..Node::new(id.clone())
    }
}

/// A class by what it stands for, not by its number.
type Meaning = (Vec<String>, Option<Mode>);
type Content = Vec<(u8, u16, u8, Chain)>;

/// An image without numbers.
#[derive(Debug, PartialEq, Eq)]
struct Meant {
    addresses: BTreeMap<nv_types::IpPrefix, Meaning>,
    locals: BTreeMap<String, (Meaning, Mode)>,
    pairs: BTreeMap<(Meaning, Direction, Result<Meaning, Identity>), Content>,
}

fn meant(compiler: &Compiler, image: &PolicyImage) -> Meant {
    let (identities, zones) = (compiler.identities(), compiler.zones());
    let meaning = |identity: Identity| {
        let (groups, mode) = &identities[&identity];
        let mut groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
        // Workloads and others of equal groups and mode are two classes.
        groups.push(identity.any_of_kind().0.to_string());
        groups.push(format!("{:?}", zones.get(&identity)));
        (groups, *mode)
    };
    let mut tables: BTreeMap<_, Content> = BTreeMap::new();
    for entry in &image.ports {
        let chain = image.decisions[entry.decision.0 as usize].clone();
        tables
            .entry(entry.table)
            .or_default()
            .push((entry.proto.0, entry.port, entry.prefix_len, chain));
    }
    Meant {
        addresses: image
            .addresses
            .iter()
            .map(|entry| (entry.prefix, meaning(entry.identity)))
            .collect(),
        locals: image
            .locals
            .iter()
            .map(|local| (local.workload.to_string(), (meaning(local.identity), local.mode)))
            .collect(),
        pairs: image
            .pairs
            .iter()
            .map(|pair| {
                let peer = if pair.peer.number() == 0 {
                    Err(pair.peer)
                } else {
                    Ok(meaning(pair.peer))
                };
                (
                    (meaning(pair.local), pair.direction, peer),
                    tables[&pair.ports].clone(),
                )
            })
            .collect(),
    }
}

fn padded(mut image: PolicyImage) -> PolicyImage {
    image
        .decisions
        .resize(image.decisions.len().max(512), Chain::closed());
    image
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

/// A few changes, or so many that rules are taken at once.
fn batch() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![4 => proptest::collection::vec(step(), 1..4), 1 => proptest::collection::vec(step(), 20..40)]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn following_changes_is_compiling_anew(batches in proptest::collection::vec(batch(), 1..30)) {
        let node: NodeId = "n1".parse().unwrap();
        let mut input = PolicyInput::default();
        let mut compiler = Compiler::new(&input, &node, Revision(0));
        let mut image = compiler.image();
        // Whoever does not know what changed may compare.
        let mut comparing = Compiler::new(&input, &node, Revision(0));
        for (revision, batch) in (1..).zip(&batches) {
            let mut changes = Vec::new();
            let before = input.clone();
            for step in batch {
                changes.extend(perform(&mut input, step));
            }
            let delta = compiler.update(&input, &changes, Revision(revision));
            image.apply(&delta);
            let now = compiler.image();
            prop_assert_eq!(padded(image.clone()), padded(now.clone()), "delta of {:?}", batch);
            let anew = Compiler::new(&input, &node, Revision(revision));
            comparing.update(&input, &Change::between(&before, &input), Revision(revision));
            prop_assert_eq!(comparing.refused(), anew.refused());
            prop_assert_eq!(meant(&comparing, &comparing.image()), meant(&anew, &anew.image()), "compared, after {:?}", batch);
            prop_assert_eq!(compiler.refused(), anew.refused());
            prop_assert_eq!(meant(&compiler, &now), meant(&anew, &anew.image()), "after {:?}", batch);
            prop_assert_eq!(compiler.diagnostics(), anew.diagnostics());
            // Nothing that is not used stays.
            let used: std::collections::BTreeSet<_> = now.pairs.iter().map(|pair| pair.ports).collect();
            let kept: std::collections::BTreeSet<_> = now.ports.iter().map(|entry| entry.table).collect();
            prop_assert_eq!(used, kept);
            // Told again that everything changed, nothing does.
            let again: Vec<_> = input.workloads.keys().cloned().map(Change::Workload)
                .chain(input.groups.keys().cloned().map(Change::Group))
                .chain(input.rules.iter().map(|rule| Change::Rule(rule.id)))
                .chain([Change::Order]).collect();
            let delta = compiler.update(&input, &again, Revision(revision));
            image.apply(&delta);
            prop_assert_eq!(meant(&compiler, &compiler.image()), meant(&anew, &anew.image()));
            prop_assert_eq!(padded(image.clone()), padded(compiler.image()));
        }
        // What comes of it all decides as the reference does, refused rules left out.
        let mut in_force = input.clone();
        in_force.rules.retain(|rule| !compiler.refused().contains_key(&rule.id));
        let book = Book::new(&in_force);
        let tables = Tables::new(&image);
        for local in in_force.workloads.values().filter(|workload| workload.node == node && workload.state == WorkloadState::Running) {
            let own = book.workload(local);
            for peer in (1..10).map(|last| format!("10.0.0.{last}")).chain((1..10).map(|last| format!("192.0.2.{last}"))).chain(["8.8.8.8", "198.51.100.1", "127.0.0.1"].map(str::to_owned)) {
                let peer = peer.parse().unwrap();
                let other = book.address(peer);
                if other.workload == own.workload {
                    continue;
                }
                for (proto, port) in [(IpProto::TCP, 80), (IpProto::TCP, 85), (IpProto::UDP, 53), (IpProto::ICMP, 0)] {
                    for app in Application::all().take(14).chain([Application::UNKNOWN]) {
                        for (direction, client, server) in [(Direction::Egress, &own, &other), (Direction::Ingress, &other, &own)] {
                            let (expected, _) = evaluate(&in_force, client, server, (proto, port), app);
                            let got = tables.lookup(&local.id, direction, peer, proto, port, Some(app)).unwrap();
                            prop_assert_eq!(got.decision(), Some(expected), "{} {:?} {} {}/{} {}", local.id, direction, peer, proto, port, app);
                        }
                    }
                }
            }
        }
    }
}
