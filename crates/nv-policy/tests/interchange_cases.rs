//! Imports and exports of realistic files, bad files, and what the notes say of them.

#![allow(clippy::unwrap_used, reason = "tests")]

use nv_policy::PolicyInput;
use nv_policy::interchange::{
    Form, ImportError, ImportOptions, Imported, Selection, Severity, export, import, import_with,
};
use nv_types::{Mode, RuleId, Tier};
use proptest::prelude::*;

const NEUVECTOR: &str = include_str!("interchange/neuvector.yaml");
const KUBERNETES: &str = include_str!("interchange/kubernetes.yaml");
const CILIUM: &str = include_str!("interchange/cilium.yaml");

/// The whole import as text, for snapshots.
fn text(imported: &Imported) -> String {
    let mut lines = Vec::new();
    for group in &imported.groups {
        let criteria: Vec<_> = group
            .criteria
            .iter()
            .map(|c| format!("{} {} {}", c.key, c.op, c.value))
            .collect();
        lines.push(format!("group {}: {}", group.name, criteria.join("; ")));
    }
    for rule in &imported.rules {
        let apps: Vec<_> = rule.applications.iter().map(|app| app.name()).collect();
        lines.push(format!(
            "rule {} {} {} -> {} {} {}",
            rule.id,
            rule.action,
            rule.from,
            rule.to,
            rule.ports,
            apps.join(",")
        ));
    }
    for (group, mode) in &imported.modes {
        lines.push(format!("mode {group} {mode}"));
    }
    lines.extend(imported.notes.iter().map(|note| format!("note {note}")));
    lines.join("\n")
}

#[test]
fn a_neuvector_export() {
    let imported = import(NEUVECTOR, None).unwrap();
    insta::assert_snapshot!("neuvector_import", text(&imported));
    insta::assert_snapshot!(
        "neuvector_export",
        export(&imported.to_input(), Form::NeuVector, &Selection::all()).text
    );
    assert!(imported.rules.iter().all(|rule| rule.tier() == Tier::Ground));
    assert_eq!(imported.modes.get("nv.web.shop"), Some(&Mode::Protect));
}

#[test]
fn kubernetes_network_policies() {
    let imported = import(KUBERNETES, None).unwrap();
    insta::assert_snapshot!("kubernetes_import", text(&imported));
    let exported = export(&imported.to_input(), Form::Kubernetes, &Selection::all());
    insta::assert_snapshot!("kubernetes_export", exported.text);
    assert_eq!(exported.notes, []);
}

#[test]
fn cilium_policies() {
    let imported = import(CILIUM, None).unwrap();
    insta::assert_snapshot!("cilium_import", text(&imported));
    let exported = export(&imported.to_input(), Form::Cilium, &Selection::all());
    insta::assert_snapshot!("cilium_export", exported.text);
    assert_eq!(exported.notes, []);
}

/// An `NvSecurityRule` of namespace `shop` with this target selector and these ingress rules.
fn security_rule(selector: &str, ingress: &str) -> String {
    format!(
        "apiVersion: neuvector.com/v1\nkind: NvSecurityRule\nmetadata: {{name: t, namespace: shop}}\nspec:\n  target:\n    selector: {selector}\n  ingress: {ingress}\n"
    )
}

const CART: &str = "{name: nv.cart.shop, criteria: [{key: service, value: cart.shop, op: '='}, {key: domain, value: shop, op: '='}]}";

fn refusals(imported: &Imported) -> Vec<String> {
    imported
        .notes
        .iter()
        .filter(|note| note.severity == Severity::Refused)
        .map(ToString::to_string)
        .collect()
}

/// NeuVector's own table of custom resources with one error each, and ours.
#[test]
fn neuvector_objects_with_one_error_are_refused_for_it() {
    let peer = "{name: external}";
    let rule = |more: &str| format!("[{{name: r, selector: {peer}, action: allow, {more}}}]");
    assert!(refusals(&import(&security_rule(CART, &rule("ports: '80'")), None).unwrap()).is_empty());
    let cart = |criteria: &str| format!("{{name: nv.cart.shop, criteria: [{criteria}]}}");
    let service = "{key: service, value: cart.shop, op: '='}";
    let domain = "{key: domain, value: shop, op: '='}";
    for (selector, ingress, words) in [
        // Service and name do not fit.
        (cart(&format!("{{key: service, value: web.shop, op: '='}}, {domain}")), "[]".into(), "SERVICE.DOMAIN"),
        (cart(&format!("{{key: service, value: cart.shop, op: '!='}}, {domain}")), "[]".into(), "takes '='"),
        (cart(&format!("{service}, {{key: '', value: shop, op: '='}}")), "[]".into(), "service and domain"),
        (cart(&format!("{service}, {domain}, {{key: app, value: x, op: '='}}")), "[]".into(), "not 'app'"),
        (cart(&format!("{service}, {{key: domain, value: other, op: '='}}")), "[]".into(), "SERVICE.DOMAIN"),
        (cart(&format!("{service}, {domain}, {domain}")), "[]".into(), "there twice"),
        (cart(&format!("{service}, {{key: domain, value: shop, op: like}}")), "[]".into(), "unknown operator 'like'"),
        ("{name: free, criteria: [{key: app, value: x, op: '='}]}".into(), "[]".into(), "namespace 'shop'"),
        ("{name: containers}".into(), "[]".into(), "NvClusterSecurityRule"),
        ("{name: free, criteria: []}".into(), "[]".into(), "at least one is needed"),
        ("{name: 'fed.x', criteria: [{key: app, value: x, op: '='}]}".into(), "[]".into(), "cannot be made"),
        ("{name: 'a/b', criteria: [{key: app, value: x, op: '='}]}".into(), "[]".into(), "'/'"),
        (CART.into(), rule("ports: icmp/8"), "icmp"),
        (CART.into(), rule("ports: '200-100'"), "ends before"),
        (CART.into(), rule("applications: [Gopher]"), "Gopher"),
        (CART.into(), rule("applications: [HTTP, http]"), "there twice"),
        (CART.into(), rule("priority: 101"), "0 to 100"),
        (CART.into(), "[{name: r, selector: {name: external}, action: open}]".into(), "'open' is no action"),
        (
            CART.into(),
            "[{name: r, selector: {name: external}, action: allow}, {name: r, selector: {name: nodes}, action: allow}]".into(),
            "two rules called 'r'",
        ),
        (
            CART.into(),
            "[{name: r, selector: {name: nv.cart.shop, criteria: [{key: service, value: cart, op: '='}]}, action: allow}]".into(),
            "SERVICE.DOMAIN",
        ),
        (
            CART.into(),
            "[{name: r, selector: {name: a, criteria: [{key: k, value: v, op: '='}]}, action: allow}, {name: s, selector: {name: a, criteria: [{key: k, value: w, op: '='}]}, action: allow}]".into(),
            "has other criteria",
        ),
        (CART.into(), "[{name: r, selector: {name: 'Host:256.0.0.1'}, action: allow}]".into(), "Host:256.0.0.1"),
        (CART.into(), "[{selector: {name: external}, action: allow}]".into(), "'name' is needed"),
        (CART.into(), "{}".into(), "a list is needed"),
    ] {
        let imported = import(&security_rule(&selector, &ingress), None).unwrap();
        let found = refusals(&imported);
        assert_eq!(found.len(), 1, "{selector} {ingress}: {found:?}");
        for word in [words, "NvSecurityRule shop/t", "document 1", "line", "spec."] {
            assert!(found[0].contains(word), "{selector} {ingress}: {found:?}");
        }
        assert_eq!((imported.rules.len(), imported.groups.len()), (0, 0), "a refused object leaves nothing");
    }
}

#[test]
fn what_neuvector_calls_couchbase_is_told() {
    for (apps, told) in [
        ("[Couchbase]", 1),
        ("[Couchbase, Memcached]", 0),
        ("[Memcached]", 0),
    ] {
        let rule = format!(
            "[{{name: r, selector: {{name: external}}, action: allow, ports: any, applications: {apps}}}]"
        );
        let imported = import(&security_rule(CART, &rule), None).unwrap();
        let notes = imported.notes.iter().filter(|note| {
            let note = note.to_string();
            note.starts_with("changed") && note.contains("Couchbase's own commands") && note.contains("line")
        });
        assert_eq!(notes.count(), told, "{apps}: {:?}", imported.notes);
        assert_eq!(imported.rules.len(), 1);
    }
}

#[test]
fn a_group_by_name_only_must_be_there_already() {
    let referral = "[{name: r, selector: {name: partners, name_referral: true}, action: allow}]";
    let imported = import(&security_rule(CART, referral), None).unwrap();
    assert_eq!(imported.rules[0].from.as_str(), "partners");
    assert!(
        imported
            .notes
            .iter()
            .any(|note| note.to_string().contains("'partners' is used by name only"))
    );
    let definition = "---\napiVersion: neuvector.com/v1\nkind: NvGroupDefinition\nmetadata: {name: partners}\nspec: {selector: {name: partners, criteria: [{key: address, value: 192.0.2.1, op: '='}]}}\n";
    let both = import(&format!("{}{definition}", security_rule(CART, referral)), None).unwrap();
    assert_eq!((both.notes.len(), both.groups.len()), (0, 2), "{:?}", both.notes);
}

#[test]
fn priority_orders_rules_across_objects() {
    let object = |name: &str, priority: u32| {
        format!(
            "apiVersion: neuvector.com/v1\nkind: NvClusterSecurityRule\nmetadata: {{name: {name}}}\nspec: {{target: {{selector: {{name: {name}, criteria: [{{key: app, value: {name}, op: '='}}]}}}}, ingress: [{{name: r, selector: {{name: external}}, action: deny, priority: {priority}}}]}}\n---\n"
        )
    };
    let text = [object("low", 1), object("high", 100), object("same", 1)].concat();
    let imported = import(&text, Some(Form::NeuVector)).unwrap();
    let order: Vec<_> = imported
        .rules
        .iter()
        .map(|rule| (rule.to.as_str(), rule.id))
        .collect();
    assert_eq!(
        order,
        [
            ("high", RuleId(110_000)),
            ("low", RuleId(110_001)),
            ("same", RuleId(110_002))
        ]
    );
}

#[test]
fn a_refused_object_is_named_and_the_others_stay_unless_strict() {
    let bad = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: bad, namespace: a}\nspec: {podSelector: {matchLabels: {app: [x]}}}\n";
    let good = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: good, namespace: a}\nspec: {podSelector: {}}\n";
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    let text = format!("{bad}---\n{good}---\n{other}---\n{good}---\na: [\n---\n---\njust text\n");
    let imported = import(&text, None).unwrap();
    let found = refusals(&imported);
    for (index, words) in [
        "document 1, NetworkPolicy a/bad, spec.podSelector.matchLabels.app, line 4 column 41",
        "document 3, ConfigMap c, kind, line 12 column 7: the kind 'ConfigMap' of 'v1' is not known",
        "document 4, NetworkPolicy a/good, kind, line 16 column 7: there is another",
        "document 5, line",
        "a map is needed here, not 'just text'",
    ]
    .iter()
    .enumerate()
    {
        assert!(found[index].contains(words), "{found:#?}");
    }
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(!imported.rules.is_empty());
    let strict = ImportOptions {
        strict: true,
        ..ImportOptions::default()
    };
    let Err(ImportError::Refused(notes)) = import_with(&text, &strict) else {
        panic!("a strict import refuses")
    };
    assert_eq!(notes.len(), 5);
    let wrong = import(good, Some(Form::Cilium)).unwrap();
    assert!(refusals(&wrong)[0].contains("not of the form cilium"));
    assert_eq!(import("# nothing\n---\n", None), Err(ImportError::Empty));
}

/// What a NetworkPolicy cannot carry over never makes a rule wider.
#[test]
fn what_is_lost_of_a_network_policy_takes_the_allowance_with_it() {
    let policy = |rule: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: a}}\nspec: {{podSelector: {{}}, ingress: [{rule}]}}\n"
        )
    };
    let allowed = |text: &str| {
        let imported = import(text, None).unwrap();
        let lost: Vec<_> = imported
            .notes
            .iter()
            .filter(|note| note.severity == Severity::Lost)
            .map(ToString::to_string)
            .collect();
        let count = imported
            .rules
            .iter()
            .filter(|rule| {
                rule.to.as_str().starts_with("pods.a")
                    && rule.action == nv_types::Action::Allow
                    && rule.from.as_str() != "nodes"
            })
            .count();
        (count, lost)
    };
    for (rule, words) in [
        (
            "{ports: [{port: http}]}",
            "'http' stands for a port that only the pods know",
        ),
        (
            "{from: [{podSelector: {matchLabels: {image: x}}}]}",
            "'image' as the key",
        ),
        ("{from: [{ipBlock: {cidr: 10.0.0.0}}]}", "is no CIDR"),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}",
            "leave nothing",
        ),
        (
            "{from: [{podSelector: {matchExpressions: [{key: a, operator: In, values: [x]}, {key: a, operator: DoesNotExist}]}}]}",
            "selects nobody",
        ),
        ("{from: [{podSelector: {}, serviceAccount: x}]}", "not known"),
        ("{from: [{podSelector: {}}], when: night}", "not known"),
        ("{ports: [{port: 80, direction: up}]}", "not known"),
    ] {
        let (count, lost) = allowed(&policy(rule));
        assert_eq!(count, 0, "{rule}: {lost:?}");
        assert!(
            lost.iter()
                .any(|note| note.contains(words) && note.contains("spec.ingress[0]")),
            "{rule}: {lost:?}"
        );
    }
    for (rule, words) in [
        ("{ports: [{port: 0}]}", "from 1 to 65535"),
        ("{ports: [{port: 90, endPort: 80}]}", "below"),
        ("{ports: [{endPort: 80}]}", "needs 'port'"),
        ("{ports: [{protocol: GRE}]}", "GRE"),
    ] {
        let found = refusals(&import(&policy(rule), None).unwrap());
        assert!(found.len() == 1 && found[0].contains(words), "{rule}: {found:?}");
    }
}

/// Half a denial would let through what it denies.
#[test]
fn a_cilium_denial_is_carried_over_whole_or_the_object_is_refused() {
    let policy = |rule: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: a}}\nspec: {{endpointSelector: {{}}, ingressDeny: [{rule}]}}\n"
        )
    };
    for rule in [
        "{fromEntities: [world], toPorts: [{ports: [{port: '80'}, {port: web}]}]}",
        "{fromEntities: [world, kube-apiserver]}",
        "{fromEndpoints: [{matchLabels: {'reserved:host': ''}}]}",
        "{fromCIDRSet: [{cidrGroupRef: x}]}",
        "{fromEntities: [world], icmps: [{fields: [{type: 8, family: IPv4}]}]}",
        "{fromEntities: [world], authentication: {mode: required}}",
        "{}",
    ] {
        let imported = import(&policy(rule), None).unwrap();
        assert!(
            imported.is_refused() && imported.rules.is_empty(),
            "{rule}: {:?}",
            imported.notes
        );
    }
    assert!(
        !import(&policy("{fromEntities: [world]}"), None)
            .unwrap()
            .is_refused()
    );
}

/// A learned policy speaks of services; the labels of their workloads say the same in Kubernetes.
#[test]
fn learned_rules_become_network_policies_by_labels() {
    let mut input = PolicyInput::default();
    for (id, service, app) in [
        ("1", "web", "front"),
        ("2", "web", "front"),
        ("3", "db", "store"),
        ("4", "bare", ""),
    ] {
        let mut labels =
            std::collections::BTreeMap::from([("pod-template-hash".to_owned(), "abc".to_owned())]);
        if !app.is_empty() {
            labels.insert("app".to_owned(), app.to_owned());
        }
        let workload: nv_types::Workload = serde_json::from_value(serde_json::json!({
            "id": id, "name": id, "node": "n", "runtime": "test", "service": service, "domain": "shop", "labels": labels,
        }))
        .unwrap();
        input.add_service_group(&workload);
        input.workloads.insert(workload.id.clone(), workload);
    }
    for (id, from, to, ports) in [
        (10_000, "nv.web.shop", "nv.db.shop", "tcp/5432"),
        (10_001, "external", "nv.bare.shop", "tcp/80"),
    ] {
        input
            .rules
            .push(nv_policy::rule(id, from, to, ports, nv_types::Action::Allow).unwrap());
    }
    let exported = export(&input, Form::Kubernetes, &Selection::learned());
    insta::assert_snapshot!("learned_kubernetes", exported.text);
    let notes: Vec<_> = exported.notes.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!("learned_kubernetes_notes", notes.join("\n"));
    assert_eq!(export(&input, Form::Kubernetes, &Selection::made()).text, "");
}

#[test]
fn a_range_is_said_in_cidrs() {
    let text = security_rule(
        CART,
        "[{name: r, selector: {name: lan, criteria: [{key: address, value: 10.0.0.4-10.0.0.7, op: '='}]}, action: allow}]",
    );
    let mut input = import(&text, None).unwrap().to_input();
    input.rules[0].to = "pods".parse().unwrap();
    let group = |text: &str| import(text, None).unwrap().groups.remove(0);
    let pods = group(
        "apiVersion: neuvector.com/v1\nkind: NvGroupDefinition\nmetadata: {name: pods}\nspec: {selector: {name: pods, criteria: [{key: domain, value: shop, op: '='}]}}\n",
    );
    input.groups.insert(pods.name.clone(), pods);
    let exported = export(&input, Form::Kubernetes, &Selection::all());
    assert!(
        exported.text.contains("cidr: \"10.0.0.4/30\""),
        "{}",
        exported.text
    );
}

// ---- bad input ----

/// The time that bad input may take; a debug build on a busy machine is allowed more.
const PATIENCE: std::time::Duration =
    std::time::Duration::from_millis(if cfg!(debug_assertions) { 2000 } else { 100 });

fn quickly<T>(work: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    let done = work();
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
    done
}

#[test]
fn expressions_are_refused_or_linear() {
    let many = (0..10_000).map(|i| format!("a{i}")).collect::<Vec<_>>().join("|");
    for (expression, fits) in [
        ("(a+)+$", true),
        (many.as_str(), false),
        ("((((a{1,99}){1,99}){1,99}){1,99})", false),
        ("(", false),
    ] {
        let object = serde_json::json!({
            "apiVersion": "neuvector.com/v1", "kind": "NvGroupDefinition", "metadata": {"name": "g"},
            "spec": {"selector": {"name": "g", "criteria": [{"key": "image", "op": "regex", "value": expression}]}},
        });
        let imported = quickly(|| import(&object.to_string(), None).unwrap());
        assert_eq!(refusals(&imported).is_empty(), fits, "{:?}", imported.notes);
    }
    let globs = vec![serde_json::json!({"key": "image", "op": "=", "value": "*a*".repeat(100)}); 300];
    let object = serde_json::json!({
        "apiVersion": "neuvector.com/v1", "kind": "NvGroupDefinition", "metadata": {"name": "g"},
        "spec": {"selector": {"name": "g", "criteria": globs}},
    });
    assert!(quickly(|| import(&object.to_string(), None).unwrap()).is_refused());
}

#[test]
fn bad_yaml_is_refused_with_its_place() {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: a}\n";
    let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
    for (one, next) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        bomb.push_str(&format!(
            "{next}: &{next} [*{one},*{one},*{one},*{one},*{one},*{one},*{one},*{one},*{one}]\n"
        ));
    }
    let deep = format!("{head}spec: {}{}\n", "[".repeat(10_000), "]".repeat(10_000));
    let deeper: String = (0..10_000)
        .map(|level| format!("{}a:\n", " ".repeat(level.min(400))))
        .collect();
    for (text, words) in [
        (bomb.as_str(), "aliases repeat more than"),
        (deep.as_str(), ""),
        (deeper.as_str(), ""),
        (
            &format!("{head}spec: {{}}\nspec: {{}}\n"),
            "'spec' is there twice",
        ),
        (&format!("{head}\tspec: {{}}\n"), ""),
        (&format!("x: &x {{a: b}}\n{head}spec:\n  <<: *x\n"), "merge keys"),
        (
            "apiVersion: v9\nkind: Nonsense\nmetadata: {name: x}\n",
            "'Nonsense' of 'v9' is not known",
        ),
    ] {
        let imported = quickly(|| import(text, None).unwrap());
        let found = refusals(&imported);
        assert!(
            !found.is_empty() && found[0].contains(words) && found[0].contains("line "),
            "{found:?}"
        );
        assert_eq!(imported.rules.len(), 0);
    }
    let documents: String = (0..1000)
        .map(|i| format!("---\nkind: X\nmetadata: {{name: n{i}}}\n"))
        .collect();
    assert_eq!(
        refusals(&quickly(|| import(&documents, None).unwrap())).len(),
        1000
    );
    assert_eq!(
        import(&"#".repeat(9 << 20), None),
        Err(ImportError::TooLong(9 << 20))
    );
    assert!(matches!(import("", None), Err(ImportError::Empty)));
}

#[test]
fn a_name_is_what_was_written() {
    for name in ["no", "1e3", "0x10", "~x", "true"] {
        let text = format!(
            "\u{feff}apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {name}}}\nspec: {{podSelector: {{matchLabels: {{{name}: {name}}}}}, ingress: [{{from: [{{podSelector: {{}}}}]}}]}}\n"
        );
        let imported = import(&text, None).unwrap();
        if name == "~x" {
            assert!(imported.is_refused());
            continue;
        }
        assert!(
            imported
                .groups
                .iter()
                .any(|group| group.criteria.iter().any(|c| c.key == name && c.value == name)),
            "{:?}",
            imported.notes
        );
        let exported = export(&imported.to_input(), Form::Kubernetes, &Selection::all()).text;
        assert!(
            exported.contains(&format!("\"{name}\": \"{name}\"")),
            "{exported}"
        );
    }
}

#[test]
fn limits_are_named() {
    // More rules than there are ids.
    let rules: Vec<_> = (0..10_001)
        .map(|i| serde_json::json!({"name": format!("r{i}"), "selector": {"name": "external"}, "action": "allow", "ports": "80"}))
        .collect();
    let object = serde_json::json!({
        "apiVersion": "neuvector.com/v1", "kind": "NvClusterSecurityRule", "metadata": {"name": "g"},
        "spec": {"target": {"selector": {"name": "g", "criteria": [{"key": "a", "op": "=", "value": "b"}]}}, "ingress": rules},
    });
    let imported = import(&object.to_string(), None).unwrap();
    assert!(
        refusals(&imported)[0].contains("10001 rules are more than the 10000"),
        "{:?}",
        imported.notes.len()
    );
    assert!(imported.rules.is_empty());
    // Ports and criteria beyond their limits, and a group that matches nobody.
    let ports = (1..=65_535)
        .map(|port| port.to_string())
        .collect::<Vec<_>>()
        .join(",");
    let list = format!("[{{name: r, selector: {{name: external}}, action: allow, ports: '{ports}'}}]");
    assert!(refusals(&import(&security_rule(CART, &list), None).unwrap())[0].contains("4096"));
    let criteria: Vec<_> = (0..1000)
        .map(|i| format!("{{key: app, value: v{i}, op: '='}}"))
        .collect();
    let list = format!(
        "[{{name: r, selector: {{name: big, criteria: [{}]}}, action: allow}}]",
        criteria.join(",")
    );
    assert!(
        refusals(&import(&security_rule(CART, &list), None).unwrap())[0].contains("1000 are more than 256")
    );
    // A namespace more is no rule more; a label more is, for each other one.
    let policy = |number: usize, labels: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: n{number}}}\nspec: {{podSelector: {labels}, policyTypes: [Ingress, Egress]}}\n"
        )
    };
    let closed = |count: usize| (0..count).map(|number| policy(number, "{}")).collect::<String>();
    let rules = |text: &str| import(text, None).unwrap().rules.len();
    assert_eq!(rules(&closed(150)), rules(&closed(1)));
    let many: String = (0..120)
        .map(|number| policy(number, &format!("{{matchLabels: {{app: a{number}}}}}")))
        .collect();
    assert!(refusals(&import(&many, None).unwrap())[0].contains("need more than 10000 rules"));
}

#[test]
fn large_files_take_their_time_and_no_more() {
    use std::fmt::Write as _;
    // 300 namespaces with three policies each: what a large cluster has.
    let mut text = String::new();
    for number in 0..300 {
        for (name, selector, rest) in [
            ("closed", "{}", "policyTypes: [Ingress, Egress]"),
            (
                "web",
                "{matchLabels: {app: web}}",
                "ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]",
            ),
            (
                "db",
                "{matchLabels: {app: db}}",
                "policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]",
            ),
        ] {
            let _ = writeln!(
                text,
                "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: n{number}}}\nspec: {{podSelector: {selector}, {rest}}}"
            );
        }
    }
    let start = std::time::Instant::now();
    let imported = import(&text, None).unwrap();
    assert_eq!(refusals(&imported), Vec::<String>::new());
    assert_eq!(
        imported.rules.iter().filter(|rule| !rule.ports.is_any()).count(),
        600
    );
    // Thousands that are all different: refused, not chewed on.
    let mut text = String::new();
    for number in 0..6000 {
        let _ = writeln!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p{number}, namespace: a}}\nspec: {{podSelector: {{matchLabels: {{a{number}: b}}}}, ingress: [{{from: [{{podSelector: {{}}}}]}}]}}"
        );
    }
    assert!(import(&text, None).unwrap().is_refused());
    assert!(start.elapsed() < PATIENCE * 10, "{:?}", start.elapsed());
}

fn damaged() -> impl Strategy<Value = String> {
    let place = (
        0usize..10_000,
        0usize..3,
        proptest::sample::select(vec![
            "", " ", "\n", ":", "- ", "[", "{", "}", "&a ", "*a", "null", "0", "'", "!", "ü", "\0", "---\n",
        ]),
    );
    (
        proptest::sample::select(vec![NEUVECTOR, KUBERNETES, CILIUM]),
        proptest::collection::vec(place, 1..6),
    )
        .prop_map(|(text, places)| {
            let mut text = text.to_owned();
            for (at, cut, with) in places {
                let mut at = at % text.len().max(1);
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                let mut end = (at + cut).min(text.len());
                while !text.is_char_boundary(end) {
                    end += 1;
                }
                text.replace_range(at..end, with);
            }
            text
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is left of a damaged file is a policy that can be exported again in every form.
    #[test]
    fn damaged_files_never_panic(text in damaged()) {
        if let Ok(imported) = import(&text, None) {
            let input = imported.to_input();
            for form in Form::ALL {
                let exported = export(&input, form, &Selection::all());
                if !exported.text.is_empty() {
                    let again = import(&exported.text, Some(form)).unwrap();
                    prop_assert!(!again.is_refused(), "{:?}\n{}", again.notes, exported.text);
                }
            }
        }
    }
}
