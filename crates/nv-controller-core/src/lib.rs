//! The controller's brain: requests, store changes and flow reports in; plans and answers out.
//!
//! No I/O, no clock: `now` is passed in, and what is to be written comes out as a [`Plan`] that the shell commits in one transaction and
//! then feeds back as store changes. So a request either happens whole or not at all, and the state here is never ahead
//! of the store.
//!
//! ```
//! use nv_controller_core::{Controller, Document, RuleDraft};
//! use nv_types::{Revision, Timestamp};
//!
//! let mut core = Controller::new();
//! let rule = RuleDraft { from: "containers".into(), to: "external".into(), ports: "tcp/443".into(), ..RuleDraft::default() };
//! let plan = core.apply(&[Document::Rule(rule)], Timestamp(1)).unwrap();
//! assert_eq!(plan.summary, ["rule 1 added: allow containers -> external tcp/443"]);
//! for (at, (key, value)) in plan.puts.iter().enumerate() {
//!     core.store_put(key, value, Revision(1 + at as u64));
//! }
//! assert_eq!(core.input().rules.len(), 1);
//! ```
#![forbid(unsafe_code)]

mod accord;
mod command;
mod contacts;
mod controller;
mod conversation;
mod draft;
mod error;
mod explain;
mod flows;
mod hits;
mod learning;
mod promotion;
mod simulation;
mod violation;

pub use command::{CriterionDraft, Document, GroupDraft, RuleDraft, RulePatch, SettingsDraft};
pub use controller::{Controller, Plan};
pub use conversation::{Conversation, ConversationEntry, Endpoint, EndpointKind};
pub use error::{CommandError, ErrorKind};
pub use explain::{Asked, UnknownEnd};
pub use flows::{FlowView, Followed};
pub use hits::Hits;
pub use promotion::{Standing, WATCHED};
pub use simulation::{Affected, Alike, Outcome, Simulation};
pub use violation::Violation;
