//! Writing pcapng (draft-ietf-opsawg-pcapng): times in nanoseconds, direction in every packet's flags, sums of
//! each interface at the end.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use nv_types::Timestamp;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriteError, PcapNgWriter};
use pcap_file::{DataLink, Endianness};

use crate::{CaptureSink, InterfaceInfo, InterfaceTotals, Packet, PacketDirection, SinkError};

/// Block header and trailer, fixed part, flags option, end of options.
const PACKET_OVERHEAD: u64 = 12 + 20 + 8 + 4;
/// Block header and trailer, fixed part, four options of 8 bytes, end of options.
const STATISTICS_SIZE: u64 = 12 + 12 + 4 * 12 + 4;
/// An option's length is 16 bits; names and comments stay far below it.
const MAX_TEXT: usize = 1024;

/// What the file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionInfo {
    /// Name that stands before `/` in every interface's name.
    pub workload: String,
    /// Comment of the section.
    pub comment: String,
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
            hardware: std::env::consts::ARCH.into(),
            os: os.unwrap_or_else(|| std::env::consts::OS.into()),
            application: concat!("nv ", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// Control characters out, length bounded at a character's border.
fn tidy(text: &str) -> Cow<'static, str> {
    let mut clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if clean.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT)
            .rev()
            .find(|end| clean.is_char_boundary(*end))
            .unwrap_or(0);
        clean.truncate(end);
    }
    Cow::Owned(clean)
}

struct Counting<W> {
    inner: W,
    written: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.written += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes one pcapng section.
pub struct PcapngSink<W: Write> {
    writer: PcapNgWriter<Counting<W>>,
    workload: String,
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
        let header = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![
                SectionHeaderOption::Hardware(tidy(&section.hardware)),
                SectionHeaderOption::OS(tidy(&section.os)),
                SectionHeaderOption::UserApplication(tidy(&section.application)),
                SectionHeaderOption::Common(CommonOption::Comment(tidy(&section.comment))),
            ],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(
            Counting {
                inner: writer,
                written: 0,
            },
            header,
        );
        Ok(Self {
            writer: writer.map_err(error)?,
            workload: section.workload.clone(),
            snap_len,
            interfaces: 0,
        })
    }

    /// The writer, which holds all that was written to it.
    pub fn into_inner(self) -> W {
        self.writer.into_inner().inner
    }

    /// The writer.
    pub fn inner(&self) -> &W {
        &self.writer.get_ref().inner
    }

    fn put<'a>(&mut self, block: impl PcapNgBlock<'a>) -> Result<(), SinkError> {
        self.writer.write_pcapng_block(block).map(drop).map_err(error)
    }
}

fn error(error: PcapNgWriteError) -> SinkError {
    match error {
        PcapNgWriteError::Io(source) => SinkError::Stream(source),
        other => {
            let cause = std::error::Error::source(&other).map(|cause| format!(": {cause}"));
            SinkError::Format(format!("{other}{}", cause.unwrap_or_default()))
        }
    }
}

impl<W: Write> CaptureSink for PcapngSink<W> {
    fn begin_interface(&mut self, interface: &InterfaceInfo) -> Result<(), SinkError> {
        let mut options = vec![
            InterfaceDescriptionOption::IfName(tidy(&format!("{}/{}", self.workload, interface.name))),
            InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
        ];
        if let Some(mac) = interface.mac {
            options.push(InterfaceDescriptionOption::IfMacAddr(mac.0.to_vec().into()));
        }
        self.put(InterfaceDescriptionBlock {
            linktype: DataLink::from(interface.link.0),
            snaplen: self.snap_len,
            options,
        })?;
        self.interfaces += 1;
        Ok(())
    }

    fn write(&mut self, packet: &Packet<'_>) -> Result<(), SinkError> {
        if packet.interface >= self.interfaces {
            return Err(SinkError::UnknownInterface(packet.interface));
        }
        let direction = match packet.direction {
            PacketDirection::Unknown => 0,
            PacketDirection::Inbound => 1,
            PacketDirection::Outbound => 2,
        };
        self.put(EnhancedPacketBlock {
            interface_id: packet.interface,
            timestamp: Duration::from_nanos(packet.timestamp.0),
            original_len: packet.original_len,
            data: packet.data.into(),
            options: vec![EnhancedPacketOption::Flags(direction)],
        })
    }

    fn size_with(&self, packet: Option<&Packet<'_>>) -> u64 {
        let packet = packet.map_or(0, |p| PACKET_OVERHEAD + (p.data.len() as u64).next_multiple_of(4));
        self.writer.get_ref().written + packet + u64::from(self.interfaces) * STATISTICS_SIZE
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.writer.get_mut().flush().map_err(SinkError::Stream)
    }

    fn finish(&mut self, totals: &[InterfaceTotals], at: Timestamp) -> Result<(), SinkError> {
        let at = Duration::from_nanos(at.0);
        for (interface_id, totals) in (0..self.interfaces).zip(totals) {
            self.put(InterfaceStatisticsBlock {
                interface_id,
                timestamp: at,
                options: vec![
                    InterfaceStatisticsOption::IsbEndTime(at),
                    InterfaceStatisticsOption::IsbIfRecv(totals.received),
                    InterfaceStatisticsOption::IsbOsDrop(totals.dropped),
                    InterfaceStatisticsOption::IsbUsrDeliv(totals.kept),
                ],
            })?;
        }
        self.flush()
    }
}
