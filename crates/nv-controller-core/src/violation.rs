//! What no rule allows, or a rule forbids: a bounded log, with repeats of a minute summed.

use std::collections::{BTreeMap, VecDeque};

use nv_policy::PolicyInput;
use nv_types::{
    Application, Decision, FlowRecord, IpProto, Mode, NodeId, Reason, RuleId, Timestamp, Verdict,
};

use crate::conversation::{Endpoint, endpoint};
use crate::flows::Delta;

/// Violations that are kept.
const LOG: usize = 4096;
/// Nanoseconds in which repeats are summed.
const WINDOW: u64 = 60_000_000_000;

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number.
    pub id: u64,
    /// When it was reported first.
    pub reported: Timestamp,
    /// When it was seen last.
    pub last_seen: Timestamp,
    /// Node that saw it.
    pub node: NodeId,
    /// Client.
    pub client: Endpoint,
    /// Server.
    pub server: Endpoint,
    /// Client's address.
    pub client_ip: std::net::IpAddr,
    /// Server's address.
    pub server_ip: std::net::IpAddr,
    /// Protocol.
    pub proto: IpProto,
    /// Server port.
    pub port: u16,
    /// Application, once it is known.
    pub application: Option<Application>,
    /// Verdict, reason and rule.
    pub decision: Decision,
    /// Mode of the server's service, or the client's where the server has none.
    pub mode: Option<Mode>,
    /// Flows that it stands for.
    pub sessions: u64,
}

/// What repeats have in common: client, server, protocol, port, and the decision.
type Key = (String, String, IpProto, u16, Verdict, Reason, RuleId);

/// The log.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    log: VecDeque<Violation>,
    /// Number of the newest entry of each kind.
    newest: BTreeMap<Key, u64>,
    last: u64,
    dropped: u64,
}

impl Violations {
    pub(crate) fn take(&mut self, record: &FlowRecord, delta: &Delta, input: &PolicyInput, now: Timestamp) {
        if record.decision.verdict == Verdict::Allow || !delta.is_changed {
            return;
        }
        let (client, server) = (endpoint(&record.client, input), endpoint(&record.server, input));
        let tuple = record.tuple;
        let port = if tuple.proto.has_ports() {
            tuple.server_port
        } else {
            0
        };
        let decision = record.decision;
        let key = (
            client.id.clone(),
            server.id.clone(),
            tuple.proto,
            port,
            decision.verdict,
            decision.reason,
            decision.rule,
        );
        if let Some(known) = self.newest(&key)
            && now.since(known.last_seen) < WINDOW
        {
            known.sessions += u64::from(delta.is_new);
            known.last_seen = now;
            known.application = record.application.or(known.application);
            return;
        }
        if self.log.len() == LOG {
            self.drop_oldest();
        }
        self.last += 1;
        self.newest.insert(key, self.last);
        let mode = [&server, &client]
            .into_iter()
            .find_map(|end| input.mode_of(input.workloads.get(end.workload.as_ref()?)?));
        self.log.push_back(Violation {
            id: self.last,
            reported: now,
            last_seen: now,
            node: record.node.clone(),
            client,
            server,
            client_ip: tuple.client,
            server_ip: tuple.server,
            proto: tuple.proto,
            port,
            application: record.application,
            decision,
            mode,
            sessions: 1,
        });
    }

    fn newest(&mut self, key: &Key) -> Option<&mut Violation> {
        let id = self.newest.get(key)?;
        let first = self.log.front()?.id;
        self.log.get_mut(usize::try_from(id.checked_sub(first)?).ok()?)
    }

    fn drop_oldest(&mut self) {
        let Some(gone) = self.log.pop_front() else {
            return;
        };
        self.dropped += 1;
        let decision = gone.decision;
        let key = (
            gone.client.id,
            gone.server.id,
            gone.proto,
            gone.port,
            decision.verdict,
            decision.reason,
            decision.rule,
        );
        if self.newest.get(&key) == Some(&gone.id) {
            self.newest.remove(&key);
        }
    }

    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn list(&self) -> impl DoubleEndedIterator<Item = &Violation> {
        self.log.iter()
    }
}
