//! The agent's brain: what the runtime, the kernel and the store tell goes in, what is to be done comes out.
//!
//! No I/O, no clock: the time comes with each input. The shell calls [`Agent::handle`] with each [`Input`], then [`Agent::poll_effect`] until it gives nothing, and
//! carries the effects out; their results come back as inputs. [`Agent::poll_timeout`] says when to call
//! with [`Input::Tick`] if nothing else happens.
//!
//! The order that leaves no unprotected moment is kept here: the image that knows a workload is in force before its interface
//! is given to it, and an interface that shows up before its workload is guarded at once.
//!
//! ```
//! use nv_agent_core::{Agent, Effect, Input, Moment};
//! use nv_types::Revision;
//!
//! let mut agent = Agent::new("node-1".parse().unwrap());
//! agent.handle(Input::StoreResync { entries: vec![], revision: Revision(1) }, Moment::default());
//! let effects: Vec<_> = std::iter::from_fn(|| agent.poll_effect()).collect();
//! assert!(effects.iter().any(|effect| matches!(effect, Effect::Apply { .. })));
//! ```
#![forbid(unsafe_code)]

mod agent;
mod book;
mod compiled;
mod endpoints;
mod io;
mod names;
mod naming;
mod saved;

pub use agent::Agent;
pub use io::{DnsSeen, Effect, EndpointWant, Facts, FlowSample, Input, Moment, NameRules, Steady, Switches};
pub use saved::{saved_mode, saved_workloads};
