//! New and gone host ends of veth pairs, as the kernel makes and removes them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::nl::{LinkFacts, Netlink, receive};

/// Multicast group of link changes (`linux/rtnetlink.h`).
const RTNLGRP_LINK: u32 = 1;

/// A change of the veths in our namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A veth that was not there, or whose name or other end changed. Events at the start tell of those that exist.
    NewVeth {
        /// Index.
        ifindex: u32,
        /// Name.
        name: String,
        /// Index of the other end, in its own namespace.
        peer: Option<u32>,
        /// The other end is in another namespace: this is a host end. A pair that was just made has both ends here;
        /// when one is moved away the event for the other comes again.
        peer_elsewhere: bool,
    },
    /// It is no longer in our namespace.
    Gone {
        /// Index that it had.
        ifindex: u32,
    },
}

/// Tells of veths in the namespace that it was started in.
///
/// Every change is told at least in its effect: when the kernel's or our own queue runs full, all links are read again
/// and the difference is told.
#[derive(Debug)]
pub struct LinkWatcher {
    events: mpsc::Receiver<LinkEvent>,
    resyncs: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl LinkWatcher {
    /// Starts watching; `capacity` is the size of the queue to the consumer. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn spawn(capacity: usize) -> io::Result<Self> {
        let socket = multicast_socket()?;
        let requests = Netlink::open()?;
        let (sender, events) = mpsc::channel(capacity.max(1));
        let resyncs = Arc::new(AtomicU64::new(0));
        let stop = CancellationToken::new();
        #[expect(
            deprecated,
            reason = "the descriptor is owned by the value, and the successor is unsafe to call"
        )]
        let socket = AsyncFd::new(socket)?;
        let worker = Worker {
            socket,
            requests,
            known: BTreeMap::new(),
            sender,
            resyncs: Arc::clone(&resyncs),
        };
        let token = stop.clone();
        tokio::spawn(async move {
            let ended = token.run_until_cancelled(worker.run()).await;
            if let Some(Err(error)) = ended {
                tracing::error!(%error, "watching links ended");
            }
        });
        Ok(Self {
            events,
            resyncs,
            stop,
        })
    }

    /// The next event; `None` when watching has ended because the kernel's socket failed for good.
    pub async fn recv(&mut self) -> Option<LinkEvent> {
        self.events.recv().await
    }

    /// How often all links were read again because a queue had run full.
    #[must_use]
    pub fn resyncs(&self) -> u64 {
        self.resyncs.load(Ordering::Relaxed)
    }
}

impl Drop for LinkWatcher {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn multicast_socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(RTNLGRP_LINK)?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

struct Worker {
    socket: AsyncFd<Socket>,
    requests: Netlink,
    known: BTreeMap<u32, LinkFacts>,
    sender: mpsc::Sender<LinkEvent>,
    resyncs: Arc<AtomicU64>,
}

/// The consumer is gone.
struct Closed;

impl Worker {
    async fn run(mut self) -> io::Result<()> {
        // The socket already listens: what changes during the dump is told again, and then changes nothing.
        if self.resync().await?.is_err() {
            return Ok(());
        }
        loop {
            let mut ready = self.socket.readable().await?;
            let received = match ready.try_io(|socket| receive(socket.get_ref())) {
                Ok(received) => received,
                Err(_would_block) => continue,
            };
            drop(ready);
            let sent = match received {
                Ok(messages) => {
                    let changes = messages.into_iter().filter_map(|(_, payload)| match payload {
                        NetlinkPayload::InnerMessage(message) => self.change(message),
                        _ => None,
                    });
                    let changes: Vec<LinkEvent> = changes.collect();
                    self.send(changes).await
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.resyncs.fetch_add(1, Ordering::Relaxed);
                    self.resync().await?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                Err(error) => return Err(error),
            };
            if sent.is_err() {
                return Ok(());
            }
        }
    }

    async fn send(&self, events: Vec<LinkEvent>) -> Result<(), Closed> {
        for event in events {
            self.sender.send(event).await.map_err(|_| Closed)?;
        }
        Ok(())
    }

    async fn resync(&mut self) -> io::Result<Result<(), Closed>> {
        let now: BTreeMap<u32, LinkFacts> = self
            .requests
            .links()?
            .iter()
            .map(LinkFacts::of)
            .filter(|facts| facts.is_veth)
            .map(|facts| (facts.index, facts))
            .collect();
        let events = difference(&self.known, &now);
        self.known = now;
        Ok(self.send(events).await)
    }

    fn change(&mut self, message: RouteNetlinkMessage) -> Option<LinkEvent> {
        match message {
            // A port that leaves its bridge is told as a deleted link of the bridge family: the link itself stays.
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)
                if link.header.interface_family != AddressFamily::Unspec =>
            {
                None
            }
            RouteNetlinkMessage::NewLink(link) => self.seen(&link),
            RouteNetlinkMessage::DelLink(link) => {
                let ifindex = link.header.index;
                self.known.remove(&ifindex).map(|_| LinkEvent::Gone { ifindex })
            }
            _ => None,
        }
    }

    fn seen(&mut self, link: &LinkMessage) -> Option<LinkEvent> {
        let facts = LinkFacts::of(link);
        if !facts.is_veth
            || self
                .known
                .get(&facts.index)
                .is_some_and(|known| same(known, &facts))
        {
            return None;
        }
        let event = new_veth(&facts);
        self.known.insert(facts.index, facts);
        Some(event)
    }
}

fn same(a: &LinkFacts, b: &LinkFacts) -> bool {
    (&a.name, a.peer, a.peer_namespace) == (&b.name, b.peer, b.peer_namespace)
}

fn new_veth(facts: &LinkFacts) -> LinkEvent {
    LinkEvent::NewVeth {
        ifindex: facts.index,
        name: facts.name.clone(),
        peer: facts.peer.filter(|peer| *peer != 0),
        peer_elsewhere: facts.peer_namespace.is_some(),
    }
}

/// What tells someone who knows `before` of `now`: gone ones first, as indexes are used again.
fn difference(before: &BTreeMap<u32, LinkFacts>, now: &BTreeMap<u32, LinkFacts>) -> Vec<LinkEvent> {
    let gone = before
        .keys()
        .filter(|index| !now.contains_key(index))
        .map(|index| LinkEvent::Gone { ifindex: *index });
    let new = now
        .values()
        .filter(|facts| !before.get(&facts.index).is_some_and(|known| same(known, facts)))
        .map(new_veth);
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veth(index: u32, name: &str, namespace: Option<i32>) -> (u32, LinkFacts) {
        let facts = LinkFacts {
            index,
            name: name.to_owned(),
            mac: None,
            is_veth: true,
            peer: Some(2),
            peer_namespace: namespace,
        };
        (index, facts)
    }

    #[test]
    fn a_resync_tells_gone_changed_and_new_ones_and_nothing_else() {
        let before = BTreeMap::from([veth(3, "a", Some(0)), veth(4, "b", None), veth(5, "c", Some(1))]);
        let now = BTreeMap::from([
            veth(4, "b", Some(2)),
            veth(5, "c", Some(1)),
            veth(6, "d", Some(3)),
        ]);
        let events = difference(&before, &now);
        assert_eq!(events.len(), 3);
        assert_eq!(events[0], LinkEvent::Gone { ifindex: 3 });
        assert!(matches!(
            events[1],
            LinkEvent::NewVeth {
                ifindex: 4,
                peer_elsewhere: true,
                ..
            }
        ));
        assert!(matches!(events[2], LinkEvent::NewVeth { ifindex: 6, .. }));
        assert!(difference(&now, &now).is_empty());
    }
}
