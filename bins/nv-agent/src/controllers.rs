//! The controllers that an agent may talk to: the one that answered last, then the next. One connection at a time; when it is lost, the next
//! attempt goes to the controller after it, so that an agent is with another one as soon as it notices.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{ClientTlsConfig, Endpoint, Uri};
use tower::Service;

/// Longest wait for one controller to accept.
const CONNECT: Duration = Duration::from_secs(1);
/// How often a silent controller is asked whether it is there, and how long it may take to answer: together with [`CONNECT`], what an agent
/// needs at most to be with another one.
const ASK: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_millis(800);

/// Controllers, `HOST:PORT` each, in the order in which they are tried.
#[derive(Clone, Debug)]
pub(crate) struct Controllers {
    addresses: Arc<[String]>,
    next: Arc<AtomicUsize>,
}

impl Controllers {
    /// From a list with commas.
    pub(crate) fn new(list: &str) -> Self {
        Self {
            addresses: split(list).map(str::to_owned).collect(),
            next: Arc::default(),
        }
    }

    /// What a connection to any of them is like. The name in it is not looked up: [`Controllers::connector`] decides where it goes.
    pub(crate) fn endpoint(&self, tls: ClientTlsConfig) -> anyhow::Result<Endpoint> {
        let first = self.addresses.first().context("no controller is given")?;
        let count = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        Endpoint::from_shared(format!("https://{first}"))
            .with_context(|| format!("controller '{first}'"))?
            .connect_timeout(CONNECT * count + Duration::from_secs(2))
            .keep_alive_while_idle(true)
            .http2_keep_alive_interval(ASK)
            .keep_alive_timeout(ANSWER)
            .tls_config(tls)
            .context("certificate, key or CA")
    }

    /// Connects to the first that accepts, beginning with the one after the last that did.
    pub(crate) fn connector(
        &self,
    ) -> impl Service<
        Uri,
        Response = TokioIo<TcpStream>,
        Error = io::Error,
        Future = impl Future<Output = io::Result<TokioIo<TcpStream>>> + Send + use<>,
    > + Clone
    + Send
    + use<> {
        let controllers = self.clone();
        tower::service_fn(move |_: Uri| {
            let controllers = controllers.clone();
            async move { controllers.connect().await.map(TokioIo::new) }
        })
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for _ in 0..self.addresses.len() {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let address = &self.addresses[at % self.addresses.len()];
            match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

/// The parts of a list with commas.
pub(crate) fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_one_is_tried_when_one_does_not_accept_or_is_lost() {
        let listen = || tokio::net::TcpListener::bind("127.0.0.1:0");
        let (one, two) = (listen().await.unwrap(), listen().await.unwrap());
        let gone = listen().await.unwrap().local_addr().unwrap();
        let (first, second) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        let controllers = Controllers::new(&format!("{gone}, {first},{second}"));
        for expected in [first, second, first] {
            let stream = controllers.connect().await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), expected);
        }
        drop((one, two));
        let error = controllers.connect().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
