//! gRPC over a Unix socket: what containerd and CRI-O have in common.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::runtime::RuntimeError;

/// Longest wait for an answer. Not for streams: a stream's first byte comes with its first event.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
/// A list of a thousand containers has ten megabytes: each brings the whole configuration of its runtime.
pub(crate) const LARGEST: usize = 256 << 20;

/// A daemon behind a Unix socket. Connected to with the first call.
#[derive(Debug)]
pub(crate) struct Peer {
    runtime: &'static str,
    socket: PathBuf,
    channel: RwLock<Option<Channel>>,
}

impl Peer {
    pub(crate) fn new(runtime: &'static str, socket: PathBuf) -> Self {
        Self {
            runtime,
            socket,
            channel: RwLock::new(None),
        }
    }

    pub(crate) fn location(&self) -> String {
        self.socket.display().to_string()
    }

    pub(crate) async fn channel(&self) -> Result<Channel, RuntimeError> {
        let known = self
            .channel
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match known {
            Some(channel) => Ok(channel),
            None => self.fresh_channel().await,
        }
    }

    /// A new connection: another daemon may be behind the socket than before.
    pub(crate) async fn fresh_channel(&self) -> Result<Channel, RuntimeError> {
        let unreachable = |error: tonic::transport::Error| self.unreachable(with_causes(&error));
        let channel = Endpoint::try_from(format!("unix://{}", self.socket.display()))
            .map_err(unreachable)?
            .connect_timeout(CONNECT)
            .connect()
            .await
            .map_err(unreachable)?;
        *self.channel.write().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
        Ok(channel)
    }

    fn forget(&self) {
        *self.channel.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn unreachable(&self, detail: String) -> RuntimeError {
        RuntimeError::Unreachable {
            runtime: self.runtime,
            location: self.location(),
            detail,
        }
    }

    /// Waits for the answer of a call that is not a stream.
    pub(crate) async fn answer<T>(
        &self,
        action: &str,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RuntimeError> {
        let answered = tokio::time::timeout(TIMEOUT, call).await;
        let answered = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        answered
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failed(action, &status))
    }

    /// The error in our words.
    pub(crate) fn failed(&self, action: &str, status: &Status) -> RuntimeError {
        match status.code() {
            Code::NotFound => RuntimeError::NotFound {
                runtime: self.runtime,
                id: action.to_owned(),
            },
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                self.forget();
                self.unreachable(words(status))
            }
            // tonic says so of a connection that broke in the middle of an answer.
            Code::Unknown if std::error::Error::source(status).is_some() => {
                self.forget();
                self.unreachable(words(status))
            }
            _ => RuntimeError::Failed {
                runtime: self.runtime,
                action: action.to_owned(),
                detail: words(status),
            },
        }
    }
}

fn words(status: &Status) -> String {
    let mut text = status.message().to_owned();
    if let Some(cause) = std::error::Error::source(status) {
        text = format!("{text}: {}", with_causes(cause));
    }
    if text.is_empty() {
        text = status.code().to_string();
    }
    text
}

/// Transport errors say what happened only in their sources.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
