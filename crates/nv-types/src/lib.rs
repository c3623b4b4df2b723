//! The words of nv as types: ids, ports, applications, modes, verdicts, groups, rules, workloads and the
//! compiled policy tables that `nv-policy` makes and `nv-dp` enforces.
//!
//! `no_std`; without the `alloc` feature only the `Copy` words are left, which is what the kernel programs use.
//! No I/O and no clock. The decision itself ([`decide`]) lives here because the compiler, the simulator,
//! `explain` and the kernel must all run the same lines.
//!
//! ```
//! use nv_types::{Action, Contention, Mode, Verdict, effective_mode, judge};
//!
//! // A client that still learns cannot open a protected service.
//! let mode = effective_mode(Some(Mode::Discover), Some(Mode::Protect), Contention::Restrictive).unwrap();
//! assert_eq!(judge(None, mode), Verdict::Deny);
//! assert_eq!(judge(Some(Action::Allow), mode), Verdict::Allow);
//! ```
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod app;
pub mod decide;
mod identity;
mod idle;
#[cfg(feature = "alloc")]
pub mod keys;
mod mode;
mod proto;
mod verdict;

pub use app::{AppMask, Application, UnknownApplication};
pub use decide::{ChainEntry, ChainStep, MAX_CHAIN, walk};
pub use identity::Identity;
pub use idle::IdleTimes;
pub use mode::{Contention, Mode, ParseModeError, effective_mode, judge};
pub use proto::IpProto;
pub use verdict::{Action, Decision, Direction, Reason, RuleId, Tier, Verdict};

#[cfg(feature = "alloc")]
mod capture;
#[cfg(feature = "alloc")]
mod flow;
#[cfg(feature = "alloc")]
mod group;
#[cfg(feature = "alloc")]
mod ids;
#[cfg(feature = "alloc")]
mod image;
#[cfg(feature = "alloc")]
mod ports;
#[cfg(feature = "alloc")]
mod rule;
#[cfg(feature = "alloc")]
mod workload;

#[cfg(feature = "alloc")]
pub use capture::CaptureTriggers;
#[cfg(feature = "alloc")]
pub use flow::{FiveTuple, FlowRecord, FlowState, Peer};
#[cfg(feature = "alloc")]
pub use group::{
    Criterion, CriterionOp, Group, GroupKind, ParseCriterionOpError, reserved, service_group_name,
};
#[cfg(feature = "alloc")]
pub use ids::{GroupName, InvalidId, MacAddr, NodeId, ParseMacError, Revision, Timestamp, WorkloadId};
#[cfg(feature = "alloc")]
pub use image::{
    AddressEntry, Chain, DecisionId, IpPrefix, LocalEntry, PairEntry, PolicyImage, PortEntry, PortTableId,
    TablesDelta, v4_mapped,
};
#[cfg(feature = "alloc")]
pub use ports::{InvalidPorts, PortRange, PortSet, PortSpec};
#[cfg(feature = "alloc")]
pub use rule::{BOUNDARY_LABEL, DenyResponse, PolicySettings, PortSpecText, Rule, UnknownEndpoint};
#[cfg(feature = "alloc")]
pub use workload::{Interface, Member, Node, NodeRuntime, PublishedPort, Workload, WorkloadState};
