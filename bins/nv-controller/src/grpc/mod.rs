//! gRPC for agents. A client certificate from the internal CA names the node; without one only `Enroll` answers.

mod convert;
mod enroll;
mod lease;
mod report;
mod store;

use nv_types::NodeId;
use tonic::{Request, Status};

use crate::ca::common_name;

pub(crate) use enroll::{EnrollService, Tokens};
pub(crate) use report::ReportService;
pub(crate) use store::StoreService;

/// The node that a call is from.
fn caller<T>(request: &Request<T>) -> Result<NodeId, Status> {
    let certificates = request
        .peer_certs()
        .ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
    let first = certificates
        .first()
        .ok_or_else(|| Status::unauthenticated("a client certificate is needed"))?;
    let name = common_name(first).map_err(|error| Status::unauthenticated(error.to_string()))?;
    NodeId::try_new(name).map_err(|error| Status::unauthenticated(error.to_string()))
}
