//! What an import or an export could not carry over.

use std::fmt;

use nv_types::{GroupName, RuleId};

use super::Form;
use super::yaml::Place;

/// How much was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// A whole object was left out.
    Refused,
    /// A part was left out. What is left never allows more than the original did, unless the note says so.
    Lost,
    /// It was carried over and means something else now; the note says what.
    Changed,
}

impl Severity {
    /// The word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Changed => "changed",
        }
    }
}

/// Why. The texts say what becomes of the thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// It is no YAML that is read.
    #[error("not YAML that can be read: {0}")]
    Yaml(String),
    /// A kind that is not known.
    #[error("the kind '{kind}' of '{api_version}' is not known: {}", Form::KINDS)]
    Kind {
        /// As it is written.
        kind: String,
        /// As it is written.
        api_version: String,
    },
    /// A kind that is known and holds no network policy.
    #[error("'{0}' holds no network policy")]
    OtherKind(String),
    /// A kind of a form that was not asked for.
    #[error("'{kind}' is not of the form {wanted}")]
    OtherForm {
        /// As it is written.
        kind: String,
        /// What was asked for.
        wanted: Form,
    },
    /// A field must be there.
    #[error("the field '{0}' is needed")]
    Missing(&'static str),
    /// A value of the wrong kind.
    #[error("{wanted} is needed here, not {found}")]
    Type {
        /// What is needed.
        wanted: &'static str,
        /// What is there.
        found: String,
    },
    /// A value that cannot be used.
    #[error("{0}")]
    Value(String),
    /// A field that is not known.
    #[error("the field is not known and was left out")]
    UnknownField,
    /// A part that nv has nothing for.
    #[error("left out: {0}")]
    NotCarried(&'static str),
    /// A rule that could not be carried over and was left out.
    #[error("the rule was left out: {0}")]
    RuleLeftOut(String),
    /// A peer that could not be carried over and was left out.
    #[error("the peer was left out: {0}")]
    PeerLeftOut(String),
    /// It selects nobody, there as here.
    #[error("left out: {0} and selects nobody, there as here")]
    Nobody(&'static str),
    /// Ports that could not be carried over and were left out.
    #[error("the port was left out: {0}")]
    PortLeftOut(String),
    /// The meaning is another one now.
    #[error("{0}")]
    Differs(String),
    /// The same object twice, or the same name for two things.
    #[error("{0}")]
    Conflict(String),
    /// More than fit.
    #[error("{0}")]
    Limit(String),
}

/// One thing that was not carried over as it was, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How much was lost.
    pub severity: Severity,
    /// Import: number of the document, from 1. `None` for what concerns the whole text, and in an export.
    pub document: Option<usize>,
    /// Import: kind and name of the object, as far as they could be read. Export: the same of the object that was written.
    pub object: String,
    /// Path of the value in the object, such as `spec.ingress[0].ports`.
    pub path: String,
    /// Where it stands in the text.
    pub place: Option<Place>,
    /// Export: the rule that it concerns.
    pub rule: Option<RuleId>,
    /// Export: the group that it concerns.
    pub group: Option<GroupName>,
    /// Why.
    pub reason: Reason,
}

impl Note {
    /// A note on the whole text.
    pub(crate) const fn general(severity: Severity, reason: Reason) -> Self {
        Self {
            severity,
            document: None,
            object: String::new(),
            path: String::new(),
            place: None,
            rule: None,
            group: None,
            reason,
        }
    }

    /// A note on a rule of an export.
    pub(crate) const fn of_rule(severity: Severity, rule: RuleId, reason: Reason) -> Self {
        let mut note = Self::general(severity, reason);
        note.rule = Some(rule);
        note
    }

    /// A note on a group of an export.
    pub(crate) fn of_group(severity: Severity, group: &GroupName, reason: Reason) -> Self {
        Self {
            group: Some(group.clone()),
            ..Self::general(severity, reason)
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.severity.name())?;
        let mut sep = ": ";
        let mut part = |f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>| {
            let done = write!(f, "{sep}{text}");
            sep = ", ";
            done
        };
        if let Some(document) = self.document {
            part(f, format_args!("document {document}"))?;
        }
        if !self.object.is_empty() {
            part(f, format_args!("{}", self.object))?;
        }
        if let Some(rule) = self.rule {
            part(f, format_args!("rule {rule}"))?;
        }
        if let Some(group) = &self.group {
            part(f, format_args!("group {group}"))?;
        }
        if !self.path.is_empty() {
            part(f, format_args!("{}", self.path))?;
        }
        if let Some(Place { line, column }) = self.place {
            part(f, format_args!("line {line} column {column}"))?;
        }
        write!(f, ": {}", self.reason)
    }
}
