//! What another policy would have made of flows that were seen.

use std::net::IpAddr;

use nv_types::{Application, Decision, IpProto, Mode, WorkloadId};

use crate::input::PolicyInput;
use crate::party::{Book, Party};
use crate::reference::evaluate;

/// One end of a flow, as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A workload. One that an input does not know is not managed there, and in no group but `external`.
    Workload(WorkloadId),
    /// Whoever is at this address.
    Address(IpAddr),
}

/// A flow that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opened it.
    pub client: End,
    /// Who was asked.
    pub server: End,
    /// Protocol.
    pub proto: IpProto,
    /// Server port; 0 for protocols without.
    pub port: u16,
    /// Application; [`Application::UNKNOWN`] if it was not recognized.
    pub app: Application,
}

/// A flow whose verdict would be another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its place in the list of flows.
    pub flow: usize,
    /// What the old policy says, and the mode that counts.
    pub before: (Decision, Option<Mode>),
    /// What the new one says.
    pub after: (Decision, Option<Mode>),
}

/// Flows whose verdict the new policy changes, in their order.
#[must_use]
pub fn simulate(old: &PolicyInput, new: &PolicyInput, flows: &[Flow]) -> Vec<Changed> {
    let (old_book, new_book) = (Book::new(old), Book::new(new));
    let judge = |input: &PolicyInput, book: &Book<'_>, flow: &Flow| {
        let (client, server) = (party(input, book, &flow.client), party(input, book, &flow.server));
        evaluate(input, &client, &server, (flow.proto, flow.port), flow.app)
    };
    flows
        .iter()
        .enumerate()
        .filter_map(|(at, flow)| {
            let before = judge(old, &old_book, flow);
            let after = judge(new, &new_book, flow);
            (before.0.verdict != after.0.verdict).then_some(Changed {
                flow: at,
                before,
                after,
            })
        })
        .collect()
}

fn party(input: &PolicyInput, book: &Book<'_>, end: &End) -> Party {
    match end {
        End::Workload(id) => match input.workloads.get(id) {
            Some(workload) => book.workload(workload),
            None => Party {
                workload: Some(id.clone()),
                ..book.outsider([0; 16], None)
            },
        },
        End::Address(address) => book.address(*address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{rule, tests::workload};
    use nv_types::{Action, Verdict};

    #[test]
    fn only_flows_that_change_are_named() {
        let mut old = PolicyInput::default();
        for (name, address) in [("a", "10.0.0.2"), ("b", "10.0.0.3")] {
            let workload = workload(name, "n1", address);
            old.add_service_group(&workload);
            old.workloads.insert(workload.id.clone(), workload);
        }
        old.modes.insert("nv.b".parse().unwrap(), Mode::Protect);
        old.rules
            .push(rule(1, "nv.a", "nv.b", "tcp/80-81", Action::Allow).unwrap());
        let mut new = old.clone();
        new.rules[0].ports = "tcp/80".parse().unwrap();
        let flow = |port, server: End| Flow {
            client: End::Workload("a".parse().unwrap()),
            server,
            proto: IpProto::TCP,
            port,
            app: Application::UNKNOWN,
        };
        let b = || End::Workload("b".parse().unwrap());
        let flows = [
            flow(80, b()),
            flow(81, b()),
            flow(82, b()),
            flow(81, End::Address("10.0.0.3".parse().unwrap())),
            flow(81, End::Address("192.0.2.1".parse().unwrap())),
        ];
        let changed = simulate(&old, &new, &flows);
        let places: Vec<_> = changed.iter().map(|changed| changed.flow).collect();
        assert_eq!(places, [1, 3]);
        assert_eq!(
            (changed[0].before.0.verdict, changed[0].after.0.verdict),
            (Verdict::Allow, Verdict::Deny)
        );
        assert_eq!(simulate(&old, &old, &flows), []);
    }
}
