//! Why a request is refused.

use nv_policy::{BadValue, CompileError, InvalidGroup, InvalidRule};
use nv_types::{GroupName, InvalidId, InvalidPorts, RuleId};

/// What sort of refusal it is; a shell turns it into its own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong.
    Invalid,
    /// It names something that is not there.
    NotFound,
    /// It clashes with what is there.
    Conflict,
    /// A limit would be passed.
    Limit,
}

/// Why a request is refused. Every message names the field or the thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// A name.
    #[error("{field}: {problem}")]
    Name {
        /// Field.
        field: String,
        /// What is wrong.
        problem: InvalidId,
    },
    /// A field's value.
    #[error("{field}: {problem}")]
    Field {
        /// Field.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// Ports.
    #[error("ports: {0}")]
    Ports(#[from] InvalidPorts),
    /// A group.
    #[error("group '{name}': {problem}")]
    Group {
        /// Group.
        name: GroupName,
        /// What is wrong.
        problem: InvalidGroup,
    },
    /// A rule.
    #[error("rule {id}: {problem}")]
    Rule {
        /// Rule.
        id: RuleId,
        /// What is wrong.
        problem: InvalidRule,
    },
    /// Not there.
    #[error("there is no {what} '{name}'")]
    NotFound {
        /// What.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// There already.
    #[error("{what} '{name}' is there already")]
    Exists {
        /// What.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The same thing twice in one request.
    #[error("document {document}: {what} '{name}' is in the request twice")]
    Duplicate {
        /// Place in the request, from 1.
        document: usize,
        /// What.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A document of a request.
    #[error("document {document}: {problem}")]
    Document {
        /// Place in the request, from 1.
        document: usize,
        /// What is wrong.
        problem: Box<Self>,
    },
    /// In use.
    #[error("group '{name}' is used by {by}")]
    InUse {
        /// Group.
        name: GroupName,
        /// By what.
        by: String,
    },
    /// Reserved or learned things that may not be changed so.
    #[error("{what}: {why}")]
    Fixed {
        /// What.
        what: String,
        /// Why.
        why: &'static str,
    },
    /// Rules of a file whose places wait for each other.
    #[error("after: a cycle: {}", chain(rules))]
    Cycle {
        /// The rules, each after the next; the first one again at the end.
        rules: Vec<RuleId>,
    },
    /// Too many.
    #[error("{what}: {count} are more than the limit of {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// How many there would be.
        count: usize,
        /// Limit.
        limit: usize,
    },
    /// The policy could not be compiled.
    #[error("{0}")]
    Compile(#[from] CompileError),
    /// A value could not be written.
    #[error("{0}")]
    Value(#[from] BadValue),
}

fn chain(rules: &[RuleId]) -> String {
    let words: Vec<String> = rules.iter().map(|id| format!("rule {id}")).collect();
    words.join(" waits for ")
}

impl CommandError {
    /// What sort of refusal it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } | Self::InUse { .. } => ErrorKind::Conflict,
            Self::Limit { .. } => ErrorKind::Limit,
            Self::Document { problem, .. } => problem.kind(),
            Self::Name { .. }
            | Self::Field { .. }
            | Self::Ports(_)
            | Self::Group { .. }
            | Self::Rule { .. }
            | Self::Duplicate { .. }
            | Self::Fixed { .. }
            | Self::Cycle { .. }
            | Self::Compile(_)
            | Self::Value(_) => ErrorKind::Invalid,
        }
    }
}
