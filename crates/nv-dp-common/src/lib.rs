//! The packet pipeline of nv and the layouts of its kernel tables, shared by the kernel programs and userspace.
//!
//! `no_std`, no allocation, no clock and no I/O: packets come in through [`Packet`], tables through [`Tables`], the
//! time as an argument. The kernel programs (`nv-dp-ebpf`) and the software datapath (`nv-dp`) run these same lines,
//! so that a test of one is a test of the other.
//!
//! ```text
//! parse -> guard (own addresses) -> connection -> application -> policy -> verdict
//! ```
//!
//! Everything is `inline(always)`, loops have fixed bounds, and packet bytes are copied out by constant sizes: the
//! shape that the kernel's verifier takes.
//!
//! ```
//! use nv_dp_common::{SlicePacket, parse::{Class, Headers, parse}};
//! use nv_types::Direction;
//!
//! let mut headers = Headers::new(7);
//! assert_eq!(parse(&SlicePacket(&[0; 10]), Direction::Egress, &mut headers), Class::Malformed);
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod answer;
pub mod app;
mod flow;
mod guard;
pub mod layout;
mod naming;
mod overhear;
mod packet;
pub mod parse;
mod pipeline;
mod policy;
mod recall;
mod ruling;
mod tables;

#[cfg(feature = "user")]
pub mod bytes;
pub mod timeout;

pub use answer::{ANSWER_ROOM, Told, told, write_answer};
pub use layout::ABI_VERSION;
pub use overhear::{Overheard, overheard};
#[cfg(feature = "user")]
pub use packet::SlicePacket;
pub use packet::{Packet, WINDOW};
pub use pipeline::{Passage, Scratch, run};
pub use recall::{RECALLED, RecallCell};
pub use tables::Tables;
