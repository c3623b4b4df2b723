//! Capture files: pcapng written, pcapng and pcap read.

mod read;
mod write;

pub use read::{PacketReader, PacketView, ReadError, read_file};
pub use write::{PcapSink, PcapngSink, SectionInfo};

/// Numbers of the format (draft-ietf-opsawg-pcapng, sections 4.1 to 4.6).
pub(crate) mod code {
    pub(crate) const SECTION: u32 = 0x0a0d_0d0a;
    pub(crate) const INTERFACE: u32 = 1;
    pub(crate) const OLD_PACKET: u32 = 2;
    pub(crate) const SIMPLE: u32 = 3;
    pub(crate) const NAMES: u32 = 4;
    pub(crate) const STATISTICS: u32 = 5;
    pub(crate) const ENHANCED: u32 = 6;

    pub(crate) const COMMENT: u16 = 1;
    pub(crate) const HARDWARE: u16 = 2;
    pub(crate) const OS: u16 = 3;
    pub(crate) const APPLICATION: u16 = 4;

    pub(crate) const IF_NAME: u16 = 2;
    pub(crate) const IF_DESCRIPTION: u16 = 3;
    pub(crate) const IF_MAC: u16 = 6;
    pub(crate) const IF_TSRESOL: u16 = 9;
    pub(crate) const IF_FILTER: u16 = 11;
    pub(crate) const IF_TSOFFSET: u16 = 14;

    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const PACKET_ID: u16 = 5;
    pub(crate) const VERDICT: u16 = 7;
    /// Verdict of an eBPF program at a traffic control hook, and its values (`linux/pkt_cls.h`).
    pub(crate) const VERDICT_TC: u8 = 1;
    pub(crate) const TC_ACT_OK: u64 = 0;
    pub(crate) const TC_ACT_SHOT: u64 = 2;

    pub(crate) const ISB_END: u16 = 3;
    pub(crate) const ISB_IFRECV: u16 = 4;
    pub(crate) const ISB_IFDROP: u16 = 5;
    pub(crate) const ISB_OSDROP: u16 = 7;
    pub(crate) const ISB_USRDELIV: u16 = 8;
}
