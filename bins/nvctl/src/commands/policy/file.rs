//! A policy file without a controller: its documents put on a policy, with a place for whatever is wrong.

use std::collections::BTreeMap;
use std::path::Path;

use nv_policy::interchange::{Outline, Place, outline};
use nv_policy::{Compiler, Diagnostic, PolicyInput, change_settings, review, validate_group, validate_rule};
use nv_types::{
    Application, Criterion, CriterionOp, Group, GroupKind, GroupName, NodeId, Revision, Rule, RuleId, Tier,
    Timestamp, reserved,
};
use serde_json::{Map, Value, json};

use crate::documents;
use crate::error::CtlError;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// The controller would refuse it.
    Error,
    /// It does not do what it says.
    Warning,
    /// Worth knowing.
    Note,
}

impl Level {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something about a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) file: String,
    pub(super) place: Place,
    pub(super) level: Level,
    pub(super) text: String,
}

impl Finding {
    pub(super) fn line(&self) -> String {
        let Place { line, column } = self.place;
        format!(
            "{}:{line}:{column}: {}: {}",
            self.file,
            self.level.name(),
            self.text
        )
    }
}

/// Documents of files on top of a policy.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) input: PolicyInput,
    pub(super) findings: Vec<Finding>,
    groups: BTreeMap<GroupName, (String, Outline)>,
    rules: BTreeMap<RuleId, (String, Outline)>,
}

/// What is wrong with a document: the field, and the words.
type Wrong = (String, String);

fn wrong(field: &str, problem: impl ToString) -> Wrong {
    (field.to_owned(), problem.to_string())
}

impl Loaded {
    pub(super) fn on(input: PolicyInput) -> Self {
        Self {
            input,
            ..Self::default()
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When it cannot be read as documents at all.
    pub(super) fn add(&mut self, path: &Path) -> Result<(), CtlError> {
        let file = path.display().to_string();
        let text = documents::text(path)?;
        let values = documents::parse(&text).map_err(|problem| CtlError::File {
            file: file.clone(),
            problem,
        })?;
        let outlines = outline(&text);
        let nowhere = || Outline {
            place: Place { line: 1, column: 1 },
            fields: BTreeMap::new(),
        };
        let mut all: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(at, value)| (value, outlines.get(at).cloned().unwrap_or_else(nowhere)))
            .collect();
        // Groups first, so that a rule may stand before the groups that it names.
        all.sort_by_key(|(value, _)| value.get("kind").and_then(Value::as_str) != Some("Group"));
        for (value, outline) in all {
            if let Err((field, problem)) = self.document(value, &file, &outline) {
                self.findings.push(Finding {
                    file: file.clone(),
                    place: outline.of(&field),
                    level: Level::Error,
                    text: format!("{field}: {problem}"),
                });
            }
        }
        Ok(())
    }

    fn document(&mut self, value: &Value, file: &str, outline: &Outline) -> Result<(), Wrong> {
        let empty = Map::new();
        let fields = value.as_object().unwrap_or(&empty);
        let text = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default();
        match text("kind") {
            "Group" => {
                let group = group(fields)?;
                validate_group(&group).map_err(|error| split(&error.to_string()))?;
                self.groups
                    .insert(group.name.clone(), (file.to_owned(), outline.clone()));
                self.input.groups.insert(group.name.clone(), group);
            }
            "Rule" => {
                let rule = self.rule(fields)?;
                if self.rules.contains_key(&rule.id) {
                    return Err(wrong("id", format!("rule {} is there twice", rule.id)));
                }
                self.rules.insert(rule.id, (file.to_owned(), outline.clone()));
                self.place(rule, fields.get("after").and_then(Value::as_i64))?;
            }
            "ServiceMode" => {
                let mode = text("mode").parse().map_err(|error| wrong("mode", error))?;
                let service = text("service");
                let full = if service == reserved::NODES || service.starts_with("nv.") {
                    service.to_owned()
                } else {
                    format!("nv.{service}")
                };
                let group = GroupName::try_new(&full).map_err(|error| wrong("service", error))?;
                self.input.modes.insert(group, mode);
            }
            _ => {
                let mut change = fields.clone();
                change.remove("kind");
                self.input.settings = change_settings(&self.input.settings, &change).map_err(|bad| {
                    (
                        bad.field.split('.').next().unwrap_or_default().to_owned(),
                        bad.problem,
                    )
                })?;
            }
        }
        Ok(())
    }

    fn rule(&self, fields: &Map<String, Value>) -> Result<Rule, Wrong> {
        let text = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default();
        let side = |field: &str| GroupName::try_new(text(field)).map_err(|error| wrong(field, error));
        let id = match fields.get("id").and_then(Value::as_u64) {
            Some(id) => u32::try_from(id)
                .map(RuleId)
                .map_err(|error| wrong("id", error))?,
            None => {
                let used = |id: &u32| self.input.rules.iter().any(|rule| rule.id.0 == *id);
                RuleId((1..RuleId::LEARNED.0).find(|id| !used(id)).unwrap_or(0))
            }
        };
        let ports = if text("ports").is_empty() {
            "any"
        } else {
            text("ports")
        };
        let names = fields
            .get("applications")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let applications = names
            .filter_map(Value::as_str)
            .filter(|name| !name.eq_ignore_ascii_case("any"))
            .map(|name| {
                name.parse::<Application>()
                    .ok()
                    .filter(|app| *app != Application::UNKNOWN)
                    .ok_or_else(|| wrong("applications", format!("unknown application '{name}'")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Rule {
            id,
            comment: text("comment").to_owned(),
            from: side("from")?,
            to: side("to")?,
            ports: ports.parse().map_err(|error| wrong("ports", error))?,
            applications,
            action: serde_json::from_value(json!(text("action"))).map_err(|_other| {
                wrong(
                    "action",
                    format!("'{}' is neither 'allow' nor 'deny'", text("action")),
                )
            })?,
            disable: fields.get("disable").and_then(Value::as_bool).unwrap_or(false),
            created: Timestamp(0),
            modified: Timestamp(0),
        })
    }

    /// Puts a rule where it belongs: in place of the one of its number, after another one, or last.
    fn place(&mut self, rule: Rule, after: Option<i64>) -> Result<(), Wrong> {
        let rules = &mut self.input.rules;
        let known = rules.iter().position(|other| other.id == rule.id);
        if let (Some(at), None) = (known, after) {
            rules[at] = rule;
            return Ok(());
        }
        rules.retain(|other| other.id != rule.id);
        let at = match after {
            None => rules.len(),
            Some(0) => 0,
            Some(after) => {
                let anchor = u32::try_from(after.unsigned_abs()).unwrap_or(u32::MAX);
                let found = rules.iter().position(|other| other.id.0 == anchor);
                let found = found
                    .ok_or_else(|| wrong("after", format!("there is no rule {anchor} before this one")))?;
                if after > 0 { found + 1 } else { found }
            }
        };
        rules.insert(at, rule);
        Ok(())
    }

    /// Services that rules of the files name and nobody has told of: they are learned, so no file makes them.
    fn expect_services(&mut self) {
        let mut missing = Vec::new();
        for rule in &self.input.rules {
            for (field, name) in [("from", &rule.from), ("to", &rule.to)] {
                let service = name
                    .as_str()
                    .strip_prefix("nv.")
                    .filter(|_| !self.input.groups.contains_key(name));
                if let (Some(service), Some((file, outline))) = (service, self.rules.get(&rule.id)) {
                    missing.push((name.clone(), service.to_owned(), file.clone(), outline.of(field)));
                }
            }
        }
        for (name, service, file, place) in missing {
            let equal = |key: &str, value: &str| Criterion {
                key: key.into(),
                value: value.into(),
                op: CriterionOp::Equal,
            };
            let group = Group {
                name: name.clone(),
                kind: GroupKind::Container,
                origin: Some(Tier::Learned),
                comment: String::new(),
                domain: String::new(),
                criteria: vec![equal("service", &service)],
            };
            if self.input.groups.insert(name.clone(), group).is_none() {
                let text = format!("service '{name}' is not in the file: it is taken for one that runs");
                self.findings.push(Finding {
                    file,
                    place,
                    level: Level::Note,
                    text,
                });
            }
        }
    }

    /// Looks at the policy as a whole; findings are then in the order of the files.
    pub(super) fn check(&mut self) {
        self.expect_services();
        for rule in &self.input.rules {
            let Some((file, outline)) = self.rules.get(&rule.id) else {
                continue;
            };
            if let Err(error) = validate_rule(rule, &self.input) {
                let (field, problem) = split(&error.to_string());
                self.findings.push(Finding {
                    file: file.clone(),
                    place: outline.of(&field),
                    level: Level::Error,
                    text: format!("{field}: {problem}"),
                });
            }
        }
        let compiled = match NodeId::try_new("check") {
            Ok(node) => Compiler::new(&self.input, &node, Revision(0)).diagnostics(),
            Err(_) => Vec::new(),
        };
        for diagnostic in compiled.into_iter().chain(review(&self.input)) {
            let place = match &diagnostic {
                Diagnostic::UnknownGroup { .. } => continue, // said above, with its field
                Diagnostic::Group { name, .. } => {
                    self.groups.get(name).map(|(file, at)| (file, at.of("criteria")))
                }
                other => other
                    .rule()
                    .and_then(|rule| self.rules.get(&rule))
                    .map(|(file, at)| (file, at.place)),
            };
            if let Some((file, place)) = place {
                let level = if diagnostic.is_fault() {
                    Level::Warning
                } else {
                    Level::Note
                };
                self.findings.push(Finding {
                    file: file.clone(),
                    place,
                    level,
                    text: diagnostic.to_string(),
                });
            }
        }
        self.findings
            .sort_by(|a, b| (&a.file, a.place, a.level).cmp(&(&b.file, b.place, b.level)));
    }

    /// The first error, if there is one.
    pub(super) fn refused(&self) -> Option<CtlError> {
        let first = self
            .findings
            .iter()
            .find(|finding| finding.level == Level::Error)?;
        let Place { line, column } = first.place;
        Some(CtlError::File {
            file: first.file.clone(),
            problem: format!("line {line} column {column}: {}", first.text),
        })
    }
}

/// `field: problem` of an error of nv-policy; several fields are told by the first.
fn split(text: &str) -> Wrong {
    let (fields, problem) = text.split_once(": ").unwrap_or(("kind", text));
    let field = fields.split([',', '[']).next().unwrap_or(fields);
    (field.to_owned(), problem.to_owned())
}

fn group(fields: &Map<String, Value>) -> Result<Group, Wrong> {
    let text = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default();
    let mut criteria: Vec<Criterion> = Vec::new();
    for value in fields
        .get("criteria")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        criteria.push(serde_json::from_value(value.clone()).map_err(|error| wrong("criteria", error))?);
    }
    let by_address = criteria.iter().any(|criterion| criterion.key == "address");
    Ok(Group {
        name: GroupName::try_new(text("name")).map_err(|error| wrong("name", error))?,
        kind: if by_address {
            GroupKind::Address
        } else {
            GroupKind::Container
        },
        origin: Some(Tier::User),
        comment: text("comment").to_owned(),
        domain: String::new(),
        criteria,
    })
}
