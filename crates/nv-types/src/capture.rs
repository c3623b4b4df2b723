//! Which violations start a capture by themselves.

use alloc::collections::BTreeSet;

use crate::{Decision, RuleId, Verdict};

/// Captures that violations start: settings of all nodes. Off unless `ring_kib` is above zero.
///
/// While it is on, the newest packets of every endpoint in Monitor or Protect are kept in memory; a flow that a listed rule
/// alerts or denies has them saved, and what follows for `duration` seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct CaptureTriggers {
    /// Rules whose violations start a capture; 0 is what no rule allows. Empty: every violation.
    pub rules: BTreeSet<RuleId>,
    /// Kibibytes of packets that are kept in memory for each workload; 0: nothing is kept, and nothing starts.
    pub ring_kib: u32,
    /// Seconds that a capture goes on after what started it.
    pub duration: u32,
    /// Seconds after which a workload's next violation may start another one.
    pub interval: u32,
}

impl Default for CaptureTriggers {
    fn default() -> Self {
        Self {
            rules: BTreeSet::new(),
            ring_kib: 0,
            duration: 10,
            interval: 300,
        }
    }
}

impl CaptureTriggers {
    /// Most kibibytes of one workload.
    pub const MAX_RING_KIB: u32 = 16 << 10;
    /// Longest capture, in seconds.
    pub const MAX_DURATION: u32 = 3600;

    /// What cannot be kept, in words.
    ///
    /// # Errors
    /// Names the field.
    pub const fn check(&self) -> Result<(), &'static str> {
        if self.ring_kib > Self::MAX_RING_KIB {
            return Err("capture.ring_kib: 16384 at most");
        }
        if self.ring_kib != 0 && self.ring_kib < 16 {
            return Err("capture.ring_kib: 0, or at least 16");
        }
        if self.duration == 0 || self.duration > Self::MAX_DURATION {
            return Err("capture.duration: between 1 and 3600 seconds");
        }
        Ok(())
    }

    /// Whether a flow that was decided like this starts a capture.
    #[must_use]
    pub fn is_started_by(&self, decision: &Decision) -> bool {
        self.ring_kib > 0
            && decision.verdict != Verdict::Allow
            && (self.rules.is_empty() || self.rules.contains(&decision.rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;

    #[test]
    fn what_is_listed_starts_a_capture_and_allowed_flows_never_do() {
        let decision = |verdict, rule| Decision {
            verdict,
            rule: RuleId(rule),
            reason: if rule == 0 { Reason::Default } else { Reason::Rule },
        };
        let off = CaptureTriggers::default();
        assert!(!off.is_started_by(&decision(Verdict::Deny, 7)));
        let all = CaptureTriggers { ring_kib: 64, ..off };
        assert!(
            all.is_started_by(&decision(Verdict::Deny, 7)) && all.is_started_by(&decision(Verdict::Alert, 0))
        );
        assert!(!all.is_started_by(&decision(Verdict::Allow, 7)));
        let some = CaptureTriggers {
            rules: [RuleId(7), RuleId(0)].into(),
            ..all
        };
        assert!(
            some.is_started_by(&decision(Verdict::Alert, 7))
                && some.is_started_by(&decision(Verdict::Deny, 0))
        );
        assert!(!some.is_started_by(&decision(Verdict::Deny, 8)));
    }

    #[test]
    fn bounds_are_named() {
        let with = |ring_kib, duration| CaptureTriggers {
            ring_kib,
            duration,
            ..CaptureTriggers::default()
        };
        assert_eq!(with(0, 10).check(), Ok(()));
        assert_eq!(with(16_384, 3600).check(), Ok(()));
        for (bad, field) in [
            (with(8, 10), "ring_kib"),
            (with(16_385, 10), "ring_kib"),
            (with(64, 0), "duration"),
            (with(64, 3601), "duration"),
        ] {
            assert!(bad.check().unwrap_err().contains(field));
        }
    }
}
