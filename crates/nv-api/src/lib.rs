//! The contract of nv: gRPC between controller and agents ([`grpc`]), REST for users ([`rest`]).
//!
//! REST has NeuVector's resources and JSON names (its OpenAPI document is the reference), and a few of our own beside them: `explain`, `flow`,
//! `node`, `settings`, `apply`.
//!
//! ```
//! let rule: nv_api::rest::RuleConfig = serde_json::from_str(r#"{"id": 0, "from": "web", "to": "app", "ports": "tcp/80"}"#).unwrap();
//! assert_eq!(rule.from.as_deref(), Some("web"));
//! let error = serde_json::from_str::<nv_api::rest::RuleConfig>(r#"{"form": "web"}"#).unwrap_err();
//! assert!(error.to_string().contains("form"));
//! ```
#![deny(unsafe_code)]

pub mod filter;
pub mod rest;

/// Messages and services of `proto/nv.proto`, generated.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
pub mod grpc {
    tonic::include_proto!("nv.v1");
}

/// Largest gRPC message, either way.
pub const MAX_MESSAGE: usize = 16 << 20;
/// Name in a controller's certificate.
pub const CONTROLLER_NAME: &str = "controller.nv.internal";

/// Name in the certificate of a node's agent: its node id as a label below this domain would not fit every node id, so it stands as a
/// whole in the subject, and this is the DNS name that the controller expects of every agent's server.
pub const AGENT_NAME: &str = "agent.nv.internal";
