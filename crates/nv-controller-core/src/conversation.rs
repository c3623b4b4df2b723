//! Who talks to whom: flows between two ends, summed.

use std::collections::BTreeMap;

use nv_policy::PolicyInput;
use nv_types::{Application, FlowRecord, IpProto, Peer, RuleId, Timestamp, Verdict, WorkloadId};

use crate::flows::Delta;

/// Pairs that are kept.
const PAIRS: usize = 20_000;
/// Entries of a pair.
const ENTRIES: usize = 1000;

/// What an end is. NeuVector's `kind` words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointKind {
    /// A workload.
    Container,
    /// An address outside.
    External,
    /// A node.
    NodeIp,
}

impl EndpointKind {
    /// NeuVector's word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::External => "external",
            Self::NodeIp => "node_ip",
        }
    }
}

/// One end of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Workload id, `external`, or `Host:<node>`.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// What it is.
    pub kind: EndpointKind,
    /// The workload, if it is one.
    pub workload: Option<WorkloadId>,
}

/// Who this is; a workload that is gone keeps its id for a name.
pub(crate) fn endpoint(peer: &Peer, input: &PolicyInput) -> Endpoint {
    match peer {
        Peer::Workload(id) => Endpoint {
            id: id.to_string(),
            name: input
                .workloads
                .get(id)
                .map_or_else(|| id.to_string(), |workload| workload.name.clone()),
            kind: EndpointKind::Container,
            workload: Some(id.clone()),
        },
        Peer::Node(node) => Endpoint {
            id: format!("Host:{node}"),
            name: node.to_string(),
            kind: EndpointKind::NodeIp,
            workload: None,
        },
        Peer::External => Endpoint {
            id: "external".into(),
            name: "external".into(),
            kind: EndpointKind::External,
            workload: None,
        },
    }
}

/// A part of a conversation: one port, application and verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationEntry {
    /// Protocol.
    pub proto: IpProto,
    /// Server port.
    pub port: u16,
    /// Application, `None` while it is not known.
    pub application: Option<Application>,
    /// Verdict.
    pub verdict: Verdict,
    /// Rule, 0 for none.
    pub rule: RuleId,
    /// Bytes of both directions.
    pub bytes: u64,
    /// Flows.
    pub sessions: u64,
    /// Client's address, of the last flow.
    pub client_ip: std::net::IpAddr,
    /// Server's address, of the last flow.
    pub server_ip: std::net::IpAddr,
    /// Last packet.
    pub last_seen: Timestamp,
}

/// All flows between two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Client.
    pub from: Endpoint,
    /// Server.
    pub to: Endpoint,
    /// Its parts, newest last.
    pub entries: Vec<ConversationEntry>,
}

impl Conversation {
    /// The worst verdict of its newest flows: deny, then alert, then allow.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.entries
            .iter()
            .map(|entry| entry.verdict)
            .max()
            .unwrap_or(Verdict::Allow)
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Flows of all parts.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.entries.iter().map(|entry| entry.sessions).sum()
    }
}

type EntryKey = (IpProto, u16, Option<Application>, Verdict);

#[derive(Debug)]
struct Pair {
    from: Endpoint,
    to: Endpoint,
    entries: BTreeMap<EntryKey, ConversationEntry>,
}

/// Every conversation, by the ids of its ends: a name may come late, and its workload go early.
#[derive(Debug, Default)]
pub(crate) struct Conversations {
    pairs: BTreeMap<(String, String), Pair>,
    dropped: u64,
}

impl Conversations {
    pub(crate) fn take(&mut self, record: &FlowRecord, delta: &Delta, input: &PolicyInput) {
        let (from, to) = (endpoint(&record.client, input), endpoint(&record.server, input));
        let key = (from.id.clone(), to.id.clone());
        if !self.pairs.contains_key(&key) && self.pairs.len() >= PAIRS {
            self.dropped += 1;
            return;
        }
        let pair = self.pairs.entry(key).or_insert_with(|| Pair {
            from: from.clone(),
            to: to.clone(),
            entries: BTreeMap::new(),
        });
        for (known, end) in [(&mut pair.from, from), (&mut pair.to, to)] {
            // The id stands in for a name that is not known.
            if end.name != end.id {
                known.name = end.name;
            }
        }
        let entries = &mut pair.entries;
        let tuple = record.tuple;
        // Ports of ICMP are identifiers and say nothing to a reader.
        let port = if tuple.proto.has_ports() {
            tuple.server_port
        } else {
            0
        };
        let key = (tuple.proto, port, record.application, record.decision.verdict);
        if record.application.is_some() && delta.is_changed {
            // It was summed as not identified until now.
            let before = (tuple.proto, port, None, record.decision.verdict);
            if let Some(mut entry) = entries.remove(&before) {
                entry.application = record.application;
                merge(entries, key, &entry);
            }
        }
        let entry = ConversationEntry {
            proto: tuple.proto,
            port,
            application: record.application,
            verdict: record.decision.verdict,
            rule: record.decision.rule,
            bytes: delta.bytes,
            sessions: u64::from(delta.is_new),
            client_ip: tuple.client,
            server_ip: tuple.server,
            last_seen: record.last_seen,
        };
        merge(entries, key, &entry);
        if entries.len() > ENTRIES
            && let Some(oldest) = entries
                .iter()
                .min_by_key(|(_, entry)| entry.last_seen)
                .map(|(key, _)| *key)
        {
            entries.remove(&oldest);
            self.dropped += 1;
        }
    }

    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn list(&self) -> Vec<Conversation> {
        self.pairs
            .values()
            .map(|pair| {
                let mut entries: Vec<_> = pair.entries.values().cloned().collect();
                entries.sort_by_key(|entry| entry.last_seen);
                Conversation {
                    from: pair.from.clone(),
                    to: pair.to.clone(),
                    entries,
                }
            })
            .collect()
    }
}

fn merge(entries: &mut BTreeMap<EntryKey, ConversationEntry>, key: EntryKey, new: &ConversationEntry) {
    match entries.get_mut(&key) {
        None => {
            entries.insert(key, new.clone());
        }
        Some(entry) => {
            entry.bytes = entry.bytes.saturating_add(new.bytes);
            entry.sessions += new.sessions;
            if new.last_seen >= entry.last_seen {
                entry.last_seen = new.last_seen;
                entry.client_ip = new.client_ip;
                entry.server_ip = new.server_ip;
                entry.rule = new.rule;
            }
        }
    }
}
