//! A policy that is being changed: all of a request is done on a copy, checked as a whole, and compared with what was.

use std::collections::{BTreeMap, BTreeSet};

use nv_policy::{PolicyInput, StoredMode, StoredOrder, compile, encode, validate_group, validate_rule};
use nv_types::{Group, GroupName, Mode, Revision, Rule, RuleId, Tier, Timestamp, keys, reserved};

use crate::command::{GroupDraft, RuleDraft, RulePatch, SettingsDraft, name, settings};
use crate::error::CommandError;

/// Most groups that a user may make.
const MAX_GROUPS: usize = 10_000;

/// A copy to change.
pub(crate) struct Draft<'a> {
    before: &'a PolicyInput,
    after: PolicyInput,
    now: Timestamp,
    pub(crate) summary: Vec<String>,
}

/// What a draft comes to: keys with their new value, `None` for a deletion, and what changed in words.
pub(crate) struct Changes {
    pub(crate) values: BTreeMap<String, Option<Vec<u8>>>,
    pub(crate) summary: Vec<String>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(before: &'a PolicyInput, now: Timestamp) -> Self {
        Self {
            before,
            after: before.clone(),
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
    pub(crate) fn put_group(&mut self, group: Group) -> Result<(), CommandError> {
        validate_group(&group).map_err(|problem| CommandError::Group {
            name: group.name.clone(),
            problem,
        })?;
        let word = if self.after.groups.contains_key(&group.name) {
            "changed"
        } else {
            "added"
        };
        self.summary.push(format!("group {} {word}", group.name));
        self.after.groups.insert(group.name.clone(), group);
        let count = self.after.groups.len();
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
        criteria: Option<&[crate::CriterionDraft]>,
    ) -> Result<(), CommandError> {
        let group = self.group(text)?.clone();
        if group.origin != Some(Tier::User) {
            return Err(fixed(text, "only groups that a user made can be changed"));
        }
        let mut draft = GroupDraft {
            name: text.to_owned(),
            comment: group.comment.clone(),
            criteria: Vec::new(),
        };
        if let Some(comment) = comment {
            comment.clone_into(&mut draft.comment);
        }
        let mut changed = group;
        changed.comment.clone_from(&draft.comment);
        if let Some(criteria) = criteria {
            draft.criteria = criteria.to_vec();
            changed = draft.read()?;
        }
        self.put_group(changed)
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
            return Err(fixed(text, "the group is reserved by the system"));
        }
        self.after.groups.get(text).ok_or_else(|| CommandError::NotFound {
            what: "group",
            name: text.to_owned(),
        })
    }

    /// Adds a rule, or replaces the one with its id.
    pub(crate) fn put_rule(&mut self, draft: &RuleDraft) -> Result<RuleId, CommandError> {
        let id = if draft.id == 0 {
            self.free_id()?
        } else {
            RuleId(draft.id)
        };
        if id.tier() != Some(Tier::User) {
            let (first, last) = RuleId::USER;
            let problem = format!("{id} is not from {first} to {last}, the range of rules that users make");
            return Err(CommandError::Field {
                field: "id".into(),
                problem,
            });
        }
        let mut rule = draft.read(id, self.now)?;
        match self.after.rules.iter().position(|known| known.id == id) {
            Some(at) => {
                rule.created = self.after.rules[at].created;
                self.after.rules[at] = rule;
                self.describe(id, "changed");
                if draft.after.is_some() {
                    self.move_rule(id, draft.after)?;
                }
            }
            None => {
                self.after.rules.push(rule);
                self.describe(id, "added");
                self.place(id, draft.after)?;
            }
        }
        Ok(id)
    }

    pub(crate) fn insert_rules(
        &mut self,
        after: Option<i64>,
        drafts: &[RuleDraft],
    ) -> Result<(), CommandError> {
        // Each goes behind the one before it.
        let mut after = after;
        for draft in drafts {
            if draft.id != 0 && self.after.rules.iter().any(|rule| rule.id.0 == draft.id) {
                return Err(CommandError::Exists {
                    what: "rule",
                    name: draft.id.to_string(),
                });
            }
            let id = self.put_rule(&RuleDraft {
                after,
                ..draft.clone()
            })?;
            if after.is_some() {
                after = Some(i64::from(id.0));
            }
        }
        Ok(())
    }

    pub(crate) fn move_rule(&mut self, id: RuleId, after: Option<i64>) -> Result<(), CommandError> {
        self.known(id)?;
        self.describe(id, "moved");
        self.place(id, after)
    }

    /// Puts a rule where NeuVector's `after` says.
    fn place(&mut self, id: RuleId, after: Option<i64>) -> Result<(), CommandError> {
        let Some(at) = self.after.rules.iter().position(|rule| rule.id == id) else {
            return Ok(());
        };
        let anchor = match after {
            None | Some(0) => None,
            Some(number) => {
                let wanted = u32::try_from(number.unsigned_abs()).unwrap_or(u32::MAX);
                if wanted == id.0 {
                    let problem = format!("rule {id} cannot stand before or after itself");
                    return Err(CommandError::Field {
                        field: "after".into(),
                        problem,
                    });
                }
                Some(
                    self.known(RuleId(wanted))
                        .map_err(|problem| CommandError::Field {
                            field: "after".into(),
                            problem: problem.to_string(),
                        })?,
                )
            }
        };
        let rule = self.after.rules.remove(at);
        let place = match (after, anchor) {
            (Some(0), _) => 0,
            (Some(number), Some(_)) => {
                let wanted = u32::try_from(number.unsigned_abs()).unwrap_or(u32::MAX);
                let at = self
                    .after
                    .rules
                    .iter()
                    .position(|rule| rule.id.0 == wanted)
                    .unwrap_or(0);
                if number > 0 { at + 1 } else { at }
            }
            (None | Some(_), _) => self.after.rules.len(),
        };
        self.after.rules.insert(place, rule);
        Ok(())
    }

    pub(crate) fn patch_rule(&mut self, id: RuleId, patch: &RulePatch) -> Result<(), CommandError> {
        let at = self.known(id)?;
        if id.tier() != Some(Tier::User) {
            return Err(fixed(
                &format!("rule {id}"),
                "only rules that a user made can be changed; delete it or make one above it",
            ));
        }
        if let Some(rule) = self.after.rules.get_mut(at) {
            patch.change(rule)?;
            rule.modified = self.now;
        }
        self.describe(id, "changed");
        Ok(())
    }

    pub(crate) fn delete_rule(&mut self, id: RuleId) -> Result<(), CommandError> {
        let at = self.known(id)?;
        self.after.rules.remove(at);
        self.summary.push(format!("rule {id} deleted"));
        Ok(())
    }

    /// The user rules become these, in this order; ids that are there already keep what was made when.
    pub(crate) fn replace_rules(&mut self, drafts: &[RuleDraft]) -> Result<(), CommandError> {
        let keep: BTreeSet<u32> = drafts.iter().map(|draft| draft.id).collect();
        let gone: Vec<_> = self
            .after
            .rules
            .iter()
            .filter(|rule| rule.tier() == Tier::User && !keep.contains(&rule.id.0))
            .map(|rule| rule.id)
            .collect();
        gone.into_iter().try_for_each(|id| self.delete_rule(id))?;
        for draft in drafts {
            let id = self.put_rule(&RuleDraft {
                after: None,
                ..draft.clone()
            })?;
            self.place(id, None)?;
        }
        Ok(())
    }

    fn known(&self, id: RuleId) -> Result<usize, CommandError> {
        self.after
            .rules
            .iter()
            .position(|rule| rule.id == id)
            .ok_or_else(|| CommandError::NotFound {
                what: "rule",
                name: id.to_string(),
            })
    }

    /// One above the highest, else the smallest that is free.
    fn free_id(&self) -> Result<RuleId, CommandError> {
        let (first, last) = RuleId::USER;
        let used: BTreeSet<u32> = self.after.rules.iter().map(|rule| rule.id.0).collect();
        let above = used
            .range(first..=last)
            .next_back()
            .map_or(first, |highest| highest + 1);
        let id = if above <= last {
            Some(above)
        } else {
            (first..=last).find(|id| !used.contains(id))
        };
        let limit = usize::try_from(last).unwrap_or(usize::MAX);
        id.map(RuleId).ok_or(CommandError::Limit {
            what: "rules that users make",
            count: limit + 1,
            limit,
        })
    }

    fn describe(&mut self, id: RuleId, word: &str) {
        if let Some(rule) = self.after.rules.iter().find(|rule| rule.id == id) {
            let line = format!(
                "rule {id} {word}: {} {} -> {} {}",
                rule.action, rule.from, rule.to, rule.ports
            );
            self.summary.push(line);
        }
    }

    /// Sets the mode of a service, named by itself or by its group, or of `nodes`.
    pub(crate) fn set_mode(&mut self, service: &str, mode: Mode) -> Result<(), CommandError> {
        let group = if service == reserved::NODES {
            name("service", service)?
        } else {
            let found = [service.to_owned(), format!("nv.{service}")]
                .into_iter()
                .find_map(|text| self.after.groups.get(text.as_str()));
            let group = found.ok_or_else(|| CommandError::NotFound {
                what: "service",
                name: service.to_owned(),
            })?;
            if !group.has_mode() {
                return Err(fixed(
                    service,
                    "only services (groups nv.*) and 'nodes' have a mode",
                ));
            }
            group.name.clone()
        };
        if self.after.modes.insert(group.clone(), mode) != Some(mode) {
            self.summary.push(format!("service {group}: {mode}"));
        }
        Ok(())
    }

    pub(crate) fn set_settings(&mut self, draft: &SettingsDraft) -> Result<(), CommandError> {
        let after = settings(&self.after.settings, draft)?;
        if after != self.after.settings {
            self.summary.push(format!(
                "settings: {}",
                draft.keys().cloned().collect::<Vec<_>>().join(", ")
            ));
            self.after.settings = after;
        }
        Ok(())
    }

    /// Checks all of it and says what is to be written.
    pub(crate) fn finish(self) -> Result<Changes, CommandError> {
        self.check_rules()?;
        let mut values = BTreeMap::new();
        diff_groups(&self.before.groups, &self.after.groups, &mut values)?;
        self.diff_rules(&mut values)?;
        for (group, mode) in &self.after.modes {
            if self.before.modes.get(group) != Some(mode) {
                let key = keys::mode(group);
                let value = encode(&key, &StoredMode { mode: *mode })?;
                values.insert(key, Some(value));
            }
        }
        for group in self
            .before
            .modes
            .keys()
            .filter(|group| !self.after.modes.contains_key(*group))
        {
            values.insert(keys::mode(group), None);
        }
        if self.before.settings != self.after.settings {
            values.insert(
                keys::SETTINGS.to_owned(),
                Some(encode(keys::SETTINGS, &self.after.settings)?),
            );
        }
        Ok(Changes {
            values,
            summary: self.summary,
        })
    }

    fn check_rules(&self) -> Result<(), CommandError> {
        let mut by_application = false;
        for rule in &self.after.rules {
            let is_new = self.before.rules.iter().all(|known| known != rule);
            by_application |= is_new && !rule.applications.is_empty();
            match validate_rule(rule, &self.after) {
                Ok(()) => {}
                Err(problem) if is_new => return Err(CommandError::Rule { id: rule.id, problem }),
                // A rule of before that does not hold any more: the request took its group away.
                Err(nv_policy::InvalidRule::UnknownGroup { name, .. })
                    if self.before.groups.contains_key(&name) =>
                {
                    let users: Vec<_> = self
                        .after
                        .rules
                        .iter()
                        .filter(|rule| rule.from == name || rule.to == name)
                        .map(|rule| rule.id.to_string())
                        .collect();
                    return Err(CommandError::InUse {
                        name,
                        by: format!("rules {}", users.join(", ")),
                    });
                }
                Err(_) => {}
            }
        }
        // Only applications can make a policy that does not fit a chain.
        if by_application {
            for node in self.after.nodes.keys() {
                compile(&self.after, node, Revision(0))?;
            }
        }
        Ok(())
    }

    fn diff_rules(&self, values: &mut BTreeMap<String, Option<Vec<u8>>>) -> Result<(), CommandError> {
        let before: BTreeMap<RuleId, &Rule> = self.before.rules.iter().map(|rule| (rule.id, rule)).collect();
        let after: BTreeMap<RuleId, &Rule> = self.after.rules.iter().map(|rule| (rule.id, rule)).collect();
        for (id, rule) in &after {
            if before.get(id) != Some(rule) {
                let key = keys::rule(*id);
                let value = encode(&key, rule)?;
                values.insert(key, Some(value));
            }
        }
        for id in before.keys().filter(|id| !after.contains_key(id)) {
            values.insert(keys::rule(*id), None);
        }
        let order = |rules: &[Rule]| StoredOrder {
            rules: rules.iter().map(|rule| rule.id).collect(),
        };
        let (old, new) = (order(&self.before.rules), order(&self.after.rules));
        if old != new {
            values.insert(keys::ORDER.to_owned(), Some(encode(keys::ORDER, &new)?));
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

fn diff_groups(
    before: &BTreeMap<GroupName, Group>,
    after: &BTreeMap<GroupName, Group>,
    values: &mut BTreeMap<String, Option<Vec<u8>>>,
) -> Result<(), CommandError> {
    for (name, group) in after {
        if before.get(name) != Some(group) {
            let key = keys::group(name);
            let value = encode(&key, group)?;
            values.insert(key, Some(value));
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        values.insert(keys::group(name), None);
    }
    Ok(())
}
