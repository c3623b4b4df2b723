//! Groups: named sets of workloads or addresses.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::{GroupName, Tier};

/// How a criterion compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub enum CriterionOp {
    /// `=`: anchored glob with `*` and `?`.
    Equal,
    /// `!=`: the opposite of `=`.
    NotEqual,
    /// `contains`: substring.
    Contains,
    /// `prefix`: starts with.
    Prefix,
    /// `regex`: unanchored regular expression, linear time.
    Regex,
    /// `!regex`: the opposite of `regex`.
    NotRegex,
}

impl CriterionOp {
    /// The operator as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Contains => "contains",
            Self::Prefix => "prefix",
            Self::Regex => "regex",
            Self::NotRegex => "!regex",
        }
    }

    /// Whether a missing label satisfies it.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        matches!(self, Self::NotEqual | Self::NotRegex)
    }
}

impl fmt::Display for CriterionOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that is no operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown operator '{0}': use =, !=, contains, prefix, regex or !regex")]
pub struct ParseCriterionOpError(pub String);

impl FromStr for CriterionOp {
    type Err = ParseCriterionOpError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [
            Self::Equal,
            Self::NotEqual,
            Self::Contains,
            Self::Prefix,
            Self::Regex,
            Self::NotRegex,
        ]
        .into_iter()
        .find(|op| op.as_str() == text)
        .ok_or_else(|| ParseCriterionOpError(text.into()))
    }
}

impl TryFrom<String> for CriterionOp {
    type Error = ParseCriterionOpError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<CriterionOp> for String {
    fn from(op: CriterionOp) -> Self {
        op.as_str().into()
    }
}

/// One condition on a workload, or one address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Criterion {
    /// `image`, `node`, `container`, `service`, `domain` (`namespace`), `ns:<label>`, `address`, or a workload label.
    pub key: String,
    /// Text, glob, expression or address.
    pub value: String,
    /// How the two are compared.
    pub op: CriterionOp,
}

/// What a group is made of. NeuVector's `kind` words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum GroupKind {
    /// Workloads by criteria.
    Container,
    /// Addresses: IP, CIDR, range, name.
    Address,
    /// Cluster addresses of a Kubernetes service.
    IpService,
    /// Every address that is not internal.
    External,
    /// All hosts.
    Node,
}

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Group {
    /// Unique name.
    pub name: GroupName,
    /// What it is made of.
    pub kind: GroupKind,
    /// Who made it. `None`: reserved by the system.
    pub origin: Option<Tier>,
    /// Free text.
    #[cfg_attr(feature = "serde", serde(default))]
    pub comment: String,
    /// Domain of a learned group.
    #[cfg_attr(feature = "serde", serde(default))]
    pub domain: String,
    /// Conditions. A group without criteria that is not reserved matches nobody.
    #[cfg_attr(feature = "serde", serde(default))]
    pub criteria: Vec<Criterion>,
}

impl Group {
    /// Whether this is a service's learned group, which has a mode.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.kind == GroupKind::Container
            && self.origin == Some(Tier::Learned)
            && self.name.as_str().starts_with("nv.")
    }

    /// Whether a mode may be set on it.
    #[must_use]
    pub fn has_mode(&self) -> bool {
        self.is_service() || self.name.as_str() == reserved::NODES
    }
}

/// Names that the system reserves.
pub mod reserved {
    /// Every address that is no workload's and no node's.
    pub const EXTERNAL: &str = "external";
    /// All nodes.
    pub const NODES: &str = "nodes";
    /// All workloads.
    pub const CONTAINERS: &str = "containers";
    /// Addresses of the overlay's tunnels; only as a rule's from group.
    pub const INGRESS: &str = "Workload:ingress";

    /// All of them.
    pub const ALL: [&str; 4] = [EXTERNAL, NODES, CONTAINERS, INGRESS];
}

/// Name of a service's learned group: `nv.<service>.<domain>`, or `nv.<service>` outside of any domain.
#[must_use]
pub fn service_group_name(service: &str, domain: &str) -> String {
    if domain.is_empty() {
        format!("nv.{service}")
    } else {
        format!("nv.{service}.{domain}")
    }
}
