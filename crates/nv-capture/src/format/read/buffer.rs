//! A window on the input that moves from block to block.

use std::io::Read;

use super::block::Step;
use super::{MAX_BLOCK, ReadError};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// The same before the first block is over: many files are small.
const FIRST: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Buffer<R> {
    reader: R,
    bytes: Vec<u8>,
    /// Where the block before begins, which may still be looked at.
    passed: usize,
    /// Where the current block begins, and where what was read ends.
    start: usize,
    end: usize,
    /// The current block's place in the file.
    offset: u64,
    at_end: bool,
}

impl<R> Buffer<R> {
    pub(super) const fn new(reader: R) -> Self {
        Self {
            reader,
            bytes: Vec::new(),
            passed: 0,
            start: 0,
            end: 0,
            offset: 0,
            at_end: false,
        }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// What was read of the current block and after it.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// The block that was consumed last.
    pub(super) fn passed(&self) -> &[u8] {
        self.bytes.get(self.passed..self.start).unwrap_or_default()
    }

    /// Steps over the block, which was read.
    pub(super) fn consume(&mut self, length: usize) {
        self.passed = self.start;
        self.start = (self.start + length).min(self.end);
        self.offset += length as u64;
    }

    /// The end of the input: a good one between two blocks.
    pub(super) fn end(&self) -> Result<Step, ReadError> {
        if self.rest().is_empty() {
            Ok(Step::End)
        } else {
            Err(self.truncated())
        }
    }

    pub(super) fn truncated(&self) -> ReadError {
        ReadError::Truncated {
            offset: self.offset,
            available: self.rest().len(),
        }
    }

    pub(super) const fn too_large(&self) -> ReadError {
        ReadError::TooLarge {
            offset: self.offset,
            max: MAX_BLOCK,
        }
    }

    pub(super) fn malformed(&self, problem: impl Into<String>) -> ReadError {
        ReadError::Malformed {
            offset: self.offset,
            problem: problem.into(),
        }
    }
}

impl<R: Read> Buffer<R> {
    /// At least so many bytes from the start of the block; `None` when the input ends before.
    #[inline]
    pub(super) fn need(&mut self, length: usize) -> Result<Option<&[u8]>, ReadError> {
        while self.end - self.start < length {
            if self.at_end {
                return Ok(None);
            }
            self.fill(length)?;
        }
        Ok(self.bytes.get(self.start..self.end))
    }

    fn fill(&mut self, length: usize) -> Result<(), ReadError> {
        let held = self.start..self.end;
        self.bytes.copy_within(held, 0);
        (self.end, self.start, self.passed) = (self.end - self.start, 0, 0);
        // What a header promises is believed as far as it comes: the buffer doubles.
        let least = if self.offset == 0 { FIRST } else { CHUNK };
        let wanted = length.min(self.end.saturating_mul(2)).max(least);
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        loop {
            match self
                .reader
                .read(self.bytes.get_mut(self.end..).unwrap_or_default())
            {
                Ok(0) => self.at_end = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(ReadError::Io {
                        offset: self.offset,
                        source,
                    });
                }
            }
            return Ok(());
        }
    }
}
