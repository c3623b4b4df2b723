//! From the rules that layers make to the policies that they were made of.

use nv_types::{Action, Direction};

use super::{Draft, Policies, Statement};
use crate::interchange::ends::End;

impl Policies {
    /// The policies that give exactly these rules, if there are any.
    pub(super) fn from_drafts(drafts: &[Draft]) -> Option<Self> {
        let mut policies = Self::default();
        policies.find_isolated(drafts);
        for draft in drafts {
            if let (End::Nodes, End::Pods(sel)) = (&draft.from, &draft.to)
                && *draft == Draft::any(End::Nodes, draft.to.clone(), Action::Allow)
            {
                policies.selected.insert(sel.clone());
            }
        }
        let last = drafts
            .iter()
            .rposition(|draft| draft.to == End::Nodes && draft.action == Action::Allow)?;
        let first = (last + 1).checked_sub(2 * policies.selected.len())?;
        let before = drafts.get(..first)?;
        let begin = before
            .iter()
            .rposition(|draft| draft.action == Action::Deny)
            .map_or(0, |place| place + 1);
        for draft in before.get(begin..)? {
            policies.restate(draft, Direction::Ingress)?;
        }
        // Where nobody is isolated in this direction, only the opened pods of layer 5 stand here.
        if !policies.egress.isolated.is_empty() {
            let after = drafts.get(last + 1..)?;
            for draft in after.iter().take_while(|draft| draft.action == Action::Allow) {
                policies.restate(draft, Direction::Egress)?;
            }
        }
        let run = drafts
            .iter()
            .take_while(|draft| draft.action == Action::Deny)
            .count();
        // Without layer 1, the denials of layer 2 follow the explicit ones at once.
        let explicit = if run == begin {
            run.checked_sub(policies.ingress.isolated.len() * policies.egress.isolated.len())?
        } else {
            run
        };
        for draft in drafts.get(..explicit)? {
            policies.redeny(draft);
        }
        let exact = policies.drafts().is_some_and(|again| again == drafts);
        exact.then_some(policies)
    }

    /// Pods to which, or from which, everything is denied: first the outside, then every workload.
    fn find_isolated(&mut self, drafts: &[Draft]) {
        for pair in drafts.windows(2) {
            let [outside, inside] = pair else { continue };
            let closes = |draft: &Draft, from: &End, to: &End| {
                *draft == Draft::any(from.clone(), to.clone(), Action::Deny)
            };
            if let Some(sel) = outside.to.pods()
                && closes(outside, &End::External, &outside.to)
                && closes(inside, &End::all(), &outside.to)
            {
                self.ingress.isolated.insert(sel.clone());
            }
            if let Some(sel) = outside.from.pods()
                && closes(outside, &outside.from, &End::External)
                && closes(inside, &outside.from, &End::all())
            {
                self.egress.isolated.insert(sel.clone());
            }
        }
    }

    fn restate(&mut self, draft: &Draft, direction: Direction) -> Option<()> {
        let (subject, peer) = match direction {
            Direction::Ingress => (&draft.to, &draft.from),
            Direction::Egress => (&draft.from, &draft.to),
        };
        let statement = Statement {
            subject: subject.pods()?.clone(),
            peer: peer.clone(),
            ports: draft.ports.clone(),
            applications: draft.applications.clone(),
        };
        self.say(direction, Action::Allow, statement);
        Some(())
    }

    /// An explicit denial can be said on either side; the server says it, if some policy selects it.
    fn redeny(&mut self, draft: &Draft) {
        let (direction, subject, peer) = match (&draft.from, &draft.to) {
            (peer, End::Pods(subject)) if self.selects(subject) => (Direction::Ingress, subject, peer),
            (End::Pods(subject), peer) => (Direction::Egress, subject, peer),
            _ => return,
        };
        let statement = Statement {
            subject: subject.clone(),
            peer: peer.clone(),
            ports: draft.ports.clone(),
            applications: draft.applications.clone(),
        };
        self.say(direction, Action::Deny, statement);
    }
}
