//! Round trips through all three forms, and imported policies that decide as their source does.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nv_policy::interchange::{
    Form, ImportOptions, Imported, Reason, Selection, Severity, export, import, import_with,
};
use nv_policy::reference::evaluate;
use nv_policy::{Book, PolicyInput, rule};
use nv_types::{
    Action, Application, Criterion, CriterionOp, Group, GroupKind, GroupName, Interface, IpProto, Mode, Rule,
    RuleId, Tier, Verdict, Workload, WorkloadId,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

/// Ten thousand cases in CI, a few elsewhere, or as many as PROPTEST_CASES says.
fn cases() -> u32 {
    match (std::env::var_os("PROPTEST_CASES"), std::env::var_os("CI")) {
        (Some(_), _) => ProptestConfig::default().cases,
        (None, Some(_)) => 10_000,
        (None, None) => 1000,
    }
}

// ---- what pods and selectors are, in this test's own words ----

#[derive(Clone, Debug)]
struct Pod {
    number: u8,
    namespace: &'static str,
    labels: BTreeMap<&'static str, &'static str>,
}

fn namespace_labels(namespace: &str) -> BTreeMap<&'static str, &'static str> {
    match namespace {
        "a" => BTreeMap::from([("kubernetes.io/metadata.name", "a"), ("team", "red")]),
        "b" => BTreeMap::from([("kubernetes.io/metadata.name", "b"), ("team", "any")]),
        _ => BTreeMap::from([("kubernetes.io/metadata.name", "c")]),
    }
}

impl Pod {
    fn address(&self) -> IpAddr {
        IpAddr::from([10, 0, 0, self.number + 1])
    }

    fn workload(&self) -> Workload {
        let texts = |labels: &BTreeMap<&str, &str>| {
            labels
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        Workload {
            name: format!("w{}", self.number),
            runtime: "test".into(),
            domain: self.namespace.into(),
            image: "img".into(),
            labels: texts(&self.labels),
            namespace_labels: texts(&namespace_labels(self.namespace)),
            interfaces: vec![Interface {
                name: "eth0".into(),
                index: 2,
                host_index: Some(1),
                addresses: vec![(self.address(), 24)],
                ..Interface::default()
            }],
            ..Workload::new(
                format!("w{}", self.number).parse().unwrap(),
                "n1".parse().unwrap(),
                format!("s{}", self.number),
            )
        }
    }
}

fn pod(number: u8) -> impl Strategy<Value = Pod> {
    (
        select(vec!["a", "b", "c"]),
        subsequence(vec!["app", "tier"], 0..=2),
        select(vec!["x", "y"]),
        select(vec!["x", "any"]),
    )
        .prop_map(move |(namespace, keys, app, tier)| Pod {
            number,
            namespace,
            labels: keys
                .into_iter()
                .map(|key| (key, if key == "app" { app } else { tier }))
                .collect(),
        })
}

fn pods() -> impl Strategy<Value = Vec<Pod>> {
    (pod(0), pod(1), pod(2), pod(3)).prop_map(|(a, b, c, d)| vec![a, b, c, d])
}

#[derive(Clone, Debug)]
struct Demand {
    key: &'static str,
    operator: &'static str,
    values: Vec<&'static str>,
}

impl Demand {
    fn holds(&self, labels: &BTreeMap<&'static str, &'static str>) -> bool {
        let value = labels.get(self.key);
        match self.operator {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => !value.is_some_and(|value| self.values.contains(value)),
            "Exists" => value.is_some(),
            _ => value.is_none(),
        }
    }
}

type Labels = Vec<Demand>;

fn holds(selector: &Labels, labels: &BTreeMap<&'static str, &'static str>) -> bool {
    selector.iter().all(|demand| demand.holds(labels))
}

fn selector_json(selector: &Labels, key: impl Fn(&str) -> String) -> Value {
    let mut labels = serde_json::Map::new();
    let mut expressions = Vec::new();
    for Demand {
        key: own,
        operator,
        values,
    } in selector
    {
        match *operator {
            "In" if values.len() == 1 && !labels.contains_key(&key(own)) => {
                labels.insert(key(own), json!(values[0]));
            }
            "In" | "NotIn" => {
                expressions.push(json!({"key": key(own), "operator": operator, "values": values}));
            }
            _ => expressions.push(json!({"key": key(own), "operator": operator})),
        }
    }
    json!({"matchLabels": labels, "matchExpressions": expressions})
}

fn demand(keys: Vec<&'static str>, values: Vec<&'static str>) -> impl Strategy<Value = Demand> {
    let operator = select(vec!["In", "In", "NotIn", "Exists", "DoesNotExist"]);
    (select(keys), operator, subsequence(values, 1..=2)).prop_map(|(key, operator, values)| Demand {
        key,
        operator,
        values,
    })
}

fn labels() -> impl Strategy<Value = Labels> {
    proptest::collection::vec(demand(vec!["app", "tier"], vec!["x", "y", "any"]), 0..=2)
}

fn namespaces() -> impl Strategy<Value = Labels> {
    let by_name = demand(vec!["kubernetes.io/metadata.name"], vec!["a", "b", "c"]);
    let by_label = demand(vec!["team"], vec!["red", "blue", "any"]);
    proptest::collection::vec(prop_oneof![by_name, by_label], 0..=2)
}

// ---- policies ----

#[derive(Clone, Debug)]
enum Peer {
    Pods {
        pods: Option<Labels>,
        namespaces: Option<Labels>,
    },
    Block(&'static str, Vec<&'static str>),
}

#[derive(Clone, Debug)]
struct Item {
    peers: Vec<Peer>,
    /// Protocol, first and last port; 0: every port.
    ports: Vec<(&'static str, u16, u16)>,
}

#[derive(Clone, Debug)]
struct Policy {
    namespace: &'static str,
    selector: Labels,
    /// Ingress, egress; `None`: not spoken of.
    allow: [Option<Vec<Item>>; 2],
    /// Cilium only.
    deny: [Vec<Item>; 2],
}

fn item() -> impl Strategy<Value = Item> {
    let blocks = select(vec![
        ("192.0.2.0/24", vec![]),
        ("0.0.0.0/0", vec!["192.0.2.0/25", "198.51.100.0/24"]),
        ("198.51.100.7/32", vec![]),
        ("2001:db8::/32", vec!["2001:db8:1::/48"]),
        ("::/0", vec![]),
        ("0.0.0.0/0", vec![]),
    ]);
    let peer = prop_oneof![
        (labels(), proptest::option::of(namespaces())).prop_map(|(pods, namespaces)| Peer::Pods {
            pods: Some(pods),
            namespaces
        }),
        namespaces().prop_map(|namespaces| Peer::Pods {
            pods: None,
            namespaces: Some(namespaces)
        }),
        blocks.prop_map(|(cidr, except)| Peer::Block(cidr, except)),
    ];
    let port = select(vec![
        ("TCP", 80, 80),
        ("TCP", 8000, 8100),
        ("UDP", 53, 53),
        ("TCP", 0, 0),
        ("SCTP", 1, 65535),
    ]);
    (
        proptest::collection::vec(peer, 0..=2),
        proptest::collection::vec(port, 0..=2),
    )
        .prop_map(|(peers, ports)| Item { peers, ports })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let items = || proptest::option::of(proptest::collection::vec(item(), 0..=2));
    let denies = || proptest::collection::vec(item(), 0..=1);
    let policy = (
        select(vec!["a", "b"]),
        labels(),
        items(),
        items(),
        denies(),
        denies(),
    )
        .prop_map(|(namespace, selector, ingress, egress, no_in, no_out)| Policy {
            namespace,
            selector,
            allow: [ingress, egress],
            deny: [no_in, no_out],
        });
    proptest::collection::vec(policy, 1..=3)
}

// ---- Kubernetes ----

fn kubernetes_text(policies: &[Policy]) -> String {
    let plain = |key: &str| key.to_owned();
    let peer = |peer: &Peer| match peer {
        Peer::Pods { pods, namespaces } => {
            let mut value = serde_json::Map::new();
            if let Some(labels) = pods {
                value.insert("podSelector".into(), selector_json(labels, plain));
            }
            if let Some(labels) = namespaces {
                value.insert("namespaceSelector".into(), selector_json(labels, plain));
            }
            Value::Object(value)
        }
        Peer::Block(cidr, except) => json!({"ipBlock": {"cidr": cidr, "except": except}}),
    };
    let port = |(protocol, first, last): &(&str, u16, u16)| match (first, last) {
        (0, _) => json!({"protocol": protocol}),
        (first, last) if first == last => json!({"protocol": protocol, "port": first}),
        (first, last) => json!({"protocol": protocol, "port": first, "endPort": last}),
    };
    let objects: Vec<String> = policies
        .iter()
        .enumerate()
        .map(|(index, policy)| {
            let mut spec = json!({"podSelector": selector_json(&policy.selector, plain)});
            let mut types = Vec::new();
            for (items, (name, word, kind)) in policy
                .allow
                .iter()
                .zip([("ingress", "from", "Ingress"), ("egress", "to", "Egress")])
            {
                if let Some(items) = items {
                    types.push(kind);
                    spec[name] = items
                        .iter()
                        .map(|item| {
                            json!({
                                word: item.peers.iter().map(peer).collect::<Vec<_>>(),
                                "ports": item.ports.iter().map(port).collect::<Vec<_>>(),
                            })
                        })
                        .collect();
                }
            }
            spec["policyTypes"] = json!(types);
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": format!("p{index}"), "namespace": policy.namespace},
                "spec": spec,
            })
            .to_string()
        })
        .collect();
    objects.join("\n---\n")
}

/// Who is at the other end: a pod, or an address outside.
#[derive(Clone, Copy, Debug)]
enum Who<'a> {
    Pod(&'a Pod),
    Outside(IpAddr),
}

fn in_cidr(cidr: &str, addr: IpAddr) -> bool {
    let net: ipnetwork::IpNetwork = cidr.parse().unwrap();
    net.contains(addr)
}

fn peer_holds(peer: &Peer, home: &str, who: Who<'_>) -> bool {
    match (peer, who) {
        (Peer::Pods { pods, namespaces }, Who::Pod(pod)) => {
            let namespace = match namespaces {
                Some(selector) => holds(selector, &namespace_labels(pod.namespace)),
                None => pod.namespace == home,
            };
            namespace && pods.as_ref().is_none_or(|selector| holds(selector, &pod.labels))
        }
        (Peer::Block(cidr, except), Who::Outside(addr)) => {
            in_cidr(cidr, addr) && !except.iter().any(|hole| in_cidr(hole, addr))
        }
        _ => false,
    }
}

fn port_holds(item: &Item, (proto, port): (&str, u16)) -> bool {
    item.ports.is_empty()
        || item.ports.iter().any(|(protocol, first, last)| {
            *protocol == proto && (*first == 0 || (*first..=*last).contains(&port))
        })
}

fn selects(policy: &Policy, pod: &Pod) -> bool {
    policy.namespace == pod.namespace && holds(&policy.selector, &pod.labels)
}

/// Kubernetes' own rule, one side: no policy selects the pod in this direction, or one of those that do lets the flow pass.
fn side_allows(policies: &[Policy], side: usize, pod: &Pod, peer: Who<'_>, port: (&str, u16)) -> bool {
    let mut isolated = false;
    for policy in policies.iter().filter(|policy| selects(policy, pod)) {
        let Some(items) = &policy.allow[side] else {
            continue;
        };
        isolated = true;
        let allows = |item: &Item| {
            port_holds(item, port)
                && (item.peers.is_empty()
                    || item
                        .peers
                        .iter()
                        .any(|one| peer_holds(one, policy.namespace, peer)))
        };
        if items.iter().any(allows) {
            return true;
        }
    }
    !isolated
}

fn kubernetes_allows(policies: &[Policy], client: Who<'_>, server: Who<'_>, port: (&str, u16)) -> bool {
    let ingress = match server {
        Who::Pod(pod) => side_allows(policies, 0, pod, client, port),
        Who::Outside(_) => true,
    };
    let egress = match client {
        Who::Pod(pod) => side_allows(policies, 1, pod, server, port),
        Who::Outside(_) => true,
    };
    ingress && egress
}

const OUTSIDE: [&str; 4] = ["192.0.2.9", "192.0.2.200", "198.51.100.7", "2001:db8:1::1"];
const PORTS: [(&str, IpProto, u16); 6] = [
    ("TCP", IpProto::TCP, 80),
    ("TCP", IpProto::TCP, 8050),
    ("TCP", IpProto::TCP, 9),
    ("UDP", IpProto::UDP, 53),
    ("SCTP", IpProto::SCTP, 7),
    ("ICMP", IpProto::ICMP, 0),
];

/// Judges every flow among the pods and with the outside as the imported policy does, and as `wanted` says.
fn compare(
    imported: &Imported,
    workloads: BTreeMap<WorkloadId, Workload>,
    pods: &[Pod],
    wanted: impl Fn(Who<'_>, Who<'_>, (&str, u16)) -> bool,
) -> Result<(), TestCaseError> {
    let mut input = imported.to_input();
    input.workloads = workloads;
    let book = Book::new(&input);
    let addresses: Vec<IpAddr> = OUTSIDE.iter().map(|text| text.parse().unwrap()).collect();
    let everyone: Vec<Who<'_>> = pods
        .iter()
        .map(Who::Pod)
        .chain(addresses.iter().map(|addr| Who::Outside(*addr)))
        .collect();
    let party = |who: Who<'_>| match who {
        Who::Pod(pod) => book.workload(&pod.workload()),
        Who::Outside(addr) => book.address(addr),
    };
    let parties: Vec<_> = everyone.iter().map(|who| party(*who)).collect();
    for (client, from) in everyone.iter().zip(&parties) {
        for (server, to) in everyone.iter().zip(&parties) {
            match (client, server) {
                (Who::Outside(_), Who::Outside(_)) => continue,
                (Who::Pod(a), Who::Pod(b)) if a.number == b.number => continue,
                _ => {}
            }
            for (name, proto, port) in PORTS {
                let (decision, mode) = evaluate(&input, from, to, (proto, port), Application::UNKNOWN);
                prop_assert_eq!(
                    decision.verdict == Verdict::Allow,
                    wanted(*client, *server, (name, port)),
                    "{:?} -> {:?} {}/{}: {:?} in {:?}\n{:#?}",
                    client,
                    server,
                    name,
                    port,
                    decision,
                    mode,
                    imported
                );
            }
        }
    }
    Ok(())
}

fn with_workloads(text: &str, pods: &[Pod]) -> (Imported, BTreeMap<WorkloadId, Workload>) {
    let workloads: BTreeMap<_, _> = pods
        .iter()
        .map(Pod::workload)
        .map(|workload| (workload.id.clone(), workload))
        .collect();
    let options = ImportOptions {
        strict: true,
        workloads: Some(&workloads),
        ..ImportOptions::default()
    };
    (import_with(text, &options).unwrap(), workloads)
}

/// Selectors that contradict themselves are noted and change nothing; everything else that is noted does.
fn only_contradictions(imported: &Imported) -> bool {
    imported
        .notes
        .iter()
        .all(|note| matches!(note.reason, Reason::Nobody(_)))
}

/// Groups, rules without ids and times, and modes.
type Content = (Vec<Group>, Vec<Rule>, BTreeMap<GroupName, Mode>);

fn content(imported: &Imported) -> Content {
    (
        imported.groups.clone(),
        imported.rules.clone(),
        imported.modes.clone(),
    )
}

// ---- Cilium ----

fn cilium_text(policies: &[Policy]) -> String {
    let pod_key = |key: &str| key.to_owned();
    let namespace_key = |key: &str| match key {
        "kubernetes.io/metadata.name" => "k8s:io.kubernetes.pod.namespace".to_owned(),
        key => format!("k8s:io.cilium.k8s.namespace.labels.{key}"),
    };
    let both = |pods: &Labels, namespaces: &Labels| {
        let parts = [
            selector_json(pods, pod_key),
            selector_json(namespaces, namespace_key),
        ];
        let mut labels = serde_json::Map::new();
        let mut expressions = Vec::new();
        for part in parts {
            labels.extend(part["matchLabels"].as_object().unwrap().clone());
            expressions.extend(part["matchExpressions"].as_array().unwrap().clone());
        }
        if !namespaces.is_empty() {
            return json!({"matchLabels": labels, "matchExpressions": expressions});
        }
        // Without a word on namespaces it would mean the policy's own.
        expressions.push(json!({"key": "k8s:io.kubernetes.pod.namespace", "operator": "Exists"}));
        json!({"matchLabels": labels, "matchExpressions": expressions})
    };
    let rules = |items: &[Item], word: &str| -> Vec<Value> {
        items
            .iter()
            .map(|item| {
                let mut endpoints = Vec::new();
                let mut blocks = Vec::new();
                for peer in &item.peers {
                    match peer {
                        Peer::Pods {
                            pods,
                            namespaces: None,
                        } => {
                            endpoints.push(selector_json(pods.as_ref().unwrap(), pod_key));
                        }
                        Peer::Pods {
                            pods,
                            namespaces: Some(namespaces),
                        } => {
                            endpoints.push(both(pods.as_ref().unwrap_or(&Vec::new()), namespaces));
                        }
                        Peer::Block(cidr, except) => blocks.push(json!({"cidr": cidr, "except": except})),
                    }
                }
                let mut rule = json!({});
                if !endpoints.is_empty() {
                    rule[format!("{word}Endpoints")] = endpoints.into();
                }
                if !blocks.is_empty() {
                    rule[format!("{word}CIDRSet")] = blocks.into();
                }
                if item.peers.is_empty() {
                    rule[format!("{word}Entities")] = json!(["all"]);
                }
                if !item.ports.is_empty() {
                    let ports: Vec<Value> = item
                        .ports
                        .iter()
                        .map(|(protocol, first, last)| {
                            json!({"port": first.to_string(), "endPort": last, "protocol": protocol})
                        })
                        .collect();
                    rule["toPorts"] = json!([{"ports": ports}]);
                }
                rule
            })
            .collect()
    };
    let objects: Vec<String> = policies
        .iter()
        .enumerate()
        .map(|(index, policy)| {
            let mut spec = json!({"endpointSelector": selector_json(&policy.selector, pod_key), "enableDefaultDeny": {}});
            for (side, (name, word)) in [("ingress", "from"), ("egress", "to")].into_iter().enumerate() {
                spec["enableDefaultDeny"][name] = json!(policy.allow[side].is_some());
                if let Some(items) = &policy.allow[side] {
                    spec[name] = rules(items, word).into();
                }
                spec[format!("{name}Deny")] = rules(&policy.deny[side], word).into();
            }
            json!({
                "apiVersion": "cilium.io/v2",
                "kind": "CiliumNetworkPolicy",
                "metadata": {"name": format!("p{index}"), "namespace": policy.namespace},
                "spec": spec,
            })
            .to_string()
        })
        .collect();
    objects.join("\n---\n")
}

/// A denial on either side comes first; the rest is as in Kubernetes.
fn cilium_allows(policies: &[Policy], client: Who<'_>, server: Who<'_>, port: (&str, u16)) -> bool {
    let denied = |side: usize, end: Who<'_>, peer: Who<'_>| {
        let Who::Pod(pod) = end else { return false };
        policies
            .iter()
            .filter(|policy| selects(policy, pod))
            .any(|policy| {
                policy.deny[side].iter().any(|item| {
                    port_holds(item, port)
                        && (item.peers.is_empty()
                            || item
                                .peers
                                .iter()
                                .any(|one| peer_holds(one, policy.namespace, peer)))
                })
            })
    };
    !denied(0, server, client)
        && !denied(1, client, server)
        && kubernetes_allows(policies, client, server, port)
}

// ---- lists of rules ----

fn criterion(key: &str, op: CriterionOp, value: &str) -> Criterion {
    Criterion {
        key: key.into(),
        value: value.into(),
        op,
    }
}

fn group(name: &str, criteria: &[(&str, CriterionOp, &str)]) -> Group {
    let criteria: Vec<_> = criteria
        .iter()
        .map(|(key, op, value)| criterion(key, *op, value))
        .collect();
    let is_service = name.starts_with("nv.");
    Group {
        name: name.parse().unwrap(),
        kind: if criteria.iter().any(|c| c.key == "address") {
            GroupKind::Address
        } else {
            GroupKind::Container
        },
        origin: Some(if is_service { Tier::Learned } else { Tier::Ground }),
        comment: String::new(),
        domain: match criteria.last() {
            Some(last) if is_service => last.value.clone(),
            _ => String::new(),
        },
        criteria,
    }
}

/// Groups of which every form can say something; the first ten are said by all alike.
fn groups() -> Vec<Group> {
    use CriterionOp::{Contains, Equal, NotEqual, Prefix, Regex};
    vec![
        group("x-in-a", &[("app", Equal, "x"), ("domain", Equal, "a")]),
        group("y-in-a", &[("app", Equal, "y"), ("domain", Equal, "a")]),
        group("all-of-b", &[("domain", Equal, "b")]),
        group(
            "any-tier-in-b",
            &[("tier", Regex, "^any$"), ("domain", Equal, "b")],
        ),
        group("x-everywhere", &[("app", Equal, "x")]),
        group("office", &[("address", Equal, "192.0.2.0/24")]),
        group(
            "lab",
            &[
                ("address", Equal, "198.51.100.7/32"),
                ("address", Equal, "2001:db8::/32"),
            ],
        ),
        // Only NeuVector says these.
        group("nv.s0.a", &[("service", Equal, "s0"), ("domain", Equal, "a")]),
        group("nv.s1.b", &[("service", Equal, "s1"), ("domain", Equal, "b")]),
        group("nv.lone", &[("service", Equal, "lone"), ("domain", Equal, "")]),
        group("range", &[("address", Equal, "10.0.0.1-10.0.0.9")]),
        group(
            "names",
            &[("address", Equal, "*.example.com"), ("address", Equal, "vh:a.b")],
        ),
        group(
            "images",
            &[
                ("image", Prefix, "reg/"),
                ("node", Contains, "n"),
                ("container", Equal, "c*"),
            ],
        ),
        group(
            "services",
            &[("service", NotEqual, "s*"), ("domain", Equal, "no")],
        ),
        // NeuVector understands these differently.
        group("two-labels", &[("app", Equal, "x"), ("tier", Equal, "y")]),
        group("not-x", &[("app", NotEqual, "x")]),
    ]
}

const RESERVED: [&str; 3] = ["containers", "external", "nodes"];
/// Groups that NeuVector understands differently.
const DIFFERENT: [&str; 2] = ["two-labels", "not-x"];

fn is_workloads(input: &PolicyInput, name: &str) -> bool {
    name == "containers"
        || input
            .groups
            .get(name)
            .is_some_and(|group| group.kind == GroupKind::Container)
}

/// Lists of rules over these groups; both ends are never addresses.
fn lists(names: Vec<&'static str>, actions: Vec<Action>) -> impl Strategy<Value = PolicyInput> {
    let ports = select(vec![
        "any",
        "tcp/80",
        "udp/53",
        "tcp/8000-8100,udp/53",
        "sctp/any",
        "icmp",
        "tcp/0-80",
    ]);
    let apps = subsequence(
        vec![Application::HTTP, Application::REDIS, Application::DNS],
        0..=2,
    );
    let ids = select(vec![1u32, 10_000, 100_000, 110_000]);
    let one = (
        (select(names.clone()), select(names), ports, select(actions)),
        (apps, ids, 0u8..10, 0u8..10),
    );
    let modes = proptest::collection::btree_map(
        select(vec!["nv.s0.a", "nv.s1.b", "nv.lone", "nodes"]),
        select(vec![Mode::Discover, Mode::Monitor, Mode::Protect]),
        0..=4,
    );
    (proptest::collection::vec(one, 0..10), modes).prop_map(|(rules, modes)| {
        let mut input = PolicyInput::default();
        for group in groups() {
            input.groups.insert(group.name.clone(), group);
        }
        for (index, ((from, to, ports, action), (applications, base, disabled, comment))) in
            rules.into_iter().enumerate()
        {
            if !is_workloads(&input, from) && !is_workloads(&input, to) {
                continue;
            }
            let mut rule = rule(base + u32::try_from(index).unwrap(), from, to, ports, action).unwrap();
            rule.applications = applications;
            rule.disable = disabled == 0;
            rule.comment = if comment == 0 { "why".into() } else { String::new() };
            input.rules.push(rule);
        }
        input.modes = modes
            .into_iter()
            .map(|(name, mode)| (name.parse().unwrap(), mode))
            .collect();
        input
    })
}

fn every_name() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = groups().iter().map(|g| &*g.name.to_string().leak()).collect();
    names.extend(RESERVED);
    names
}

/// The rule as an import makes it: no id, no comment.
fn bare(rule: &Rule) -> Rule {
    Rule {
        id: RuleId(0),
        comment: String::new(),
        ..rule.clone()
    }
}

/// Order in which NeuVector's objects give the rules back: allow and deny keep their order, within a run the targets come one
/// after the other.
fn regrouped(input: &PolicyInput) -> Vec<Rule> {
    let rules: Vec<&Rule> = input.ordered_rules().filter(|rule| !rule.disable).collect();
    let mut targets: Vec<&GroupName> = Vec::new();
    let mut keyed = Vec::new();
    let mut level = 0;
    for (index, rule) in rules.iter().enumerate() {
        if index > 0 && rules[index - 1].action != rule.action {
            level += 1;
        }
        let is_egress = !is_workloads(input, rule.to.as_str());
        let target = if is_egress { &rule.from } else { &rule.to };
        if !targets.contains(&target) {
            targets.push(target);
        }
        let place = targets.iter().position(|known| *known == target).unwrap();
        keyed.push(((level, place, is_egress, index), bare(rule)));
    }
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, rule)| rule).collect()
}

/// Without the range, which comes back as CIDRs.
fn but_the_range() -> Vec<&'static str> {
    every_name().into_iter().filter(|name| *name != "range").collect()
}

/// What a rule says, groups by what is in them.
type Said = (Vec<Criterion>, Vec<Criterion>, String, Vec<Application>, Action);

fn said(input: &PolicyInput, rule: &Rule) -> Said {
    let criteria = |name: &GroupName| match input.groups.get(name) {
        Some(group) => {
            let mut criteria = group.criteria.clone();
            criteria.sort();
            criteria
        }
        None => vec![criterion("reserved", CriterionOp::Equal, name.as_str())],
    };
    let mut applications = rule.applications.clone();
    applications.sort();
    (
        criteria(&rule.from),
        criteria(&rule.to),
        rule.ports.to_string(),
        applications,
        rule.action,
    )
}

/// Notes on rules: id, and whether the rule itself was left out, something of it was lost, or it was changed.
fn noted(notes: &[nv_policy::interchange::Note]) -> BTreeSet<(u32, &'static str)> {
    notes
        .iter()
        .filter_map(|note| {
            let word = match (&note.reason, note.severity) {
                (Reason::RuleLeftOut(_), _) => "left out",
                (_, Severity::Lost) => "lost",
                (_, _) => "changed",
            };
            Some((note.rule?.0, word))
        })
        .collect()
}

fn one_sided(input: &PolicyInput, form: Form) -> Result<(), TestCaseError> {
    let exported = export(input, form, &Selection::all());
    let again = match exported.text.as_str() {
        "" => Imported::default(),
        text => import_with(
            text,
            &ImportOptions {
                strict: true,
                ..ImportOptions::default()
            },
        )
        .unwrap(),
    };
    let back = again.to_input();
    let there: BTreeSet<Said> = back.rules.iter().map(|rule| said(&back, rule)).collect();
    let notes = noted(&exported.notes);
    let has = |rule: &Rule, word| notes.contains(&(rule.id.0, word));
    for rule in &input.rules {
        let said = said(input, rule);
        let whole = !["left out", "changed"].iter().any(|word| has(rule, word));
        prop_assert!(
            !whole || there.contains(&said),
            "{:?} is not noted and not there\n{}\n{:#?}",
            rule,
            exported.text,
            exported.notes
        );
        prop_assert_eq!(has(rule, "lost"), !rule.disable && !rule.comment.is_empty());
        prop_assert!(!rule.disable || has(rule, "left out"));
        // Layers make rules of any port only, so that this one could only be there because it was carried over.
        // One that says the same, or that lost what it says beyond this.
        let twin = input.rules.iter().any(|other| {
            let of = self::said(input, other);
            let same = (&of.0, &of.1, &of.2, of.4) == (&said.0, &said.1, &said.2, said.4);
            !has(other, "left out") && same && (of.3 == said.3 || has(other, "changed"))
        });
        if has(rule, "left out") && !rule.ports.is_any() && !twin {
            prop_assert!(!there.contains(&said), "{:?} is there\n{}", rule, exported.text);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_imported_network_policy_decides_as_kubernetes_does(policies in policies(), pods in pods()) {
        let (imported, workloads) = with_workloads(&kubernetes_text(&policies), &pods);
        prop_assert!(only_contradictions(&imported), "{:?}", imported.notes);
        compare(&imported, workloads, &pods, |client, server, port| {
            kubernetes_allows(&policies, client, server, port)
        })?;
    }

    #[test]
    fn kubernetes_round_trip(policies in policies()) {
        let imported = import(&kubernetes_text(&policies), None).unwrap();
        let exported = export(&imported.to_input(), Form::Kubernetes, &Selection::all());
        prop_assert_eq!(&exported.notes, &vec![]);
        if imported.rules.is_empty() {
            prop_assert_eq!(exported.text, "");
            return Ok(());
        }
        let again = import(&exported.text, Some(Form::Kubernetes)).unwrap();
        prop_assert_eq!(content(&again), content(&imported), "{}", exported.text);
    }

    #[test]
    fn an_imported_cilium_policy_decides_as_cilium_does(policies in policies(), pods in pods()) {
        let (imported, workloads) = with_workloads(&cilium_text(&policies), &pods);
        prop_assert!(only_contradictions(&imported), "{:?}", imported.notes);
        compare(&imported, workloads, &pods, |client, server, port| {
            cilium_allows(&policies, client, server, port)
        })?;
    }

    #[test]
    fn cilium_round_trip(policies in policies()) {
        let imported = import(&cilium_text(&policies), None).unwrap();
        let exported = export(&imported.to_input(), Form::Cilium, &Selection::all());
        prop_assert_eq!(&exported.notes, &vec![]);
        if imported.rules.is_empty() {
            prop_assert_eq!(exported.text, "");
            return Ok(());
        }
        let again = import(&exported.text, Some(Form::Cilium)).unwrap();
        prop_assert_eq!(content(&again), content(&imported), "{}", exported.text);
    }

    #[test]
    fn neuvector_round_trip(input in lists(every_name(), vec![Action::Allow, Action::Deny])) {
        let exported = export(&input, Form::NeuVector, &Selection::all());
        let again = import(&exported.text, Some(Form::NeuVector)).unwrap();
        prop_assert!(!again.is_refused(), "{:?}", again.notes);
        prop_assert_eq!(again.groups, input.groups.values().cloned().collect::<Vec<_>>());
        prop_assert_eq!(&again.modes, &input.modes);
        let rules: Vec<_> = again.rules.iter().map(bare).collect();
        prop_assert_eq!(rules, regrouped(&input), "{}", exported.text);
        // What is not the same now is noted, and nothing else is.
        let mut wanted = BTreeSet::new();
        for rule in &input.rules {
            if rule.disable {
                wanted.insert((rule.id.0, "left out"));
            } else if !rule.comment.is_empty() {
                wanted.insert((rule.id.0, "lost"));
            }
        }
        prop_assert_eq!(noted(&exported.notes), wanted);
        let groups: BTreeSet<_> = exported.notes.iter().filter_map(|note| note.group.as_ref()).map(GroupName::as_str).collect();
        prop_assert_eq!(groups, BTreeSet::from(DIFFERENT));
    }

    #[test]
    fn kubernetes_says_or_notes_every_rule(input in lists(but_the_range(), vec![Action::Allow, Action::Allow, Action::Deny])) {
        one_sided(&input, Form::Kubernetes)?;
    }

    #[test]
    fn cilium_says_or_notes_every_rule(input in lists(but_the_range(), vec![Action::Allow, Action::Allow, Action::Deny])) {
        one_sided(&input, Form::Cilium)?;
    }

    /// Everybody in Protect, and allowances only: the exported policies let through what the list does, wherever they speak.
    #[test]
    fn an_exported_list_decides_as_before(
        input in lists(vec!["x-in-a", "y-in-a", "all-of-b", "any-tier-in-b", "office", "lab", "external"], vec![Action::Allow]),
        pods in pods(),
        form in select(vec![Form::Kubernetes, Form::Cilium]),
    ) {
        let mut input = input;
        for rule in &mut input.rules {
            rule.applications.clear();
            rule.disable = false;
            if rule.ports.to_string().contains("icmp") || rule.ports.to_string().contains("tcp/0") {
                rule.ports = "udp/any".parse().unwrap();
            }
        }
        input.settings.new_service_mode = Mode::Protect;
        input.modes.clear();
        for pod in &pods {
            let workload = pod.workload();
            input.workloads.insert(workload.id.clone(), workload);
        }
        let exported = export(&input, form, &Selection::all());
        if exported.text.is_empty() {
            return Ok(());
        }
        let (imported, workloads) = with_workloads(&exported.text, &pods);
        let book = Book::new(&input);
        let inside: Vec<_> = pods.iter().map(|pod| book.workload(&pod.workload())).collect();
        let outside: BTreeMap<IpAddr, _> = OUTSIDE.iter().map(|text| text.parse().unwrap()).map(|addr| (addr, book.address(addr))).collect();
        let party = |who: Who<'_>| match who {
            Who::Pod(pod) => &inside[usize::from(pod.number)],
            Who::Outside(addr) => &outside[&addr],
        };
        // Pods that the policies close: servers of any rule, clients of rules to addresses.
        let spoken = |client: Who<'_>, server: Who<'_>| input.rules.iter().any(|rule| {
            if is_workloads(&input, rule.to.as_str()) {
                party(server).groups.contains(&rule.to)
            } else {
                party(client).groups.contains(&rule.from)
            }
        });
        compare(&imported, workloads, &pods, |client, server, (name, port)| {
            if !spoken(client, server) {
                // Nobody speaks of it, so it passes.
                return true;
            }
            let proto = PORTS.iter().find(|(known, ..)| *known == name).unwrap().1;
            evaluate(&input, party(client), party(server), (proto, port), Application::UNKNOWN).0.verdict == Verdict::Allow
        })?;
    }
}
