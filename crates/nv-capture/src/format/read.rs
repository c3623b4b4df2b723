//! Reading pcapng and pcap. Memory is bounded whatever a file says of itself, and an error names the byte where
//! the file stops making sense.
//!
//! [`PacketReader::next_view`] lends packets out of the reader's buffer, for speed; the iterator gives packets with
//! bytes of their own.

mod block;
mod buffer;

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use nv_types::{Timestamp, Verdict};

use self::block::{Section, Step};
use self::buffer::Buffer;
use crate::{CapturedPacket, InterfaceInfo, LinkType, PacketDirection};

/// Biggest block, and so the biggest buffer.
const MAX_BLOCK: usize = 16 << 20;

/// Why a capture could not be read on. Everything before `offset` was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// File.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading failed.
    #[error("cannot read at byte {offset}")]
    Io {
        /// Start of the block that was being read.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Neither pcapng nor pcap.
    #[error("not a capture file: it starts with {start:02x?}")]
    NotACapture {
        /// Its first bytes.
        start: Vec<u8>,
    },
    /// The file ends inside a block.
    #[error(
        "the file breaks off: the block at byte {offset} is not complete, only {available} bytes of it are there"
    )]
    Truncated {
        /// Start of the block.
        offset: u64,
        /// Bytes of it.
        available: usize,
    },
    /// A block that breaks the format.
    #[error("malformed block at byte {offset}: {problem}")]
    Malformed {
        /// Start of the block.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// A block that nobody needs.
    #[error("the block at byte {offset} is longer than {max} bytes")]
    TooLarge {
        /// Start of the block.
        offset: u64,
        /// Most that is read.
        max: usize,
    },
}

/// A packet in the reader's buffer.
#[derive(Clone, Copy, Debug)]
pub struct PacketView<'a> {
    /// When it was seen; 0 where the file has no time for it.
    pub timestamp: Timestamp,
    /// Place of its interface in the file's section.
    pub interface_index: u32,
    /// Its interface.
    pub interface: &'a Arc<InterfaceInfo>,
    /// Which way it went.
    pub direction: PacketDirection,
    /// Its length on the wire, in bytes.
    pub original_len: u32,
    /// Its first bytes.
    pub data: &'a [u8],
    /// Its number, if the file numbers packets (`epb_packetid`).
    pub id: Option<u64>,
    /// What an eBPF program at a traffic control hook did with it (`epb_verdict` of type 1): dropped, or let pass.
    pub verdict: Option<Verdict>,
    comment: Option<&'a [u8]>,
}

impl<'a> PacketView<'a> {
    /// A packet that is not from a file.
    #[must_use]
    pub fn new(
        timestamp: Timestamp,
        interface: &'a Arc<InterfaceInfo>,
        direction: PacketDirection,
        data: &'a [u8],
    ) -> Self {
        Self {
            timestamp,
            interface_index: 0,
            interface,
            direction,
            original_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
            data,
            id: None,
            verdict: None,
            comment: None,
        }
    }

    /// Its comment.
    #[must_use]
    pub fn comment(&self) -> Option<String> {
        self.comment
            .map(|text| String::from_utf8_lossy(text).into_owned())
    }

    fn owned(&self) -> CapturedPacket {
        CapturedPacket {
            timestamp: self.timestamp,
            interface_index: self.interface_index,
            interface: Some(Arc::clone(self.interface)),
            direction: self.direction,
            original_len: self.original_len,
            data: self.data.to_vec(),
            id: self.id,
            verdict: self.verdict,
            comment: self.comment(),
        }
    }
}

/// Classic pcap: one link type, one resolution.
#[derive(Debug)]
struct Classic {
    big: bool,
    /// Nanoseconds of the fraction's unit.
    unit: u64,
    interface: Arc<InterfaceInfo>,
}

#[derive(Debug)]
enum Format {
    Pcap(Classic),
    Pcapng(Box<Section>),
}

/// Reads packets one by one; ends after the first error.
pub struct PacketReader<R> {
    buffer: Buffer<R>,
    format: Format,
    failed: bool,
}

impl<R> std::fmt::Debug for PacketReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketReader")
            .field("offset", &self.offset())
            .field("failed", &self.failed)
            .finish()
    }
}

/// Opens a file of packets.
///
/// # Errors
/// [`ReadError::Open`], [`ReadError::NotACapture`], or a header that is malformed.
pub fn read_file(path: &Path) -> Result<PacketReader<File>, ReadError> {
    let file = File::open(path).map_err(|source| ReadError::Open {
        path: path.to_owned(),
        source,
    })?;
    PacketReader::new(file)
}

impl<R> PacketReader<R> {
    /// Byte at which the next block starts.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.buffer.offset()
    }

    /// Interfaces that the current section has described so far.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Arc<InterfaceInfo>> {
        match &self.format {
            Format::Pcap(classic) => vec![Arc::clone(&classic.interface)],
            Format::Pcapng(section) => section.interfaces(),
        }
    }

    /// Packets that whoever wrote the file could not keep, by its own statistics.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        match &self.format {
            Format::Pcap(_) => 0,
            Format::Pcapng(section) => section.dropped(),
        }
    }

    /// Name that the file gives to this address.
    #[must_use]
    pub fn name(&self, address: IpAddr) -> Option<&str> {
        match &self.format {
            Format::Pcap(_) => None,
            Format::Pcapng(section) => section.name(address),
        }
    }
}

impl<R: Read> PacketReader<R> {
    /// Reads the first header, which says what the format is.
    ///
    /// # Errors
    /// [`ReadError::NotACapture`] or a header that is malformed.
    pub fn new(reader: R) -> Result<Self, ReadError> {
        let mut buffer = Buffer::new(reader);
        let Some(magic) = buffer
            .need(4)?
            .and_then(|bytes| bytes.first_chunk::<4>().copied())
        else {
            return Err(ReadError::NotACapture {
                start: buffer.rest().to_vec(),
            });
        };
        let (big, unit) = match u32::from_be_bytes(magic) {
            0x0a0d_0d0a => {
                let mut reader = Self {
                    buffer,
                    format: Format::Pcapng(Box::default()),
                    failed: false,
                };
                // The header of the first section must be whole.
                reader.step()?;
                return Ok(reader);
            }
            0xa1b2_c3d4 => (true, 1000),
            0xa1b2_3c4d => (true, 1),
            0xd4c3_b2a1 => (false, 1000),
            0x4d3c_b2a1 => (false, 1),
            _ => {
                return Err(ReadError::NotACapture {
                    start: magic.to_vec(),
                });
            }
        };
        let Some(header) = buffer.need(24)? else {
            return Err(buffer.truncated());
        };
        let link = block::word(header, 20, big).unwrap_or(0);
        let (major, minor) = (block::half(header, 4, big), block::half(header, 6, big));
        if major != Some(2) {
            let problem = format!("version {}.{} of pcap", major.unwrap_or(0), minor.unwrap_or(0));
            return Err(ReadError::Malformed { offset: 0, problem });
        }
        // The upper bits tell of checksums at the end of frames.
        let interface = InterfaceInfo::new("", LinkType(link & 0x03ff_ffff));
        buffer.consume(24);
        Ok(Self {
            buffer,
            format: Format::Pcap(Classic {
                big,
                unit,
                interface: interface.into(),
            }),
            failed: false,
        })
    }

    /// The next packet, lent until the next call; `None` at the end, and after an error.
    ///
    /// # Errors
    /// [`ReadError`] with the byte; there is nothing to be read after it.
    pub fn next_view(&mut self) -> Result<Option<PacketView<'_>>, ReadError> {
        if self.failed {
            return Ok(None);
        }
        let found = loop {
            match self.step() {
                Ok(Step::Nothing) => {}
                Ok(Step::End) => {
                    self.failed = true;
                    return Ok(None);
                }
                Ok(Step::Packet(found)) => break found,
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        };
        let bytes = self.buffer.passed();
        let interface = match &self.format {
            Format::Pcap(classic) => Some(&classic.interface),
            Format::Pcapng(section) => section.interface(found.interface),
        };
        let part = |range: std::ops::Range<usize>| bytes.get(range).unwrap_or_default();
        Ok(interface.map(|interface| PacketView {
            timestamp: found.timestamp,
            interface_index: found.interface,
            interface,
            direction: found.direction,
            original_len: found.original_len,
            data: part(found.data),
            id: found.id,
            verdict: found.verdict,
            comment: found.comment.map(part),
        }))
    }

    /// Takes one block.
    fn step(&mut self) -> Result<Step, ReadError> {
        match &mut self.format {
            Format::Pcap(classic) => record(&mut self.buffer, classic),
            Format::Pcapng(section) => section.step(&mut self.buffer),
        }
    }
}

/// One packet of a classic file.
fn record<R: Read>(buffer: &mut Buffer<R>, classic: &Classic) -> Result<Step, ReadError> {
    let Some(header) = buffer.need(16)? else {
        return buffer.end();
    };
    let field = |at| u64::from(block::word(header, at, classic.big).unwrap_or(0));
    let (seconds, fraction, length, original) = (field(0), field(4), field(8), field(12));
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_BLOCK {
        return Err(buffer.too_large());
    }
    if buffer.need(16 + length)?.is_none() {
        return buffer.end();
    }
    buffer.consume(16 + length);
    Ok(Step::Packet(block::Found {
        timestamp: Timestamp(seconds * 1_000_000_000 + fraction * classic.unit),
        interface: 0,
        direction: PacketDirection::Unknown,
        original_len: u32::try_from(original).unwrap_or(u32::MAX),
        data: 16..16 + length,
        comment: None,
        id: None,
        verdict: None,
    }))
}

impl<R: Read> Iterator for PacketReader<R> {
    type Item = Result<CapturedPacket, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_view()
            .map(|view| view.map(|view| view.owned()))
            .transpose()
    }
}
