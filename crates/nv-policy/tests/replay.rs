//! The fuzz targets' bodies over their corpora, and over a bounded number of changed copies: the same in every run. libFuzzer itself needs a
//! nightly compiler (`fuzz/Cargo.toml` says how).

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::path::Path;
use std::time::{Duration, Instant};

use nv_policy::interchange::{Form, import};
use nv_policy::{PolicyInput, Tables, compile, rule, validate_group};
use nv_types::{
    Action, Criterion, CriterionOp, Direction, Group, GroupKind, Interface, IpProto, Mode, PortSet, Revision,
    Tier, Verdict, Workload,
};

/// Every file of a target's corpus, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|file| {
            (
                file.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&file).unwrap(),
            )
        })
        .collect();
    files.sort();
    assert!(files.len() >= 10, "{target}");
    files
}

/// Numbers that look random and are the same in every run (PCG's multiplier).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }
}

/// A copy with a few bytes changed, taken out, doubled, or with a piece of another file.
fn changed(files: &[(String, Vec<u8>)], numbers: &mut Numbers) -> Vec<u8> {
    let mut data = files[numbers.below(files.len())].1.clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(data.len());
        match numbers.below(5) {
            0 if !data.is_empty() => data[at] ^= 1 << numbers.below(7),
            1 if !data.is_empty() => {
                data.remove(at);
            }
            2 => data.insert(at, b" \t\n,-/*:{}[]()&'\"0aZ"[numbers.below(20)]),
            3 => {
                let other = &files[numbers.below(files.len())].1;
                let from = numbers.below(other.len());
                let piece = other[from..(from + numbers.below(24)).min(other.len())].to_vec();
                data.splice(at..at, piece);
            }
            _ => data.truncate(at.max(1)),
        }
    }
    data
}

/// Runs a body over the corpus and over changed copies; none may take long.
fn replay(target: &str, body: fn(&[u8]), copies: usize) {
    let files = corpus(target);
    let mut numbers = Numbers(7);
    let quick = |name: &str, data: &[u8]| {
        let begun = Instant::now();
        body(data);
        // Far above what any of them needs, far below what a blow-up takes.
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{target}/{name}: {:?}",
            begun.elapsed()
        );
    };
    for (name, data) in &files {
        quick(name, data);
    }
    for number in 0..copies {
        quick(&format!("copy {number}"), &changed(&files, &mut numbers));
    }
}

#[test]
fn ports() {
    replay("ports", bodies::ports, 20_000);
}

#[test]
fn criteria() {
    replay("criteria", bodies::criteria, 3_000);
}

#[test]
fn expressions() {
    replay("regex", bodies::regex, 500);
}

#[test]
fn yaml() {
    replay("yaml", bodies::yaml, 3_000);
}

/// A thousand documents, and names that YAML takes for something else: refused or read, quickly, and never as another name.
#[test]
fn yaml_of_hostile_size_or_words() {
    let one = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: NAME, namespace: shop}\n\
               spec: {podSelector: {}, policyTypes: [Ingress]}\n---\n";
    let many: String = (0..1000)
        .map(|number| one.replace("NAME", &format!("p{number}")))
        .collect();
    let begun = Instant::now();
    let _ = import(&many, None);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for name in ["no", "1e3", "0x10", "null", "~"] {
        if let Ok(imported) = import(&one.replace("NAME", name), Some(Form::Kubernetes)) {
            let told = format!("{:?}{:?}", imported.groups, imported.notes);
            assert!(
                !told.contains("false") && !told.contains("1000"),
                "{name}: {told}"
            );
        }
    }
}

/// A list of every other port: taken whole, or refused with its limit; never taken in part.
#[test]
fn a_list_of_every_other_port() {
    let text: Vec<String> = (0..32_768).map(|port| format!("tcp/{}", 2 * port + 1)).collect();
    match text.join(",").parse::<PortSet>() {
        Ok(set) => assert_eq!(set.specs().len(), 32_768),
        Err(error) => {
            let error = error.to_string();
            assert!(error.chars().any(|c| c.is_ascii_digit()), "{error}");
        }
    }
}

/// Ten thousand groups of a thousand criteria each, a hundred thousand rules about them, and 65,535 single ports: limits are named, none
/// of the groups is anybody, and what is as it should be stays in force.
#[test]
fn rule_sets_of_hostile_size() {
    let empty = Criterion {
        key: String::new(),
        value: String::new(),
        op: CriterionOp::Equal,
    };
    let group = |number: usize, count: usize| Group {
        name: format!("g{number}").parse().unwrap(),
        kind: GroupKind::Container,
        origin: Some(Tier::User),
        comment: String::new(),
        domain: String::new(),
        criteria: vec![empty.clone(); count],
    };
    let error = validate_group(&group(0, 1000)).unwrap_err().to_string();
    assert!(error.contains("1000") && error.contains("256"), "{error}");
    let error = validate_group(&group(0, 0)).unwrap_err().to_string();
    assert!(error.contains("matches nobody"), "{error}");
    let ports: Vec<String> = (1..=65_535).map(|port| port.to_string()).collect();
    let error = ports.join(",").parse::<PortSet>().unwrap_err().to_string();
    assert!(error.contains("4096"), "{error}");

    let mut input = PolicyInput::default();
    for number in 0..10_000 {
        // One in a hundred has no criteria at all.
        let group = group(number, if number % 100 == 0 { 0 } else { 1000 });
        input.groups.insert(group.name.clone(), group);
    }
    for (service, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        let workload = Workload {
            interfaces: vec![Interface {
                name: "eth0".into(),
                host_index: Some(7),
                addresses: vec![(address.parse().unwrap(), 24)],
                ..Interface::default()
            }],
            ..Workload::new(service.parse().unwrap(), "n1".parse().unwrap(), service)
        };
        let group = input.add_service_group(&workload).unwrap();
        input.modes.insert(group, Mode::Protect);
        input.workloads.insert(workload.id.clone(), workload);
    }
    for number in 0..100_000 {
        let (from, to) = (
            format!("g{}", number % 10_000),
            format!("g{}", number * 7 % 10_000),
        );
        let (from, to) = if number % 2 == 0 {
            (from, "nv.b".to_owned())
        } else {
            ("nv.a".to_owned(), to)
        };
        // Users', learned, federal and CRD rules: all ids that there are, but the last twenty thousand.
        input
            .rules
            .push(rule(number + 1, &from, &to, "any", Action::Allow).unwrap());
    }
    input
        .rules
        .push(rule(119_999, "nv.a", "nv.b", "tcp/80", Action::Allow).unwrap());
    let begun = Instant::now();
    let compiled = compile(&input, &"n1".parse().unwrap(), Revision(1)).unwrap();
    let tables = Tables::new(&compiled.image);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let limits = compiled.diagnostics.iter().map(ToString::to_string);
    assert_eq!(
        limits
            .filter(|text| text.contains("1000 are more than 256"))
            .count(),
        9_900
    );
    for (port, verdict) in [(80, Verdict::Allow), (81, Verdict::Deny)] {
        let (server, client) = ("b".parse().unwrap(), "10.0.0.1".parse().unwrap());
        let judgement = tables.lookup(&server, Direction::Ingress, client, IpProto::TCP, port, None);
        assert_eq!(judgement.unwrap().decision().unwrap().verdict, verdict, "{port}");
    }
}
