//! What can be asked of the controller: who talks to whom, flows, and what becomes of one.

use std::collections::{BTreeMap, BTreeSet};

use nv_policy::Book;
use nv_types::{GroupName, RuleId, Timestamp, Workload};

use super::Controller;
use crate::command::Document;
use crate::conversation::Conversation;
use crate::draft::Draft;
use crate::error::CommandError;
use crate::explain::{Asked, UnknownEnd};
use crate::flows::{FlowView, Followed};
use crate::hits::Hits;
use crate::simulation::Simulation;
use crate::violation::Violation;

impl Controller {
    /// Conversations.
    #[must_use]
    pub fn conversations(&self) -> Vec<Conversation> {
        self.conversations.list()
    }

    /// Violations, newest last.
    pub fn violations(&self) -> impl DoubleEndedIterator<Item = &Violation> {
        self.violations.list()
    }

    /// What a rule has decided since the start.
    #[must_use]
    pub fn hits(&self, rule: RuleId) -> Hits {
        self.hits.of(rule)
    }

    /// The newest flows that are to be kept, oldest first, at most `limit`.
    #[must_use]
    pub fn flows(&self, keep: impl Fn(&FlowView) -> bool, limit: usize) -> Vec<FlowView> {
        self.flows.newest(keep, limit)
    }

    /// Flows after a sequence number, for followers.
    #[must_use]
    pub fn flows_after(&self, sequence: u64, keep: impl Fn(&FlowView) -> bool) -> Followed {
        self.flows.after(sequence, keep)
    }

    /// What a policy file would make of the flows that are kept: all is taken along, to be judged elsewhere.
    ///
    /// # Errors
    /// [`CommandError`] that names document and field, as [`Controller::apply`].
    pub fn simulation(
        &self,
        documents: &[Document],
        keep: impl Fn(&FlowView) -> bool,
        now: Timestamp,
    ) -> Result<Simulation, CommandError> {
        let mut draft = Draft::new(self.state.input(), now);
        draft.apply(documents)?;
        let (after, summary) = draft.proposed()?;
        let flows = self.flows.all().filter(|view| keep(view));
        Ok(Simulation::new(self.state.input().clone(), after, summary, flows))
    }

    /// Number of the last flow that was seen.
    #[must_use]
    pub const fn flow_sequence(&self) -> u64 {
        self.flows.sequence()
    }

    /// What becomes of a flow, and why.
    ///
    /// # Errors
    /// [`UnknownEnd`] when an end is nobody.
    pub fn explain(&self, asked: &Asked) -> Result<nv_policy::Explanation, UnknownEnd> {
        crate::explain::explain(self.state.input(), asked)
    }

    /// Names of the groups that a workload is in.
    #[must_use]
    pub fn groups_of(&self, workload: &Workload) -> BTreeSet<GroupName> {
        Book::new(self.state.input()).workload(workload).groups
    }

    /// Members of each group, by group.
    #[must_use]
    pub fn members(&self) -> BTreeMap<GroupName, Vec<&Workload>> {
        let input = self.state.input();
        let book = Book::new(input);
        let mut members: BTreeMap<GroupName, Vec<&Workload>> = BTreeMap::new();
        for workload in input.workloads.values() {
            for group in book.workload(workload).groups {
                members.entry(group).or_default().push(workload);
            }
        }
        members
    }
}
