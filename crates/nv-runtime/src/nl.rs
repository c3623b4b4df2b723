//! A small blocking rtnetlink client.
//!
//! A netlink socket belongs to the namespace of the thread that made it, for good. That is why this is blocking: it
//! runs on threads that have entered a namespace, where no async runtime may live.

use std::io;

use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The kernel sends dumps in pieces of at most 32 KiB.
pub(crate) const BUFFER: usize = 64 * 1024;
/// How often a dump is asked for again that the kernel says changed while it was made.
const DUMP_TRIES: usize = 5;

/// A socket in the namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Every link of the namespace.
    pub(crate) fn links(&mut self) -> io::Result<Vec<LinkMessage>> {
        let mut links = Vec::new();
        for message in self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
            if let RouteNetlinkMessage::NewLink(link) = message {
                links.push(link);
            }
        }
        Ok(links)
    }

    /// One link; `None` when it does not exist.
    pub(crate) fn link(&mut self, index: u32) -> io::Result<Option<LinkMessage>> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        match self.request(&RouteNetlinkMessage::GetLink(request), NLM_F_REQUEST) {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(link)),
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every address of the namespace.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<AddressMessage>> {
        let mut addresses = Vec::new();
        for message in self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            if let RouteNetlinkMessage::NewAddress(address) = message {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// The number by which this socket's namespace knows the one behind `fd`; `None` when it has none.
    pub(crate) fn namespace_id(&mut self, fd: i32) -> io::Result<Option<i32>> {
        let mut request = NsidMessage::default();
        request.attributes.push(NsidAttribute::Fd(fd.unsigned_abs()));
        let answer = self.request(&RouteNetlinkMessage::GetNsId(request), NLM_F_REQUEST)?;
        let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else {
            return Ok(None);
        };
        Ok(answer.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        }))
    }

    fn send(&mut self, request: &RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request.clone()));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(|_| ())
    }

    fn dump(&mut self, request: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_TRIES {
            let (messages, interrupted) = self.dump_once(request)?;
            if !interrupted {
                return Ok(messages);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the kernel's tables changed during every try to read them",
        ))
    }

    fn dump_once(&mut self, request: &RouteNetlinkMessage) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut messages = Vec::new();
        let mut interrupted = false;
        loop {
            for (header, payload) in receive(&self.socket)? {
                if header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    NetlinkPayload::InnerMessage(message) => messages.push(message),
                    NetlinkPayload::Done(_) => return Ok((messages, interrupted)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn request(
        &mut self,
        request: &RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        self.send(request, flags)?;
        loop {
            for (header, payload) in receive(&self.socket)? {
                if header.sequence_number != self.sequence {
                    continue;
                }
                match payload {
                    NetlinkPayload::InnerMessage(message) => return Ok(Some(message)),
                    NetlinkPayload::Done(_) => return Ok(None),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(None),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

/// Messages of one datagram. A message that cannot be parsed is left out: one strange link must not hide the others.
pub(crate) fn receive(
    socket: &Socket,
) -> io::Result<Vec<(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)>> {
    let mut buffer = Vec::with_capacity(BUFFER);
    socket.recv_from(&mut buffer, 0)?;
    let mut messages = Vec::new();
    let mut rest: &[u8] = &buffer;
    while rest.len() >= 16 {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if length < 16 || length > rest.len() {
            break;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]) {
            Ok(message) => messages.push(message.into_parts()),
            Err(error) => tracing::debug!(%error, "netlink message left out"),
        }
        let aligned = length.next_multiple_of(4);
        rest = rest.get(aligned..).unwrap_or_default();
    }
    Ok(messages)
}

/// What this crate wants to know of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkFacts {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) is_veth: bool,
    /// Index of the other end.
    pub(crate) peer: Option<u32>,
    /// Number of the namespace that the other end is in; `None`: this one.
    pub(crate) peer_namespace: Option<i32>,
}

impl LinkFacts {
    pub(crate) fn of(link: &LinkMessage) -> Self {
        let mut facts = Self {
            index: link.header.index,
            name: String::new(),
            mac: None,
            is_veth: false,
            peer: None,
            peer_namespace: None,
        };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => facts.name.clone_from(name),
                LinkAttribute::Address(bytes) => facts.mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::Link(peer) => facts.peer = Some(*peer),
                LinkAttribute::LinkNetNsId(id) => facts.peer_namespace = Some(*id),
                LinkAttribute::LinkInfo(infos) => {
                    facts.is_veth = infos
                        .iter()
                        .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                }
                _ => {}
            }
        }
        facts
    }
}
