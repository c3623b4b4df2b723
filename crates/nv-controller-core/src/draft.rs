//! A policy that is being changed: all of a request is done on a copy, checked as a whole, and compared with what was.

mod difference;
mod file;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use nv_policy::{PolicyInput, Quarantine, change_settings, validate_group};
use nv_types::{Group, Mode, Rule, Tier, Timestamp, reserved};

use crate::command::{CriterionDraft, GroupDraft, SettingsDraft, name};
use crate::error::CommandError;

/// Most groups that users may make.
const MAX_GROUPS: usize = 10_000;
/// Longest reason of a quarantine, in bytes.
const MAX_REASON: usize = 256;

/// A copy to change.
pub(crate) struct Draft<'a> {
    before: &'a PolicyInput,
    /// Rules are in the order in which they are tried.
    after: PolicyInput,
    /// Numbers of the rules in `after`.
    ids: BTreeSet<u32>,
    now: Timestamp,
    summary: Vec<String>,
}

/// What a draft comes to: keys with their new value, `None` for a deletion, and what changed in words.
pub(crate) struct Changes {
    pub(crate) values: BTreeMap<String, Option<Vec<u8>>>,
    pub(crate) summary: Vec<String>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(before: &'a PolicyInput, now: Timestamp) -> Self {
        let mut after = before.clone();
        after.rules.sort_by_key(Rule::tier);
        Self {
            before,
            ids: after.rules.iter().map(|rule| rule.id.0).collect(),
            after,
            now,
            summary: Vec::new(),
        }
    }

    pub(crate) fn create_group(&mut self, draft: &GroupDraft) -> Result<(), CommandError> {
        let group = draft.read()?;
        if self.after.groups.contains_key(&group.name) || reserved::ALL.contains(&group.name.as_str()) {
            return Err(CommandError::Exists {
                what: "group",
                name: draft.name.clone(),
            });
        }
        self.put_group(group)
    }

    /// Makes the group or replaces it.
    fn put_group(&mut self, group: Group) -> Result<(), CommandError> {
        validate_group(&group).map_err(|problem| CommandError::Group {
            name: group.name.clone(),
            problem,
        })?;
        let word = match self.after.groups.get(&group.name) {
            Some(known) if known.origin != Some(Tier::User) => {
                return Err(fixed(
                    &format!("group '{}'", group.name),
                    "only groups that a user made can be changed",
                ));
            }
            Some(known) if *known == group => return Ok(()),
            Some(_) => "changed",
            None => "added",
        };
        self.summary.push(format!("group {} {word}", group.name));
        self.after.groups.insert(group.name.clone(), group);
        let by_user = |group: &&Group| group.origin == Some(Tier::User);
        let count = self.after.groups.values().filter(by_user).count();
        if count > MAX_GROUPS {
            return Err(CommandError::Limit {
                what: "groups",
                count,
                limit: MAX_GROUPS,
            });
        }
        Ok(())
    }

    pub(crate) fn patch_group(
        &mut self,
        text: &str,
        comment: Option<&str>,
        criteria: Option<&[CriterionDraft]>,
    ) -> Result<(), CommandError> {
        let mut group = self.group(text)?.clone();
        if group.origin != Some(Tier::User) {
            return Err(fixed(
                &format!("group '{text}'"),
                "only groups that a user made can be changed",
            ));
        }
        let comment = comment.unwrap_or(&group.comment).to_owned();
        if let Some(criteria) = criteria {
            let draft = GroupDraft {
                name: text.to_owned(),
                comment: String::new(),
                criteria: criteria.to_vec(),
            };
            group = draft.read()?;
        }
        self.put_group(Group { comment, ..group })
    }

    pub(crate) fn delete_group(&mut self, text: &str) -> Result<(), CommandError> {
        let group = self.group(text)?.clone();
        if group.is_service() {
            let count = self
                .after
                .workloads
                .values()
                .filter(|w| w.service_group().as_ref() == Some(&group.name))
                .count();
            if count > 0 {
                return Err(CommandError::InUse {
                    name: group.name,
                    by: format!("{count} workloads of this service"),
                });
            }
        }
        self.after.groups.remove(&group.name);
        self.after.modes.remove(&group.name);
        self.summary.push(format!("group {} deleted", group.name));
        Ok(())
    }

    fn group(&self, text: &str) -> Result<&Group, CommandError> {
        if reserved::ALL.contains(&text) {
            return Err(fixed(
                &format!("group '{text}'"),
                "the group is reserved by the system",
            ));
        }
        self.after.groups.get(text).ok_or_else(|| CommandError::NotFound {
            what: "group",
            name: text.to_owned(),
        })
    }

    /// Sets the mode of a service, named by itself or by its group, or of `nodes`.
    pub(crate) fn set_mode(&mut self, service: &str, mode: Mode) -> Result<(), CommandError> {
        let group = if service == reserved::NODES {
            name("service", service)?
        } else {
            let names = [service.to_owned(), format!("nv.{service}")];
            let found = || {
                names
                    .iter()
                    .filter_map(|name| self.after.groups.get(name.as_str()))
            };
            match found().find(|group| group.has_mode()) {
                Some(group) => group.name.clone(),
                None if found().next().is_some() => {
                    return Err(fixed(
                        &format!("group '{service}'"),
                        "only services (groups nv.*) and 'nodes' have a mode",
                    ));
                }
                None => {
                    return Err(CommandError::NotFound {
                        what: "service",
                        name: service.to_owned(),
                    });
                }
            }
        };
        if self.after.modes.insert(group.clone(), mode) != Some(mode) {
            self.summary.push(format!("service {group}: {mode}"));
        }
        Ok(())
    }

    /// Cuts a workload off, or lets it back. One that is not there any more can only be let back.
    pub(crate) fn set_quarantine(
        &mut self,
        id: &str,
        reason: Option<&str>,
        quarantine: bool,
    ) -> Result<(), CommandError> {
        let workload = self.after.workloads.get(id);
        let known = self.after.quarantines.get_key_value(id);
        let Some(id) = workload
            .map(|workload| workload.id.clone())
            .or_else(|| Some(known?.0.clone()).filter(|_| !quarantine))
        else {
            return Err(CommandError::NotFound {
                what: "workload",
                name: id.to_owned(),
            });
        };
        let name = workload.map_or(id.as_str(), |workload| &workload.name);
        if !quarantine {
            if self.after.quarantines.remove(&id).is_some() {
                self.summary.push(format!("workload {name}: out of quarantine"));
            }
            return Ok(());
        }
        if workload.is_some_and(|workload| workload.host_network) {
            return Err(CommandError::Field {
                field: "quarantine".into(),
                problem: format!("'{name}' shares the host's network: it has no interface of its own to cut"),
            });
        }
        let reason = reason.unwrap_or_default();
        if reason.len() > MAX_REASON {
            return Err(CommandError::Field {
                field: "quarantine_reason".into(),
                problem: format!("more than {MAX_REASON} bytes"),
            });
        }
        // Asked again it stays as it is, but for other words.
        let since = known.map_or(self.now, |(_, quarantine)| quarantine.since);
        let quarantine = Quarantine {
            reason: reason.to_owned(),
            since,
        };
        if known.map(|(_, quarantine)| quarantine) != Some(&quarantine) {
            let why = if reason.is_empty() {
                String::new()
            } else {
                format!(" ({reason})")
            };
            self.summary.push(format!("workload {name}: in quarantine{why}"));
            self.after.quarantines.insert(id, quarantine);
        }
        Ok(())
    }

    pub(crate) fn set_settings(&mut self, draft: &SettingsDraft) -> Result<(), CommandError> {
        let after = change_settings(&self.after.settings, draft).map_err(|bad| CommandError::Field {
            field: bad.field,
            problem: bad.problem,
        })?;
        if after != self.after.settings {
            self.summary.push(format!(
                "settings: {}",
                draft.keys().cloned().collect::<Vec<_>>().join(", ")
            ));
            self.after.settings = after;
        }
        Ok(())
    }
}

fn fixed(what: &str, why: &'static str) -> CommandError {
    CommandError::Fixed {
        what: what.to_owned(),
        why,
    }
}
