//! A capture file as a source: for replay, and for tests that need no kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::{EachPacket, PacketSource, SourceError, SourceState, SourceStats};
use crate::{CapturedPacket, InterfaceInfo, LinkType, Packet, PacketReader, ReadError, read_file};

/// Packets of one call, so that a session looks at its limits in between.
const BATCH: usize = 256;

/// Gives the packets of a pcapng or pcap file, as fast as they are asked for.
#[derive(Debug)]
pub struct FileSource<R> {
    reader: PacketReader<R>,
    interfaces: Vec<InterfaceInfo>,
    /// Name and link type to place: sections of one file may describe the same interface again.
    places: BTreeMap<(String, LinkType), u32>,
    given: u64,
}

impl FileSource<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`read_file`].
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        read_file(path).map(Self::new)
    }
}

impl<R: Read> FileSource<R> {
    /// A source over this reader.
    #[must_use]
    pub fn new(reader: PacketReader<R>) -> Self {
        Self {
            reader,
            interfaces: Vec::new(),
            places: BTreeMap::new(),
            given: 0,
        }
    }

    fn place(&mut self, packet: &CapturedPacket) -> u32 {
        let unnamed = InterfaceInfo::new("", LinkType::ETHERNET);
        let info = packet.interface.as_deref().unwrap_or(&unnamed);
        let next = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        let place = *self.places.entry((info.name.clone(), info.link)).or_insert(next);
        if place == next {
            self.interfaces.push(info.clone());
        }
        place
    }
}

impl<R: Read + Send> PacketSource for FileSource<R> {
    fn poll(&mut self, _timeout: Duration, each: &mut EachPacket<'_>) -> Result<SourceState, SourceError> {
        for _ in 0..BATCH {
            let Some(packet) = self.reader.next().transpose()? else {
                return Ok(SourceState::Ended("the file is read"));
            };
            let place = self.place(&packet);
            self.given += 1;
            let given = Packet {
                timestamp: packet.timestamp,
                interface: place,
                direction: packet.direction,
                original_len: packet.original_len,
                data: &packet.data,
                ..Packet::default()
            };
            let interface = usize::try_from(place)
                .ok()
                .and_then(|place| self.interfaces.get(place));
            if interface.is_some_and(|interface| each(&given, interface).is_break()) {
                break;
            }
        }
        Ok(SourceState::Open)
    }

    fn statistics(&mut self) -> Result<SourceStats, SourceError> {
        Ok(SourceStats {
            received: self.given,
            dropped: 0,
        })
    }
}
