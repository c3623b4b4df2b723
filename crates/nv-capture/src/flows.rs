//! Conversations of a capture: who spoke to whom, how much, how fast the answer came, and how it ended. One pass, in
//! memory that does not grow with the file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;
use nv_types::{Application, FiveTuple, IpProto, Timestamp, Verdict};

use crate::PacketView;
use crate::headers::Headers;

/// Conversations that are told apart; packets of further ones are counted together.
pub const MAX_CONVERSATIONS: usize = 262_144;
/// Packets with payload of one side that are shown to the classifier.
const MAX_LOOKS: u8 = 3;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Tells the application by the payload of one packet: protocol, payload, whether the client sent it.
pub type Classify<'a> = dyn FnMut(IpProto, &[u8], bool) -> Option<Application> + 'a;

/// One conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Its ends: the client sent the first SYN, or else the first packet that was seen.
    pub tuple: FiveTuple,
    /// Application, once payload has shown it.
    pub application: Option<Application>,
    /// Packets from client to server.
    pub packets_to_server: u64,
    /// Packets from server to client.
    pub packets_to_client: u64,
    /// Bytes on the wire from client to server, link-layer headers included.
    pub bytes_to_server: u64,
    /// Bytes on the wire from server to client.
    pub bytes_to_client: u64,
    /// First packet.
    pub first: Timestamp,
    /// Last packet.
    pub last: Timestamp,
    /// Nanoseconds from the client's SYN to the ACK that answers the server's: a round trip through both networks.
    pub rtt: Option<u64>,
    /// Packets with RST.
    pub resets: u64,
    /// Both sides have said FIN.
    pub finished: bool,
    /// Packets that the datapath dropped, by the file's own word.
    pub denied: u64,
    syn_at: Option<Timestamp>,
    answered: bool,
    fins: u8,
    looks: [u8; 2],
}

/// Sums of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// Packets.
    pub packets: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Packets that are not IP.
    pub not_ip: u64,
    /// IP packets of conversations beyond [`MAX_CONVERSATIONS`].
    pub beyond: u64,
    /// First packet.
    pub first: Option<Timestamp>,
    /// Last packet.
    pub last: Option<Timestamp>,
}

/// Gathers conversations.
#[derive(Debug)]
pub struct FlowTable {
    conversations: HashMap<FiveTuple, Conversation, RandomState>,
    totals: FlowTotals,
    limit: usize,
}

impl Default for FlowTable {
    fn default() -> Self {
        Self::new(MAX_CONVERSATIONS)
    }
}

impl FlowTable {
    /// A table of at most this many conversations.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            conversations: HashMap::with_hasher(RandomState::default()),
            totals: FlowTotals::default(),
            limit,
        }
    }

    /// Takes a packet.
    pub fn add(&mut self, packet: &PacketView<'_>, classify: &mut Classify<'_>) {
        let totals = &mut self.totals;
        totals.packets += 1;
        totals.bytes += u64::from(packet.original_len);
        totals.first = Some(
            totals
                .first
                .map_or(packet.timestamp, |first| first.min(packet.timestamp)),
        );
        totals.last = totals.last.max(Some(packet.timestamp));
        let Some(headers) = Headers::parse(packet.interface.link, packet.data) else {
            totals.not_ip += 1;
            return;
        };
        let flags = tcp_flags(&headers, packet.data);
        let key = key(&headers);
        let full = self.conversations.len() >= self.limit;
        let conversation = match self.conversations.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if full => {
                totals.beyond += 1;
                return;
            }
            Entry::Vacant(new) => new.insert(Conversation::begin(&headers, flags, packet.timestamp)),
        };
        conversation.take(packet, &headers, flags, classify);
    }

    /// Sums.
    #[must_use]
    pub const fn totals(&self) -> &FlowTotals {
        &self.totals
    }

    /// The conversations, most bytes first.
    #[must_use]
    pub fn finish(self) -> Vec<Conversation> {
        let mut all: Vec<_> = self.conversations.into_values().collect();
        all.sort_by_key(|conversation| (std::cmp::Reverse(conversation.bytes()), conversation.tuple));
        all
    }
}

/// Both directions have the same key: the lower end first.
fn key(headers: &Headers) -> FiveTuple {
    let sender = (headers.source, headers.source_port);
    let receiver = (headers.destination, headers.destination_port);
    if sender <= receiver {
        headers.from_sender()
    } else {
        headers.from_receiver()
    }
}

fn tcp_flags(headers: &Headers, data: &[u8]) -> u8 {
    let is_tcp = headers.proto == IpProto::TCP && !headers.fragment;
    let flags = is_tcp.then(|| data.get(headers.transport_at + 13).copied());
    flags.flatten().unwrap_or(0)
}

impl Conversation {
    fn begin(headers: &Headers, flags: u8, first: Timestamp) -> Self {
        // An answer that comes first was asked for before the capture began.
        let answers = flags & (SYN | ACK) == SYN | ACK;
        Self {
            tuple: if answers {
                headers.from_receiver()
            } else {
                headers.from_sender()
            },
            application: None,
            packets_to_server: 0,
            packets_to_client: 0,
            bytes_to_server: 0,
            bytes_to_client: 0,
            first,
            last: first,
            rtt: None,
            resets: 0,
            finished: false,
            denied: 0,
            syn_at: None,
            answered: false,
            fins: 0,
            looks: [0; 2],
        }
    }

    /// Bytes of both directions.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes_to_server + self.bytes_to_client
    }

    fn take(&mut self, packet: &PacketView<'_>, headers: &Headers, flags: u8, classify: &mut Classify<'_>) {
        let to_server = (headers.source, headers.source_port) == (self.tuple.client, self.tuple.client_port);
        let bytes = u64::from(packet.original_len);
        if to_server {
            self.packets_to_server += 1;
            self.bytes_to_server += bytes;
        } else {
            self.packets_to_client += 1;
            self.bytes_to_client += bytes;
        }
        self.first = self.first.min(packet.timestamp);
        self.last = self.last.max(packet.timestamp);
        self.denied += u64::from(packet.verdict == Some(Verdict::Deny));
        if headers.proto == IpProto::TCP {
            self.follow(packet.timestamp, flags, to_server);
        }
        if self.application.is_none() && !headers.fragment {
            self.look(packet.data, headers, to_server, classify);
        }
    }

    fn follow(&mut self, at: Timestamp, flags: u8, to_server: bool) {
        match (flags & (SYN | ACK), to_server) {
            (SYN, true) => self.syn_at = Some(at),
            (both, false) if both == SYN | ACK => self.answered = true,
            (ACK, true) if self.answered && self.rtt.is_none() => {
                self.rtt = self.syn_at.map(|syn| at.0.saturating_sub(syn.0));
            }
            _ => {}
        }
        self.resets += u64::from(flags & RST != 0);
        if flags & FIN != 0 {
            self.fins |= if to_server { 1 } else { 2 };
            self.finished = self.fins == 3;
        }
    }

    fn look(&mut self, data: &[u8], headers: &Headers, to_server: bool, classify: &mut Classify<'_>) {
        let length = match headers.proto {
            IpProto::TCP => data
                .get(headers.transport_at + 12)
                .map(|byte| usize::from(byte >> 4) * 4),
            IpProto::UDP => Some(8),
            _ => None,
        };
        let Some(start) = length.map(|length| headers.transport_at + length) else {
            return;
        };
        let payload = data.get(start..headers.end).unwrap_or_default();
        let looks = &mut self.looks[usize::from(to_server)];
        if payload.is_empty() || *looks >= MAX_LOOKS {
            return;
        }
        *looks += 1;
        self.application = classify(headers.proto, payload, to_server);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{InterfaceInfo, LinkType, PacketDirection};

    fn frame(from_client: bool, flags: u8, payload: &[u8]) -> Vec<u8> {
        let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let (a, b) = if from_client {
            (client, server)
        } else {
            (server, client)
        };
        let (sport, dport) = if from_client { (4000, 80) } else { (80, 4000) };
        let mut tcp = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(a, b, 64)
            .tcp(sport, dport, 1, 9);
        for (bit, set) in [
            (SYN, flags & SYN),
            (ACK, flags & ACK),
            (FIN, flags & FIN),
            (RST, flags & RST),
        ] {
            tcp = match (set != 0, bit) {
                (true, SYN) => tcp.syn(),
                (true, ACK) => tcp.ack(1),
                (true, FIN) => tcp.fin(),
                (true, _) => tcp.rst(),
                (false, _) => tcp,
            };
        }
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, payload).unwrap();
        bytes
    }

    fn table(frames: &[Vec<u8>], limit: usize) -> (Vec<Conversation>, FlowTotals) {
        let interface = Arc::new(InterfaceInfo::new("eth0", LinkType::ETHERNET));
        let mut table = FlowTable::new(limit);
        for (n, data) in (0_u64..).zip(frames) {
            let view = PacketView::new(Timestamp(n * 1000), &interface, PacketDirection::Unknown, data);
            table.add(&view, &mut |_, payload, _| {
                payload.starts_with(b"GET").then_some(Application::HTTP)
            });
        }
        let totals = *table.totals();
        (table.finish(), totals)
    }

    #[test]
    fn a_connection_is_followed_from_its_first_packet_to_its_end() {
        let frames = [
            frame(true, SYN, b""),
            frame(false, SYN | ACK, b""),
            frame(true, ACK, b""),
            frame(true, ACK, b"GET / HTTP/1.1\r\n"),
            frame(false, ACK, b"HTTP/1.1 200 OK\r\n"),
            frame(true, FIN | ACK, b""),
            frame(false, FIN | ACK, b""),
            frame(true, RST, b""),
        ];
        let (found, totals) = table(&frames, 10);
        let [one] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!((one.tuple.client_port, one.tuple.server_port), (4000, 80));
        assert_eq!((one.packets_to_server, one.packets_to_client), (5, 3));
        assert_eq!(one.application, Some(Application::HTTP));
        assert_eq!((one.rtt, one.resets, one.finished), (Some(2000), 1, true));
        assert_eq!((one.first, one.last), (Timestamp(0), Timestamp(7000)));
        assert_eq!(one.bytes(), totals.bytes);
    }

    #[test]
    fn an_answer_that_comes_first_has_its_client_at_the_other_end() {
        let (found, _) = table(&[frame(false, SYN | ACK, b"")], 10);
        assert_eq!(found[0].tuple.client_port, 4000);
    }

    #[test]
    fn beyond_the_limit_packets_are_counted_together() {
        let other = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([1; 4], [2; 4], 9)
            .udp(1, 2);
        let mut bytes = Vec::new();
        other.write(&mut bytes, b"x").unwrap();
        let (found, totals) = table(&[frame(true, SYN, b""), bytes, vec![0; 20]], 1);
        assert_eq!(
            (found.len(), totals.beyond, totals.not_ip, totals.packets),
            (1, 1, 1, 3)
        );
    }
}
