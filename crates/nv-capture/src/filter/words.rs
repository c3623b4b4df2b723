//! Words of nv in a filter: who, what the datapath decided, and which application. They need more than the
//! packet's bytes, so they are judged in userspace, after the kernel has left out what cannot match.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use nv_types::{Application, Decision, RuleId, Verdict};

use super::ast::Side;
use crate::PacketDirection;
use crate::headers::Headers;

/// Names of whoever has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Party {
    /// Workload, by name; empty when it is none.
    pub workload: String,
    /// Its id.
    pub id: String,
    /// Its service.
    pub service: String,
    /// Its namespace.
    pub domain: String,
    /// Groups that it is in.
    pub groups: Vec<String>,
}

/// What is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowNote {
    /// What the datapath decided, and by which rule.
    pub decision: Decision,
    /// Its application, once that is known.
    pub application: Option<Application>,
}

/// Answers what bytes alone cannot: names, verdicts, applications.
pub trait Annotator: Send + Sync + fmt::Debug {
    /// Who has this address.
    fn party(&self, address: IpAddr) -> Option<Arc<Party>>;

    /// The flow that a packet with these headers belongs to, seen from either side.
    fn flow(&self, headers: &Headers) -> Option<FlowNote>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Workload(Side, String),
    Group(Side, String),
    Service(Side, String),
    Domain(Side, String),
    Verdict(Verdict),
    App(Application),
    Rule(RuleId),
    Direction(PacketDirection),
}

/// A packet with what is known of it, looked up when it is first asked for.
pub(super) struct Known<'a> {
    pub(super) annotator: Option<&'a dyn Annotator>,
    pub(super) direction: PacketDirection,
    pub(super) headers: Option<Headers>,
}

impl Word {
    pub(super) fn holds(&self, known: &Known<'_>) -> bool {
        match self {
            Self::Direction(wanted) => known.direction == *wanted,
            Self::Workload(side, name) => known.any(*side, |party| {
                glob(name, &party.workload) || glob(name, &party.id)
            }),
            Self::Group(side, name) => {
                known.any(*side, |party| party.groups.iter().any(|group| glob(name, group)))
            }
            Self::Service(side, name) => known.any(*side, |party| glob(name, &party.service)),
            Self::Domain(side, name) => known.any(*side, |party| glob(name, &party.domain)),
            Self::Verdict(wanted) => known.flow().is_some_and(|flow| flow.decision.verdict == *wanted),
            Self::App(wanted) => known.flow().is_some_and(|flow| flow.application == Some(*wanted)),
            Self::Rule(wanted) => known.flow().is_some_and(|flow| flow.decision.rule == *wanted),
        }
    }
}

impl Known<'_> {
    fn flow(&self) -> Option<FlowNote> {
        self.annotator?.flow(self.headers.as_ref()?)
    }

    fn any(&self, side: Side, test: impl Fn(&Party) -> bool) -> bool {
        let (Some(annotator), Some(headers)) = (self.annotator, &self.headers) else {
            return false;
        };
        let holds = |address| annotator.party(address).is_some_and(|party| test(&party));
        match side {
            Side::Src => holds(headers.source),
            Side::Dst => holds(headers.destination),
            Side::Any => holds(headers.source) || holds(headers.destination),
            Side::Both => holds(headers.source) && holds(headers.destination),
        }
    }
}

/// `*` stands for any characters. Time grows with both lengths only.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(start) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = text.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, holds) in [
            ("web", "web", true),
            ("web", "web-1", false),
            ("web*", "web-1", true),
            ("*", "", true),
            ("*-1", "web-1", true),
            ("w*b*1", "web-1", true),
            ("w*b*1", "web-2", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(glob(pattern, text), holds, "{pattern} {text}");
        }
    }
}
