//! A capture through the software datapath: what a policy makes of packets that were seen before.
//!
//! [`Replay`] takes frames with their times, as a capture file has them. A frame passes the endpoint that sent it (egress) and the
//! one that it is for (ingress), each judged by itself, as both would be on their nodes; a flow has the stricter of the two verdicts.
//! An endpoint is found by its Ethernet address where that is known, else by its IP addresses. Packets that no endpoint
//! sent or gets are counted as nobody's.
//!
//! Time is that of the capture, so that idle flows are forgotten as they would be; a stamp that goes back counts as the one before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nv_dp_common::SlicePacket;
use nv_dp_common::parse::{Class, Headers, parse};
use nv_types::{
    Application, Decision, Direction, FlowState, IpProto, PolicyImage, Reason, Verdict, v4_mapped,
};

use crate::slot::Capacity;
use crate::{
    Datapath as _, DatapathConfig, DatapathError, DatapathEvent, EndpointSpec, FlowStats, SoftwareConfig,
    SoftwareDatapath, convert,
};

/// How often idle flows are looked for, in nanoseconds of the capture.
const SWEEP_NS: u64 = 5_000_000_000;
/// The capture begins here on the datapath's clock, where 0 means 'never'.
const EPOCH_NS: u64 = 1_000_000_000;
/// Link types by the numbers of the tcpdump.org registry.
const ETHERNET: u32 = 1;
const RAW: u32 = 101;
const LINUX_SLL: u32 = 113;
const LINUX_SLL2: u32 = 276;
const ETHER_HEADER: usize = 14;
/// Longest packet that is filled up to its length on the wire: beyond any that a kernel makes.
const MAX_PACKET: usize = 1 << 20;

/// A flow of a capture, and what the policy makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayFlow {
    /// Who opened it: address and port (ICMP: identifier).
    pub client: (IpAddr, u16),
    /// Who was asked.
    pub server: (IpAddr, u16),
    /// Protocol.
    pub proto: IpProto,
    /// Application, `None` if no payload was seen that tells.
    pub application: Option<Application>,
    /// What was decided in the end: of the two sides the stricter.
    pub decision: Decision,
    /// Interface that decided.
    pub decided_by: u32,
    /// The client's endpoint, if it is one.
    pub client_endpoint: Option<u32>,
    /// The server's endpoint, if it is one.
    pub server_endpoint: Option<u32>,
    /// Packets in both directions that would have passed.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Packets that would have been dropped.
    pub denied_packets: u64,
    /// Time of the first packet, nanoseconds since the first of the capture.
    pub first_ns: u64,
    /// Time of the last one.
    pub last_ns: u64,
    sides: [Option<(u32, Decision)>; 2],
}

/// Sums of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayTotals {
    /// Frames given.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Frames that no endpoint sent or gets.
    pub not_policed: u64,
    /// Frames of a link type that cannot be read.
    pub unreadable: u64,
    /// Frames that the capture has only the start of; the rest was taken for zeros.
    pub cut_short: u64,
    /// Frames let pass without a report.
    pub allowed: u64,
    /// Frames let pass with a report.
    pub alerted: u64,
    /// Frames dropped.
    pub denied: u64,
    /// Reports and drops by reason and direction of the endpoint, each endpoint for itself.
    pub by_reason: BTreeMap<(Direction, Reason), u64>,
}

/// (a, b, protocol), the smaller end first.
type Tuple = ((IpAddr, u16), (IpAddr, u16), u8);

/// Plays frames through a policy.
#[derive(Debug)]
pub struct Replay {
    datapath: SoftwareDatapath,
    by_address: BTreeMap<[u8; 16], u32>,
    by_mac: BTreeMap<[u8; 6], u32>,
    flows: Vec<ReplayFlow>,
    current: BTreeMap<Tuple, usize>,
    totals: ReplayTotals,
    start: Option<u64>,
    now: u64,
    swept: u64,
}

impl Replay {
    /// A policy in force on these endpoints.
    ///
    /// # Errors
    /// [`DatapathError`] when the image breaks its own rules.
    pub fn new(
        image: &PolicyImage,
        config: &DatapathConfig,
        endpoints: &[EndpointSpec],
    ) -> Result<Self, DatapathError> {
        let unbounded = usize::MAX;
        let mut datapath = SoftwareDatapath::new(SoftwareConfig {
            capacity: Capacity {
                addresses: unbounded,
                pairs: unbounded,
                ports: unbounded,
                chains: unbounded,
            },
            flows: 1 << 20,
            ..SoftwareConfig::default()
        });
        datapath.apply(image, config)?;
        let (mut by_address, mut by_mac) = (BTreeMap::new(), BTreeMap::new());
        for endpoint in endpoints {
            datapath.attach(endpoint)?;
            by_address.extend(convert::own_addresses(endpoint).map(|addr| (addr, endpoint.ifindex)));
            by_mac.extend(endpoint.mac.map(|mac| (mac.0, endpoint.ifindex)));
        }
        Ok(Self {
            datapath,
            by_address,
            by_mac,
            flows: Vec::new(),
            current: BTreeMap::new(),
            totals: ReplayTotals::default(),
            start: None,
            now: 0,
            swept: 0,
        })
    }

    /// One packet of the capture: its time in nanoseconds, its link type by the registry of tcpdump.org (Ethernet, raw IP
    /// and both kinds of Linux 'cooked' are read), its length on the wire, and the bytes that were kept.
    ///
    /// # Errors
    /// [`DatapathError`] when the datapath's tables cannot be read.
    pub fn packet(
        &mut self,
        at_ns: u64,
        link: u32,
        original_len: u32,
        data: &[u8],
    ) -> Result<Option<Verdict>, DatapathError> {
        let start = *self.start.get_or_insert(at_ns);
        self.now = self.now.max(at_ns.saturating_sub(start));
        self.totals.packets += 1;
        self.totals.bytes += u64::from(original_len);
        let Some(mut frame) = ethernet(link, data) else {
            self.totals.unreadable += 1;
            return Ok(None);
        };
        let missing = usize::try_from(original_len)
            .unwrap_or(0)
            .saturating_sub(data.len());
        if missing > 0 {
            self.totals.cut_short += 1;
            frame.resize((frame.len() + missing).min(MAX_PACKET), 0);
        }
        let mut headers = Headers::new(0);
        let class = parse(&SlicePacket(&frame), Direction::Egress, &mut headers);
        let has_link = link == ETHERNET;
        let (source, target) = self.ends(&frame, has_link, &headers);
        if let (false, Some(source)) = (has_link, source) {
            self.lend_mac(source, &mut frame);
        }
        let passages = [(source, Direction::Egress), (target, Direction::Ingress)];
        let mut verdict = None;
        for (ifindex, direction) in passages.into_iter().filter_map(|(end, way)| Some((end?, way))) {
            let one = self
                .datapath
                .process(ifindex, direction, &frame, self.now + EPOCH_NS);
            verdict = verdict.max(Some(one));
            self.take_events()?;
            if one == Verdict::Deny && !self.knows(ifindex, &headers) {
                break; // spoofed or the like: of no flow, and it never gets to the other end
            }
        }
        match verdict {
            None => self.totals.not_policed += 1,
            Some(Verdict::Allow) => self.totals.allowed += 1,
            Some(Verdict::Alert) => self.totals.alerted += 1,
            Some(Verdict::Deny) => self.totals.denied += 1,
        }
        if let (Class::Flow, Some(verdict)) = (class, verdict) {
            self.count(&headers, original_len, verdict);
        }
        if self.now.saturating_sub(self.swept) > SWEEP_NS {
            self.swept = self.now;
            self.datapath.sweep(&mut |_| {})?;
        }
        Ok(verdict)
    }

    /// Ends the replay: flows in the order in which they began, and the sums.
    ///
    /// # Errors
    /// [`DatapathError`] when the datapath's counters cannot be read.
    pub fn finish(mut self) -> Result<(Vec<ReplayFlow>, ReplayTotals), DatapathError> {
        let status = self.datapath.status()?;
        for endpoint in status.endpoints.values() {
            for (direction, counters) in [
                (Direction::Ingress, &endpoint.ingress),
                (Direction::Egress, &endpoint.egress),
            ] {
                for reason in Reason::ALL {
                    let count = counters.by_reason[reason as usize];
                    if count > 0 {
                        *self.totals.by_reason.entry((direction, reason)).or_default() += count;
                    }
                }
            }
        }
        Ok((self.flows, self.totals))
    }

    /// The endpoints that a frame comes from and goes to.
    fn ends(&self, frame: &[u8], has_link: bool, headers: &Headers) -> (Option<u32>, Option<u32>) {
        let end = |mac: Option<&[u8; 6]>, address: &[u8; 16]| {
            let by_mac = mac.filter(|_| has_link).and_then(|mac| self.by_mac.get(mac));
            by_mac.or_else(|| self.by_address.get(address)).copied()
        };
        let target_mac = frame.first_chunk::<6>();
        (
            end(Some(&headers.source_mac), &headers.key.local),
            end(target_mac, &headers.key.peer),
        )
    }

    /// A frame without a link layer comes from the endpoint that has its address: nothing can be said against its Ethernet address.
    fn lend_mac(&self, source: u32, frame: &mut [u8]) {
        let own = self.by_mac.iter().find(|(_, ifindex)| **ifindex == source);
        if let (Some((mac, _)), Some(field)) = (own, frame.get_mut(6..12)) {
            field.copy_from_slice(mac);
        }
    }

    /// Whether an endpoint has judged the flow that a packet belongs to.
    fn knows(&self, ifindex: u32, headers: &Headers) -> bool {
        let flow = self
            .current
            .get(&tuple_of(headers))
            .and_then(|at| self.flows.get(*at));
        flow.is_some_and(|flow| flow.sides.iter().flatten().any(|(its, _)| *its == ifindex))
    }

    fn count(&mut self, headers: &Headers, bytes: u32, verdict: Verdict) {
        let (tuple, now) = (tuple_of(headers), self.now);
        if let Some(flow) = self.current.get(&tuple).and_then(|at| self.flows.get_mut(*at)) {
            flow.last_ns = now;
            if verdict == Verdict::Deny {
                flow.denied_packets += 1;
            } else {
                flow.packets += 1;
                flow.bytes += u64::from(bytes);
            }
        }
    }

    fn take_events(&mut self) -> Result<(), DatapathError> {
        for event in self.datapath.poll_events(usize::MAX)? {
            if let DatapathEvent::Flow(stats) = event {
                self.note(&stats);
            }
        }
        Ok(())
    }

    /// What an endpoint says of a flow.
    fn note(&mut self, stats: &FlowStats) {
        let key = &stats.key;
        let (local, peer) = ((key.local, key.local_port), (key.peer, key.peer_port));
        let (client, server) = match key.direction {
            Direction::Egress => (local, peer),
            Direction::Ingress => (peer, local),
        };
        let side = usize::from(key.direction == Direction::Ingress);
        let tuple = tuple(local, peer, key.proto.0);
        let known = self.current.get(&tuple).copied().filter(|at| {
            // A flow that begins where this side has one already is another one on the same ports.
            stats.state != FlowState::New
                || self
                    .flows
                    .get(*at)
                    .is_some_and(|flow| flow.sides[side].is_none() && flow.client == client)
        });
        let at = known.unwrap_or_else(|| {
            self.current.insert(tuple, self.flows.len());
            self.flows.push(ReplayFlow {
                client,
                server,
                proto: key.proto,
                application: None,
                decision: stats.decision,
                decided_by: key.ifindex,
                client_endpoint: None,
                server_endpoint: None,
                packets: 0,
                bytes: 0,
                denied_packets: 0,
                first_ns: self.now,
                last_ns: self.now,
                sides: [None; 2],
            });
            self.flows.len() - 1
        });
        let Some(flow) = self.flows.get_mut(at) else {
            return;
        };
        flow.sides[side] = Some((key.ifindex, stats.decision));
        flow.application = stats.application.or(flow.application);
        [flow.client_endpoint, flow.server_endpoint] =
            flow.sides.map(|side| side.map(|(ifindex, _)| ifindex));
        if let Some((ifindex, decision)) = strictest(flow.sides) {
            (flow.decided_by, flow.decision) = (ifindex, decision);
        }
    }
}

/// The client's side, unless the server's is stricter.
fn strictest(sides: [Option<(u32, Decision)>; 2]) -> Option<(u32, Decision)> {
    match sides {
        [Some(client), Some(server)] if server.1.verdict > client.1.verdict => Some(server),
        [client, server] => client.or(server),
    }
}

fn tuple(one: (IpAddr, u16), other: (IpAddr, u16), proto: u8) -> Tuple {
    let mapped = |end: (IpAddr, u16)| (v4_mapped(end.0), end.1);
    if mapped(one) <= mapped(other) {
        (one, other, proto)
    } else {
        (other, one, proto)
    }
}

fn tuple_of(headers: &Headers) -> Tuple {
    let end = |addr, port| (convert::addr(addr), port);
    let key = &headers.key;
    tuple(
        end(key.local, key.local_port),
        end(key.peer, key.peer_port),
        key.proto,
    )
}

/// The frame as an Ethernet one; `None` for a link type that is not read.
fn ethernet(link: u32, data: &[u8]) -> Option<Vec<u8>> {
    let framed = |ether_type: [u8; 2], body: &[u8]| {
        let mut frame = vec![0; ETHER_HEADER];
        frame[12..].copy_from_slice(&ether_type);
        frame.extend_from_slice(body);
        frame
    };
    match link {
        ETHERNET => Some(data.to_vec()),
        RAW => match data.first()? >> 4 {
            4 => Some(framed([0x08, 0x00], data)),
            6 => Some(framed([0x86, 0xdd], data)),
            _ => None,
        },
        LINUX_SLL => Some(framed([*data.get(14)?, *data.get(15)?], data.get(16..)?)),
        LINUX_SLL2 => Some(framed(*data.first_chunk::<2>()?, data.get(20..)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_types_are_brought_to_ethernet() {
        let v4 = [0x45, 0, 0, 20];
        let framed = ethernet(RAW, &v4).unwrap();
        assert_eq!((framed[12..14].to_vec(), &framed[14..]), (vec![8, 0], &v4[..]));
        assert_eq!(ethernet(RAW, &[0x60]).unwrap()[12..14], [0x86, 0xdd]);
        let mut cooked = vec![0; 16];
        cooked[14..].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(ethernet(LINUX_SLL, &cooked).unwrap()[12..], [0x86, 0xdd]);
        let mut cooked = vec![0; 21];
        cooked[..2].copy_from_slice(&[8, 0]);
        assert_eq!(ethernet(LINUX_SLL2, &cooked).unwrap()[12..], [8, 0, 0]);
        for (link, data) in [
            (RAW, &[][..]),
            (RAW, &[0x10]),
            (LINUX_SLL, &[0; 15]),
            (9, &[0x45]),
        ] {
            assert_eq!(ethernet(link, data), None, "{link}");
        }
    }

    #[test]
    fn the_stricter_side_decides_and_a_tie_is_the_clients() {
        let side = |verdict, ifindex| Some((ifindex, Decision::implicit(verdict, Reason::Default)));
        let by = |sides| strictest(sides).map(|(ifindex, _)| ifindex);
        assert_eq!(by([side(Verdict::Allow, 1), side(Verdict::Deny, 2)]), Some(2));
        assert_eq!(by([side(Verdict::Alert, 1), side(Verdict::Allow, 2)]), Some(1));
        assert_eq!(by([side(Verdict::Deny, 1), side(Verdict::Deny, 2)]), Some(1));
        assert_eq!(by([None, side(Verdict::Allow, 2)]), Some(2));
        assert_eq!(by([None, None]), None);
    }
}
