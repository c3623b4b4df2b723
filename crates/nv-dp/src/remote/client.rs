//! The side that asks.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nv_types::{PolicyImage, Revision};

use super::wire::{Answer, Ask, Hello, encode, receive};
use crate::{
    Datapath, DatapathConfig, DatapathError, DatapathEvent, DatapathStatus, EndpointSpec, FlowStats,
};

/// Longest wait for an answer, and for room to ask.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause before another try to connect; meanwhile calls fail at once.
const PAUSE: Duration = Duration::from_millis(200);

/// A datapath in the process behind a socket. When that process is gone, calls fail; when there is one again, it is
/// brought to what was asked for last, and calls go on.
#[derive(Debug)]
pub struct RemoteDatapath {
    socket: PathBuf,
    stream: Option<UnixStream>,
    /// The process that was spoken to last.
    instance: u64,
    /// Why there is no connection, and since when.
    away: Option<(String, Instant)>,
    /// The last image that was put in force, as it was sent.
    applied: Option<(Vec<u8>, Revision)>,
    /// Interfaces as they are guarded.
    endpoints: BTreeMap<u32, EndpointSpec>,
}

impl RemoteDatapath {
    /// Connects, and takes what the process guards as the state to keep.
    ///
    /// # Errors
    /// [`DatapathError::Kernel`] that names the socket: nobody there, another version, not allowed.
    pub fn connect(socket: impl Into<PathBuf>) -> Result<Self, DatapathError> {
        let mut datapath = Self {
            socket: socket.into(),
            stream: None,
            instance: 0,
            away: None,
            applied: None,
            endpoints: BTreeMap::new(),
        };
        datapath.endpoints = specs(datapath.status()?);
        Ok(datapath)
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn gone(&self, detail: &str) -> DatapathError {
        DatapathError::Kernel {
            action: format!("ask the datapath's process at {}", self.socket.display()),
            detail: detail.to_owned(),
        }
    }

    /// A connection, and behind it the state that was asked for.
    fn ready(&mut self) -> Result<(), DatapathError> {
        if self.stream.is_some() {
            return Ok(());
        }
        if let Some((words, since)) = &self.away
            && since.elapsed() < PAUSE
        {
            return Err(self.gone(words));
        }
        match greet(&self.socket) {
            Ok((stream, instance)) => {
                self.stream = Some(stream);
                self.away = None;
                let before = std::mem::replace(&mut self.instance, instance);
                if before != 0 && before != instance {
                    self.restore()?;
                }
                Ok(())
            }
            Err(error) => {
                let words = error.to_string();
                let gone = self.gone(&words);
                self.away = Some((words, Instant::now()));
                Err(gone)
            }
        }
    }

    /// Another process is there. What is pinned in the kernel it has taken up; what it has not is asked for again, tables first.
    fn restore(&mut self) -> Result<(), DatapathError> {
        let Answer::Status(status) = self.exchange(&encoded(&Ask::Status)?)? else {
            return Err(self.nonsense());
        };
        let (frame, revision) = match self.applied.take() {
            Some((frame, revision)) => (Some(frame), Some(revision)),
            None => (None, None),
        };
        let has_policy = frame.is_none() || status.revision == revision;
        let result = match &frame {
            Some(frame) if !has_policy => self.exchange(frame).map(drop),
            _ => Ok(()),
        };
        self.applied = frame.zip(revision);
        result?;
        let there = specs(*status);
        let mut left: Vec<u32> = there.keys().copied().collect();
        left.retain(|ifindex| !self.endpoints.contains_key(ifindex));
        for ifindex in left {
            self.exchange(&encoded(&Ask::Detach(ifindex))?)?;
        }
        for (ifindex, spec) in self.endpoints.clone() {
            if there.get(&ifindex) == Some(&spec) {
                continue;
            }
            match self.exchange(&encoded(&Ask::Attach(&spec))?) {
                Ok(_) => {}
                Err(DatapathError::NoInterface { .. }) => drop(self.endpoints.remove(&ifindex)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn nonsense(&mut self) -> DatapathError {
        self.stream = None;
        self.gone("it answered something else than it was asked")
    }

    /// Sends a frame and takes one answer; a refusal is an error. A connection that broke is given up.
    fn exchange(&mut self, frame: &[u8]) -> Result<Answer, DatapathError> {
        let sent = self.send(frame);
        sent.and_then(|()| self.answer())
    }

    fn send(&mut self, frame: &[u8]) -> Result<(), DatapathError> {
        let written = match &mut self.stream {
            Some(stream) => stream.write_all(frame),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        written.map_err(|error| self.broken(&error))
    }

    fn answer(&mut self) -> Result<Answer, DatapathError> {
        let read = match &self.stream {
            Some(stream) => receive(stream),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match read {
            Ok(Answer::Failed(failure)) => Err(failure.into()),
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&mut self, error: &io::Error) -> DatapathError {
        self.stream = None;
        self.gone(&error.to_string())
    }

    fn ask(&mut self, ask: &Ask<'_>) -> Result<Answer, DatapathError> {
        let frame = encoded(ask)?;
        self.ready()?;
        self.exchange(&frame)
    }

    fn done(&mut self, ask: &Ask<'_>) -> Result<(), DatapathError> {
        match self.ask(ask)? {
            Answer::Done => Ok(()),
            _ => Err(self.nonsense()),
        }
    }
}

fn specs(status: DatapathStatus) -> BTreeMap<u32, EndpointSpec> {
    let endpoints = status.endpoints.into_iter();
    endpoints
        .map(|(ifindex, endpoint)| (ifindex, endpoint.spec))
        .collect()
}

fn encoded(ask: &Ask<'_>) -> Result<Vec<u8>, DatapathError> {
    encode(ask).map_err(|error| DatapathError::InvalidImage(error.to_string()))
}

fn greet(socket: &Path) -> io::Result<(UnixStream, u64)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Hello::new(0).send(&stream)?;
    let hello = Hello::receive(&stream)?;
    match hello.problem() {
        None => Ok((stream, hello.instance)),
        Some(words) => Err(io::Error::other(words)),
    }
}

impl Datapath for RemoteDatapath {
    fn apply(&mut self, image: &PolicyImage, config: &DatapathConfig) -> Result<(), DatapathError> {
        let frame = encoded(&Ask::Apply(image, config))?;
        self.ready()?;
        match self.exchange(&frame)? {
            Answer::Done => {
                self.applied = Some((frame, image.revision));
                Ok(())
            }
            _ => Err(self.nonsense()),
        }
    }

    fn attach(&mut self, endpoint: &EndpointSpec) -> Result<(), DatapathError> {
        self.done(&Ask::Attach(endpoint))?;
        self.endpoints.insert(endpoint.ifindex, endpoint.clone());
        Ok(())
    }

    fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        // What cannot be asked for now is not asked for again later.
        self.endpoints.remove(&ifindex);
        self.done(&Ask::Detach(ifindex))
    }

    fn poll_events(&mut self, max: usize) -> Result<Vec<DatapathEvent>, DatapathError> {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        match self.ask(&Ask::PollEvents(max))? {
            Answer::Events(events) => Ok(events),
            _ => Err(self.nonsense()),
        }
    }

    fn sweep(&mut self, each: &mut dyn FnMut(FlowStats)) -> Result<(), DatapathError> {
        let mut answer = self.ask(&Ask::Sweep)?;
        loop {
            match answer {
                Answer::Flows(flows) => flows.into_iter().for_each(&mut *each),
                Answer::Done => return Ok(()),
                _ => return Err(self.nonsense()),
            }
            answer = self.answer()?;
        }
    }

    fn status(&mut self) -> Result<DatapathStatus, DatapathError> {
        match self.ask(&Ask::Status)? {
            Answer::Status(status) => Ok(*status),
            _ => Err(self.nonsense()),
        }
    }

    fn purge(&mut self) -> Result<(), DatapathError> {
        self.done(&Ask::Purge)?;
        self.applied = None;
        self.endpoints.clear();
        Ok(())
    }
}
