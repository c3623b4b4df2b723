//! Captures that violations start: whose newest packets are kept, and when they are saved.

use std::collections::BTreeMap;

use nv_types::{FlowRecord, Mode, Reason, Timestamp, Workload, WorkloadId};

use super::Agent;
use crate::io::{Effect, Moment, Steady};

const SECOND: u64 = 1_000_000_000;

/// What was asked for, and what has happened.
#[derive(Debug, Default)]
pub(super) struct Lookbacks {
    /// Kibibytes kept of each workload, and the process and namespace that it had then.
    kept: BTreeMap<WorkloadId, (u32, u32, u64)>,
    /// Since when packets of each really are kept.
    since: BTreeMap<WorkloadId, Timestamp>,
    /// When a violation of each last started a capture.
    started: BTreeMap<WorkloadId, Steady>,
    /// Something that decides whose packets are kept may have changed.
    pub(super) stale: bool,
}

impl Agent {
    /// Takes note of a flow as it was told: one that violates the policy may start a capture of its workload, if its packets were kept
    /// when it began.
    pub fn notice(&mut self, record: &FlowRecord, now: Moment) {
        self.now = Moment {
            steady: self.now.steady.max(now.steady),
            day: now.day,
        };
        let settings = &self.state.input().settings.capture;
        let since = self.lookbacks.since.get(&record.workload);
        if !settings.is_started_by(&record.decision) || since.is_none_or(|since| record.first_seen < *since) {
            return;
        }
        let pause = u64::from(settings.interval).saturating_mul(SECOND);
        let last = self.lookbacks.started.get(&record.workload);
        if last.is_some_and(|last| self.now.steady.since(*last) < pause.max(1)) {
            return;
        }
        self.lookbacks
            .started
            .insert(record.workload.clone(), self.now.steady);
        self.effects.push_back(Effect::SavePackets {
            workload: record.workload.clone(),
            cause: cause(record),
            duration: settings.duration,
        });
    }

    /// Asks that the packets of endpoints in Monitor and Protect are kept, as settings have it, and no others.
    pub(super) fn plan_lookbacks(&mut self) {
        if !std::mem::take(&mut self.lookbacks.stale) {
            return;
        }
        let ring = self.state.input().settings.capture.ring_kib;
        let wanted: BTreeMap<_, _> = self
            .local
            .values()
            .filter(|workload| ring > 0 && self.is_protected(workload))
            .map(|workload| (workload.id.clone(), (ring, workload.pid, workload.netns)))
            .collect();
        let before = std::mem::take(&mut self.lookbacks.kept);
        for id in before.keys().filter(|id| !wanted.contains_key(*id)) {
            self.lookbacks.started.remove(id);
            self.lookbacks.since.remove(id);
            self.degraded.remove(&about(id));
            self.effects.push_back(Effect::KeepPackets {
                workload: id.clone(),
                bytes: None,
            });
        }
        for (id, as_it_is) in &wanted {
            if before.get(id) != Some(as_it_is) {
                self.lookbacks.since.remove(id);
                self.effects.push_back(Effect::KeepPackets {
                    workload: id.clone(),
                    bytes: Some(u64::from(ring) << 10),
                });
            }
        }
        self.lookbacks.kept = wanted;
    }

    fn is_protected(&self, workload: &Workload) -> bool {
        let input = self.state.input();
        let own = || {
            let group = workload.service_group()?;
            input.modes.get(&group).copied()
        };
        let mode = input.settings.network_mode.or_else(own);
        !workload.host_network && matches!(mode, Some(Mode::Monitor | Mode::Protect))
    }

    /// What became of keeping or saving a workload's packets: a node that cannot says so.
    pub(super) fn packets(&mut self, id: &WorkloadId, result: Result<(), String>) {
        match result {
            Err(words) if self.lookbacks.kept.contains_key(id) => {
                let words = format!("packets before a violation of '{id}' are not to be had: {words}");
                self.degraded.insert(about(id), words);
            }
            Ok(()) if self.lookbacks.kept.contains_key(id) => {
                self.degraded.remove(&about(id));
                self.lookbacks.since.entry(id.clone()).or_insert(self.now.day);
            }
            _ => {
                self.degraded.remove(&about(id));
            }
        }
    }
}

/// Key of what is wrong with a workload's packets.
fn about(id: &WorkloadId) -> String {
    format!("lookback {id}")
}

/// `deny by rule 10002: 10.0.0.1:4711 -> 10.0.0.2:5432, protocol 6`.
fn cause(record: &FlowRecord) -> String {
    let by = match record.decision.reason {
        Reason::Rule => format!("rule {}", record.decision.rule.0),
        reason => reason.name().to_owned(),
    };
    let tuple = &record.tuple;
    format!(
        "{} by {by}: {} -> {}, protocol {}",
        record.decision.verdict.name(),
        std::net::SocketAddr::new(tuple.client, tuple.client_port),
        std::net::SocketAddr::new(tuple.server, tuple.server_port),
        tuple.proto.0
    )
}
