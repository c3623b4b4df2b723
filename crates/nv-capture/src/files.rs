//! Files of one capture: one pcapng file, or a ring of them. Names are made here and nowhere else.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nv_types::Timestamp;

use crate::{
    CaptureId, CaptureLimits, CaptureSink, InterfaceInfo, InterfaceTotals, Packet, PcapngSink, SectionInfo,
    SinkError,
};

/// Path of one file of a capture.
pub(crate) fn file_path(directory: &Path, id: CaptureId, index: u64) -> PathBuf {
    directory.join(format!("{id}.{index}.pcapng"))
}

/// Opens a file of ours for reading. What somebody else put in its place is refused: a symbolic link, a second name of another file, anything that
/// is no file. Names are made of numbers (see [`file_path`]) in a folder without folders, so that none leads out of it.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    if found.is_file() && found.nlink() == 1 {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not the file that was written: another one has been put in its place",
        ))
    }
}

/// Makes a new file that only its owner may read.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// A file as readers may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileEntry {
    pub(crate) index: u64,
    /// Bytes that are whole blocks and written out.
    pub(crate) visible: u64,
    /// Packets in it.
    pub(crate) packets: u64,
}

#[derive(Debug, Default)]
pub(crate) struct FileState {
    pub(crate) files: VecDeque<FileEntry>,
    pub(crate) ended: bool,
}

/// The files of a capture, shared by its writer and its readers.
#[derive(Debug, Default)]
pub(crate) struct FileList {
    state: Mutex<FileState>,
    changed: Condvar,
}

impl FileList {
    /// The files of a capture that is over.
    pub(crate) fn finished(files: VecDeque<FileEntry>) -> Self {
        Self {
            state: Mutex::new(FileState { files, ended: true }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, FileState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the list and wakes its readers.
    pub(crate) fn update(&self, change: impl FnOnce(&mut FileState)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits for a change, at most this long.
    pub(crate) fn wait<'a>(
        &self,
        guard: MutexGuard<'a, FileState>,
        timeout: Duration,
    ) -> MutexGuard<'a, FileState> {
        match self.changed.wait_timeout(guard, timeout) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    /// Waits until the capture has ended; false when the time is over.
    pub(crate) fn wait_ended(&self, timeout: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |state| !state.ended);
        waited.map_or_else(|poisoned| poisoned.into_inner().0.ended, |(state, _)| state.ended)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.lock().files.iter().map(|file| file.visible).sum()
    }
}

/// Writes the files of a capture. With one file it only grows; with several, the oldest is removed for a new one.
#[derive(Debug)]
pub struct FileRing {
    directory: PathBuf,
    id: CaptureId,
    section: SectionInfo,
    limits: CaptureLimits,
    interfaces: Vec<InterfaceInfo>,
    names: Vec<(IpAddr, String)>,
    list: Arc<FileList>,
    sink: PcapngSink<BufWriter<File>>,
    index: u64,
    packets: u64,
    evicted: u64,
    /// Size of a file without packets.
    empty: u64,
}

impl FileRing {
    /// Makes the first file in this folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(
        directory: &Path,
        id: CaptureId,
        section: SectionInfo,
        limits: CaptureLimits,
    ) -> Result<Self, SinkError> {
        let list = Arc::new(FileList::default());
        let sink = new_file(directory, id, 0, &section, limits.snap_len)?;
        list.update(|state| {
            state.files.push_back(FileEntry {
                index: 0,
                visible: 0,
                packets: 0,
            })
        });
        let mut ring = Self {
            directory: directory.to_owned(),
            id,
            section,
            limits,
            interfaces: Vec::new(),
            names: Vec::new(),
            list,
            sink,
            index: 0,
            packets: 0,
            evicted: 0,
            empty: 0,
        };
        ring.flush()?;
        ring.empty = ring.sink.size_with(None);
        Ok(ring)
    }

    pub(crate) fn list(&self) -> Arc<FileList> {
        self.list.clone()
    }

    fn path(&self, index: u64) -> PathBuf {
        file_path(&self.directory, self.id, index)
    }

    fn named(&self, error: SinkError) -> SinkError {
        match error {
            SinkError::Stream(source) => SinkError::File {
                path: self.path(self.index),
                source,
            },
            other => other,
        }
    }

    /// Closes the current file, removes the oldest if there are as many as there may be, and begins a new one.
    fn rotate(&mut self) -> Result<(), SinkError> {
        self.flush()?;
        while self.list.lock().files.len() >= usize::try_from(self.limits.files).unwrap_or(usize::MAX) {
            let Some(oldest) = self.list.lock().files.pop_front() else {
                break;
            };
            self.evicted += oldest.packets;
            let path = self.path(oldest.index);
            fs::remove_file(&path).map_err(|source| SinkError::File { path, source })?;
        }
        self.index += 1;
        self.packets = 0;
        self.sink = new_file(
            &self.directory,
            self.id,
            self.index,
            &self.section,
            self.limits.snap_len,
        )?;
        for interface in &self.interfaces {
            self.sink.begin_interface(interface)?;
        }
        for (address, name) in &self.names {
            // Packets come first.
            if self.sink.size_with(None) < self.limits.file_bytes() / 4 {
                self.sink.name(*address, name)?;
            }
        }
        let entry = FileEntry {
            index: self.index,
            visible: 0,
            packets: 0,
        };
        self.list.update(|state| state.files.push_back(entry));
        Ok(())
    }
}

fn new_file(
    directory: &Path,
    id: CaptureId,
    index: u64,
    section: &SectionInfo,
    snap_len: u32,
) -> Result<PcapngSink<BufWriter<File>>, SinkError> {
    let path = file_path(directory, id, index);
    let file = create_file(&path).map_err(|source| SinkError::File { path, source })?;
    PcapngSink::new(BufWriter::with_capacity(64 << 10, file), section, snap_len)
}

impl CaptureSink for FileRing {
    fn begin_interface(&mut self, interface: &InterfaceInfo) -> Result<(), SinkError> {
        self.interfaces.push(interface.clone());
        self.sink
            .begin_interface(interface)
            .map_err(|error| self.named(error))
    }

    fn name(&mut self, address: IpAddr, name: &str) -> Result<(), SinkError> {
        if self.limits.files > 1 {
            self.names.push((address, name.to_owned()));
            if self.sink.size_with(None) > self.limits.file_bytes() / 2 {
                // In the next file.
                return Ok(());
            }
        }
        self.sink.name(address, name).map_err(|error| self.named(error))
    }

    fn write(&mut self, packet: &Packet<'_>) -> Result<(), SinkError> {
        if self.limits.files > 1 {
            let (now, then) = (self.sink.size_with(None), self.sink.size_with(Some(packet)));
            if self.empty + (then - now) > self.limits.file_bytes() {
                // Too big for any file.
                self.evicted += 1;
                return Ok(());
            }
            if then > self.limits.file_bytes() {
                self.rotate()?;
            }
        }
        self.sink.write(packet).map_err(|error| self.named(error))?;
        self.packets += 1;
        Ok(())
    }

    fn size_with(&self, packet: Option<&Packet<'_>>) -> u64 {
        if self.limits.files > 1 {
            // The ring makes room by itself.
            return (self.list.bytes() + self.sink.size_with(None)).min(self.limits.max_bytes);
        }
        self.sink.size_with(packet)
    }

    fn evicted(&self) -> u64 {
        self.evicted
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.sink.flush().map_err(|error| self.named(error))?;
        let length = self
            .sink
            .inner()
            .get_ref()
            .metadata()
            .map(|metadata| metadata.len());
        let visible = length.map_err(|source| SinkError::File {
            path: self.path(self.index),
            source,
        })?;
        let packets = self.packets;
        self.list.update(|state| {
            if let Some(file) = state.files.back_mut() {
                (file.visible, file.packets) = (visible, packets);
            }
        });
        Ok(())
    }

    fn finish(&mut self, totals: &[InterfaceTotals], at: Timestamp) -> Result<(), SinkError> {
        self.sink.finish(totals, at).map_err(|error| self.named(error))?;
        self.flush()
    }
}
