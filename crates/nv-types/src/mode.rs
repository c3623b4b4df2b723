//! Modes, contention of two modes, and what a mode makes of a rule.

use core::fmt;
use core::str::FromStr;

use crate::{Action, Verdict};

/// What nv does with a service's traffic. Ordered by strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u8)]
pub enum Mode {
    /// Let everything pass and learn rules from it.
    Discover = 1,
    /// Let everything pass and report what no rule allows.
    Monitor = 2,
    /// Let only what a rule allows pass.
    Protect = 3,
}

impl Mode {
    /// The mode with this number in kernel tables.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Discover),
            2 => Some(Self::Monitor),
            3 => Some(Self::Protect),
            _ => None,
        }
    }

    /// The name as REST writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discover => "Discover",
            Self::Monitor => "Monitor",
            Self::Protect => "Protect",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that is no mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown mode: use Discover, Monitor or Protect")]
pub struct ParseModeError;

impl FromStr for Mode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Discover, Self::Monitor, Self::Protect]
            .into_iter()
            .find(|mode| mode.name().eq_ignore_ascii_case(text))
            .ok_or(ParseModeError)
    }
}

/// Which mode counts when both sides of a flow are managed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[repr(u8)]
pub enum Contention {
    /// The stricter one: a peer that is still learning cannot open a protected service.
    #[default]
    Restrictive = 0,
    /// The less strict one, as NeuVector does by default.
    Basic = 1,
}

/// The mode that a flow between these two sides is judged by; `None` when neither is managed: not policed.
#[must_use]
pub fn effective_mode(client: Option<Mode>, server: Option<Mode>, contention: Contention) -> Option<Mode> {
    match (client, server, contention) {
        (Some(a), Some(b), Contention::Restrictive) => Some(a.max(b)),
        (Some(a), Some(b), Contention::Basic) => Some(a.min(b)),
        (mode, None, _) | (None, mode, _) => mode,
    }
}

/// The verdict of a flow whose first matching rule says `matched` (`None`: no rule matched).
///
/// This is the table of DESIGN section 4; that nothing matched in Discover also means *learn* is the caller's part.
#[must_use]
pub const fn judge(matched: Option<Action>, mode: Mode) -> Verdict {
    match (matched, mode) {
        (Some(Action::Allow), _) | (None, Mode::Discover) => Verdict::Allow,
        (Some(Action::Deny), Mode::Discover | Mode::Monitor) | (None, Mode::Monitor) => Verdict::Alert,
        (Some(Action::Deny) | None, Mode::Protect) => Verdict::Deny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mode::{Discover, Monitor, Protect};

    #[test]
    fn judge_is_the_table_of_the_design() {
        for (matched, verdicts) in [
            (
                Some(Action::Allow),
                [Verdict::Allow, Verdict::Allow, Verdict::Allow],
            ),
            (
                Some(Action::Deny),
                [Verdict::Alert, Verdict::Alert, Verdict::Deny],
            ),
            (None, [Verdict::Allow, Verdict::Alert, Verdict::Deny]),
        ] {
            assert_eq!(
                [Discover, Monitor, Protect].map(|mode| judge(matched, mode)),
                verdicts
            );
        }
    }

    #[test]
    fn contention_takes_the_stricter_or_the_less_strict() {
        use Contention::{Basic, Restrictive};
        assert_eq!(
            effective_mode(Some(Discover), Some(Protect), Restrictive),
            Some(Protect)
        );
        assert_eq!(
            effective_mode(Some(Discover), Some(Protect), Basic),
            Some(Discover)
        );
        assert_eq!(effective_mode(None, Some(Monitor), Restrictive), Some(Monitor));
        assert_eq!(effective_mode(Some(Monitor), None, Basic), Some(Monitor));
        assert_eq!(effective_mode(None, None, Basic), None);
    }
}
