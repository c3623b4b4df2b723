//! Network namespaces: run something in one, read its interfaces with their host ends.
//!
//! A thread that has entered a namespace must never go back to a pool, so everything here runs on a thread of its
//! own that ends with the call.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nv_types::{Interface, MacAddr};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::LinkFlags;

use crate::nl::{LinkFacts, Netlink};

/// Where a namespace is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsRef {
    /// The namespace of a process, by its id in our PID namespace.
    Pid(u32),
    /// A file that the namespace is mounted on, such as `/run/netns/web`.
    Path(PathBuf),
}

impl NetnsRef {
    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            Self::Path(path) => path.clone(),
        }
    }
}

/// What was read of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsView {
    /// Its inode: the same number at the same time, the same namespace.
    pub inode: u64,
    /// It is the namespace that this process runs in.
    pub is_own: bool,
    /// Interfaces, loopback left out, by index. Empty for our own namespace.
    pub interfaces: Vec<Interface>,
}

/// Why a namespace could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// There is none.
    #[error("no network namespace at {path}")]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It could not be entered.
    #[error("cannot enter network namespace {path}: {source}")]
    Enter {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel did not tell.
    #[error("cannot read interfaces of {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread could be started, or it died.
    #[error("no thread to enter {path} with: {source}")]
    Thread {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Runs `work` on a new thread inside the namespace and waits for it. Blocking.
///
/// # Errors
/// [`NetnsError::NotFound`] and [`NetnsError::Enter`] when the namespace cannot be entered, [`NetnsError::Thread`] when
/// `work` panics.
pub fn run_in<T: Send + 'static>(
    namespace: &NetnsRef,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetnsError> {
    let path = namespace.path();
    let file = open(&path)?;
    let worker_path = path.clone();
    on_thread(&path, move || {
        enter(&file, &worker_path)?;
        Ok(work())
    })
}

/// Reads a namespace. Blocking for about a millisecond; from async code use [`view`].
///
/// # Errors
/// See [`NetnsError`].
pub fn view_blocking(namespace: &NetnsRef) -> Result<NetnsView, NetnsError> {
    let path = namespace.path();
    view_file(open(&path)?, path)
}

/// Reads the namespace behind an open file; `path` is for the words of an error.
pub(crate) fn view_file(file: File, path: PathBuf) -> Result<NetnsView, NetnsError> {
    let inode = inode_of(&file, &path)?;
    let own = File::open("/proc/thread-self/ns/net").map_err(|source| NetnsError::Read {
        path: path.clone(),
        source,
    })?;
    if inode_of(&own, &path)? == inode {
        return Ok(NetnsView {
            inode,
            is_own: true,
            interfaces: Vec::new(),
        });
    }
    let worker_path = path.clone();
    let interfaces = on_thread(&path, move || {
        let read = |source| NetnsError::Read {
            path: worker_path.clone(),
            source,
        };
        // Opened before entering: it stays a socket of our own namespace.
        let mut host = Netlink::open().map_err(read)?;
        enter(&file, &worker_path)?;
        let mut inside = Netlink::open().map_err(read)?;
        interfaces(&mut host, &mut inside, &own).map_err(read)
    })?;
    Ok(NetnsView {
        inode,
        is_own: false,
        interfaces,
    })
}

/// Reads a namespace.
///
/// # Errors
/// See [`NetnsError`].
pub async fn view(namespace: NetnsRef) -> Result<NetnsView, NetnsError> {
    let path = namespace.path();
    tokio::task::spawn_blocking(move || view_blocking(&namespace))
        .await
        .unwrap_or_else(|error| {
            Err(NetnsError::Thread {
                path,
                source: io::Error::other(error.to_string()),
            })
        })
}

/// Inode of this process's own network namespace; `None` when `/proc` does not tell.
#[must_use]
pub fn own_inode() -> Option<u64> {
    std::fs::metadata("/proc/thread-self/ns/net")
        .ok()
        .map(|meta| meta.ino())
}

fn open(path: &Path) -> Result<File, NetnsError> {
    File::open(path).map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => NetnsError::NotFound {
            path: path.to_owned(),
        },
        _ => NetnsError::Enter {
            path: path.to_owned(),
            source,
        },
    })
}

fn inode_of(file: &File, path: &Path) -> Result<u64, NetnsError> {
    file.metadata()
        .map(|meta| meta.ino())
        .map_err(|source| NetnsError::Read {
            path: path.to_owned(),
            source,
        })
}

fn enter(file: &File, path: &Path) -> Result<(), NetnsError> {
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| NetnsError::Enter {
        path: path.to_owned(),
        source: error.into(),
    })
}

fn on_thread<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetnsError> + Send + 'static,
) -> Result<T, NetnsError> {
    let failed = |source| NetnsError::Thread {
        path: path.to_owned(),
        source,
    };
    std::thread::Builder::new()
        .name("nv-netns".to_owned())
        .spawn(work)
        .map_err(failed)?
        .join()
        .unwrap_or_else(|_| Err(failed(io::Error::other("the thread panicked"))))
}

fn interfaces(host: &mut Netlink, inside: &mut Netlink, own: &File) -> io::Result<Vec<Interface>> {
    let links = inside.links()?;
    let addresses = inside.addresses()?;
    // After the dump: filling in a link gives the peer's namespace a number here if it had none.
    let own_number = inside.namespace_id(own.as_raw_fd())?;
    let mut interfaces = Vec::new();
    for link in &links {
        if link.header.flags.contains(LinkFlags::Loopback) {
            continue;
        }
        let facts = LinkFacts::of(link);
        // A peer index means nothing unless it is known to be an index of our namespace.
        let host_index = facts.peer.filter(|_| {
            facts.is_veth && facts.peer_namespace.is_some() && facts.peer_namespace == own_number
        });
        let host_end = match host_index {
            Some(index) => host.link(index)?.map(|link| LinkFacts::of(&link)),
            None => None,
        };
        interfaces.push(Interface {
            addresses: addresses_of(&addresses, facts.index),
            name: facts.name,
            index: facts.index,
            mac: facts.mac.map(MacAddr),
            host_index: host_end.as_ref().map(|end| end.index),
            host_name: host_end.map(|end| end.name),
        });
    }
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

fn addresses_of(messages: &[AddressMessage], index: u32) -> Vec<(IpAddr, u8)> {
    let mut found: Vec<(IpAddr, u8)> = messages
        .iter()
        .filter(|message| message.header.index == index)
        .filter_map(|message| {
            // On point-to-point links the local end is its own attribute and ADDRESS is the other end.
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            Some((local.or(address)?, message.header.prefix_len))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}
