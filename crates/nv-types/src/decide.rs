//! Walking a decision chain: the lines that the kernel, the simulator and `explain` share.

use crate::{AppMask, Application, Decision};

/// Longest chain; the last entry is always for any application.
pub const MAX_CHAIN: usize = 8;

/// One link of a chain: applications it is for, and what is decided for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ChainEntry {
    /// Applications that this entry decides.
    pub apps: AppMask,
    /// The decision for them.
    pub decision: Decision,
}

/// Outcome of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainStep {
    /// The chain decided.
    Decided(Decision),
    /// The first entry that could match asks for an application, and it is not known yet.
    Pending,
    /// The chain has no entry for it: not a chain that the compiler makes; treat as malformed.
    Broken,
}

/// First entry that matches decides. `app` is `None` while the application is not known yet.
///
/// An entry for any application decides even then; one that names applications makes the flow pending.
#[inline(always)]
pub fn walk<I: Iterator<Item = ChainEntry>>(entries: I, app: Option<Application>) -> ChainStep {
    for entry in entries {
        if entry.apps.is_any() {
            return ChainStep::Decided(entry.decision);
        }
        match app {
            None => return ChainStep::Pending,
            Some(app) if entry.apps.contains(app) => return ChainStep::Decided(entry.decision),
            Some(_) => {}
        }
    }
    ChainStep::Broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reason, RuleId, Verdict};

    #[test]
    fn a_named_application_waits_and_unknown_matches_only_any() {
        let http = ChainEntry {
            apps: AppMask::NONE.with(Application::HTTP),
            decision: Decision {
                verdict: Verdict::Allow,
                reason: Reason::Rule,
                rule: RuleId(1),
            },
        };
        let rest = ChainEntry {
            apps: AppMask::ANY,
            decision: Decision::implicit(Verdict::Deny, Reason::Default),
        };
        let chain = [http, rest];
        let walk = |app| walk(chain.into_iter(), app);
        assert_eq!(walk(None), ChainStep::Pending);
        assert_eq!(walk(Some(Application::HTTP)), ChainStep::Decided(http.decision));
        assert_eq!(
            walk(Some(Application::UNKNOWN)),
            ChainStep::Decided(rest.decision)
        );
        assert_eq!(
            super::walk([rest].into_iter(), None),
            ChainStep::Decided(rest.decision)
        );
        assert_eq!(super::walk([].into_iter(), None), ChainStep::Broken);
    }
}
