//! The reducer: state, requests, and what the shell asks of it.

mod questions;

use std::collections::{BTreeMap, BTreeSet};

use nv_policy::{PolicyInput, PolicyState, StoredOrder, Touched, encode};
use nv_types::{FlowRecord, GroupName, Mode, NodeId, Revision, RuleId, Timestamp, Workload, keys};

use crate::accord::Pace;
use crate::command::{CriterionDraft, Document, GroupDraft, RuleDraft, RulePatch, SettingsDraft};
use crate::contacts::Contacts;
use crate::conversation::Conversations;
use crate::draft::Draft;
use crate::error::CommandError;
use crate::flows::FlowLog;
use crate::hits::RuleHits;
use crate::learning::Learner;
use crate::promotion::Promotions;
use crate::violation::Violations;

/// What is to be written, in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Keys that must be at these revisions; `None`: not there.
    pub conditions: Vec<(String, Option<Revision>)>,
    /// Values to write.
    pub puts: Vec<(String, Vec<u8>)>,
    /// Keys to delete.
    pub deletes: Vec<String>,
    /// What it changes, in words; also what the audit log says.
    pub summary: Vec<String>,
}

impl Plan {
    /// Whether it changes nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }
}

/// The controller's state.
#[derive(Debug, Default)]
pub struct Controller {
    pub(crate) state: PolicyState,
    /// Revision of each key that policy is made of.
    pub(crate) revisions: BTreeMap<String, Revision>,
    revision: Revision,
    policy_revision: Revision,
    flows: FlowLog,
    conversations: Conversations,
    violations: Violations,
    hits: RuleHits,
    contacts: Contacts,
    pub(crate) learner: Learner,
    pub(crate) promotions: Promotions,
    /// Services whose group is to be made.
    pub(crate) new_services: BTreeSet<GroupName>,
    pub(crate) pace: Pace,
    lost: BTreeMap<String, u64>,
}

impl Controller {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Policy, workloads and nodes.
    #[must_use]
    pub const fn input(&self) -> &PolicyInput {
        self.state.input()
    }

    /// Stored values that cannot be used, by key, with the reason.
    #[must_use]
    pub const fn problems(&self) -> &BTreeMap<String, String> {
        self.state.problems()
    }

    /// The store's revision, as far as it was fed in.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Revision of the last change to policy: what every node should enforce at least.
    #[must_use]
    pub const fn policy_revision(&self) -> Revision {
        self.policy_revision
    }

    // Store.

    /// Takes a stored value. A bad one is in [`Controller::problems`]; its object keeps its last good form.
    pub fn store_put(&mut self, key: &str, value: &[u8], revision: Revision) {
        self.revision = self.revision.max(revision);
        // What a shell has fed in at once after its commit comes again by the store's watch, perhaps after older news.
        if self.revisions.get(key).is_some_and(|known| *known > revision) {
            return;
        }
        self.revisions.insert(key.to_owned(), revision);
        self.promotions.put(key, value);
        // What is wrong with a bad value is kept in the state's problems.
        if let Ok(touched) = self.state.put(key, value) {
            self.touched(touched, revision);
        }
        if let Some(service) = service_of(key) {
            let wanted = self
                .new_services
                .get(service)
                .filter(|service| !self.lacks(service))
                .cloned();
            if let Some(done) = wanted {
                self.new_services.remove(&done);
            }
        } else if let Some((_, id)) = key
            .strip_prefix(keys::WORKLOADS)
            .and_then(|key| key.split_once('/'))
        {
            let workload = self.state.input().workloads.get(id);
            let service = workload.and_then(Workload::service_group);
            let new = service.filter(|service| self.lacks(service));
            self.new_services.extend(new);
        }
    }

    /// Takes a deletion.
    pub fn store_delete(&mut self, key: &str, revision: Revision) {
        self.revision = self.revision.max(revision);
        if self.revisions.get(key).is_some_and(|known| *known > revision) {
            return;
        }
        self.revisions.remove(key);
        self.hits.forget(key);
        self.promotions.delete(key);
        let touched = self.state.delete(key);
        self.touched(touched, revision);
        // What the controller made of workloads that are still there is made again.
        if let Some(service) = service_of(key) {
            let workloads = self.state.input().workloads.values();
            let mut services = workloads.filter_map(Workload::service_group);
            self.new_services
                .extend(services.find(|found| found.as_str() == service));
        }
    }

    /// Takes everything anew: (key, value, revision).
    pub fn store_resync<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (&'a str, &'a [u8], Revision)>,
        revision: Revision,
    ) {
        let entries: Vec<_> = entries.into_iter().collect();
        let policy = |key: &str| key.starts_with(keys::POLICY) || key == keys::SETTINGS;
        let now = entries
            .iter()
            .map(|(key, _, revision)| ((*key).to_owned(), *revision))
            .collect();
        let before = std::mem::replace(&mut self.revisions, now);
        let mut gone = before.keys().filter(|key| !self.revisions.contains_key(*key));
        // When it was deleted is not told: at the latest now.
        let deleted = gone.any(|key| policy(key)).then_some(revision);
        self.hits.retain(&self.revisions);
        self.promotions
            .resync(entries.iter().map(|(key, value, _)| (*key, *value)));
        self.state
            .resync(entries.iter().map(|(key, value, _)| (*key, *value)));
        self.revision = revision;
        let last = entries
            .iter()
            .filter(|(key, ..)| policy(key))
            .map(|(.., revision)| *revision)
            .chain(deleted)
            .max();
        self.policy_revision = self.policy_revision.max(last.unwrap_or_default());
        self.find_new_services();
    }

    fn touched(&mut self, touched: Touched, revision: Revision) {
        if touched == Touched::Policy {
            self.policy_revision = self.policy_revision.max(revision);
        }
    }

    pub(crate) fn find_new_services(&mut self) {
        let workloads = self.state.input().workloads.values();
        self.new_services = workloads
            .filter_map(Workload::service_group)
            .filter(|service| self.lacks(service))
            .collect();
    }

    /// Whether a service's group or mode is to be made.
    fn lacks(&self, service: &GroupName) -> bool {
        let is_stored = |key: &str| self.revisions.contains_key(key);
        !is_stored(&keys::group(service)) || !is_stored(&keys::mode(service))
    }

    // Nodes.

    /// Notes that a node's agent was heard of.
    pub fn heard(&mut self, node: &NodeId, now: Timestamp) {
        self.contacts.heard(node, now);
    }

    /// Whether a node's agent was heard of lately.
    #[must_use]
    pub fn is_connected(&self, node: &NodeId, now: Timestamp) -> bool {
        self.contacts.is_connected(node, now)
    }

    // Requests.

    fn change(
        &self,
        now: Timestamp,
        work: impl FnOnce(&mut Draft<'_>) -> Result<(), CommandError>,
    ) -> Result<Plan, CommandError> {
        let mut draft = Draft::new(self.state.input(), now);
        work(&mut draft)?;
        let changes = draft.finish()?;
        let mut plan = Plan {
            summary: changes.summary,
            ..Plan::default()
        };
        for (key, value) in changes.values {
            plan.conditions
                .push((key.clone(), self.revisions.get(&key).copied()));
            match value {
                Some(value) => plan.puts.push((key, value)),
                None => plan.deletes.push(key),
            }
        }
        self.sign_deletions(&mut plan)?;
        Ok(plan)
    }

    /// Writes the order of the rules along with deletions, as it is if nothing else changes it: what is deleted has no revision any more,
    /// and a controller that was not there shall still see that policy changed then.
    fn sign_deletions(&self, plan: &mut Plan) -> Result<(), CommandError> {
        let is_policy = |key: &str| key.starts_with(keys::POLICY);
        if plan.deletes.iter().any(|key| is_policy(key)) && !plan.puts.iter().any(|(key, _)| is_policy(key)) {
            let key = keys::ORDER.to_owned();
            let rules = self.state.order();
            let value = encode(&key, &StoredOrder { rules })?;
            plan.conditions
                .push((key.clone(), self.revisions.get(&key).copied()));
            plan.puts.push((key, value));
        }
        Ok(())
    }

    /// Makes a group.
    ///
    /// # Errors
    /// [`CommandError`] that names the field.
    pub fn create_group(&self, draft: &GroupDraft, now: Timestamp) -> Result<Plan, CommandError> {
        self.change(now, |policy| policy.create_group(draft))
    }

    /// Changes a group that a user made; `None` leaves a field as it is.
    ///
    /// # Errors
    /// [`CommandError`] that names the field.
    pub fn patch_group(
        &self,
        name: &str,
        comment: Option<&str>,
        criteria: Option<&[CriterionDraft]>,
        now: Timestamp,
    ) -> Result<Plan, CommandError> {
        self.change(now, |policy| policy.patch_group(name, comment, criteria))
    }

    /// Deletes a group that nothing uses.
    ///
    /// # Errors
    /// [`CommandError::InUse`] with what uses it.
    pub fn delete_group(&self, name: &str, now: Timestamp) -> Result<Plan, CommandError> {
        self.change(now, |policy| policy.delete_group(name))
    }

    /// Inserts rules at a place: `None` the end, 0 the start, `n` after rule n, `-n` before rule n.
    ///
    /// # Errors
    /// [`CommandError`] that names the field.
    pub fn insert_rules(
        &self,
        after: Option<i64>,
        rules: &[RuleDraft],
        now: Timestamp,
    ) -> Result<Plan, CommandError> {
        self.change(now, |policy| policy.insert_rules(after, rules))
    }

    /// Moves a rule; `after` as for [`Controller::insert_rules`].
    ///
    /// # Errors
    /// [`CommandError`] that names the rule.
    pub fn move_rule(&self, id: RuleId, after: Option<i64>, now: Timestamp) -> Result<Plan, CommandError> {
        self.change(now, |policy| policy.move_rule(id, after))
    }

    /// Replaces all user rules.
    ///
    /// # Errors
    /// [`CommandError`] that names the field.
    pub fn replace_rules(&self, rules: &[RuleDraft], now: Timestamp) -> Result<Plan, CommandError> {
        self.change(now, |policy| policy.replace_rules(rules))
    }

    /// Changes a rule that a user made.
    ///
    /// # Errors
    /// [`CommandError`] that names the field.
    pub fn patch_rule(&self, id: RuleId, patch: &RulePatch, now: Timestamp) -> Result<Plan, CommandError> {
        self.change(now, |policy| policy.patch_rule(id, patch))
    }

    /// Deletes rules.
    ///
    /// # Errors
    /// [`CommandError::NotFound`] with the first that is not there.
    pub fn delete_rules(&self, ids: &[RuleId], now: Timestamp) -> Result<Plan, CommandError> {
        self.change(now, |policy| {
            ids.iter().try_for_each(|id| policy.delete_rule(*id))
        })
    }

    /// Sets the mode of services.
    ///
    /// # Errors
    /// [`CommandError::NotFound`] with the first that is not there.
    pub fn set_modes(&self, services: &[String], mode: Mode, now: Timestamp) -> Result<Plan, CommandError> {
        self.change(now, |policy| {
            services
                .iter()
                .try_for_each(|service| policy.set_mode(service, mode))
        })
    }

    /// Cuts a workload off whatever the policy says, or lets it back. It holds for its id, until it is lifted: one that ended can still be
    /// let back.
    ///
    /// # Errors
    /// [`CommandError::NotFound`], or that it has no interface of its own.
    pub fn set_quarantine(
        &self,
        workload: &str,
        quarantine: bool,
        reason: Option<&str>,
        now: Timestamp,
    ) -> Result<Plan, CommandError> {
        self.change(now, |policy| policy.set_quarantine(workload, reason, quarantine))
    }

    /// Changes settings.
    ///
    /// # Errors
    /// [`CommandError`] that names the setting.
    pub fn patch_settings(&self, draft: &SettingsDraft, now: Timestamp) -> Result<Plan, CommandError> {
        self.change(now, |policy| policy.set_settings(draft))
    }

    /// Applies the documents of a policy file: whole or not at all.
    ///
    /// # Errors
    /// [`CommandError`] that names document and field.
    pub fn apply(&self, documents: &[Document], now: Timestamp) -> Result<Plan, CommandError> {
        self.change(now, |policy| policy.apply(documents))
    }

    // Reports and what comes of them.

    /// Takes flow records from a node.
    pub fn report_flows(&mut self, records: &[FlowRecord], now: Timestamp) {
        let input = self.state.input();
        self.contacts.reports(now);
        let mut told: Option<&NodeId> = None;
        for record in records {
            if told != Some(&record.node) {
                told = Some(&record.node);
                self.contacts.heard(&record.node, now);
            }
        }
        for record in records {
            // Of either end's word: one that saw a violation is enough.
            self.promotions.take(record, input, now);
            let Some(delta) = self
                .flows
                .take(record, input, |node| self.contacts.tells(node, now))
            else {
                continue;
            };
            self.conversations.take(record, &delta, input);
            self.violations.take(record, &delta, input, now);
            if delta.is_decided {
                self.hits.take(record, &self.revisions);
            }
            self.learner.take(record, input, now);
        }
    }

    /// Counts records that were lost on the way, by stage.
    pub fn report_lost(&mut self, stage: &str, count: u64) {
        let sum = self.lost.entry(stage.to_owned()).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Records lost on the way or here, by stage.
    #[must_use]
    pub fn lost(&self) -> BTreeMap<String, u64> {
        let mut lost = self.lost.clone();
        lost.insert("controller_conversations".into(), self.conversations.dropped());
        lost.insert("controller_flows".into(), self.flows.forgotten());
        lost.insert("controller_learning".into(), self.learner.dropped());
        lost.insert("controller_violations".into(), self.violations.dropped());
        lost
    }
}

/// The service whose group or mode a key is of.
fn service_of(key: &str) -> Option<&str> {
    key.strip_prefix(keys::GROUPS)
        .or_else(|| key.strip_prefix(keys::MODES))
}
