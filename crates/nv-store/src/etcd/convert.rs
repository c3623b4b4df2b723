//! Between etcd's messages and the store's types, and what its refusals mean.

use std::time::Duration;

use nv_types::Revision;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use super::{EtcdOptions, wire};
use crate::StoreError;
use crate::types::LeaseId;

/// What makes one etcd differ from another, and one past of it from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) cluster: u64,
    pub(super) revision: Revision,
}

pub(super) fn channel(url: &str, options: &EtcdOptions) -> Result<Channel, StoreError> {
    let wrong = |error: tonic::transport::Error| StoreError::Unavailable {
        detail: format!("etcd at {url}: {}", words(&error)),
    };
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(wrong)?
        .connect_timeout(Duration::from_secs(2))
        // Members refuse to be asked more often than every five seconds.
        .http2_keep_alive_interval(Duration::from_secs(6))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true);
    if url.starts_with("https://") {
        let mut tls = ClientTlsConfig::new();
        if let Some(ca) = &options.tls.ca_pem {
            tls = tls.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &options.tls.identity_pem {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        endpoint = endpoint.tls_config(tls).map_err(wrong)?;
    }
    Ok(endpoint.connect_lazy())
}

pub(super) fn holds(compare: &wire::Compare, actual: Option<Revision>) -> bool {
    use wire::compare::{CompareResult, TargetUnion};
    match compare.target_union {
        Some(TargetUnion::ModRevision(wanted)) => actual == Some(revision(wanted)),
        _ if compare.result() == CompareResult::Greater => actual.is_some(),
        _ => actual.is_none(),
    }
}

/// The first key after all those with this prefix.
pub(super) fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

pub(super) fn header(header: Option<wire::ResponseHeader>) -> Header {
    header.map_or_else(Header::default, |header| Header {
        cluster: header.cluster_id,
        revision: revision(header.revision),
    })
}

pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

pub(super) fn lease_id(id: LeaseId) -> i64 {
    i64::try_from(id.0).unwrap_or(-1)
}

/// Whether a call surely did not reach a member: there was no connection to send it over.
pub(super) fn not_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        {
            return true;
        }
        source = error.source();
    }
    false
}

pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

pub(super) fn error(status: &Status, key: &str) -> StoreError {
    let text = status.message();
    match status.code() {
        Code::NotFound => StoreError::LeaseGone(0),
        Code::PermissionDenied => StoreError::Denied { key: key.to_owned() },
        Code::InvalidArgument if text.contains("too many operations") => StoreError::BeyondLimit {
            detail: format!(
                "{key}: more operations than etcd takes at once ({text}): start it with a larger --max-txn-ops, or make smaller changes"
            ),
        },
        Code::InvalidArgument | Code::ResourceExhausted if text.contains("too large") => {
            StoreError::BeyondLimit {
                detail: format!(
                    "{key}: more than etcd takes at once ({text}): start it with a larger --max-request-bytes, or make smaller changes"
                ),
            }
        }
        _ => StoreError::Unavailable {
            detail: format!("etcd: {}", words(status)),
        },
    }
}
