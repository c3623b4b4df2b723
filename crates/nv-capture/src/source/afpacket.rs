//! Packets from the kernel: an `AF_PACKET` socket with a `TPACKET_V3` ring (packet(7)), opened inside the
//! workload's network namespace.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use nv_types::Timestamp;

use super::netns::Netns;
use super::{CaptureTarget, EachPacket, PacketSource, SourceError, SourceState, SourceStats};
use crate::sys::{self, RawPacket, Ring};
use crate::{CaptureLimits, Filter, InterfaceInfo, Packet, PacketDirection};

/// Interfaces that are told apart; packets of further ones count as dropped.
const MAX_INTERFACES: usize = 256;

/// Packets and bytes of one call at most, so that a session looks at its limits in between.
const BATCH: usize = 4096;
const BATCH_BYTES: usize = 1 << 20;

/// How often a busy source looks whether its namespace is still there; an idle one looks with every call.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Captures the interfaces of a namespace, in both directions, with the kernel's own times.
///
/// The kernel drops what does not fit the ring and counts it. Interfaces that appear later are captured too. The
/// source ends when the namespace is no longer the workload's.
#[derive(Debug)]
pub struct AfPacketSource {
    ring: Ring,
    netns: Netns,
    /// The only interface wanted, by index.
    bound: Option<u32>,
    /// Kernel index to place.
    places: BTreeMap<u32, usize>,
    interfaces: Vec<InterfaceInfo>,
    stats: SourceStats,
    scratch: Vec<u8>,
    looked: Instant,
    /// For packets that the kernel could not judge: those whose tag it had taken out, or all of them.
    filter: Option<Filter>,
    judge_all: bool,
}

impl AfPacketSource {
    /// Opens the source; packets are captured from now on. `snap_len` bytes are kept of each, 0 for the most.
    ///
    /// Needs `CAP_NET_RAW` in the namespace and `CAP_SYS_ADMIN` to enter it.
    ///
    /// # Errors
    /// [`SourceError::Netns`] or [`SourceError::OtherNetns`] when the namespace is not there,
    /// [`SourceError::NoInterface`], or the system call that failed.
    pub fn open(target: &CaptureTarget, snap_len: u32) -> Result<Self, SourceError> {
        Self::open_filtered(target, snap_len, &Filter::all())
    }

    /// Opens the source for packets of a filter, which the kernel runs before it copies a packet. What words of nv ask
    /// is left to [`crate::run_selected`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_filtered(
        target: &CaptureTarget,
        snap_len: u32,
        filter: &Filter,
    ) -> Result<Self, SourceError> {
        Self::with_ring(target, snap_len, filter, sys::BLOCKS)
    }

    /// Opens the source with a quarter of the usual kernel buffer (1 MiB), for packets that are only kept for a while.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_small(target: &CaptureTarget, snap_len: u32) -> Result<Self, SourceError> {
        Self::with_ring(target, snap_len, &Filter::all(), sys::FEW_BLOCKS)
    }

    fn with_ring(
        target: &CaptureTarget,
        snap_len: u32,
        filter: &Filter,
        blocks: usize,
    ) -> Result<Self, SourceError> {
        let netns = Netns::open(target)?;
        let socket = socket_in(&netns)?;
        let failed = |action| move |source| SourceError::System { action, source };
        let bound = match &target.interface {
            None => None,
            Some(name) => Some(
                sys::interface_index(&socket, name)
                    .map_err(|_| SourceError::NoInterface { name: name.clone() })?,
            ),
        };
        let snap_len = if snap_len == 0 {
            CaptureLimits::MAX_SNAP_LEN
        } else {
            snap_len
        };
        // A program that is longer than the kernel takes runs here, on every packet.
        let in_kernel = filter.socket_program(bound.is_none(), snap_len);
        let program = match &in_kernel {
            Some(program) => Some(program.clone()),
            None => Filter::all().socket_program(bound.is_none(), snap_len),
        };
        let program = program
            .ok_or_else(|| failed("make the socket's filter")(std::io::ErrorKind::InvalidInput.into()))?;
        sys::set_filter(&socket, &program).map_err(failed("set the socket's filter"))?;
        let ring = Ring::new(socket, blocks).map_err(failed("make the packet ring"))?;
        ring.bind(bound.unwrap_or(0))
            .map_err(failed("bind the packet socket"))?;
        Ok(Self {
            ring,
            netns,
            bound,
            places: BTreeMap::new(),
            interfaces: Vec::new(),
            stats: SourceStats::default(),
            scratch: Vec::new(),
            looked: Instant::now(),
            filter: (!filter.is_all() && !filter.needs_annotator()).then(|| filter.clone()),
            judge_all: in_kernel.is_none(),
        })
    }

    /// Whether there is still something to capture.
    fn ended(&self) -> Option<&'static str> {
        if !self.netns.is_alive() {
            return Some("the workload's network namespace is gone");
        }
        let gone = self
            .bound
            .is_some_and(|index| sys::interface_name(self.ring.socket(), index).is_err());
        gone.then_some("the interface is gone")
    }
}

/// A packet socket in this namespace. Made on a thread of its own, which ends with the namespace that it entered.
fn socket_in(netns: &Netns) -> Result<OwnedFd, SourceError> {
    let failed = |action| move |source| SourceError::System { action, source };
    let Some(file) = &netns.file else {
        return sys::packet_socket().map_err(failed("open a packet socket"));
    };
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            sys::enter_netns(file).map_err(failed("enter the network namespace"))?;
            sys::packet_socket().map_err(failed("open a packet socket"))
        });
        inside.join().unwrap_or_else(|_| {
            let source = std::io::Error::other("the thread that opens it broke off");
            Err(SourceError::System {
                action: "open a packet socket",
                source,
            })
        })
    })
}

/// Place of the packet's interface, described on its first packet; `None` when there are too many.
fn place(
    raw: &RawPacket<'_>,
    socket: &OwnedFd,
    places: &mut BTreeMap<u32, usize>,
    interfaces: &mut Vec<InterfaceInfo>,
) -> Option<usize> {
    if let Some(place) = places.get(&raw.ifindex) {
        return Some(*place);
    }
    if interfaces.len() >= MAX_INTERFACES {
        return None;
    }
    // Gone already: its packets are there nevertheless.
    let name = sys::interface_name(socket, raw.ifindex).unwrap_or_else(|_| format!("if{}", raw.ifindex));
    let mac = sys::interface_mac(socket, &name).ok().flatten();
    interfaces.push(InterfaceInfo {
        name,
        link: raw.link(),
        mac,
    });
    places.insert(raw.ifindex, interfaces.len() - 1);
    Some(interfaces.len() - 1)
}

/// The packet's bytes with the VLAN tag that the kernel took out put back (IEEE 802.1Q).
fn with_tag<'a>(raw: &RawPacket<'a>, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let Some((tpid, tci)) = raw.vlan else {
        return raw.data;
    };
    let Some((addresses, rest)) = raw.data.split_at_checked(12) else {
        return raw.data;
    };
    scratch.clear();
    scratch.extend_from_slice(addresses);
    scratch.extend_from_slice(&tpid.to_be_bytes());
    scratch.extend_from_slice(&tci.to_be_bytes());
    scratch.extend_from_slice(rest);
    scratch
}

impl PacketSource for AfPacketSource {
    fn poll(&mut self, timeout: Duration, each: &mut EachPacket<'_>) -> Result<SourceState, SourceError> {
        let wait = |source| SourceError::System {
            action: "wait for packets",
            source,
        };
        let ready = self.ring.wait(timeout).map_err(wait)?;
        if !ready || self.looked.elapsed() > LOOK_EVERY {
            self.looked = Instant::now();
            if let Some(why) = self.ended() {
                return Ok(SourceState::Ended(why));
            }
        }
        let socket = self.ring.socket().try_clone().map_err(wait)?;
        let mut bytes = 0;
        for _ in 0..BATCH {
            if bytes > BATCH_BYTES {
                break;
            }
            let Some(raw) = self.ring.next_packet() else { break };
            bytes += raw.data.len();
            let Some(place) = place(&raw, &socket, &mut self.places, &mut self.interfaces) else {
                self.stats.dropped += 1;
                continue;
            };
            let added = if raw.vlan.is_some() { 4 } else { 0 };
            let packet = Packet {
                timestamp: Timestamp(raw.time_ns),
                interface: u32::try_from(place).unwrap_or(u32::MAX),
                direction: if raw.outgoing {
                    PacketDirection::Outbound
                } else {
                    PacketDirection::Inbound
                },
                original_len: raw.wire_len + added,
                data: with_tag(&raw, &mut self.scratch),
                ..Packet::default()
            };
            let Some(interface) = self.interfaces.get(place) else {
                continue;
            };
            if let Some(filter) = &self.filter
                && (self.judge_all || raw.vlan.is_some())
                && !filter.judge(&packet, interface.link, None)
            {
                continue;
            }
            if each(&packet, interface).is_break() {
                break;
            }
        }
        Ok(SourceState::Open)
    }

    fn statistics(&mut self) -> Result<SourceStats, SourceError> {
        let failed = |source| SourceError::System {
            action: "read the socket's statistics",
            source,
        };
        // Reading sets the kernel's counters to zero.
        let (received, dropped) = sys::packet_statistics(self.ring.socket()).map_err(failed)?;
        self.stats.received += u64::from(received);
        self.stats.dropped += u64::from(dropped);
        Ok(self.stats)
    }
}
