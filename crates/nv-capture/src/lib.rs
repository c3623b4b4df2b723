//! Packet capture: from a workload's network namespace to pcapng files and live streams, and back.
//!
//! - [`PacketSource`] gives packets: [`AfPacketSource`] from the kernel, [`FileSource`] from a file.
//! - [`CaptureSink`] keeps them: [`PcapngSink`] and [`FileRing`] on disk, [`RingSink`] in memory.
//! - [`run_session`] carries packets from one to the other within [`CaptureLimits`].
//! - [`CaptureManager`] runs sessions on threads, owns their files and streams them.
//! - [`PacketReader`] and [`read_file`] read pcapng and pcap back; [`FlowTable`] makes conversations of them, [`Merge`]
//!   one stream of several.
//!
//! Everything is bounded: bytes, packets, time, files, sessions and the folder as a whole; every packet that is
//! not kept is counted. The crate is synchronous: a session is a thread, a stream is read by blocking calls with a
//! time limit. It knows nothing of policy, of the store or of the network interface of the product.
//!
//! ```
//! use nv_capture::{Packet, PacketDirection, PacketReader, CaptureSink, InterfaceInfo, LinkType, PcapngSink, SectionInfo};
//! use nv_types::Timestamp;
//!
//! let mut sink = PcapngSink::new(Vec::new(), &SectionInfo::new("web", "an example"), 65_535)?;
//! sink.begin_interface(&InterfaceInfo::new("eth0", LinkType::ETHERNET))?;
//! sink.write(&Packet {
//!     timestamp: Timestamp(1_000_000_001),
//!     interface: 0,
//!     direction: PacketDirection::Outbound,
//!     original_len: 1_500,
//!     data: &[0xab; 60],
//!     ..Packet::default()
//! })?;
//! sink.finish(&[], Timestamp(2_000_000_000))?;
//!
//! let bytes = sink.into_inner();
//! let packets: Vec<_> = PacketReader::new(bytes.as_slice())?.collect::<Result<_, _>>()?;
//! assert_eq!(packets[0].timestamp, Timestamp(1_000_000_001));
//! assert_eq!(packets[0].interface.as_ref().map(|i| i.name.as_str()), Some("web/eth0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod courtesy;
mod export;
mod files;
mod filter;
mod flows;
mod format;
mod headers;
mod info;
mod lookback;
mod manager;
mod merge;
mod notes;
mod packet;
mod session;
mod sink;
mod source;
mod stream;
mod sys;

pub use export::{Compression, ExportError, FileForm, UnknownForm, decompressed, export};
pub use files::FileRing;
pub use filter::{
    Annotator, Filter, FilterError, FlowNote, Instruction, InvalidProgram, MAX_INSTRUCTIONS, Party, Program,
};
pub use flows::{Classify, Conversation, FlowTable, FlowTotals, MAX_CONVERSATIONS};
pub use format::{PacketReader, PacketView, PcapSink, PcapngSink, ReadError, SectionInfo, read_file};
pub use headers::Headers;
pub use info::{
    CaptureId, CaptureInfo, CaptureLimits, CaptureSpec, CaptureStatus, InvalidCaptureId, InvalidLimits,
};
pub use lookback::{Lookback, LookbackSource};
pub use manager::{CaptureConfig, CaptureError, CaptureManager};
pub use merge::Merge;
pub use notes::Selection;
pub use packet::{CapturedPacket, InterfaceInfo, InterfaceTotals, LinkType, Packet, PacketDirection};
pub use session::{SessionControl, SessionEnd, SessionError, SessionProgress, run_selected, run_session};
pub use sink::{CaptureSink, RingSink, SinkError};
pub use source::{
    AfPacketSource, CaptureTarget, EachPacket, FileSource, NetnsRef, PacketSource, SourceError, SourceState,
    SourceStats,
};
pub use stream::{CaptureStream, StreamChunk};
