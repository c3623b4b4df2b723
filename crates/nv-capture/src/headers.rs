//! The headers of a packet, as far as a capture needs them: who speaks to whom, by which protocol.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nv_types::{FiveTuple, IpProto};

use crate::LinkType;

/// Tags and extension headers that are stepped over at most.
const MAX_STEPS: usize = 8;

/// Addresses, protocol and ports of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Headers {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Protocol, behind IPv6 extension headers.
    pub proto: IpProto,
    /// Sender's port; the identifier of an ICMP echo; else 0.
    pub source_port: u16,
    /// Receiver's port; else as `source_port`.
    pub destination_port: u16,
    /// A later fragment: it has no ports.
    pub fragment: bool,
    /// Where the IP header begins in the packet.
    pub ip_at: usize,
    /// Where the header behind IP begins.
    pub transport_at: usize,
    /// End of the IP packet by its own length, at most the end of the bytes that were kept.
    pub end: usize,
}

impl Headers {
    /// Reads the headers; `None` when it is no IP packet, or too little of it was kept.
    #[must_use]
    pub fn parse(link: LinkType, data: &[u8]) -> Option<Self> {
        let ip_at = ip_start(link, data)?;
        match data.get(ip_at)? >> 4 {
            4 => ipv4(data, ip_at),
            6 => ipv6(data, ip_at),
            _ => None,
        }
    }

    /// The flow with the sender as client.
    #[must_use]
    pub const fn from_sender(&self) -> FiveTuple {
        FiveTuple {
            proto: self.proto,
            client: self.source,
            client_port: self.source_port,
            server: self.destination,
            server_port: self.destination_port,
        }
    }

    /// The flow with the receiver as client.
    #[must_use]
    pub const fn from_receiver(&self) -> FiveTuple {
        FiveTuple {
            proto: self.proto,
            client: self.destination,
            client_port: self.destination_port,
            server: self.source,
            server_port: self.source_port,
        }
    }
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_be_bytes(*bytes))
}

fn ip_start(link: LinkType, data: &[u8]) -> Option<usize> {
    let (mut kind_at, mut ip_at) = match link {
        LinkType::ETHERNET => (12, 14),
        LinkType::LINUX_SLL => (14, 16),
        LinkType::LINUX_SLL2 => return is_ip(be16(data, 0)?).then_some(20),
        LinkType::RAW | LinkType::IPV4 | LinkType::IPV6 => return Some(0),
        LinkType::NULL => return Some(4),
        _ => return None,
    };
    for _ in 0..MAX_STEPS {
        match be16(data, kind_at)? {
            0x8100 | 0x88a8 | 0x9100 => {
                kind_at = ip_at + 2;
                ip_at += 4;
            }
            kind => return is_ip(kind).then_some(ip_at),
        }
    }
    None
}

const fn is_ip(kind: u16) -> bool {
    matches!(kind, 0x0800 | 0x86dd)
}

fn ipv4(data: &[u8], ip_at: usize) -> Option<Headers> {
    let header: &[u8; 20] = data.get(ip_at..)?.first_chunk()?;
    let length = usize::from(header[0] & 0xf) * 4;
    if length < 20 {
        return None;
    }
    let fragment = be16(header, 6)? & 0x1fff != 0;
    let total = usize::from(be16(header, 2)?);
    let address = |at: usize| {
        header
            .get(at..)?
            .first_chunk::<4>()
            .map(|bytes| IpAddr::from(Ipv4Addr::from(*bytes)))
    };
    let headers = Headers {
        source: address(12)?,
        destination: address(16)?,
        proto: IpProto(header[9]),
        source_port: 0,
        destination_port: 0,
        fragment,
        ip_at,
        transport_at: ip_at + length,
        // Zero: cut into segments by the device, later.
        end: if total == 0 {
            data.len()
        } else {
            data.len().min(ip_at + total)
        },
    };
    Some(with_ports(headers, data))
}

fn ipv6(data: &[u8], ip_at: usize) -> Option<Headers> {
    let header: &[u8; 40] = data.get(ip_at..)?.first_chunk()?;
    let address = |at: usize| {
        header
            .get(at..)?
            .first_chunk::<16>()
            .map(|bytes| IpAddr::from(Ipv6Addr::from(*bytes)))
    };
    let payload = usize::from(be16(header, 4)?);
    let (mut next, mut at) = (header[6], ip_at + 40);
    let mut fragment = false;
    for _ in 0..MAX_STEPS {
        let length = match next {
            0 | 43 | 60 => usize::from(*data.get(at + 1)?) * 8 + 8,
            51 => usize::from(*data.get(at + 1)?) * 4 + 8,
            44 => {
                fragment = be16(data, at + 2)? & 0xfff8 != 0;
                8
            }
            _ => break,
        };
        next = *data.get(at)?;
        at += length;
        if fragment {
            break;
        }
    }
    let headers = Headers {
        source: address(8)?,
        destination: address(24)?,
        proto: IpProto(next),
        source_port: 0,
        destination_port: 0,
        fragment,
        ip_at,
        transport_at: at,
        end: if payload == 0 {
            data.len()
        } else {
            data.len().min(ip_at + 40 + payload)
        },
    };
    Some(with_ports(headers, data))
}

fn with_ports(mut headers: Headers, data: &[u8]) -> Headers {
    if headers.fragment {
        return headers;
    }
    let at = headers.transport_at;
    match headers.proto.0 {
        6 | 17 | 132 => {
            headers.source_port = be16(data, at).unwrap_or(0);
            headers.destination_port = be16(data, at + 2).unwrap_or(0);
        }
        1 | 58 => {
            let echo = matches!(
                (headers.proto.0, data.get(at)),
                (1, Some(0 | 8)) | (58, Some(128 | 129))
            );
            if echo {
                let id = be16(data, at + 4).unwrap_or(0);
                headers.source_port = id;
                headers.destination_port = id;
            }
        }
        _ => {}
    }
    headers
}
