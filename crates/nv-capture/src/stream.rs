//! Reading a capture's files as one stream, also while they grow. Each file is a pcapng section, so files one
//! after the other are again a pcapng file.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::CaptureId;
use crate::files::{FileEntry, FileList, file_path, open_file};

/// Outcome of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamChunk {
    /// So many bytes were read.
    Data(usize),
    /// Nothing new within the time given.
    Idle,
    /// There will be no more.
    End,
}

/// The bytes of a capture, oldest file first.
#[derive(Debug)]
pub struct CaptureStream {
    directory: PathBuf,
    id: CaptureId,
    list: Arc<FileList>,
    follow: bool,
    next_index: u64,
    current: Option<(u64, File)>,
    position: u64,
    skipped: u64,
}

impl CaptureStream {
    pub(crate) fn new(directory: PathBuf, id: CaptureId, list: &Arc<FileList>, follow: bool) -> Self {
        // Without follow the stream ends where the capture is now, however fast it grows.
        let list = if follow {
            list.clone()
        } else {
            Arc::new(FileList::finished(list.lock().files.clone()))
        };
        Self {
            directory,
            id,
            list,
            follow,
            next_index: 0,
            current: None,
            position: 0,
            skipped: 0,
        }
    }

    /// Whole files that the ring dropped before this reader came to them.
    #[must_use]
    pub const fn skipped_files(&self) -> u64 {
        self.skipped
    }

    /// Reads what is there, or waits at most `timeout` for more. Ends where the capture ends; without `follow`, where
    /// it is now.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read_chunk(&mut self, buffer: &mut [u8], timeout: Duration) -> io::Result<StreamChunk> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.current.is_none() && !self.open_next()? {
                if !self.wait(deadline) {
                    return Ok(self.at_end());
                }
                continue;
            }
            let read = self.read_current(buffer)?;
            if read > 0 {
                return Ok(StreamChunk::Data(read));
            }
            if self.is_current_complete() {
                self.current = None;
            } else if !self.wait(deadline) {
                return Ok(self.at_end());
            }
        }
    }

    fn at_end(&self) -> StreamChunk {
        if self.follow && !self.list.lock().ended {
            StreamChunk::Idle
        } else {
            StreamChunk::End
        }
    }

    /// Opens the next file that still exists; false when there is none yet.
    fn open_next(&mut self) -> io::Result<bool> {
        loop {
            let next = self
                .list
                .lock()
                .files
                .iter()
                .find(|file| file.index >= self.next_index)
                .copied();
            let Some(FileEntry { index, .. }) = next else {
                return Ok(false);
            };
            let opened = open_file(&file_path(&self.directory, self.id, index));
            if let Err(error) = &opened
                && error.kind() == io::ErrorKind::NotFound
            {
                // Dropped by the ring in between.
                self.skipped += index + 1 - self.next_index;
                self.next_index = index + 1;
                continue;
            }
            self.skipped += index - self.next_index;
            self.next_index = index + 1;
            self.position = 0;
            self.current = Some((index, opened?));
            return Ok(true);
        }
    }

    fn read_current(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((index, file)) = &mut self.current else {
            return Ok(0);
        };
        let entry = self
            .list
            .lock()
            .files
            .iter()
            .find(|entry| entry.index == *index)
            .copied();
        // A file that the ring has dropped is complete, and open it can still be read.
        let visible = match entry {
            Some(entry) => entry.visible,
            None => file.metadata()?.len(),
        };
        let left = usize::try_from(visible.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let want = left.min(buffer.len());
        file.seek(SeekFrom::Start(self.position))?;
        let read = file.read(buffer.get_mut(..want).unwrap_or_default())?;
        self.position += read as u64;
        Ok(read)
    }

    /// Whether the file that was read to its end will not grow any more.
    fn is_current_complete(&self) -> bool {
        let Some((index, file)) = &self.current else {
            return true;
        };
        let (entry, newest) = {
            let state = self.list.lock();
            let entry = state.files.iter().find(|entry| entry.index == *index).copied();
            (entry, state.files.back().map(|newest| newest.index))
        };
        // It may have grown since it was read, and have been closed then.
        match entry {
            Some(entry) => newest.is_some_and(|newest| newest > *index) && entry.visible <= self.position,
            None => file
                .metadata()
                .map_or(true, |metadata| metadata.len() <= self.position),
        }
    }

    /// Waits for a change; false when there can be none, or not within the time.
    fn wait(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let state = self.list.lock();
        let newest = state.files.back().copied();
        let unread = newest.is_some_and(|file| match &self.current {
            Some((index, _)) => file.index > *index || file.visible > self.position,
            None => file.index >= self.next_index,
        });
        if unread {
            return true;
        }
        if !self.follow || state.ended || left.is_zero() {
            return false;
        }
        drop(self.list.wait(state, left));
        true
    }
}

impl Read for CaptureStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.read_chunk(buffer, Duration::from_secs(1))? {
                StreamChunk::Data(read) => return Ok(read),
                StreamChunk::Idle => {}
                StreamChunk::End => return Ok(0),
            }
        }
    }
}
