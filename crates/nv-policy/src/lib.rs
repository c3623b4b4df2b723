//! Policy engine of nv: groups, ordered rules, modes and workloads compiled to lookup tables; evaluate, explain, learn.
//!
//! Pure: no I/O, no clock, and equal input gives equal output. The meaning of a policy is [`mod@reference`], an ordered walk
//! short enough to be checked by eye; [`compile`] turns the same input into a [`nv_types::PolicyImage`] for a datapath, and property
//! tests hold the two together. What DNS names in address groups stand for is told from outside: [`Names`]. [`explain`] says which rule decided and which nearly did; [`learn`] makes rules of flows.
//!
//! ```
//! use nv_policy::{PolicyInput, Tables, compile};
//! use nv_types::{Action, Direction, IpProto, Mode, Revision, Verdict};
//! # use nv_types::{Interface, Workload};
//! # fn workload(id: &str, address: &str) -> Workload {
//! #     let addresses = vec![(address.parse().unwrap(), 24)];
//! #     Workload {
//! #         interfaces: vec![Interface { name: "eth0".into(), host_index: Some(7), addresses, ..Interface::default() }],
//! #         ..Workload::new(id.parse().unwrap(), "n1".parse().unwrap(), id)
//! #     }
//! # }
//! let mut input = PolicyInput::default();
//! for (name, address) in [("web", "10.0.0.2"), ("app", "10.0.0.3")] {
//!     let workload = workload(name, address);
//!     input.add_service_group(&workload);
//!     input.workloads.insert(workload.id.clone(), workload);
//! }
//! input.modes.insert("nv.app".parse().unwrap(), Mode::Protect);
//! input.rules.push(nv_policy::rule(1, "nv.web", "nv.app", "tcp/8080", Action::Allow).unwrap());
//!
//! let compiled = compile(&input, &"n1".parse().unwrap(), Revision(1)).unwrap();
//! let tables = Tables::new(&compiled.image);
//! let app = "app".parse().unwrap();
//! let judge = |port| tables.lookup(&app, Direction::Ingress, "10.0.0.2".parse().unwrap(), IpProto::TCP, port, None).unwrap();
//! assert_eq!(judge(8080).decision().unwrap().verdict, Verdict::Allow);
//! assert_eq!(judge(9090).decision().unwrap().verdict, Verdict::Deny);
//! ```
#![forbid(unsafe_code)]

mod address;
mod compile;
mod compiler;
mod criteria;
mod diff;
mod explain;
mod flatten;
mod group;
mod input;
pub mod interchange;
mod learn;
mod map;
mod names;
mod party;
pub mod reference;
mod review;
mod settings;
mod simulate;
mod space;
mod state;
mod tables;
mod validate;

pub use address::{AddressSet, InvalidAddress};
pub use compile::{CompileError, Compiled, Diagnostic, compile};
pub use compiler::{Change, Compiler};
pub use criteria::{InvalidCriterion, Selector};
pub use diff::{Applications, Difference, Differences, Peers, diff};
pub use explain::{Alternative, Explanation, Field, NearMiss, Query, Side, explain};
pub use group::group_problems;
pub use input::{PolicyInput, Quarantine, rule};
pub use learn::{LEARNED_PORTS_MAX, Observation, RuleChange, learn};
pub use names::{InvalidName, NAME_ADDRESSES_MAX, NAMES_MAX, Names, StoredName, Wanted, is_name_pattern};
pub use party::{Book, Party, Zone};
pub use review::review;
pub use settings::{BadSetting, change_settings};
pub use simulate::{Changed, End, Flow, simulate};
pub use space::PortSpace;
pub use state::{BadValue, PolicyState, StoredMode, StoredOrder, Touched, decode, encode};
pub use tables::{Judgement, Tables};
pub use validate::{InvalidGroup, InvalidRule, validate_group, validate_rule};
