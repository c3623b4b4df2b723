//! Reading pcapng and pcap. Memory is bounded whatever a file says of itself, and an error names the byte where
//! the file stops making sense.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nv_types::{MacAddr, Timestamp};
use pcap_file::pcap::{PcapParseError, PcapParser};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block, PcapNgParseError, PcapNgParser};

use crate::{CapturedPacket, InterfaceInfo, LinkType, PacketDirection};

/// Biggest block, and so the biggest buffer.
const MAX_BLOCK: usize = 16 << 20;
/// Bytes of all interface descriptions of a section together: they are kept as long as the section lasts.
const MAX_DESCRIPTIONS: u64 = 4 << 20;

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

enum Parser {
    Pcap(PcapParser, Arc<InterfaceInfo>),
    Pcapng(Box<PcapNgParser>, Vec<Arc<InterfaceInfo>>, u64),
}

/// Reads packets one by one; ends after the first error.
pub struct PacketReader<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    offset: u64,
    end_of_input: bool,
    failed: bool,
    parser: Parser,
}

impl<R> std::fmt::Debug for PacketReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketReader")
            .field("offset", &self.offset)
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

/// What one step of a parser came to.
enum Step {
    /// A packet, or a block without one, of this many bytes.
    Taken(usize, Option<CapturedPacket>),
    /// The block is not complete in the buffer.
    More,
    /// The block is wrong.
    Wrong(String),
}

impl<R: Read> PacketReader<R> {
    /// Reads the first header, which says what the format is.
    ///
    /// # Errors
    /// [`ReadError::NotACapture`] or a header that is malformed.
    pub fn new(mut reader: R) -> Result<Self, ReadError> {
        let mut buffer = Vec::new();
        let mut end_of_input = false;
        loop {
            if let Some(start) = buffer.first_chunk::<4>() {
                match first_header(*start, &buffer)? {
                    Some((parser, used)) => {
                        return Ok(Self {
                            reader,
                            buffer,
                            start: used,
                            offset: used as u64,
                            end_of_input,
                            failed: false,
                            parser,
                        });
                    }
                    None if buffer.len() >= MAX_BLOCK => {
                        return Err(ReadError::TooLarge {
                            offset: 0,
                            max: MAX_BLOCK,
                        });
                    }
                    None => {}
                }
            }
            if end_of_input {
                return Err(match buffer.first_chunk::<4>() {
                    Some(_) => ReadError::Truncated {
                        offset: 0,
                        available: buffer.len(),
                    },
                    None => ReadError::NotACapture { start: buffer },
                });
            }
            end_of_input =
                fill(&mut reader, &mut buffer).map_err(|source| ReadError::Io { offset: 0, source })?;
        }
    }

    /// Byte at which the next block starts.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Interfaces that the current section has described so far.
    #[must_use]
    pub fn interfaces(&self) -> &[Arc<InterfaceInfo>] {
        match &self.parser {
            Parser::Pcap(_, interface) => std::slice::from_ref(interface),
            Parser::Pcapng(_, interfaces, _) => interfaces,
        }
    }

    fn next_packet(&mut self) -> Result<Option<CapturedPacket>, ReadError> {
        loop {
            let rest = self.buffer.get(self.start..).unwrap_or_default();
            if rest.is_empty() && self.end_of_input {
                return Ok(None);
            }
            let step = if rest.is_empty() {
                Step::More
            } else {
                step(&mut self.parser, rest)
            };
            match step {
                Step::Taken(bytes, packet) => {
                    self.start += bytes;
                    self.offset += bytes as u64;
                    if packet.is_some() {
                        return Ok(packet);
                    }
                }
                Step::Wrong(problem) => {
                    return Err(ReadError::Malformed {
                        offset: self.offset,
                        problem,
                    });
                }
                Step::More if self.end_of_input => {
                    return Err(ReadError::Truncated {
                        offset: self.offset,
                        available: rest.len(),
                    });
                }
                Step::More if rest.len() >= MAX_BLOCK => {
                    return Err(ReadError::TooLarge {
                        offset: self.offset,
                        max: MAX_BLOCK,
                    });
                }
                Step::More => {
                    self.buffer.drain(..self.start);
                    self.start = 0;
                    let filled = fill(&mut self.reader, &mut self.buffer);
                    self.end_of_input = filled.map_err(|source| ReadError::Io {
                        offset: self.offset,
                        source,
                    })?;
                }
            }
        }
    }
}

impl<R: Read> Iterator for PacketReader<R> {
    type Item = Result<CapturedPacket, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_packet().transpose();
        self.failed = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Reads on, doubling what is held; true at the end of the input.
fn fill(reader: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let want = buffer.len().clamp(64 << 10, MAX_BLOCK);
    let before = buffer.len();
    reader.by_ref().take(want as u64).read_to_end(buffer)?;
    Ok(buffer.len() == before)
}

fn first_header(magic: [u8; 4], bytes: &[u8]) -> Result<Option<(Parser, usize)>, ReadError> {
    let malformed = |problem| ReadError::Malformed { offset: 0, problem };
    match u32::from_be_bytes(magic) {
        0x0a0d_0d0a => match PcapNgParser::new(bytes) {
            Ok((rest, parser)) => {
                let parser = Parser::Pcapng(Box::new(parser), Vec::new(), 0);
                Ok(Some((parser, bytes.len() - rest.len())))
            }
            Err(PcapNgParseError::IncompleteBuffer(..)) => Ok(None),
            Err(error) => Err(malformed(chain(&error))),
        },
        0xa1b2_c3d4 | 0xa1b2_3c4d | 0xd4c3_b2a1 | 0x4d3c_b2a1 => match PcapParser::new(bytes) {
            Ok((rest, parser)) => {
                let link = LinkType(u32::from(parser.header().datalink));
                let interface = Arc::new(InterfaceInfo::new("", link));
                Ok(Some((Parser::Pcap(parser, interface), bytes.len() - rest.len())))
            }
            Err(PcapParseError::IncompleteBuffer(..)) => Ok(None),
            Err(error) => Err(malformed(chain(&error))),
        },
        _ => Err(ReadError::NotACapture {
            start: magic.to_vec(),
        }),
    }
}

fn step(parser: &mut Parser, bytes: &[u8]) -> Step {
    match parser {
        Parser::Pcap(parser, interface) => match parser.next_packet(bytes) {
            Ok((rest, packet)) => {
                let Some(timestamp) = nanoseconds(packet.timestamp()) else {
                    return Step::Wrong("its time is out of range".into());
                };
                let taken = CapturedPacket {
                    timestamp,
                    interface_index: 0,
                    interface: Some(interface.clone()),
                    direction: PacketDirection::Unknown,
                    original_len: packet.orig_len(),
                    data: packet.data().to_vec(),
                    comment: None,
                };
                Step::Taken(bytes.len() - rest.len(), Some(taken))
            }
            Err(PcapParseError::IncompleteBuffer(..)) => Step::More,
            Err(error) => Step::Wrong(chain(&error)),
        },
        Parser::Pcapng(parser, interfaces, described) => match parser.next_block(bytes) {
            Ok((rest, block)) => {
                let used = bytes.len() - rest.len();
                match &block {
                    Block::SectionHeader(_) => *described = 0,
                    Block::InterfaceDescription(_) => *described += used as u64,
                    _ => {}
                }
                if *described > MAX_DESCRIPTIONS {
                    return Step::Wrong("the section describes too many interfaces".into());
                }
                match block_packet(block, interfaces) {
                    Ok(packet) => Step::Taken(used, packet),
                    Err(problem) => Step::Wrong(problem),
                }
            }
            Err(PcapNgParseError::IncompleteBuffer(..)) => Step::More,
            Err(error) => Step::Wrong(chain(&error)),
        },
    }
}

/// Takes what the block tells: interfaces are noted, packets given, the rest is passed over.
fn block_packet(
    block: Block<'_>,
    interfaces: &mut Vec<Arc<InterfaceInfo>>,
) -> Result<Option<CapturedPacket>, String> {
    let packet =
        |index: u32, time: Duration, original_len, data: &[u8], interfaces: &[Arc<InterfaceInfo>]| {
            let place = usize::try_from(index).unwrap_or(usize::MAX);
            Ok(CapturedPacket {
                timestamp: nanoseconds(time).ok_or("its time is out of range")?,
                interface_index: index,
                interface: interfaces.get(place).cloned(),
                direction: PacketDirection::Unknown,
                original_len,
                data: data.to_vec(),
                comment: None,
            })
        };
    match block {
        Block::SectionHeader(_) => {
            interfaces.clear();
            Ok(None)
        }
        Block::InterfaceDescription(block) => {
            interfaces.push(describe(&block).into());
            Ok(None)
        }
        Block::EnhancedPacket(block) => {
            let mut taken = packet(
                block.interface_id,
                block.timestamp,
                block.original_len,
                &block.data,
                interfaces,
            )?;
            note_options(&mut taken, &block);
            Ok(Some(taken))
        }
        Block::Packet(block) => packet(
            u32::from(block.interface_id),
            block.timestamp,
            block.original_len,
            &block.data,
            interfaces,
        )
        .map(Some),
        Block::SimplePacket(block) => {
            packet(0, Duration::ZERO, block.original_len, &block.data, interfaces).map(Some)
        }
        _ => Ok(None),
    }
}

fn note_options(packet: &mut CapturedPacket, block: &EnhancedPacketBlock<'_>) {
    for option in &block.options {
        match option {
            EnhancedPacketOption::Flags(flags) => {
                packet.direction = match flags & 3 {
                    1 => PacketDirection::Inbound,
                    2 => PacketDirection::Outbound,
                    _ => PacketDirection::Unknown,
                };
            }
            EnhancedPacketOption::Common(CommonOption::Comment(text)) => {
                packet.comment = Some(text.to_string())
            }
            _ => {}
        }
    }
}

fn describe(block: &InterfaceDescriptionBlock<'_>) -> InterfaceInfo {
    let mut info = InterfaceInfo::new("", LinkType(u32::from(block.linktype)));
    for option in &block.options {
        match option {
            InterfaceDescriptionOption::IfName(name) => info.name = name.to_string(),
            InterfaceDescriptionOption::IfMacAddr(mac) => {
                info.mac = <[u8; 6]>::try_from(mac.as_ref()).ok().map(MacAddr);
            }
            _ => {}
        }
    }
    info
}

fn nanoseconds(time: Duration) -> Option<Timestamp> {
    u64::try_from(time.as_nanos()).ok().map(Timestamp)
}

/// The error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
