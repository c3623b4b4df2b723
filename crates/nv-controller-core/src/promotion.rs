//! From Discover to Monitor to Protect by itself, as NeuVector's `mode_auto_d2m` and `mode_auto_m2p` do.
//!
//! A service in Discover goes on once it has been there for `mode_auto_d2m_duration`. One in Monitor goes on once it has been there for
//! `mode_auto_m2p_duration` *and* nothing was reported of it for as long: no flow of its workloads, on either end, that was alerted or
//! denied. Since when, is stored (`standing/<group>`), so that a restart changes nothing; the count begins when the setting is turned on.
//! While one mode holds for all services (`network_mode`) nobody goes on, and `nodes` never does. What was not watched was not quiet: after its start a
//! controller waits for [`WATCHED`] before it moves anybody to Protect, so that agents can tell what they saw.

use std::collections::BTreeMap;

use nv_policy::{PolicyInput, decode, encode};
use nv_types::{FlowRecord, GroupName, Mode, Peer, PolicySettings, Timestamp, Verdict, keys};
use serde::{Deserialize, Serialize};

/// How long a controller must have run before it moves a service to Protect, in nanoseconds: agents tell what they held in that time.
pub const WATCHED: u64 = 600_000_000_000;
/// How far a stored violation may lie behind the last one, in nanoseconds. It counts as so much later.
const COARSE: u64 = 60_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// Value of [`keys::standing`]: since when a service is in its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The mode that the rest is about; one of another mode is out of date.
    pub mode: Mode,
    /// When it began, or when it began to be counted.
    pub since: Timestamp,
    /// About when something was reported of it last; 0 for never.
    #[serde(default)]
    pub violated: Timestamp,
}

/// What a service's standing asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Its standing is to be written.
    Note(Standing),
    /// It goes on to the next mode.
    Promote {
        to: Mode,
        /// Seconds that it waited.
        after: u64,
    },
}

/// Standings of services, and what was reported of them.
#[derive(Debug, Default)]
pub(crate) struct Promotions {
    stored: BTreeMap<GroupName, Standing>,
    /// Exactly when something was reported last, as far as this process knows.
    violated: BTreeMap<GroupName, Timestamp>,
    /// When this process was first told the time.
    started: Option<Timestamp>,
}

impl Promotions {
    pub(crate) fn put(&mut self, key: &str, value: &[u8]) {
        let Some(group) = group_of(key) else { return };
        // One that cannot be read is written anew, and the count begins again: the careful side.
        match decode::<Standing>(key, value) {
            Ok(standing) => self.stored.insert(group, standing),
            Err(_) => self.stored.remove(&group),
        };
    }

    pub(crate) fn delete(&mut self, key: &str) {
        if let Some(group) = group_of(key) {
            self.stored.remove(&group);
        }
    }

    pub(crate) fn resync<'a>(&mut self, entries: impl Iterator<Item = (&'a str, &'a [u8])>) {
        self.stored.clear();
        for (key, value) in entries {
            self.put(key, value);
        }
    }

    /// Takes what was reported: both ends of a flow that was alerted or denied were not quiet.
    pub(crate) fn take(&mut self, record: &FlowRecord, input: &PolicyInput, now: Timestamp) {
        self.started.get_or_insert(now);
        if record.decision.verdict == Verdict::Allow || !input.settings.mode_auto_m2p {
            return;
        }
        for peer in [&record.client, &record.server] {
            let Peer::Workload(id) = peer else { continue };
            let group = input
                .workloads
                .get(id)
                .and_then(nv_types::Workload::service_group);
            if let Some(group) = group.filter(|group| input.modes.contains_key(group)) {
                let last = self.violated.entry(group).or_default();
                *last = (*last).max(now);
            }
        }
    }

    /// What is to be done now, by group.
    pub(crate) fn due(&mut self, input: &PolicyInput, now: Timestamp) -> Vec<(GroupName, Step)> {
        let started = *self.started.get_or_insert(now);
        self.violated.retain(|group, _| input.modes.contains_key(group));
        let mut steps = Vec::new();
        for (group, mode) in waiting(input) {
            let (standing, at) = self.outlook(group, mode, &input.settings, started);
            match standing {
                Some(_) if at <= now => {
                    let (to, after) = next(mode, &input.settings).unwrap_or((mode, 0));
                    steps.push((group.clone(), Step::Promote { to, after }));
                }
                Some(standing) => {
                    let last = self.violated.get(group).copied().unwrap_or_default();
                    if mode == Mode::Monitor && last.since(standing.violated) > COARSE {
                        let violated = last;
                        steps.push((group.clone(), Step::Note(Standing { violated, ..standing })));
                    }
                }
                None => {
                    let begins = Standing {
                        mode,
                        since: now,
                        violated: Timestamp(0),
                    };
                    steps.push((group.clone(), Step::Note(begins)));
                }
            }
        }
        steps
    }

    /// When [`Promotions::due`] has something, if nothing else happens.
    pub(crate) fn timeout(&self, input: &PolicyInput) -> Option<Timestamp> {
        let started = self.started.unwrap_or_default();
        waiting(input)
            .map(|(group, mode)| {
                let (standing, at) = self.outlook(group, mode, &input.settings, started);
                let last = self.violated.get(group).copied().unwrap_or_default();
                match standing {
                    None => Timestamp(0),
                    Some(standing) if mode == Mode::Monitor && last.since(standing.violated) > COARSE => {
                        Timestamp(0)
                    }
                    Some(_) => at,
                }
            })
            .min()
    }

    /// The standing of a group in this mode, if it is known, and when it goes on.
    fn outlook(
        &self,
        group: &GroupName,
        mode: Mode,
        settings: &PolicySettings,
        started: Timestamp,
    ) -> (Option<Standing>, Timestamp) {
        let standing = self
            .stored
            .get(group)
            .copied()
            .filter(|standing| standing.mode == mode);
        let (Some(standing), Some((to, after))) = (standing, next(mode, settings)) else {
            return (standing, Timestamp(u64::MAX));
        };
        let after = after.saturating_mul(SECOND);
        let mut from = standing.since;
        if to == Mode::Protect {
            let stored = match standing.violated {
                Timestamp(0) => Timestamp(0),
                Timestamp(at) => Timestamp(at.saturating_add(COARSE)),
            };
            let seen = self.violated.get(group).copied().unwrap_or_default();
            from = from.max(stored).max(seen);
        }
        let mut at = from.0.saturating_add(after);
        if to == Mode::Protect {
            at = at.max(started.0.saturating_add(WATCHED));
        }
        (Some(standing), Timestamp(at))
    }
}

/// Services that go on by themselves from the mode that they are in.
fn waiting(input: &PolicyInput) -> impl Iterator<Item = (&GroupName, Mode)> {
    let modes = input
        .settings
        .network_mode
        .is_none()
        .then(|| input.modes.iter())
        .into_iter()
        .flatten();
    modes
        .filter(|(group, mode)| {
            next(**mode, &input.settings).is_some()
                && input.groups.get(*group).is_some_and(nv_types::Group::is_service)
        })
        .map(|(group, mode)| (group, *mode))
}

/// The mode after this one, and the seconds to wait for it; `None`: it stays.
const fn next(mode: Mode, settings: &PolicySettings) -> Option<(Mode, u64)> {
    match mode {
        Mode::Discover if settings.mode_auto_d2m => Some((Mode::Monitor, settings.mode_auto_d2m_duration)),
        Mode::Monitor if settings.mode_auto_m2p => Some((Mode::Protect, settings.mode_auto_m2p_duration)),
        Mode::Discover | Mode::Monitor | Mode::Protect => None,
    }
}

fn group_of(key: &str) -> Option<GroupName> {
    GroupName::try_new(key.strip_prefix(keys::STANDINGS)?).ok()
}

/// Value of a standing as it is stored, with its key.
pub(crate) fn stored(group: &GroupName, standing: &Standing) -> Option<(String, Vec<u8>)> {
    let key = keys::standing(group);
    let value = encode(&key, standing).ok()?;
    Some((key, value))
}
