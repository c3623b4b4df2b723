//! Datapath of nv: the trait that the agent drives, the eBPF backend, and a software backend over the same pipeline.
//!
//! ```
//! use nv_dp::{Datapath, DatapathConfig, SoftwareDatapath};
//! use nv_types::{PolicyImage, Verdict};
//!
//! let mut datapath = SoftwareDatapath::default();
//! let config = DatapathConfig { unknown: Verdict::Deny, ..DatapathConfig::default() };
//! datapath.apply(&PolicyImage::default(), &config)?;
//! assert_eq!(datapath.status()?.hook, "software");
//! # Ok::<(), nv_dp::DatapathError>(())
//! ```
#![deny(unsafe_code)]

mod convert;
mod datapath;
#[cfg(feature = "ebpf")]
mod ebpf;
#[cfg(feature = "ebpf")]
mod message;
#[cfg(feature = "remote")]
pub mod remote;
pub mod replay;
mod slot;
mod software;

pub use datapath::*;
#[cfg(feature = "ebpf")]
pub use ebpf::probe;
#[cfg(feature = "ebpf")]
pub use ebpf::{EbpfConfig, EbpfDatapath, HookChoice, NameGate, NameTap};
#[cfg(feature = "ebpf")]
pub use message::{DnsMessage, HeldFrame};
pub use nv_dp_common::Overheard;
pub use slot::Capacity;
pub use software::{Outcome, SoftwareConfig, SoftwareDatapath};
