//! NeuVector's own tables (`share/criteria.go`, `controller/cache/group_test.go`, `controller/rest/policy_test.go`, `agent/policy/network.go`;
//! facts only), line by line: what it does, what we do, and why where the two differ. `docs/neuvector.md` has the differences in words.
//! Places of rules are in nv-controller-core (`tests/it/positions.rs`), custom resources in `interchange_cases.rs`.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

use nv_policy::reference::evaluate;
use nv_policy::{AddressSet, Book, PolicyInput, Selector, Tables, compile, rule};
use nv_types::{
    Action, Application, Contention, Criterion, CriterionOp, Direction, Interface, IpProto, Mode, Node,
    PortSet, Reason, Revision, Verdict, Workload, WorkloadState,
};

/// Why we differ.
type Why = &'static str;
const SAME: Why = "";

#[test]
fn ports() {
    const PLAIN: Why = "one spelling: prefixes are read in any case, and written in lower case";
    for (text, theirs, ours, why) in [
        ("", Some("any"), Some("any"), SAME),
        ("any", Some("any"), Some("any"), SAME),
        ("80", Some("tcp/80"), Some("tcp/80"), SAME),
        ("80-90", Some("tcp/80-90"), Some("tcp/80-90"), SAME),
        ("tcp/80-90", Some("tcp/80-90"), Some("tcp/80-90"), SAME),
        ("8080,80", Some("tcp/80,tcp/8080"), Some("tcp/80,tcp/8080"), SAME),
        ("UDP/53", Some("udp/53"), Some("udp/53"), SAME),
        ("tcp/any", Some("tcp/any"), Some("tcp/any"), SAME),
        ("udp/any", Some("udp/any"), Some("udp/any"), SAME),
        ("icmp", Some("icmp"), Some("icmp"), SAME),
        ("ICMP", None, Some("icmp"), PLAIN),
        ("udp/any,icmp", Some("icmp,udp/any"), Some("icmp,udp/any"), SAME),
        ("tcp/80,any", Some("any"), Some("any"), SAME),
        (
            "100 , TCP/80  11153-11260,udp/60-60",
            Some("tcp/80,tcp/100,tcp/11153-11260,udp/60"),
            Some("tcp/80,tcp/100,tcp/11153-11260,udp/60"),
            SAME,
        ),
        (
            "sctp/1-2",
            None,
            Some("sctp/1-2"),
            "SCTP is policed here; NeuVector lets it pass",
        ),
        ("icmp/8", None, None, SAME),
        ("200-100", None, None, SAME),
        ("90-", None, None, SAME),
        ("90 -100", None, None, SAME),
        ("tcp/65536", None, None, SAME),
    ] {
        let read = text.parse::<PortSet>().map(|ports| ports.to_string()).ok();
        assert_eq!(read.as_deref(), ours, "{text}");
        assert_eq!(
            theirs == ours,
            why.is_empty(),
            "{text}: a difference needs its reason, and only a difference"
        );
    }
}

fn workload(id: &str, service: &str, address: &str) -> Workload {
    Workload {
        interfaces: vec![Interface {
            name: "eth0".into(),
            host_index: Some(7),
            addresses: vec![(address.parse().unwrap(), 24)],
            ..Interface::default()
        }],
        ..Workload::new(id.parse().unwrap(), "n1".parse().unwrap(), service)
    }
}

fn selector(criteria: &[(&str, &str, &str)]) -> Selector {
    let criteria: Vec<_> = criteria
        .iter()
        .map(|(key, op, value)| Criterion {
            key: (*key).into(),
            op: op.parse::<CriterionOp>().unwrap(),
            value: (*value).into(),
        })
        .collect();
    Selector::new(&criteria).unwrap()
}

#[test]
fn criteria() {
    const MIXED: Why = "of one key the positive criteria are alternatives and the negative ones hold as well: '= mysql, != redis' is not everybody";
    const KEYS: Why = "different labels must all hold, as NeuVector's own documentation says";
    const MISSING: Why = "who has no such label does not have that value";
    let positive: &[_] = &[
        ("image", "=", "redis"),
        ("image", "=", "mysql"),
        ("domain", "=", "billing"),
    ];
    let negative: &[_] = &[
        ("image", "!=", "redis"),
        ("image", "!=", "mysql"),
        ("domain", "=", "billing"),
    ];
    let mixed: &[_] = &[
        ("image", "=", "mysql"),
        ("image", "!=", "redis"),
        ("domain", "=", "billing"),
    ];
    let globs: &[_] = &[("image", "!=", "redis*"), ("image", "!=", "*mysql")];
    let labels: &[_] = &[("app", "=", "web"), ("tier", "=", "front")];
    for (criteria, image, domain, app, theirs, ours, why) in [
        (positive, "redis", "billing", "", true, true, SAME),
        (positive, "mysql", "billing", "", true, true, SAME),
        (positive, "oracle", "billing", "", false, false, SAME),
        (positive, "mysql", "sales", "", false, false, SAME),
        (negative, "oracle", "billing", "", true, true, SAME),
        (negative, "redis", "billing", "", false, false, SAME),
        (negative, "oracle", "sales", "", false, false, SAME),
        (mixed, "mysql", "billing", "", true, true, SAME),
        (mixed, "oracle", "billing", "", true, false, MIXED),
        (mixed, "redis", "billing", "", false, false, SAME),
        (&[("image", "=", "redis*")], "redis", "", "", true, true, SAME),
        (&[("image", "=", "redis*")], "redis.abc", "", "", true, true, SAME),
        (globs, "redis", "", "", false, false, SAME),
        (globs, "mysql", "", "", false, false, SAME),
        (globs, "oracle", "", "", true, true, SAME),
        (&[("image", "=", "any")], "whatever", "", "", true, true, SAME),
        (&[("image", "contains", "edi")], "redis", "", "", true, true, SAME),
        (&[("image", "prefix", "red")], "redis", "", "", true, true, SAME),
        (&[("image", "regex", "d.s$")], "redis", "", "", true, true, SAME),
        (
            &[("image", "!regex", "^red")],
            "redis",
            "",
            "",
            false,
            false,
            SAME,
        ),
        (
            &[("namespace", "=", "billing")],
            "redis",
            "billing",
            "",
            true,
            true,
            SAME,
        ),
        (labels, "", "", "web", true, false, KEYS),
        (&[("app", "=", "web")], "", "", "web", true, true, SAME),
        (&[("app", "!=", "web")], "", "", "web", false, false, SAME),
        (&[("app", "=", "web")], "", "", "", false, false, SAME),
        (&[("app", "!=", "web")], "", "", "", false, true, MISSING),
    ] {
        let mut workload = workload("w", "s", "10.0.0.1");
        image.clone_into(&mut workload.image);
        domain.clone_into(&mut workload.domain);
        if !app.is_empty() {
            workload.labels.insert("app".into(), app.into());
        }
        let holds = selector(criteria).matches(&workload);
        assert_eq!(
            holds, ours,
            "{criteria:?}: image {image}, domain {domain}, app {app}"
        );
        assert_eq!(
            theirs == ours,
            why.is_empty(),
            "{criteria:?}: a difference needs its reason, and only a difference"
        );
    }
}

#[test]
fn addresses() {
    const SIX: Why = "IPv6 is policed here; NeuVector lets it pass";
    for (text, theirs, ours, why) in [
        ("1.2.3.4", true, true, SAME),
        ("1.2.3.4/24", true, true, SAME),
        ("10.0.0.1-10.0.0.9", true, true, SAME),
        ("abc", true, true, SAME),
        ("abc-.xyz_", true, true, SAME),
        ("8.us", true, true, SAME),
        ("*.google.com", true, true, SAME),
        ("*.docs.google.com", true, true, SAME),
        ("vh:a.b", true, true, SAME),
        ("fd00::/8", false, true, SIX),
        ("", false, false, SAME),
        ("1.2.3.789", false, false, SAME),
        ("1.2.3.4,1.2.3.5", false, false, SAME),
        ("1.2.3.4/33", false, false, SAME),
        ("1.2.3.0/24-1.2.4.0/24", false, false, SAME),
        ("10.0.0.9-10.0.0.1", false, false, SAME),
        ("*.google", false, false, SAME),
        ("a*.google.com", false, false, SAME),
        (".a", false, false, SAME),
        ("a.", false, false, SAME),
        ("a..b", false, false, SAME),
    ] {
        assert_eq!(AddressSet::parse(text).is_ok(), ours, "{text}");
        assert_eq!(
            theirs == ours,
            why.is_empty(),
            "{text}: a difference needs its reason, and only a difference"
        );
    }
}

/// Two services, an overlay's tunnel, a node, and somebody outside.
fn input(from: Option<Mode>, to: Option<Mode>, contention: Contention) -> PolicyInput {
    let mut input = PolicyInput::default();
    input.settings.contention = contention;
    for (service, address, mode) in [("a", "10.0.0.1", from), ("b", "10.0.0.2", to)] {
        let workload = workload(service, service, address);
        input.add_service_group(&workload);
        if let Some(mode) = mode {
            input.modes.insert(format!("nv.{service}").parse().unwrap(), mode);
            input.workloads.insert(workload.id.clone(), workload);
        }
    }
    let node = Node {
        addresses: vec!["192.0.2.1".parse().unwrap(), "10.42.0.0".parse().unwrap()],
        tunnels: vec!["10.42.0.0".parse().unwrap()],
        ..Node::new("n1".parse().unwrap())
    };
    input.nodes.insert(node.id.clone(), node);
    input
}

/// What the reference makes of a connection to port 80, and that tables say the same.
fn verdict(input: &PolicyInput, from: &str, to: &str) -> (Verdict, Reason) {
    let book = Book::new(input);
    let (client, server) = (from.parse().unwrap(), to.parse().unwrap());
    let (client_party, server_party) = (book.address(client), book.address(server));
    let (decision, _) = evaluate(
        input,
        &client_party,
        &server_party,
        (IpProto::TCP, 80),
        Application::UNKNOWN,
    );
    let compiled = compile(input, &"n1".parse().unwrap(), Revision(1)).unwrap();
    let tables = Tables::new(&compiled.image);
    for (own, direction, peer) in [
        (&server_party, Direction::Ingress, client),
        (&client_party, Direction::Egress, server),
    ] {
        let own = own.workload.as_ref().filter(|_| own.mode.is_some());
        if let Some(judgement) =
            own.and_then(|own| tables.lookup(own, direction, peer, IpProto::TCP, 80, None))
        {
            assert_eq!(judgement.decision(), Some(decision), "{from} -> {to}");
        }
    }
    (decision.verdict, decision.reason)
}

const D: Option<Mode> = Some(Mode::Discover);
const M: Option<Mode> = Some(Mode::Monitor);
const P: Option<Mode> = Some(Mode::Protect);

/// Nothing matched, two managed ends: no difference, though ours is restrictive unless told otherwise, so that a peer that still learns
/// cannot open a protected service.
#[test]
fn effective_modes() {
    for (from, to, basic, strict) in [
        (D, D, D, D),
        (D, M, D, M),
        (D, P, D, P),
        (M, D, D, M),
        (M, M, M, M),
        (M, P, M, P),
        (P, D, D, P),
        (P, M, M, P),
        (P, P, P, P),
    ] {
        for (contention, mode) in [(Contention::Basic, basic), (Contention::Restrictive, strict)] {
            let wanted = match mode {
                D => Verdict::Allow,
                M => Verdict::Alert,
                _ => Verdict::Deny,
            };
            let found = verdict(&input(from, to, contention), "10.0.0.1", "10.0.0.2");
            assert_eq!(
                found,
                (wanted, Reason::Default),
                "{from:?} -> {to:?}, {contention:?}"
            );
        }
    }
}

/// A deny rule between two managed ends, and one of them and somebody outside: no difference.
#[test]
fn deny_rules() {
    for (from, to, contention, wanted) in [
        (D, D, Contention::Basic, Verdict::Alert),
        (D, P, Contention::Basic, Verdict::Alert),
        (P, D, Contention::Basic, Verdict::Alert),
        (M, P, Contention::Basic, Verdict::Alert),
        (P, P, Contention::Basic, Verdict::Deny),
        (P, None, Contention::Basic, Verdict::Deny),
        (None, P, Contention::Basic, Verdict::Deny),
        (D, P, Contention::Restrictive, Verdict::Deny),
        (P, D, Contention::Restrictive, Verdict::Deny),
        (M, M, Contention::Restrictive, Verdict::Alert),
    ] {
        let mut input = input(from, to, contention);
        let name = |mode: Option<Mode>, group: &str| {
            mode.map_or_else(|| "external".to_owned(), |_| group.to_owned())
        };
        let (client, server) = (name(from, "nv.a"), name(to, "nv.b"));
        input
            .rules
            .push(rule(1, &client, &server, "tcp/80", Action::Deny).unwrap());
        // Who is not managed is outside.
        let at = |mode: Option<Mode>, address: &'static str| mode.map_or("198.51.100.1", |_| address);
        let found = verdict(&input, at(from, "10.0.0.1"), at(to, "10.0.0.2"));
        assert_eq!(
            found,
            (wanted, Reason::Rule),
            "{from:?} -> {to:?}, {contention:?}"
        );
    }
}

#[test]
fn who_comes_through_an_overlay_is_ingress_and_its_node() {
    for (group, peer, matches) in [
        ("Workload:ingress", "10.42.0.0", true),
        ("nodes", "10.42.0.0", true),
        ("Workload:ingress", "192.0.2.1", false),
        ("nodes", "192.0.2.1", true),
        ("Workload:ingress", "198.51.100.1", false),
        ("external", "10.42.0.0", false),
    ] {
        let mut input = input(D, P, Contention::Restrictive);
        input
            .rules
            .push(rule(1, group, "nv.b", "tcp/80", Action::Allow).unwrap());
        let wanted = if matches {
            (Verdict::Allow, Reason::Rule)
        } else {
            (Verdict::Deny, Reason::Default)
        };
        assert_eq!(verdict(&input, peer, "10.0.0.2"), wanted, "{group} at {peer}");
    }
    // Within no boundary: it is on every side, as nodes are.
    let mut input = input(D, P, Contention::Restrictive);
    let b = input.workloads.get_mut("b").unwrap();
    b.namespace_labels
        .insert("NeuvectorNamespaceBoundary".into(), "enabled".into());
    b.domain = "shop".into();
    let group = b.service_group().unwrap();
    let b = b.clone();
    input.add_service_group(&b);
    input.modes.insert(group.clone(), Mode::Protect);
    input.rules.push(
        rule(
            10_000,
            "Workload:ingress",
            group.as_str(),
            "tcp/80",
            Action::Allow,
        )
        .unwrap(),
    );
    input
        .rules
        .push(rule(10_001, "external", group.as_str(), "tcp/80", Action::Allow).unwrap());
    assert_eq!(
        verdict(&input, "10.42.0.0", "10.0.0.2"),
        (Verdict::Allow, Reason::Rule)
    );
    assert_eq!(
        verdict(&input, "198.51.100.1", "10.0.0.2"),
        (Verdict::Deny, Reason::Boundary)
    );
}

/// A workload in the host's network has the node's addresses, and the node's groups and mode.
#[test]
fn workloads_in_the_hosts_network_are_their_node() {
    let mut input = input(D, P, Contention::Restrictive);
    let host = Workload {
        host_network: true,
        ..workload("h", "h", "192.0.2.1")
    };
    input.add_service_group(&host);
    input.modes.insert("nv.h".parse().unwrap(), Mode::Protect);
    input.workloads.insert(host.id.clone(), host);
    input
        .rules
        .push(rule(1, "nv.h", "nv.b", "tcp/80", Action::Allow).unwrap());
    assert_eq!(
        verdict(&input, "192.0.2.1", "10.0.0.2"),
        (Verdict::Deny, Reason::Default)
    );
    input
        .rules
        .push(rule(2, "nodes", "nv.b", "tcp/80", Action::Allow).unwrap());
    assert_eq!(
        verdict(&input, "192.0.2.1", "10.0.0.2"),
        (Verdict::Allow, Reason::Rule)
    );
    // Nodes are policed at the workload's end, in the node's mode, if it has one: NeuVector only reports.
    input.rules.clear();
    input.modes.insert("nodes".parse().unwrap(), Mode::Protect);
    input.modes.insert("nv.b".parse().unwrap(), Mode::Discover);
    assert_eq!(
        verdict(&input, "192.0.2.1", "10.0.0.2"),
        (Verdict::Deny, Reason::Default)
    );
}

/// Workloads that nobody manages, are gone or never ran are addresses; two of them are nobody's business.
#[test]
fn unmanaged_peers_are_addresses() {
    let mut input = input(None, P, Contention::Restrictive);
    assert_eq!(
        verdict(&input, "10.0.0.1", "198.51.100.1"),
        (Verdict::Allow, Reason::Unmanaged)
    );
    assert_eq!(
        verdict(&input, "10.0.0.1", "10.0.0.2"),
        (Verdict::Deny, Reason::Default)
    );
    input
        .rules
        .push(rule(1, "external", "nv.b", "tcp/80", Action::Allow).unwrap());
    assert_eq!(
        verdict(&input, "10.0.0.1", "10.0.0.2"),
        (Verdict::Allow, Reason::Rule)
    );
    let stopped = Workload {
        state: WorkloadState::Exited,
        ..workload("a", "a", "10.0.0.1")
    };
    input.workloads.insert(stopped.id.clone(), stopped);
    assert_eq!(
        verdict(&input, "10.0.0.1", "10.0.0.2"),
        (Verdict::Allow, Reason::Rule)
    );
}

/// The mode of a service that nobody has given one, and the one mode of all services.
#[test]
fn modes_of_new_services_and_of_all() {
    for (new, verdict_of_new) in [
        (Mode::Discover, Verdict::Allow),
        (Mode::Monitor, Verdict::Alert),
        (Mode::Protect, Verdict::Deny),
    ] {
        let mut input = input(D, D, Contention::Restrictive);
        input.modes.clear();
        input.settings.new_service_mode = new;
        assert_eq!(verdict(&input, "10.0.0.1", "10.0.0.2").0, verdict_of_new);
        input.settings.network_mode = Some(Mode::Protect);
        assert_eq!(verdict(&input, "10.0.0.1", "10.0.0.2").0, Verdict::Deny);
    }
}

/// Federal, CRD, users', learned: by ids, whatever the list's order; disabled rules are not there, comments say nothing.
#[test]
fn tiers_by_ranges_of_ids() {
    for (first, second, wins) in [
        (100_000, 110_000, 100_000),
        (109_999, 110_000, 109_999),
        (110_000, 1, 110_000),
        (119_999, 9_999, 119_999),
        (1, 10_000, 1),
        (9_999, 10_000, 9_999),
        (100_000, 99_999, 100_000),
        // NeuVector: users' and learned rules are one list. Ours: what was seen does not decide before what somebody wrote.
        (10_000, 1, 1),
    ] {
        for ids in [[first, second], [second, first]] {
            let mut input = input(P, P, Contention::Restrictive);
            for id in ids {
                let action = if id == wins { Action::Deny } else { Action::Allow };
                let mut rule = rule(id, "nv.a", "nv.b", "tcp/80", action).unwrap();
                rule.comment = "allow everything".into();
                input.rules.push(rule);
            }
            assert_eq!(
                verdict(&input, "10.0.0.1", "10.0.0.2").0,
                Verdict::Deny,
                "{ids:?}"
            );
            for rule in input.rules.iter_mut().filter(|rule| rule.id.0 == wins) {
                rule.disable = true;
            }
            assert_eq!(
                verdict(&input, "10.0.0.1", "10.0.0.2").0,
                Verdict::Allow,
                "{ids:?}"
            );
        }
    }
}
