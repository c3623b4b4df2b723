//! What a draft comes to, once it holds together: the values that differ.

use std::collections::BTreeMap;

use nv_policy::{PolicyInput, StoredMode, StoredOrder, compile, encode, validate_rule};
use nv_types::{Group, GroupName, Revision, Rule, RuleId, keys};

use super::{Changes, Draft};
use crate::error::CommandError;

impl Draft<'_> {
    /// The policy as it would be, and what changes in words.
    pub(crate) fn proposed(mut self) -> Result<(PolicyInput, Vec<String>), CommandError> {
        self.settle()?;
        Ok((self.after, self.summary))
    }

    fn settle(&mut self) -> Result<(), CommandError> {
        self.after.rules.sort_by_key(Rule::tier);
        self.check_rules()
    }

    /// Checks all of it and says what is to be written.
    pub(crate) fn finish(mut self) -> Result<Changes, CommandError> {
        self.settle()?;
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
        for (id, quarantine) in &self.after.quarantines {
            if self.before.quarantines.get(id) != Some(quarantine) {
                let key = keys::quarantine(id);
                let value = encode(&key, quarantine)?;
                values.insert(key, Some(value));
            }
        }
        let lifted = self.before.quarantines.keys();
        for id in lifted.filter(|id| !self.after.quarantines.contains_key(*id)) {
            values.insert(keys::quarantine(id), None);
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
        let before: BTreeMap<RuleId, &Rule> = self.before.rules.iter().map(|rule| (rule.id, rule)).collect();
        let mut by_application = false;
        for rule in &self.after.rules {
            let is_new = before.get(&rule.id) != Some(&rule);
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
        // In the order in which they are tried, so that what a user sees is the list that the next request starts from.
        let old = self.before.ordered_rules().map(|rule| rule.id);
        let new = StoredOrder {
            rules: self.after.rules.iter().map(|rule| rule.id).collect(),
        };
        if !old.eq(new.rules.iter().copied()) {
            values.insert(keys::ORDER.to_owned(), Some(encode(keys::ORDER, &new)?));
        }
        Ok(())
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
