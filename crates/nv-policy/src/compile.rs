//! Compiling: input to the image of one node.

use std::collections::BTreeMap;

use nv_types::{GroupName, Identity, Mode, NodeId, PolicyImage, Revision, RuleId};

use crate::compiler::Compiler;
use crate::input::PolicyInput;

/// A policy that cannot be compiled. The one in force stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// More applications differ on one port than a chain holds.
    #[error(
        "rules {} meet on one port with more than 7 different answers by application: put applications of equal action into one rule",
        list(.rules)
    )]
    ChainTooLong {
        /// The rules, in order.
        rules: Vec<RuleId>,
    },
}

fn list(rules: &[RuleId]) -> String {
    let shown: Vec<_> = rules
        .iter()
        .filter(|rule| **rule != RuleId::IMPLICIT)
        .map(ToString::to_string)
        .collect();
    shown.join(", ")
}

/// Something that an administrator should know; the rest of the policy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Diagnostic {
    /// A group that cannot be read, or is not enforced in full.
    Group {
        /// Group.
        name: GroupName,
        /// What about it.
        problem: String,
    },
    /// A rule that names a group that does not exist: it matches nobody.
    UnknownGroup {
        /// Rule.
        rule: RuleId,
        /// Group.
        name: GroupName,
    },
    /// A rule that is not in force, because more applications differ on one port than a chain holds.
    Refused {
        /// Rule.
        rule: RuleId,
        /// The rules that meet there, in order.
        meeting: Vec<RuleId>,
    },
    /// A rule that can never match, whatever workloads come ([`review`](crate::review)).
    Shadowed {
        /// Rule.
        rule: RuleId,
        /// Earlier rules that match all that it does, the first few.
        by: Vec<RuleId>,
    },
    /// A rule that matches nobody at present ([`review`](crate::review)).
    Idle {
        /// Rule.
        rule: RuleId,
        /// The group that holds nobody.
        name: GroupName,
    },
    /// A rule of which an earlier one takes a part and decides otherwise ([`review`](crate::review)).
    Conflict {
        /// Rule.
        rule: RuleId,
        /// Earlier rules of the other action that it meets, the first few.
        with: Vec<RuleId>,
    },
}

impl Diagnostic {
    /// The rule that it is about, if it is one.
    #[must_use]
    pub const fn rule(&self) -> Option<RuleId> {
        match self {
            Self::Group { .. } => None,
            Self::UnknownGroup { rule, .. }
            | Self::Refused { rule, .. }
            | Self::Shadowed { rule, .. }
            | Self::Idle { rule, .. }
            | Self::Conflict { rule, .. } => Some(*rule),
        }
    }

    /// Whether something does not do what it says; otherwise it is only worth knowing.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Self::Conflict { .. } | Self::Idle { .. })
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Group { name, problem } => write!(f, "group '{name}': {problem}"),
            Self::UnknownGroup { rule, name } => {
                write!(f, "rule {rule}: there is no group '{name}', so it matches nobody")
            }
            Self::Refused { rule, meeting } => write!(
                f,
                "rule {rule} is not in force: rules {} meet on one port with more than 7 different answers by application",
                list(meeting)
            ),
            Self::Shadowed { rule, by } => match by.as_slice() {
                [one] => write!(
                    f,
                    "rule {rule} can never match: rule {one} comes first and matches all that it does"
                ),
                many => write!(
                    f,
                    "rule {rule} can never match: rules {} come first and match all that it does",
                    list(many)
                ),
            },
            Self::Idle { rule, name } => {
                write!(
                    f,
                    "rule {rule} matches nobody at present: group '{name}' is empty"
                )
            }
            Self::Conflict { rule, with } => match with.as_slice() {
                [one] => write!(
                    f,
                    "rule {rule} holds in part only: rule {one} comes first and decides otherwise where they meet"
                ),
                many => write!(
                    f,
                    "rule {rule} holds in part only: rules {} come first and decide otherwise where they meet",
                    list(many)
                ),
            },
        }
    }
}

/// What a compilation gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Tables for the datapath.
    pub image: PolicyImage,
    /// What an administrator should know.
    pub diagnostics: Vec<Diagnostic>,
    /// What each identity stands for: the groups that rules speak of, and the mode.
    pub identities: BTreeMap<Identity, (Vec<GroupName>, Option<Mode>)>,
}

/// Compiles the policy of a node at a revision, whole or not at all. Equal input gives an equal image. To follow changes, or to
/// enforce all but the rules that do not fit, use [`Compiler`].
///
/// # Errors
/// [`CompileError`] when the policy cannot be expressed in tables.
pub fn compile(input: &PolicyInput, node: &NodeId, revision: Revision) -> Result<Compiled, CompileError> {
    let compiler = Compiler::new(input, node, revision);
    if let Some(rules) = compiler.refused().values().next() {
        return Err(CompileError::ChainTooLong { rules: rules.clone() });
    }
    Ok(Compiled {
        image: compiler.image(),
        diagnostics: compiler.diagnostics(),
        identities: compiler.identities(),
    })
}
