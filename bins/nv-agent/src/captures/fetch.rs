//! A capture's file on its way to a controller: a part of it, or in another form.

use std::io::{self, Write};

use nv_api::grpc::{CaptureChunk, CaptureFetchRequest};
use nv_capture::{CaptureStream, Compression, FileForm, UnknownForm, export};
use tokio::sync::mpsc;
use tonic::Status;

use super::CHUNK;

/// What is asked for, checked.
#[derive(Debug)]
pub(super) struct Fetch {
    form: FileForm,
    compression: Compression,
    offset: u64,
    length: u64,
}

impl Fetch {
    pub(super) fn new(request: &CaptureFetchRequest) -> Result<Self, Status> {
        let wrong = |error: UnknownForm| Status::invalid_argument(error.to_string());
        let fetch = Self {
            form: request.form.parse().map_err(wrong)?,
            compression: request.compression.parse().map_err(wrong)?,
            offset: request.offset,
            length: if request.length == 0 {
                u64::MAX
            } else {
                request.length
            },
        };
        let as_it_is = fetch.form == FileForm::Pcapng && fetch.compression == Compression::None;
        if !as_it_is && (fetch.offset != 0 || request.length != 0) {
            return Err(Status::invalid_argument(
                "a part of a capture is given as it is: pcapng, not compressed",
            ));
        }
        Ok(fetch)
    }

    /// Reads the capture and hands it on in chunks; blocks.
    pub(super) fn run(self, stream: CaptureStream, to: &mpsc::Sender<Result<CaptureChunk, Status>>) {
        let mut chunks = Chunks {
            to,
            skip: self.offset,
            left: self.length,
            held: Vec::with_capacity(CHUNK),
        };
        let done = export(stream, self.form, self.compression, &mut chunks);
        if let Err(error) = done
            && chunks.left > 0
        {
            let text =
                std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            let _ = to.blocking_send(Err(Status::internal(format!("{error}{text}"))));
        }
    }
}

/// Takes bytes and sends them on; bounded, as the queue is.
struct Chunks<'a> {
    to: &'a mpsc::Sender<Result<CaptureChunk, Status>>,
    skip: u64,
    left: u64,
    held: Vec<u8>,
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let passed = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= passed as u64;
        let rest = bytes.get(passed..).unwrap_or_default();
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
        self.left -= wanted as u64;
        self.held
            .extend_from_slice(rest.get(..wanted).unwrap_or_default());
        if self.held.len() >= CHUNK || self.left == 0 {
            self.flush()?;
        }
        if self.left == 0 {
            // Nobody wants the rest.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let data = std::mem::replace(&mut self.held, Vec::with_capacity(CHUNK));
        self.to
            .blocking_send(Ok(CaptureChunk { data }))
            .map_err(|_closed| io::ErrorKind::BrokenPipe.into())
    }
}
