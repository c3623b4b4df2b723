//! A policy file: its documents in the order that they need, whole or not at all.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Rule, RuleId, Tier, Timestamp};

use super::Draft;
use crate::command::{Document, RuleDraft};
use crate::error::CommandError;

/// A rule of the file that has a place to go to.
struct Placed {
    document: usize,
    after: i64,
}

impl Draft<'_> {
    pub(crate) fn apply(&mut self, documents: &[Document]) -> Result<(), CommandError> {
        refuse_twice(documents)?;
        let same = self.rules_by_content(documents);
        let mut placed = BTreeMap::new();
        // Groups first, so that a rule may stand before the groups that it names.
        let mut order: Vec<(usize, &Document)> = documents.iter().enumerate().collect();
        order.sort_by_key(|(at, document)| (!matches!(document, Document::Group(_)), *at));
        for (at, document) in order {
            let wrap = |problem| CommandError::Document {
                document: at + 1,
                problem: Box::new(problem),
            };
            match document {
                Document::Group(group) => group.read().and_then(|group| self.put_group(group)),
                Document::Rule(rule) => self.file_rule(rule, &same).map(|id| {
                    if let Some(after) = rule.after {
                        placed.insert(id, Placed { document: at, after });
                    }
                }),
                Document::ServiceMode { service, mode } => mode
                    .parse()
                    .map_err(|error: nv_types::ParseModeError| CommandError::Field {
                        field: "mode".into(),
                        problem: error.to_string(),
                    })
                    .and_then(|mode| self.set_mode(service, mode)),
                Document::Settings(settings) => self.set_settings(settings),
            }
            .map_err(wrap)?;
        }
        self.place_all(placed)
    }

    /// Rules that users made, by what they say; those that the file names by number are left out.
    fn rules_by_content(&self, documents: &[Document]) -> BTreeMap<String, RuleId> {
        let named: BTreeSet<u32> = documents
            .iter()
            .filter_map(|document| match document {
                Document::Rule(rule) => Some(rule.id),
                Document::Group(_) | Document::ServiceMode { .. } | Document::Settings(_) => None,
            })
            .collect();
        let is_free = |rule: &&Rule| rule.tier() == Tier::User && !named.contains(&rule.id.0);
        let rules = self.after.rules.iter().filter(is_free);
        rules.map(|rule| (content(rule), rule.id)).collect()
    }

    /// Adds or replaces a rule; one without a number that is there already is that one.
    fn file_rule(
        &mut self,
        draft: &RuleDraft,
        same: &BTreeMap<String, RuleId>,
    ) -> Result<RuleId, CommandError> {
        if draft.id == 0
            && let Some(id) = same.get(&content(&draft.read(RuleId(0), Timestamp(0))?))
        {
            return Ok(*id);
        }
        self.put_rule(draft)
    }

    /// Puts rules in their places, each after the one that it names, wherever in the file that one stands.
    fn place_all(&mut self, mut placed: BTreeMap<RuleId, Placed>) -> Result<(), CommandError> {
        let mut in_file: Vec<(usize, RuleId)> =
            placed.iter().map(|(id, placed)| (placed.document, *id)).collect();
        in_file.sort_unstable();
        for (document, first) in in_file {
            let mut chain: Vec<(RuleId, Placed)> = Vec::new();
            let mut next = first;
            while let Some(rule) = placed.remove(&next) {
                let anchor = RuleId(u32::try_from(rule.after.unsigned_abs()).unwrap_or(u32::MAX));
                chain.push((next, rule));
                if let Some(start) = chain.iter().position(|(id, _)| *id == anchor)
                    && anchor != next
                {
                    let mut rules: Vec<RuleId> = chain.drain(start..).map(|(id, _)| id).collect();
                    rules.push(anchor);
                    return Err(CommandError::Document {
                        document: document + 1,
                        problem: Box::new(CommandError::Cycle { rules }),
                    });
                }
                next = anchor;
            }
            for (id, rule) in chain.into_iter().rev() {
                self.move_rule(id, Some(rule.after))
                    .map_err(|problem| CommandError::Document {
                        document: rule.document + 1,
                        problem: Box::new(problem),
                    })?;
            }
        }
        Ok(())
    }
}

/// What a rule says, whatever its number and dates.
fn content(rule: &Rule) -> String {
    let mut applications = rule.applications.clone();
    applications.sort_unstable();
    format!(
        "{}\u{0}{}\u{0}{}\u{0}{applications:?}\u{0}{}\u{0}{}\u{0}{}",
        rule.from, rule.to, rule.ports, rule.action, rule.disable, rule.comment
    )
}

/// Refuses a file in which something stands twice.
fn refuse_twice(documents: &[Document]) -> Result<(), CommandError> {
    let mut seen = BTreeSet::new();
    let mut rules = BTreeSet::new();
    for (at, document) in documents.iter().enumerate() {
        let (what, name) = match document {
            Document::Group(group) => ("group", group.name.clone()),
            Document::Rule(rule) if rule.id != 0 => ("rule", rule.id.to_string()),
            Document::Rule(rule) => {
                let name = format!("{} -> {} {}", rule.from, rule.to, rule.ports);
                // What cannot be read is refused later, with its field.
                let is_new = rule
                    .read(RuleId(0), Timestamp(0))
                    .map_or(true, |rule| rules.insert(content(&rule)));
                if is_new {
                    continue;
                }
                return Err(CommandError::Duplicate {
                    document: at + 1,
                    what: "rule",
                    name,
                });
            }
            Document::ServiceMode { service, .. } => {
                let name = service.strip_prefix("nv.").unwrap_or(service);
                ("service", name.to_owned())
            }
            Document::Settings(_) => ("settings", String::new()),
        };
        if !seen.insert((what, name.clone())) {
            return Err(CommandError::Duplicate {
                document: at + 1,
                what,
                name,
            });
        }
    }
    Ok(())
}
