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
