//! Throw-away hosts: named network namespaces, each with one veth, on a bridge of their own in the caller's namespace.
//!
//! It is what `nvctl connectivity test`, the demo, the benches and the tests stand on. Nothing is run from a shell:
//! namespaces are made by `unshare` and a bind mount, links and addresses by netlink. A [`Lab`] removes what it made
//! when it is dropped; [`Lab::remove_leftovers`] removes what a killed process left.
//!
//! ```no_run
//! use nv_lab::{HostSpec, Lab};
//!
//! # fn main() -> Result<(), nv_lab::LabError> {
//! let lab = Lab::create("lab0", &[HostSpec::new("lab0-a", 1, 2), HostSpec::new("lab0-b", 1, 3)])?;
//! let listener = lab.host("lab0-b")?.run(|| std::net::TcpListener::bind("10.221.1.3:80"))?;
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod links;
mod namespace;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

pub use namespace::{NETNS_DIR, run_in};

/// One host of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// Name of its namespace under [`NETNS_DIR`].
    pub name: String,
    /// Its IPv4 address in a /24.
    pub v4: Ipv4Addr,
    /// Its IPv6 address in a /64.
    pub v6: Ipv6Addr,
}

impl HostSpec {
    /// A host with number `host` (2 to 254) in the lab network `net`: 10.221.`net`.`host` and fd00:221:`net`::`host`.
    #[must_use]
    pub fn new(name: impl Into<String>, net: u8, host: u8) -> Self {
        Self {
            name: name.into(),
            v4: Ipv4Addr::new(10, 221, net, host),
            v6: Ipv6Addr::new(0xfd00, 0x221, u16::from(net), 0, 0, 0, 0, u16::from(host)),
        }
    }
}

/// A host that exists.
#[derive(Debug)]
pub struct Host {
    spec: HostSpec,
    host_link: String,
    host_index: u32,
}

impl Host {
    /// As it was asked for.
    #[must_use]
    pub const fn spec(&self) -> &HostSpec {
        &self.spec
    }

    /// File of its namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.spec.name)
    }

    /// Name of the veth's host end.
    #[must_use]
    pub fn host_link(&self) -> &str {
        &self.host_link
    }

    /// Index of the veth's host end.
    #[must_use]
    pub const fn host_index(&self) -> u32 {
        self.host_index
    }

    /// Runs something on a thread of its own inside the namespace and waits for it. Sockets made there stay there.
    ///
    /// # Errors
    /// [`LabError::Enter`] when the namespace cannot be entered.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, LabError> {
        run_in(&self.path(), work)
    }
}

/// Hosts on a bridge. Dropping it removes them.
#[derive(Debug)]
pub struct Lab {
    bridge: String,
    hosts: Vec<Host>,
}

impl Lab {
    /// Makes a bridge in the caller's namespace and the hosts on it. The bridge gets no address: hosts reach each other
    /// and nothing else. Needs root.
    ///
    /// # Errors
    /// [`LabError`] that names what could not be made; what was made until then is removed.
    pub fn create(bridge: &str, hosts: &[HostSpec]) -> Result<Self, LabError> {
        if bridge.is_empty() || bridge.len() > 12 {
            return Err(LabError::Name(bridge.to_owned()));
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        fs::create_dir_all(NETNS_DIR).map_err(|source| LabError::Make {
            what: NETNS_DIR.into(),
            source,
        })?;
        let mut lab = Self {
            bridge: bridge.to_owned(),
            hosts: Vec::new(),
        };
        links::add_bridge(bridge)?;
        for (number, spec) in hosts.iter().enumerate() {
            let host_link = format!("{bridge}-{number}");
            // On an early return the lab's drop removes this host too.
            lab.hosts.push(Host {
                spec: spec.clone(),
                host_link,
                host_index: 0,
            });
            if let Some(host) = lab.hosts.last_mut() {
                namespace::create(&spec.name)?;
                host.host_index = links::add_host(bridge, &host.host_link, spec)?;
            }
        }
        Ok(lab)
    }

    /// Its hosts, in the order they were asked for.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host by the name of its namespace.
    ///
    /// # Errors
    /// [`LabError::Name`] when there is none.
    pub fn host(&self, name: &str) -> Result<&Host, LabError> {
        self.hosts
            .iter()
            .find(|host| host.spec.name == name)
            .ok_or_else(|| LabError::Name(name.to_owned()))
    }

    /// Adds one more host to a lab that runs.
    ///
    /// # Errors
    /// As [`Lab::create`].
    pub fn add(&mut self, spec: &HostSpec) -> Result<&Host, LabError> {
        let host_link = format!("{}-{}", self.bridge, self.hosts.len());
        let place = self.hosts.len();
        self.hosts.push(Host {
            spec: spec.clone(),
            host_link: host_link.clone(),
            host_index: 0,
        });
        namespace::create(&spec.name)?;
        let index = links::add_host(&self.bridge, &host_link, spec)?;
        let host = self
            .hosts
            .get_mut(place)
            .ok_or_else(|| LabError::Name(spec.name.clone()))?;
        host.host_index = index;
        Ok(host)
    }

    /// Removes what a process that was killed left: these namespaces, and the bridge with its veths. What is not there is
    /// no error.
    ///
    /// # Errors
    /// [`LabError`] that names what is still there.
    pub fn remove_leftovers(bridge: &str, names: &[&str]) -> Result<(), LabError> {
        for name in names {
            namespace::remove(name)?;
        }
        links::remove_bridge(bridge)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &self.hosts {
            // A veth goes when its namespace does, but only once the last socket in it is closed: take it away now.
            let _ = links::remove_link(&host.host_link);
            let _ = namespace::remove(&host.spec.name);
        }
        let _ = links::remove_bridge(&self.bridge);
    }
}

/// Why a lab could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// Namespaces can only be made by root.
    #[error("network namespaces can only be made by root")]
    NotRoot,
    /// A name that cannot be used, or that there is no host of.
    #[error("no usable name or host '{0}'")]
    Name(String),
    /// Something could not be made or removed.
    #[error("cannot make or remove {what}")]
    Make {
        /// What.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Netlink refused.
    #[error("netlink: {what}")]
    Netlink {
        /// What was asked.
        what: String,
        /// What it answered.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// A namespace cannot be entered.
    #[error("cannot enter the network namespace {path}")]
    Enter {
        /// File.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread inside a namespace died.
    #[error("the thread inside {0} panicked")]
    Panicked(String),
}
