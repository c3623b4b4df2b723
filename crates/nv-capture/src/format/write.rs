//! Writing pcapng (draft-ietf-opsawg-pcapng): times in nanoseconds, direction in every packet's flags, verdict,
//! number and comment where they are known, names of addresses, sums of each interface at the end. And classic
//! pcap, for programs that read nothing else.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::net::IpAddr;

use nv_types::{Timestamp, Verdict};

use super::code;
use crate::{CaptureSink, InterfaceInfo, InterfaceTotals, LinkType, Packet, PacketDirection, SinkError};

/// Block header and trailer, fixed part, four options of 8 bytes, end of options.
const STATISTICS_SIZE: u64 = 12 + 12 + 4 * 12 + 4;
/// An option's length is 16 bits; names and comments stay far below it.
const MAX_TEXT: usize = 1024;

/// What the file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionInfo {
    /// Name that stands before `/` in every interface's name; empty for none.
    pub workload: String,
    /// Comment of the section.
    pub comment: String,
    /// Filter, told with every interface; empty for none.
    pub filter: String,
    /// Machine, as in `x86_64`.
    pub hardware: String,
    /// Operating system with its release.
    pub os: String,
    /// Program.
    pub application: String,
}

impl SectionInfo {
    /// A section about this workload, written on this machine.
    #[must_use]
    pub fn new(workload: impl Into<String>, comment: impl Into<String>) -> Self {
        let system = nix::sys::utsname::uname().ok();
        let os = system.map(|s| format!("{} {}", s.sysname().display(), s.release().display()));
        Self {
            workload: workload.into(),
            comment: comment.into(),
            filter: String::new(),
            hardware: std::env::consts::ARCH.into(),
            os: os.unwrap_or_else(|| std::env::consts::OS.into()),
            application: concat!("nv ", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// At most so many bytes, cut at a character's border.
fn bounded(text: &str) -> &str {
    let end = (0..=MAX_TEXT.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Control characters out, length bounded.
fn tidy(text: &str) -> Cow<'_, str> {
    let text = bounded(text);
    if text.chars().any(char::is_control) {
        Cow::Owned(
            text.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

/// One block as it grows. Numbers are in the machine's own order, which the section header tells.
struct Block<'a>(&'a mut Vec<u8>);

impl<'a> Block<'a> {
    fn new(bytes: &'a mut Vec<u8>, kind: u32) -> Self {
        bytes.clear();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        Self(bytes)
    }

    fn word(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn half(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    fn padded(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.0
            .extend_from_slice([0; 3].get(..padding).unwrap_or_default());
        self
    }

    fn option(&mut self, option: u16, value: &[u8]) -> &mut Self {
        self.half(option);
        self.half(u16::try_from(value.len()).unwrap_or(0));
        self.padded(value)
    }

    /// A text option; nothing for an empty text.
    fn text(&mut self, option: u16, text: &str) -> &mut Self {
        if !text.is_empty() {
            self.option(option, tidy(text).as_bytes());
        }
        self
    }

    fn time(&mut self, at: Timestamp) -> &mut Self {
        let [a, b, c, d, e, f, g, h] = at.0.to_be_bytes();
        self.word(u32::from_be_bytes([a, b, c, d]))
            .word(u32::from_be_bytes([e, f, g, h]))
    }

    fn end_of_options(&mut self) -> &mut Self {
        self.word(0)
    }

    /// Writes both lengths; the block is whole.
    fn end(self) -> &'a [u8] {
        let length = u32::try_from(self.0.len() + 4).unwrap_or(u32::MAX).to_ne_bytes();
        self.0.extend_from_slice(&length);
        if let Some(place) = self.0.get_mut(4..8) {
            place.copy_from_slice(&length);
        }
        self.0
    }
}

/// Writes one pcapng section.
pub struct PcapngSink<W: Write> {
    writer: W,
    written: u64,
    block: Vec<u8>,
    workload: String,
    filter: String,
    snap_len: u32,
    interfaces: u32,
}

impl<W: Write> fmt::Debug for PcapngSink<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapngSink")
            .field("workload", &self.workload)
            .field("size", &self.size_with(None))
            .finish()
    }
}

impl<W: Write> PcapngSink<W> {
    /// Begins a section; `snap_len` is only told to readers.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(writer: W, section: &SectionInfo, snap_len: u32) -> Result<Self, SinkError> {
        let mut sink = Self {
            writer,
            written: 0,
            block: Vec::with_capacity(2048),
            workload: section.workload.clone(),
            filter: section.filter.clone(),
            snap_len,
            interfaces: 0,
        };
        sink.put(code::SECTION, |block| {
            block
                .word(0x1a2b_3c4d)
                .half(1)
                .half(0)
                // Length of the section: not known.
                .word(u32::MAX)
                .word(u32::MAX)
                .text(code::HARDWARE, &section.hardware)
                .text(code::OS, &section.os)
                .text(code::APPLICATION, &section.application)
                .text(code::COMMENT, &section.comment)
                .end_of_options();
        })?;
        Ok(sink)
    }

    /// The writer, which holds all that was written to it.
    pub fn into_inner(self) -> W {
        self.writer
    }

    /// The writer.
    pub const fn inner(&self) -> &W {
        &self.writer
    }

    fn put(&mut self, kind: u32, fill: impl FnOnce(&mut Block<'_>)) -> Result<(), SinkError> {
        let mut block = Block::new(&mut self.block, kind);
        fill(&mut block);
        let bytes = block.end();
        self.writer.write_all(bytes).map_err(SinkError::Stream)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

const fn option_size(length: usize) -> u64 {
    4 + length.next_multiple_of(4) as u64
}

/// Bytes of a packet's block.
fn packet_size(packet: &Packet<'_>) -> u64 {
    let mut size = 12 + 20 + (packet.data.len() as u64).next_multiple_of(4) + option_size(4) + 4;
    if packet.id != 0 {
        size += option_size(8);
    }
    if packet.verdict.is_some() {
        size += option_size(9);
    }
    match packet.comment {
        Some(text) if !text.is_empty() => size + option_size(tidy(text).len()),
        _ => size,
    }
}

impl<W: Write> CaptureSink for PcapngSink<W> {
    fn begin_interface(&mut self, interface: &InterfaceInfo) -> Result<(), SinkError> {
        let link = u16::try_from(interface.link.0)
            .map_err(|_| SinkError::Format(format!("link type {}", interface.link.0)))?;
        let (name, description) = if self.workload.is_empty() {
            (interface.name.clone(), String::new())
        } else {
            (
                format!("{}/{}", self.workload, interface.name),
                format!("{} of {}, both directions", interface.name, self.workload),
            )
        };
        let filter = format!("\0{}", bounded(&self.filter));
        let (has_filter, snap_len) = (!self.filter.is_empty(), self.snap_len);
        self.put(code::INTERFACE, |block| {
            block
                .half(link)
                .half(0)
                .word(snap_len)
                .text(code::IF_NAME, &name)
                .text(code::IF_DESCRIPTION, &description);
            if let Some(mac) = interface.mac {
                block.option(code::IF_MAC, &mac.0);
            }
            block.option(code::IF_TSRESOL, &[9]);
            if has_filter {
                // Kind 0: the filter's text.
                block.option(code::IF_FILTER, filter.as_bytes());
            }
            block.end_of_options();
        })?;
        self.interfaces += 1;
        Ok(())
    }

    fn write(&mut self, packet: &Packet<'_>) -> Result<(), SinkError> {
        if packet.interface >= self.interfaces {
            return Err(SinkError::UnknownInterface(packet.interface));
        }
        let length = u32::try_from(packet.data.len())
            .map_err(|_| SinkError::Format(format!("a packet of {} bytes", packet.data.len())))?;
        let direction: u32 = match packet.direction {
            PacketDirection::Unknown => 0,
            PacketDirection::Inbound => 1,
            PacketDirection::Outbound => 2,
        };
        self.put(code::ENHANCED, |block| {
            block
                .word(packet.interface)
                .time(packet.timestamp)
                .word(length)
                .word(packet.original_len)
                .padded(packet.data)
                .option(code::FLAGS, &direction.to_ne_bytes());
            if packet.id != 0 {
                block.option(code::PACKET_ID, &packet.id.to_ne_bytes());
            }
            if let Some(verdict) = packet.verdict {
                let action = if verdict == Verdict::Deny {
                    code::TC_ACT_SHOT
                } else {
                    code::TC_ACT_OK
                };
                let mut value = [code::VERDICT_TC; 9];
                if let Some(place) = value.get_mut(1..) {
                    place.copy_from_slice(&action.to_ne_bytes());
                }
                block.option(code::VERDICT, &value);
            }
            if let Some(text) = packet.comment {
                block.text(code::COMMENT, text);
            }
            block.end_of_options();
        })
    }

    fn name(&mut self, address: IpAddr, name: &str) -> Result<(), SinkError> {
        let name = tidy(name);
        self.put(code::NAMES, |block| {
            let mut value = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            value.extend_from_slice(name.as_bytes());
            value.push(0);
            block
                .option(if address.is_ipv4() { 1 } else { 2 }, &value)
                .word(0);
        })
    }

    fn size_with(&self, packet: Option<&Packet<'_>>) -> u64 {
        self.written + packet.map_or(0, packet_size) + u64::from(self.interfaces) * STATISTICS_SIZE
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.writer.flush().map_err(SinkError::Stream)
    }

    fn finish(&mut self, totals: &[InterfaceTotals], at: Timestamp) -> Result<(), SinkError> {
        for (interface, totals) in (0..self.interfaces).zip(totals) {
            self.put(code::STATISTICS, |block| {
                let [a, b, c, d, e, f, g, h] = at.0.to_be_bytes();
                let (high, low) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
                let end = [high.to_ne_bytes(), low.to_ne_bytes()].concat();
                block
                    .word(interface)
                    .time(at)
                    .option(code::ISB_END, &end)
                    .option(code::ISB_IFRECV, &totals.received.to_ne_bytes())
                    .option(code::ISB_OSDROP, &totals.dropped.to_ne_bytes())
                    .option(code::ISB_USRDELIV, &totals.kept.to_ne_bytes())
                    .end_of_options();
            })?;
        }
        self.flush()
    }
}

/// Writes classic pcap with times in nanoseconds. It has room for one link type, and for nothing but packets: no
/// direction, no verdict, no names.
#[derive(Debug)]
pub struct PcapSink<W: Write> {
    writer: W,
    written: u64,
    snap_len: u32,
    links: Vec<LinkType>,
}

impl<W: Write> PcapSink<W> {
    /// A file that begins with its first interface.
    pub const fn new(writer: W, snap_len: u32) -> Self {
        Self {
            writer,
            written: 0,
            snap_len,
            links: Vec::new(),
        }
    }

    /// Link type of its interfaces, once there is one.
    pub fn link(&self) -> Option<LinkType> {
        self.links.first().copied()
    }

    /// The writer.
    pub fn into_inner(self) -> W {
        self.writer
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.written += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(SinkError::Stream)
    }
}

impl<W: Write> CaptureSink for PcapSink<W> {
    fn begin_interface(&mut self, interface: &InterfaceInfo) -> Result<(), SinkError> {
        match self.links.first() {
            None => {
                let mut header = Vec::with_capacity(24);
                for word in [0xa1b2_3c4d, 0, 0, 0, self.snap_len, interface.link.0] {
                    header.extend_from_slice(&u32::to_ne_bytes(word));
                }
                let version = [2_u16.to_ne_bytes(), 4_u16.to_ne_bytes()].concat();
                if let Some(place) = header.get_mut(4..8) {
                    place.copy_from_slice(&version);
                }
                self.put(&header)?;
            }
            Some(first) if *first != interface.link => {
                return Err(SinkError::Format(format!(
                    "interface '{}' has another link type than the first, and pcap has room for one: use pcapng",
                    interface.name
                )));
            }
            Some(_) => {}
        }
        self.links.push(interface.link);
        Ok(())
    }

    fn write(&mut self, packet: &Packet<'_>) -> Result<(), SinkError> {
        let place = usize::try_from(packet.interface).unwrap_or(usize::MAX);
        if place >= self.links.len() {
            return Err(SinkError::UnknownInterface(packet.interface));
        }
        let number = |value: u64, what: &str| {
            u32::try_from(value).map_err(|_| SinkError::Format(format!("{what} {value} in 32 bits")))
        };
        let seconds = number(packet.timestamp.0 / 1_000_000_000, "time")?;
        let fraction = number(packet.timestamp.0 % 1_000_000_000, "time")?;
        let length = number(packet.data.len() as u64, "length")?;
        let mut header = [0; 16];
        for (place, word) in header
            .chunks_exact_mut(4)
            .zip([seconds, fraction, length, packet.original_len])
        {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        self.put(&header)?;
        self.put(packet.data)
    }

    fn size_with(&self, packet: Option<&Packet<'_>>) -> u64 {
        self.written + packet.map_or(0, |packet| 16 + packet.data.len() as u64)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.writer.flush().map_err(SinkError::Stream)
    }

    fn finish(&mut self, _totals: &[InterfaceTotals], _at: Timestamp) -> Result<(), SinkError> {
        self.flush()
    }
}
