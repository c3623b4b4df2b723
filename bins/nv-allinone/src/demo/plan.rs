//! Names and addresses of everything that a demo makes, so that it can also be found again and removed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// Where `ip netns` keeps namespaces.
const NETNS_FOLDER: &str = "/run/netns";
/// Folder of lock files and data. Below `/run`: gone with the next boot at the latest.
const RUN_FOLDER: &str = "/run/nv";

/// One of the demo's workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Shows pages; asks `app`.
    Web,
    /// Answers over HTTP on 8080; asks `db`.
    App,
    /// Speaks Redis on 6379.
    Db,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Web, Self::App, Self::Db];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::App => "app",
            Self::Db => "db",
        }
    }

    /// Port that it serves.
    pub(crate) const fn port(self) -> u16 {
        match self {
            Self::Web => 80,
            Self::App => 8080,
            Self::Db => 6379,
        }
    }

    const fn host_number(self) -> u8 {
        match self {
            Self::Web => 11,
            Self::App => 12,
            Self::Db => 13,
        }
    }

    /// Its address on the demo's bridge. 198.18.0.0/15 is set aside for tests of networks (RFC 2544).
    pub(crate) const fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 77, self.host_number())
    }

    /// Its address on the demo's bridge, unique-local (RFC 4193).
    pub(crate) const fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd6e, 0x7664, 0x656d, 0x6f, 0, 0, 0, self.host_number() as u16)
    }

    pub(crate) const fn address(self, v6: bool) -> IpAddr {
        if v6 {
            IpAddr::V6(self.v6())
        } else {
            IpAddr::V4(self.v4())
        }
    }
}

/// Prefix lengths of the demo's networks.
pub(crate) const V4_LENGTH: u8 = 24;
pub(crate) const V6_LENGTH: u8 = 64;

/// Names of one demo. The stock one is called `demo`; tests use others, to run beside each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    instance: String,
}

/// Longest name of a demo: interface names have 15 bytes at most.
const LONGEST: usize = 8;

impl Plan {
    /// `None` when the name is empty, too long, or has other characters than `a-z0-9`.
    pub(crate) fn new(instance: &str) -> Option<Self> {
        let good = !instance.is_empty()
            && instance.len() <= LONGEST
            && instance
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        good.then(|| Self {
            instance: instance.to_owned(),
        })
    }

    /// Name of the datapath's pin folder, too.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// What the names of its namespaces begin with.
    pub(crate) fn prefix(&self) -> String {
        format!("nv-{}-", self.instance)
    }

    pub(crate) fn namespace_file(&self, role: Role) -> PathBuf {
        PathBuf::from(NETNS_FOLDER).join(format!("{}{}", self.prefix(), role.name()))
    }

    pub(crate) fn bridge(&self) -> String {
        format!("nv-{}", self.instance)
    }

    pub(crate) fn host_end(&self, role: Role) -> String {
        format!("{}{}", self.prefix(), role.name())
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        PathBuf::from(RUN_FOLDER).join(format!("{}.lock", self.instance))
    }

    /// Data of controller and agent.
    pub(crate) fn folder(&self) -> PathBuf {
        PathBuf::from(RUN_FOLDER).join(format!("{}.tmp", self.instance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_checked() {
        let plan = Plan::new("12345678").unwrap();
        for role in Role::ALL {
            assert!(plan.host_end(role).len() <= 15);
        }
        assert!(plan.bridge().len() <= 15);
        for bad in ["", "123456789", "a/b", "..", "A"] {
            assert_eq!(Plan::new(bad), None, "{bad}");
        }
    }
}
