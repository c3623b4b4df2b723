//! Blocks of pcapng (draft-ietf-opsawg-pcapng).

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::Arc;

use nv_types::{MacAddr, Timestamp, Verdict};

use super::buffer::Buffer;
use super::{MAX_BLOCK, ReadError};
use crate::format::code;
use crate::{InterfaceInfo, LinkType, PacketDirection};

/// Bytes of all interface descriptions of a section together, and of all names: they are kept as long as the
/// section lasts.
const MAX_DESCRIPTIONS: usize = 4 << 20;
const MAX_NAMES: usize = 4 << 20;

pub(super) enum Step {
    Packet(Found),
    /// A block without a packet.
    Nothing,
    End,
}

/// A packet by its places in the block.
pub(super) struct Found {
    pub(super) timestamp: Timestamp,
    pub(super) interface: u32,
    pub(super) direction: PacketDirection,
    pub(super) original_len: u32,
    pub(super) data: Range<usize>,
    pub(super) comment: Option<Range<usize>>,
    pub(super) id: Option<u64>,
    pub(super) verdict: Option<Verdict>,
}

#[inline]
pub(super) fn word(bytes: &[u8], at: usize, big: bool) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(if big {
        u32::from_be_bytes(*bytes)
    } else {
        u32::from_le_bytes(*bytes)
    })
}

#[inline]
pub(super) fn half(bytes: &[u8], at: usize, big: bool) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(if big {
        u16::from_be_bytes(*bytes)
    } else {
        u16::from_le_bytes(*bytes)
    })
}

fn long(bytes: &[u8], at: usize, big: bool) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(if big {
        u64::from_be_bytes(*bytes)
    } else {
        u64::from_le_bytes(*bytes)
    })
}

/// Unit of an interface's times (`if_tsresol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// So many nanoseconds.
    Nanoseconds(u64),
    /// So many of them in a nanosecond: finer than ours.
    Finer(u128),
    /// 2 to the minus this, of a second.
    Binary(u32),
}

impl Unit {
    fn new(option: u8) -> Self {
        let exponent = u32::from(option & 0x7f);
        if option & 0x80 != 0 {
            return Self::Binary(exponent);
        }
        match exponent {
            0..=9 => Self::Nanoseconds(10_u64.pow(9 - exponent)),
            // So fine that 64 bits of it are less than a nanosecond.
            48.. => Self::Finer(u128::MAX),
            _ => Self::Finer(10_u128.pow(exponent - 9)),
        }
    }

    #[inline]
    fn nanoseconds(self, stamp: u64) -> u128 {
        match self {
            Self::Nanoseconds(unit) => u128::from(stamp) * u128::from(unit),
            Self::Finer(parts) => u128::from(stamp) / parts,
            Self::Binary(shift) => (u128::from(stamp) * 1_000_000_000) >> shift,
        }
    }
}

#[derive(Debug)]
struct Described {
    info: Arc<InterfaceInfo>,
    unit: Unit,
    /// Seconds to be added to its times (`if_tsoffset`).
    offset: i64,
    snap_len: u32,
    dropped: u64,
}

impl Described {
    #[inline]
    fn time(&self, stamp: u64) -> Option<Timestamp> {
        let unshifted = self.unit.nanoseconds(stamp);
        let shifted = match self.offset {
            0 => unshifted,
            offset => {
                let shift = u128::from(offset.unsigned_abs()) * 1_000_000_000;
                if offset < 0 {
                    unshifted.checked_sub(shift)?
                } else {
                    unshifted.checked_add(shift)?
                }
            }
        };
        u64::try_from(shifted).ok().map(Timestamp)
    }
}

/// What is known of the section that is being read.
#[derive(Debug, Default)]
pub(super) struct Section {
    big: bool,
    interfaces: Vec<Described>,
    described: usize,
    names: BTreeMap<IpAddr, String>,
    named: usize,
    /// Dropped packets of sections before.
    dropped: u64,
}

impl Section {
    pub(super) fn interfaces(&self) -> Vec<Arc<InterfaceInfo>> {
        self.interfaces
            .iter()
            .map(|interface| Arc::clone(&interface.info))
            .collect()
    }

    pub(super) fn interface(&self, index: u32) -> Option<&Arc<InterfaceInfo>> {
        self.described(index).map(|described| &described.info)
    }

    fn described(&self, index: u32) -> Option<&Described> {
        self.interfaces.get(usize::try_from(index).ok()?)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
            + self
                .interfaces
                .iter()
                .map(|interface| interface.dropped)
                .sum::<u64>()
    }

    pub(super) fn name(&self, address: IpAddr) -> Option<&str> {
        self.names.get(&address).map(String::as_str)
    }

    /// Takes one block.
    #[inline]
    pub(super) fn step<R: Read>(&mut self, buffer: &mut Buffer<R>) -> Result<Step, ReadError> {
        let Some(head) = buffer.need(12)? else {
            return buffer.end();
        };
        let kind = word(head, 0, self.big).unwrap_or(0);
        if kind == code::SECTION {
            self.big = match head.get(8..12) {
                Some([0x1a, 0x2b, 0x3c, 0x4d]) => true,
                Some([0x4d, 0x3c, 0x2b, 0x1a]) => false,
                _ => return Err(buffer.malformed("a section without a byte order")),
            };
        }
        let length = word(head, 4, self.big).and_then(|length| usize::try_from(length).ok());
        let length = length.unwrap_or(usize::MAX);
        if length < 12 || !length.is_multiple_of(4) {
            return Err(buffer.malformed(format!("{length} cannot be its length")));
        }
        if length > MAX_BLOCK {
            return Err(buffer.too_large());
        }
        let Some(block) = buffer.need(length)?.and_then(|bytes| bytes.get(..length)) else {
            return buffer.end();
        };
        if word(block, length - 4, self.big).map(u64::from) != Some(length as u64) {
            return Err(buffer.malformed("its two lengths differ"));
        }
        let step = self
            .block(kind, block)
            .map_err(|problem| buffer.malformed(problem))?;
        buffer.consume(length);
        Ok(step)
    }

    #[inline]
    fn block(&mut self, kind: u32, block: &[u8]) -> Result<Step, String> {
        match kind {
            code::ENHANCED => return self.packet(block, word(block, 8, self.big), 28),
            code::OLD_PACKET => {
                let interface = half(block, 8, self.big).map(u32::from);
                return self.packet(block, interface, 28);
            }
            code::SIMPLE => return self.simple(block),
            code::SECTION => self.begin(block)?,
            code::INTERFACE => self.describe(block)?,
            code::NAMES => self.take_names(block),
            code::STATISTICS => self.take_statistics(block),
            // Not for us: stepped over.
            _ => {}
        }
        Ok(Step::Nothing)
    }

    fn begin(&mut self, block: &[u8]) -> Result<(), String> {
        if block.len() < 28 {
            return Err("a section header that is too short".into());
        }
        let version = half(block, 12, self.big).unwrap_or(0);
        if version != 1 {
            return Err(format!("version {version} of pcapng"));
        }
        self.dropped = self.dropped();
        self.interfaces.clear();
        self.described = 0;
        self.names.clear();
        self.named = 0;
        Ok(())
    }

    fn describe(&mut self, block: &[u8]) -> Result<(), String> {
        if block.len() < 20 {
            return Err("an interface description that is too short".into());
        }
        self.described += block.len();
        if self.described > MAX_DESCRIPTIONS {
            return Err("the section describes too many interfaces".into());
        }
        let mut info = InterfaceInfo::new("", LinkType(u32::from(half(block, 8, self.big).unwrap_or(0))));
        let (mut unit, mut offset) = (Unit::Nanoseconds(1000), 0);
        for (option, place) in options(block, 16, self.big) {
            let value = block.get(place).unwrap_or_default();
            match option {
                code::IF_NAME => info.name = text(value),
                code::IF_MAC => info.mac = value.first_chunk().map(|mac| MacAddr(*mac)),
                code::IF_TSRESOL => unit = value.first().map_or(unit, |option| Unit::new(*option)),
                code::IF_TSOFFSET => {
                    offset = long(value, 0, self.big).map_or(0, u64::cast_signed);
                }
                _ => {}
            }
        }
        self.interfaces.push(Described {
            info: info.into(),
            unit,
            offset,
            snap_len: word(block, 12, self.big).unwrap_or(0),
            dropped: 0,
        });
        Ok(())
    }

    /// An enhanced packet, or its forerunner: interface, time, lengths, bytes, options.
    #[inline]
    fn packet(&self, block: &[u8], interface: Option<u32>, data_at: usize) -> Result<Step, String> {
        let field = |at| word(block, at, self.big);
        let (Some(interface), Some(high), Some(low), Some(length), Some(original_len)) =
            (interface, field(12), field(16), field(20), field(24))
        else {
            return Err("a packet that is too short".into());
        };
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| data_at.checked_add(length));
        let Some(end) = end.filter(|end| end.next_multiple_of(4) + 4 <= block.len()) else {
            return Err(format!(
                "a packet of {length} bytes in a block of {}",
                block.len()
            ));
        };
        let described = self
            .described(interface)
            .ok_or_else(|| format!("a packet of interface {interface}, which was not described"))?;
        let stamp = u64::from(high) << 32 | u64::from(low);
        let mut found = Found {
            timestamp: described.time(stamp).ok_or("its time is out of range")?,
            interface,
            direction: PacketDirection::Unknown,
            original_len,
            data: data_at..end,
            comment: None,
            id: None,
            verdict: None,
        };
        for (option, place) in options(block, end.next_multiple_of(4), self.big) {
            match option {
                code::FLAGS => {
                    found.direction = match word(block, place.start, self.big).unwrap_or(0) & 3 {
                        1 => PacketDirection::Inbound,
                        2 => PacketDirection::Outbound,
                        _ => PacketDirection::Unknown,
                    };
                }
                code::COMMENT => found.comment = Some(place),
                code::PACKET_ID if place.len() == 8 => found.id = long(block, place.start, self.big),
                code::VERDICT if place.len() == 9 && block.get(place.start) == Some(&code::VERDICT_TC) => {
                    found.verdict = match long(block, place.start + 1, self.big) {
                        Some(code::TC_ACT_SHOT) => Some(Verdict::Deny),
                        Some(code::TC_ACT_OK) => Some(Verdict::Allow),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        Ok(Step::Packet(found))
    }

    /// A packet of the first interface, without a time.
    fn simple(&self, block: &[u8]) -> Result<Step, String> {
        let described = self
            .described(0)
            .ok_or("a packet of interface 0, which was not described")?;
        let original_len = word(block, 8, self.big).unwrap_or(0);
        let kept = match described.snap_len {
            0 => original_len,
            snap_len => snap_len.min(original_len),
        };
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        if block.len() < 16 || kept > block.len() - 16 {
            return Err(format!("a packet of {kept} bytes in a block of {}", block.len()));
        }
        Ok(Step::Packet(Found {
            timestamp: Timestamp(0),
            interface: 0,
            direction: PacketDirection::Unknown,
            original_len,
            data: 12..12 + kept,
            comment: None,
            id: None,
            verdict: None,
        }))
    }

    /// Names of addresses: records of a kind, a length and a value; what does not fit is stepped over.
    fn take_names(&mut self, block: &[u8]) {
        let mut at = 8;
        while let (Some(kind), Some(length)) = (half(block, at, self.big), half(block, at + 2, self.big)) {
            let length = usize::from(length);
            let Some(value) = block.get(at + 4..at + 4 + length).filter(|_| kind != 0) else {
                return;
            };
            let split = match kind {
                1 => value
                    .split_first_chunk()
                    .map(|(ip, name)| (IpAddr::from(Ipv4Addr::from(*ip)), name)),
                2 => value
                    .split_first_chunk::<16>()
                    .map(|(ip, name)| (IpAddr::from(Ipv6Addr::from(*ip)), name)),
                _ => None,
            };
            if let Some((address, name)) = split {
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                self.named += name.len() + 64;
                if self.named <= MAX_NAMES {
                    self.names.insert(address, text(name));
                }
            }
            at += 4 + length.next_multiple_of(4);
        }
    }

    fn take_statistics(&mut self, block: &[u8]) {
        let Some(interface) = word(block, 8, self.big).and_then(|index| usize::try_from(index).ok()) else {
            return;
        };
        let mut dropped = 0_u64;
        for (option, place) in options(block, 20, self.big) {
            if matches!(option, code::ISB_IFDROP | code::ISB_OSDROP) {
                dropped = dropped.saturating_add(long(block, place.start, self.big).unwrap_or(0));
            }
        }
        if let Some(described) = self.interfaces.get_mut(interface) {
            described.dropped = dropped;
        }
    }
}

/// At most so much of a text is kept.
fn text(value: &[u8]) -> String {
    let value = value.get(..1024).unwrap_or(value);
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// Options from this place to the end of the block: code, and where the value is. Ends at the first that does not fit.
#[inline]
fn options(block: &[u8], mut at: usize, big: bool) -> impl Iterator<Item = (u16, Range<usize>)> {
    let end = block.len() - 4;
    std::iter::from_fn(move || {
        if at + 4 > end {
            return None;
        }
        let (option, length) = (half(block, at, big)?, usize::from(half(block, at + 2, big)?));
        let place = at + 4..at + 4 + length;
        if option == 0 || place.end > end {
            return None;
        }
        at = place.end.next_multiple_of(4);
        Some((option, place))
    })
}
