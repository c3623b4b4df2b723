//! Messages and frames.

use std::io::{self, Read, Write};

use nv_dp_common::ABI_VERSION;
use nv_types::PolicyImage;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{DatapathConfig, DatapathError, DatapathEvent, DatapathStatus, EndpointSpec, FlowStats};

/// Longest message in bytes.
pub const MAX_FRAME: u32 = 64 << 20;
/// Version of the messages.
pub(super) const VERSION: u32 = 3;
/// Flows of one message.
pub(super) const FLOWS: usize = 4096;

const MAGIC: [u8; 4] = *b"nvdp";

/// What a client asks, as it sends it.
#[derive(Serialize)]
pub(super) enum Ask<'a> {
    Apply(&'a PolicyImage, &'a DatapathConfig),
    Attach(&'a EndpointSpec),
    Detach(u32),
    PollEvents(u32),
    Sweep,
    Status,
    Purge,
}

/// What a client asks, as the server reads it. The same as [`Ask`], in the same order.
#[derive(Deserialize)]
pub(super) enum Asked {
    Apply(Box<PolicyImage>, DatapathConfig),
    Attach(EndpointSpec),
    Detach(u32),
    PollEvents(u32),
    Sweep,
    Status,
    Purge,
}

/// What the server answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Events(Vec<DatapathEvent>),
    /// A part of a sweep; more answers follow until [`Answer::Done`] or [`Answer::Failed`].
    Flows(Vec<FlowStats>),
    Status(Box<DatapathStatus>),
    Failed(Failure),
}

/// A [`DatapathError`] on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    TooLarge {
        table: String,
        needed: u64,
        capacity: u64,
    },
    InvalidImage(String),
    NoInterface {
        ifindex: u32,
        name: String,
    },
    Unsupported {
        what: String,
        hint: String,
    },
    AbiMismatch {
        path: String,
        found: u32,
        needed: u32,
        hint: String,
    },
    Kernel {
        action: String,
        detail: String,
    },
}

impl From<DatapathError> for Failure {
    fn from(error: DatapathError) -> Self {
        match error {
            DatapathError::TooLarge {
                table,
                needed,
                capacity,
            } => Self::TooLarge {
                table: table.to_owned(),
                needed: needed as u64,
                capacity: capacity as u64,
            },
            DatapathError::InvalidImage(words) => Self::InvalidImage(words),
            DatapathError::NoInterface { ifindex, name } => Self::NoInterface { ifindex, name },
            DatapathError::Unsupported { what, hint } => Self::Unsupported { what, hint },
            DatapathError::AbiMismatch {
                path,
                found,
                needed,
                hint,
            } => Self::AbiMismatch {
                path,
                found,
                needed,
                hint,
            },
            DatapathError::Kernel { action, detail } => Self::Kernel { action, detail },
        }
    }
}

/// Names of tables that can be too small.
const TABLES: [&str; 8] = [
    "addresses",
    "pairs",
    "ports",
    "decisions",
    "chains",
    "endpoints",
    "locals",
    "flows",
];

impl From<Failure> for DatapathError {
    fn from(failure: Failure) -> Self {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        match failure {
            Failure::TooLarge {
                table,
                needed,
                capacity,
            } => Self::TooLarge {
                table: TABLES
                    .into_iter()
                    .find(|known| **known == table)
                    .unwrap_or("of another build"),
                needed: size(needed),
                capacity: size(capacity),
            },
            Failure::InvalidImage(words) => Self::InvalidImage(words),
            Failure::NoInterface { ifindex, name } => Self::NoInterface { ifindex, name },
            Failure::Unsupported { what, hint } => Self::Unsupported { what, hint },
            Failure::AbiMismatch {
                path,
                found,
                needed,
                hint,
            } => Self::AbiMismatch {
                path,
                found,
                needed,
                hint,
            },
            Failure::Kernel { action, detail } => Self::Kernel { action, detail },
        }
    }
}

/// The greeting of either side: what it speaks, and for a server which process this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    version: u32,
    layout: u32,
    pub(super) instance: u64,
}

impl Hello {
    const LENGTH: usize = 20;

    pub(super) const fn new(instance: u64) -> Self {
        Self {
            version: VERSION,
            layout: ABI_VERSION,
            instance,
        }
    }

    /// What is wrong with the other side's, if anything.
    pub(super) fn problem(self) -> Option<String> {
        let own = Self::new(self.instance);
        (self != own).then(|| {
            format!(
                "it speaks version {} with tables of layout {}, this build {} with {}: run the same build on both sides",
                self.version, self.layout, own.version, own.layout
            )
        })
    }

    pub(super) fn send(self, mut stream: impl Write) -> io::Result<()> {
        let mut bytes = [0; Self::LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.layout.to_le_bytes());
        bytes[12..].copy_from_slice(&self.instance.to_le_bytes());
        stream.write_all(&bytes)
    }

    pub(super) fn receive(mut stream: impl Read) -> io::Result<Self> {
        let mut bytes = [0; Self::LENGTH];
        stream.read_exact(&mut bytes)?;
        let (magic, rest) = bytes.split_at(4);
        if magic != MAGIC {
            return Err(io::Error::other("it does not speak the datapath's protocol"));
        }
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&rest[at..at + 4]);
            u32::from_le_bytes(word)
        };
        Ok(Self {
            version: word(0),
            layout: word(4),
            instance: u64::from(word(8)) | u64::from(word(12)) << 32,
        })
    }
}

/// A message as a frame.
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let frame = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
    let length = u32::try_from(frame.len() - 4)
        .ok()
        .filter(|length| *length <= MAX_FRAME)
        .ok_or_else(|| io::Error::other(format!("a message of {} bytes is too long", frame.len() - 4)))?;
    let mut frame = frame;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

pub(super) fn send<T: Serialize>(mut stream: impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

pub(super) fn receive<T: DeserializeOwned>(mut stream: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    receive_rest(stream, length)
}

/// As [`receive`], with the length read already.
pub(super) fn receive_rest<T: DeserializeOwned>(stream: impl Read, length: [u8; 4]) -> io::Result<T> {
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME {
        return Err(io::Error::other(format!(
            "a message of {length} bytes is too long"
        )));
    }
    // What is claimed is not believed: memory grows with what comes.
    let mut bytes = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (message, rest) = postcard::take_from_bytes(&bytes).map_err(io::Error::other)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(io::Error::other("a message has something behind it"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_arrive_as_they_were() {
        for error in [
            DatapathError::TooLarge {
                table: "pairs",
                needed: 7,
                capacity: 5,
            },
            DatapathError::InvalidImage("x".into()),
            DatapathError::NoInterface {
                ifindex: 7,
                name: "veth7".into(),
            },
            DatapathError::Kernel {
                action: "a".into(),
                detail: "b".into(),
            },
        ] {
            let words = error.to_string();
            let frame = encode(&Answer::Failed(error.into())).unwrap();
            let Answer::Failed(failure) = receive(frame.as_slice()).unwrap() else {
                panic!("another message");
            };
            assert_eq!(DatapathError::from(failure).to_string(), words);
        }
    }

    #[test]
    fn a_message_is_as_long_as_it_says_and_not_too_long() {
        let frame = encode(&Answer::Done).unwrap();
        assert!(receive::<Answer>(&frame[..frame.len() - 1]).is_err());
        let mut longer = frame;
        longer[0] += 1;
        longer.push(0);
        assert!(receive::<Answer>(longer.as_slice()).is_err());
        let huge = (MAX_FRAME + 1).to_le_bytes();
        assert!(
            receive::<Answer>(huge.as_slice())
                .unwrap_err()
                .to_string()
                .contains("too long")
        );
        let liar = MAX_FRAME.to_le_bytes();
        assert!(
            receive::<Answer>(liar.as_slice()).is_err(),
            "and nothing behind it"
        );
    }

    #[test]
    fn other_versions_are_named() {
        let mut bytes = Vec::new();
        Hello::new(5).send(&mut bytes).unwrap();
        let hello = Hello::receive(bytes.as_slice()).unwrap();
        assert_eq!((hello.instance, hello.problem()), (5, None));
        bytes[4] += 1;
        let problem = Hello::receive(bytes.as_slice()).unwrap().problem().unwrap();
        let other = format!("version {}", VERSION + 1);
        assert!(problem.contains(&other), "{problem}");
        bytes[0] = b'x';
        assert!(Hello::receive(bytes.as_slice()).is_err());
    }

    proptest! {
        #[test]
        fn nonsense_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut frame = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            frame.extend(&bytes);
            let _ = receive::<Asked>(frame.as_slice());
            let _ = receive::<Answer>(frame.as_slice());
            let _ = receive::<Asked>(bytes.as_slice());
            let _ = Hello::receive(bytes.as_slice());
        }
    }
}
