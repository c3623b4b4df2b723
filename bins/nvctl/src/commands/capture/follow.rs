//! `nvctl capture follow`: several live captures as one stream.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use nv_capture::{CaptureSink as _, CapturedPacket, Merge, PacketReader, PcapngSink, SectionInfo, SinkError};
use reqwest::Method;
use tokio::sync::mpsc;

use crate::cli::CaptureWhat;
use crate::client::{Client, segment};
use crate::error::CtlError;
use crate::output::{note, stdout_error};

/// How long a packet waits for older ones of captures that are silent.
const PATIENCE: Duration = Duration::from_millis(1000);
/// Packets on their way to the merge.
const QUEUE: usize = 4096;

/// What a capture's reader says.
enum Said {
    Packet(CapturedPacket),
    End(Option<String>),
}

/// A body's chunks as something to read from.
struct Body {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.current.len() {
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => (self.current, self.at) = (chunk?, 0),
            }
        }
        let rest = self.current.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at += count;
        Ok(count)
    }
}

pub(super) async fn run(client: &Client, what: &CaptureWhat, write: &Path) -> Result<(), CtlError> {
    let out: Box<dyn Write + Send> = if write.as_os_str() == "-" {
        Box::new(io::stdout())
    } else {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(write);
        Box::new(file.map_err(|source| CtlError::Io {
            action: format!("cannot write {}", write.display()),
            source,
        })?)
    };
    let ids = super::start(client, what).await?;
    note(&format!("following {} captures; Ctrl-C ends them", ids.len()));
    let followed = tokio::select! {
        done = follow(client, &ids, out) => done,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    for id in &ids {
        // What was followed is not kept, also when following failed.
        if let Err(error) = client
            .send(Method::DELETE, &format!("/v1/sniffer/{}", segment(id)), None)
            .await
        {
            note(&format!("capture {id} is left: {error}"));
        }
    }
    followed
}

async fn follow(client: &Client, ids: &[String], out: Box<dyn Write + Send>) -> Result<(), CtlError> {
    let (say, said) = std_mpsc::sync_channel(QUEUE);
    for (place, id) in ids.iter().enumerate() {
        let query = [("follow", "true".to_owned())];
        let path = format!("/v1/sniffer/{}/pcap", segment(id));
        let response = client.stream(&path, &query, "application/octet-stream").await?;
        let (send, chunks) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut body = response.bytes_stream();
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map(|bytes| bytes.to_vec()).map_err(io::Error::other);
                if send.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        let say = say.clone();
        let body = Body {
            chunks,
            current: Vec::new(),
            at: 0,
        };
        std::thread::spawn(move || read(place, body, &say));
    }
    drop(say);
    let count = ids.len();
    tokio::task::spawn_blocking(move || merge(count, &said, out))
        .await
        .map_err(|error| CtlError::Usage(format!("the merge broke off: {error}")))?
}

/// Reads one capture to its end.
fn read(place: usize, body: Body, say: &std_mpsc::SyncSender<(usize, Said)>) {
    let end = match PacketReader::new(body) {
        Err(error) => Some(error.to_string()),
        Ok(reader) => {
            let mut end = None;
            for packet in reader {
                match packet {
                    Ok(packet) => {
                        if say.send((place, Said::Packet(packet))).is_err() {
                            return;
                        }
                    }
                    Err(error) => end = Some(error.to_string()),
                }
            }
            end
        }
    };
    let _ = say.send((place, Said::End(end)));
}

fn merge(
    count: usize,
    said: &std_mpsc::Receiver<(usize, Said)>,
    out: Box<dyn Write + Send>,
) -> Result<(), CtlError> {
    let started = Instant::now();
    let section = SectionInfo::new("", "captures merged by nvctl");
    let mut sink = match PcapngSink::new(BufWriter::new(out), &section, 262_144) {
        Ok(sink) => sink,
        Err(error) => return written(error),
    };
    if let Err(error) = sink.flush() {
        return written(error);
    }
    // One capture has nothing to wait for.
    let patience = if count > 1 { PATIENCE } else { Duration::ZERO };
    let mut merge = Merge::new(sink, count, patience);
    while !merge.is_over() {
        let next = said.recv_timeout(Duration::from_millis(100));
        let now = started.elapsed();
        let done = match next {
            Ok((place, Said::Packet(packet))) => merge.push(place, packet, now),
            Ok((place, Said::End(why))) => {
                if let Some(why) = why {
                    note(&format!("capture {} broke off: {why}", place + 1));
                }
                merge.end(place, now)
            }
            Err(std_mpsc::RecvTimeoutError::Timeout) => merge.write_due(now),
            Err(std_mpsc::RecvTimeoutError::Disconnected) => {
                (0..count).try_for_each(|place| merge.end(place, now))
            }
        };
        if let Err(error) = done {
            return written(error);
        }
    }
    let (packets, late) = merge.counts();
    if late > 0 {
        note(&format!(
            "{late} of {packets} packets came too late to be in order"
        ));
    }
    Ok(())
}

/// A viewer that was closed ends the capture; anything else is an error.
fn written(error: SinkError) -> Result<(), CtlError> {
    match error {
        SinkError::Stream(source) if source.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        SinkError::Stream(source) => Err(stdout_error(source)),
        other => Err(CtlError::Usage(other.to_string())),
    }
}
