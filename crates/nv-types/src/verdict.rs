//! Actions, verdicts, and why a verdict was given.

use core::fmt;

/// What a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum Action {
    /// Let it pass.
    Allow,
    /// Do not.
    Deny,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// What happens to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[repr(u8)]
pub enum Verdict {
    /// Passes.
    Allow = 0,
    /// Passes, and a violation is reported.
    Alert = 1,
    /// Does not pass, and a violation is reported.
    Deny = 2,
}

impl Verdict {
    /// The verdict with this number in kernel tables; an unknown number is `None`, never a silent Allow.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Allow),
            1 => Some(Self::Alert),
            2 => Some(Self::Deny),
            _ => None,
        }
    }

    /// Lower-case name, as in REST and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Alert => "alert",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a verdict was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[repr(u8)]
pub enum Reason {
    /// A rule matched; the rule id says which.
    Rule = 0,
    /// No rule matched: the mode decided.
    Default = 1,
    /// Both ends are the same workload.
    SameWorkload = 2,
    /// Neither end is managed.
    Unmanaged = 3,
    /// The application is not known yet; packets pass only as far as classification needs them.
    Pending = 4,
    /// The packet could not be parsed.
    Malformed = 5,
    /// The source address or MAC is not the workload's own.
    Spoofed = 6,
    /// A later fragment whose first fragment was not seen.
    Fragment = 7,
    /// The connection table was full.
    TableFull = 8,
    /// The interface's workload is not known yet.
    UnknownEndpoint = 9,
    /// The endpoint has no entry in the policy in force.
    NoPolicy = 10,
    /// Belongs to a flow that was already judged: an ICMP error for it.
    Related = 11,
    /// A protocol that policy does not speak of: ARP, neighbour discovery, link control.
    NotPoliced = 12,
    /// A fail-safe port of the node's own management.
    Failsafe = 13,
    /// It crosses the boundary of a domain, and no rule but a learned one speaks of it.
    Boundary = 14,
    /// The workload is in quarantine.
    Quarantined = 15,
}

impl Reason {
    /// Number of reasons, for counter arrays.
    pub const COUNT: usize = 16;

    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Rule,
        Self::Default,
        Self::SameWorkload,
        Self::Unmanaged,
        Self::Pending,
        Self::Malformed,
        Self::Spoofed,
        Self::Fragment,
        Self::TableFull,
        Self::UnknownEndpoint,
        Self::NoPolicy,
        Self::Related,
        Self::NotPoliced,
        Self::Failsafe,
        Self::Boundary,
        Self::Quarantined,
    ];

    /// The reason with this number in kernel tables.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        if (value as usize) < Self::COUNT {
            Some(Self::ALL[value as usize])
        } else {
            None
        }
    }

    /// Snake-case name, as in REST and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Default => "default",
            Self::SameWorkload => "same_workload",
            Self::Unmanaged => "unmanaged",
            Self::Pending => "pending",
            Self::Malformed => "malformed",
            Self::Spoofed => "spoofed",
            Self::Fragment => "fragment",
            Self::TableFull => "table_full",
            Self::UnknownEndpoint => "unknown_endpoint",
            Self::NoPolicy => "no_policy",
            Self::Related => "related",
            Self::NotPoliced => "not_policed",
            Self::Failsafe => "failsafe",
            Self::Boundary => "boundary",
            Self::Quarantined => "quarantined",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Relative to the endpoint, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[repr(u8)]
pub enum Direction {
    /// Towards the workload: it is the server of the flow.
    Ingress = 0,
    /// From the workload: it is the client of the flow.
    Egress = 1,
}

impl Direction {
    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rule's number. Ranges are NeuVector's and say where the rule came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct RuleId(pub u32);

/// Where a rule came from, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Tier {
    /// Pushed by a federation master.
    #[cfg_attr(feature = "serde", serde(rename = "federal"))]
    Federal,
    /// From a custom resource.
    #[cfg_attr(feature = "serde", serde(rename = "ground"))]
    Ground,
    /// Made by a user.
    #[cfg_attr(feature = "serde", serde(rename = "user_created"))]
    User,
    /// Learned from flows.
    #[cfg_attr(feature = "serde", serde(rename = "learned"))]
    Learned,
}

impl Tier {
    /// NeuVector's `cfg_type` word.
    #[must_use]
    pub const fn cfg_type(self) -> &'static str {
        match self {
            Self::Federal => "federal",
            Self::Ground => "ground",
            Self::User => "user_created",
            Self::Learned => "learned",
        }
    }
}

impl RuleId {
    /// No rule: the implicit decision.
    pub const IMPLICIT: Self = Self(0);
    /// First and last id of rules made by a user.
    pub const USER: (u32, u32) = (1, 9_999);
    /// First and last id of learned rules.
    pub const LEARNED: (u32, u32) = (10_000, 99_999);
    /// First and last id of federated rules.
    pub const FEDERAL: (u32, u32) = (100_000, 109_999);
    /// First and last id of custom-resource rules.
    pub const GROUND: (u32, u32) = (110_000, 119_999);

    /// The tier this id belongs to; `None` for the implicit rule and for numbers outside every range.
    #[must_use]
    pub const fn tier(self) -> Option<Tier> {
        match self.0 {
            1..=9_999 => Some(Tier::User),
            10_000..=99_999 => Some(Tier::Learned),
            100_000..=109_999 => Some(Tier::Federal),
            110_000..=119_999 => Some(Tier::Ground),
            _ => None,
        }
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A verdict with what caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule, when `reason` is [`Reason::Rule`]; else [`RuleId::IMPLICIT`].
    pub rule: RuleId,
}

impl Decision {
    /// A decision that no rule made.
    #[must_use]
    pub const fn implicit(verdict: Verdict, reason: Reason) -> Self {
        Self {
            verdict,
            reason,
            rule: RuleId::IMPLICIT,
        }
    }

    /// Whether this is what Discover learns from: nothing matched and it passed unreported.
    #[must_use]
    pub const fn is_learnable(self) -> bool {
        matches!((self.verdict, self.reason), (Verdict::Allow, Reason::Default))
    }
}
