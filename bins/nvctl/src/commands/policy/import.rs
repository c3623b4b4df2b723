//! Other forms as documents for `nvctl apply`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::Path;

use nv_policy::interchange::{Form, ImportOptions, Imported, import_with};
use serde_json::{Value, json};

use super::{Context, list};
use crate::cli::Format;
use crate::error::{CtlError, EXIT_OK, EXIT_REFUSED};
use crate::output::note;

/// Longest file that is read.
const MAX_FILE: u64 = 8 << 20;

pub(super) fn run(context: &Context, file: &Path, form: Option<Form>, strict: bool) -> Result<u8, CtlError> {
    let name = file.display().to_string();
    let problem = |problem: String| CtlError::File {
        file: name.clone(),
        problem,
    };
    let text = read(file).map_err(|error| problem(error.to_string()))?;
    let options = ImportOptions {
        form,
        strict,
        ..ImportOptions::default()
    };
    let imported = import_with(&text, &options).map_err(|error| problem(error.to_string()))?;
    list(&imported.notes);
    let label = file
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let documents = documents(&imported, &label);
    print(context, &documents)?;
    remark(&imported, &documents);
    Ok(if imported.is_refused() {
        EXIT_REFUSED
    } else {
        EXIT_OK
    })
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    // One byte more than is read, so that the import can say that it is too long.
    if file.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)?;
    } else {
        fs::File::open(file)?
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)?;
    }
    Ok(text)
}

/// Groups, rules and modes. Rules keep their order through `apply` by comments that nothing else has: a rule that says the same
/// as one that is there already would otherwise keep that one's place.
fn documents(imported: &Imported, label: &str) -> Vec<Value> {
    let mut found: Vec<Value> = imported
        .groups
        .iter()
        .filter(|group| !group.name.as_str().starts_with("nv."))
        .map(|group| {
            let mut document = json!({"kind": "Group", "name": group.name, "criteria": group.criteria});
            if !group.comment.is_empty() {
                document["comment"] = json!(group.comment);
            }
            document
        })
        .collect();
    let label: String = label.chars().filter(|c| !c.is_control()).take(100).collect();
    for (index, rule) in imported.rules.iter().enumerate() {
        let mut document = json!({
            "kind": "Rule",
            "from": rule.from,
            "to": rule.to,
            "ports": rule.ports,
            "action": rule.action,
            "comment": format!("{label} #{}", index + 1),
        });
        if !rule.applications.is_empty() {
            document["applications"] = json!(rule.applications);
        }
        found.push(document);
    }
    let modes: &BTreeMap<_, _> = &imported.modes;
    found.extend(
        modes
            .iter()
            .map(|(service, mode)| json!({"kind": "ServiceMode", "service": service, "mode": mode.name()})),
    );
    found
}

fn print(context: &Context, documents: &[Value]) -> Result<(), CtlError> {
    let garbled = |error: String| CtlError::Usage(format!("cannot write the documents: {error}"));
    let mut first = true;
    for document in documents {
        let text = match context.output.format() {
            Format::Jsonl => document.to_string(),
            Format::Json => {
                serde_json::to_string_pretty(document).map_err(|error| garbled(error.to_string()))?
            }
            Format::Name => {
                let name = document.get("name").or_else(|| document.get("comment"));
                name.or_else(|| document.get("service"))
                    .and_then(Value::as_str)
                    .map(|name| crate::output::escape(name, false))
                    .unwrap_or_default()
            }
            Format::Yaml | Format::Table | Format::Wide => {
                serde_saphyr::to_string(document).map_err(|error| garbled(error.to_string()))?
            }
        };
        let is_line = matches!(context.output.format(), Format::Jsonl | Format::Name);
        if !first && !is_line {
            context.output.line("---")?;
        }
        first = false;
        context.output.line(&text)?;
    }
    Ok(())
}

/// What the documents do not say themselves.
fn remark(imported: &Imported, documents: &[Value]) {
    let rules = imported.rules.len();
    let services: BTreeSet<_> = imported
        .rules
        .iter()
        .flat_map(|rule| [&rule.from, &rule.to])
        .filter(|name| name.as_str().starts_with("nv."))
        .map(ToString::to_string)
        .collect();
    if !services.is_empty() {
        let services: Vec<_> = services.into_iter().collect();
        note(&format!(
            "these services must have been seen before the rules can be applied: {}",
            services.join(", ")
        ));
    }
    note(&format!(
        "{} documents, {rules} of them rules; 'nvctl apply' makes them user rules, behind those that are there",
        documents.len()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_what_apply_reads() {
        let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: no}\nspec: {podSelector: {matchLabels: {app: '1e3'}}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 80}]}]}\n";
        let imported = import_with(text, &ImportOptions::default()).unwrap();
        let documents = documents(&imported, "a\nb.yaml");
        let yaml: Vec<String> = documents
            .iter()
            .map(|document| serde_saphyr::to_string(document).unwrap())
            .collect();
        let read = crate::documents::parse(&yaml.join("---\n")).unwrap();
        assert_eq!(read, documents);
        let rules: Vec<_> = documents
            .iter()
            .filter(|document| document["kind"] == "Rule")
            .collect();
        assert_eq!(rules.len(), imported.rules.len());
        assert_eq!(rules[0]["comment"], "ab.yaml #1");
        assert!(documents.iter().any(|document| {
            document["criteria"] == json!([{"key": "app", "op": "=", "value": "1e3"}, {"key": "domain", "op": "=", "value": "no"}])
        }));
    }
}
