//! Rules of a draft: made, changed, moved, deleted.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Rule, RuleId, Tier};

use super::{Draft, fixed};
use crate::command::{RuleDraft, RulePatch};
use crate::error::CommandError;

impl Draft<'_> {
    /// Adds a rule at the end, or replaces the one with its id where it stands.
    pub(super) fn put_rule(&mut self, draft: &RuleDraft) -> Result<RuleId, CommandError> {
        let rule = self.read_rule(draft)?;
        let id = rule.id;
        if !self.ids.insert(id.0) {
            self.replace(rule);
            return Ok(id);
        }
        self.describe(&rule, "added");
        self.after.rules.push(rule);
        Ok(id)
    }

    /// A draft with its number.
    fn read_rule(&self, draft: &RuleDraft) -> Result<Rule, CommandError> {
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
        draft.read(id, self.now)
    }

    /// Puts a rule in the place of the one with its id; one that says the same is left as it is.
    fn replace(&mut self, rule: Rule) {
        let Some(known) = self.after.rules.iter_mut().find(|known| known.id == rule.id) else {
            return;
        };
        let rule = Rule {
            created: known.created,
            ..rule
        };
        let same = Rule {
            modified: known.modified,
            ..rule.clone()
        };
        if *known != same {
            *known = rule.clone();
            self.describe(&rule, "changed");
        }
    }

    pub(crate) fn insert_rules(
        &mut self,
        after: Option<i64>,
        drafts: &[RuleDraft],
    ) -> Result<(), CommandError> {
        // Each goes behind the one before it.
        let mut after = after;
        for draft in drafts {
            if self.ids.contains(&draft.id) {
                return Err(CommandError::Exists {
                    what: "rule",
                    name: draft.id.to_string(),
                });
            }
            let id = self.put_rule(draft)?;
            if after.is_some() {
                self.place(id, after)?;
                after = Some(i64::from(id.0));
            }
        }
        Ok(())
    }

    pub(crate) fn move_rule(&mut self, id: RuleId, after: Option<i64>) -> Result<(), CommandError> {
        self.known(id)?;
        if self.place(id, after)?
            && let Some(rule) = self.after.rules.iter().find(|rule| rule.id == id).cloned()
        {
            self.describe(&rule, "moved");
        }
        Ok(())
    }

    /// Puts a rule where NeuVector's `after` says. Gives whether it stood elsewhere.
    pub(super) fn place(&mut self, id: RuleId, after: Option<i64>) -> Result<bool, CommandError> {
        let at = self.known(id)?;
        let field = |problem: String| CommandError::Field {
            field: "after".into(),
            problem,
        };
        let before: Vec<RuleId> = self.tier_of(id).collect();
        let anchor = match after {
            None | Some(0) => None,
            Some(number) => {
                let wanted = RuleId(u32::try_from(number.unsigned_abs()).unwrap_or(u32::MAX));
                if wanted == id {
                    return Err(field(format!("rule {id} cannot stand before or after itself")));
                }
                let anchor = self.known(wanted).map_err(|problem| field(problem.to_string()))?;
                // The rule itself is taken out of the list first.
                let anchor = anchor - usize::from(at < anchor);
                Some(if number > 0 { anchor + 1 } else { anchor })
            }
        };
        let rule = self.after.rules.remove(at);
        let place = match (after, anchor) {
            (_, Some(place)) => place,
            (Some(_), None) => 0,
            (None, None) => self.after.rules.len(),
        };
        self.after.rules.insert(place, rule);
        Ok(!self.tier_of(id).eq(before))
    }

    /// The rules among which a rule's place matters, in order.
    fn tier_of(&self, id: RuleId) -> impl Iterator<Item = RuleId> + '_ {
        let ids = self.after.rules.iter().map(|rule| rule.id);
        ids.filter(move |other| other.tier() == id.tier())
    }

    pub(crate) fn patch_rule(&mut self, id: RuleId, patch: &RulePatch) -> Result<(), CommandError> {
        let at = self.known(id)?;
        if id.tier() != Some(Tier::User) {
            return Err(fixed(
                &format!("rule {id}"),
                "only rules that a user made can be changed; delete it or make one above it",
            ));
        }
        if let Some(rule) = self.after.rules.get(at) {
            let mut rule = rule.clone();
            patch.change(&mut rule)?;
            rule.modified = self.now;
            self.replace(rule);
        }
        Ok(())
    }

    pub(crate) fn delete_rule(&mut self, id: RuleId) -> Result<(), CommandError> {
        let at = self.known(id)?;
        self.after.rules.remove(at);
        self.ids.remove(&id.0);
        self.summary.push(format!("rule {id} deleted"));
        Ok(())
    }

    /// The user rules become these, in this order; what is there already keeps when it was made.
    pub(crate) fn replace_rules(&mut self, drafts: &[RuleDraft]) -> Result<(), CommandError> {
        let mut keep = BTreeSet::new();
        for (at, id) in drafts.iter().map(|draft| draft.id).enumerate() {
            if id != 0 && !keep.insert(id) {
                return Err(CommandError::Field {
                    field: format!("rules[{at}].id"),
                    problem: format!("rule {id} is in the list twice"),
                });
            }
        }
        let is_gone = |rule: &Rule| rule.tier() == Tier::User && !keep.contains(&rule.id.0);
        for rule in self.after.rules.extract_if(.., |rule| is_gone(rule)) {
            self.ids.remove(&rule.id.0);
            self.summary.push(format!("rule {} deleted", rule.id));
        }
        let ids: Vec<RuleId> = drafts
            .iter()
            .map(|draft| self.put_rule(draft))
            .collect::<Result<_, _>>()?;
        let places: BTreeMap<RuleId, usize> = ids.into_iter().zip(0..).collect();
        self.after.rules.sort_by_key(|rule| places.get(&rule.id));
        Ok(())
    }

    fn known(&self, id: RuleId) -> Result<usize, CommandError> {
        let at = self.after.rules.iter().position(|rule| rule.id == id);
        at.ok_or_else(|| CommandError::NotFound {
            what: "rule",
            name: id.to_string(),
        })
    }

    /// One above the highest, else the smallest that is free.
    fn free_id(&self) -> Result<RuleId, CommandError> {
        let (first, last) = RuleId::USER;
        let above = self
            .ids
            .range(first..=last)
            .next_back()
            .map_or(first, |highest| highest + 1);
        let id = if above <= last {
            Some(above)
        } else {
            (first..=last).find(|id| !self.ids.contains(id))
        };
        let limit = usize::try_from(last).unwrap_or(usize::MAX);
        id.map(RuleId).ok_or(CommandError::Limit {
            what: "rules that users make",
            count: limit + 1,
            limit,
        })
    }

    fn describe(&mut self, rule: &Rule, word: &str) {
        self.summary.push(format!(
            "rule {} {word}: {} {} -> {} {}",
            rule.id, rule.action, rule.from, rule.to, rule.ports
        ));
    }
}
