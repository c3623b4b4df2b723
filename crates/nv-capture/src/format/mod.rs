//! Files: pcapng written, pcapng and pcap read. The only module that knows the `pcap-file` crate, so that another
//! can take its place.

mod read;
mod write;

pub use read::{PacketReader, ReadError, read_file};
pub use write::{PcapngSink, SectionInfo};
