//! Imports and exports of realistic files, bad files, and what the notes say of them.

#![allow(clippy::unwrap_used, reason = "tests")]

use nv_policy::interchange::{Form, Imported, Selection, export, import};
use nv_types::{Mode, Tier};

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
