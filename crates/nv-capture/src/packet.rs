//! Packets and the interfaces that they were seen on.

use nv_types::{MacAddr, Timestamp, Verdict};
use std::sync::Arc;

/// Which way a packet went, seen from the interface it was captured on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PacketDirection {
    /// Not told, as in pcap files.
    #[default]
    Unknown,
    /// Received by the interface.
    Inbound,
    /// Sent by the interface.
    Outbound,
}

/// Link-layer type by the number of the tcpdump.org registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkType(pub u32);

impl LinkType {
    /// IEEE 802.3, 14 bytes of header.
    pub const ETHERNET: Self = Self(1);
    /// Starts with the IP header: tunnels without a link layer.
    pub const RAW: Self = Self(101);
    /// Starts with the IPv4 header.
    pub const IPV4: Self = Self(228);
    /// Starts with the IPv6 header.
    pub const IPV6: Self = Self(229);
    /// BSD loopback: 4 bytes of address family.
    pub const NULL: Self = Self(0);
    /// Linux cooked capture: captures of any interface, 16 bytes of header.
    pub const LINUX_SLL: Self = Self(113);
    /// The second version of it, 20 bytes of header.
    pub const LINUX_SLL2: Self = Self(276);

    /// What a filter's program says of a packet that it keeps.
    pub(crate) const KEEP: u32 = 262_144;
}

/// A packet as it passes from a source to a sink, its bytes borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet<'a> {
    /// When the kernel saw it.
    pub timestamp: Timestamp,
    /// Place in the source's list of interfaces.
    pub interface: u32,
    /// Which way it went.
    pub direction: PacketDirection,
    /// Its length on the wire, in bytes; not below `data.len()`.
    pub original_len: u32,
    /// Its first bytes, link-layer header included.
    pub data: &'a [u8],
    /// Its number in the capture, from 1; 0 when it has none.
    pub id: u64,
    /// What the datapath decides of its flow, when that is known.
    pub verdict: Option<Verdict>,
    /// What else is to be told of it.
    pub comment: Option<&'a str>,
}

/// A packet with bytes of its own, as files are read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedPacket {
    /// When it was seen; 0 where the file has no time for it.
    pub timestamp: Timestamp,
    /// Place of its interface in the file's section.
    pub interface_index: u32,
    /// Its interface, as far as the file describes it.
    pub interface: Option<Arc<InterfaceInfo>>,
    /// Which way it went.
    pub direction: PacketDirection,
    /// Its length on the wire, in bytes.
    pub original_len: u32,
    /// Its first bytes.
    pub data: Vec<u8>,
    /// Its number in the capture.
    pub id: Option<u64>,
    /// What was done with it: [`Verdict::Deny`] when it was dropped, [`Verdict::Allow`] when it was let pass.
    pub verdict: Option<Verdict>,
    /// Comment in the file.
    pub comment: Option<String>,
}

/// An interface of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Name, such as `eth0`.
    pub name: String,
    /// What its packets start with.
    pub link: LinkType,
    /// Ethernet address.
    pub mac: Option<MacAddr>,
}

impl InterfaceInfo {
    /// An interface without an Ethernet address.
    #[must_use]
    pub fn new(name: impl Into<String>, link: LinkType) -> Self {
        Self {
            name: name.into(),
            link,
            mac: None,
        }
    }
}

/// Sums of one interface at the end of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceTotals {
    /// Packets that the source saw, dropped ones included.
    pub received: u64,
    /// Packets that the kernel dropped because the capture was too slow.
    pub dropped: u64,
    /// Packets that were kept.
    pub kept: u64,
}
