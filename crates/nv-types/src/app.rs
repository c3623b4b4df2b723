//! Applications: NeuVector's names and ids, and a mask over them for decision chains.

use core::fmt;
use core::str::FromStr;

/// An application protocol, as identified from payload bytes or named by a rule.
///
/// Ids and names are NeuVector's (`dp/apis.h`, `controller/common/common.go`), so that its dashboards and rule
/// files keep working. `index` is this crate's own dense number: the bit in an [`AppMask`] and the byte in the
/// kernel tables. Index 0 is [`Application::UNKNOWN`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Application(u8);

/// (NeuVector id, name). The place in the list is the index; append only, the kernel ABI depends on it.
const TABLE: &[(u16, &str)] = &[
    (0, "unknown"),
    (1001, "HTTP"),
    (1002, "SSL"),
    (1003, "SSH"),
    (1004, "DNS"),
    (1005, "DHCP"),
    (1006, "NTP"),
    (1007, "TFTP"),
    (1008, "Echo"),
    (1009, "RTSP"),
    (1010, "SIP"),
    (2001, "MySQL"),
    (2002, "Redis"),
    (2003, "ZooKeeper"),
    (2004, "Cassandra"),
    (2005, "MongoDB"),
    (2006, "PostgreSQL"),
    (2007, "Kafka"),
    (2008, "Couchbase"),
    (2009, "Wordpress"),
    (2010, "ActiveMQ"),
    (2011, "CouchDB"),
    (2012, "ElasticSearch"),
    (2013, "Memcached"),
    (2014, "RabbitMQ"),
    (2015, "Radius"),
    (2016, "VoltDB"),
    (2017, "Consul"),
    (2018, "Syslog"),
    (2019, "etcd"),
    (2020, "Spark"),
    (2021, "Apache"),
    (2022, "nginx"),
    (2023, "Jetty"),
    (2024, "NodeJS"),
    (2025, "Erlang-EPMD"),
    (2026, "Oracle"),
    (2027, "MSSQL"),
    (2028, "GRPC"),
];

impl Application {
    /// Not identified within the payload budget. Matches only rules without applications.
    pub const UNKNOWN: Self = Self(0);
    /// HTTP/1 (RFC 9112).
    pub const HTTP: Self = Self(1);
    /// TLS of any version (RFC 8446); NeuVector calls it SSL.
    pub const SSL: Self = Self(2);
    /// SSH (RFC 4253).
    pub const SSH: Self = Self(3);
    /// DNS over UDP or TCP (RFC 1035).
    pub const DNS: Self = Self(4);
    /// DHCP (RFC 2131).
    pub const DHCP: Self = Self(5);
    /// NTP (RFC 5905).
    pub const NTP: Self = Self(6);
    /// MySQL client/server protocol.
    pub const MYSQL: Self = Self(11);
    /// Redis serialization protocol.
    pub const REDIS: Self = Self(12);
    /// PostgreSQL frontend/backend protocol.
    pub const POSTGRESQL: Self = Self(16);
    /// MongoDB wire protocol.
    pub const MONGODB: Self = Self(15);
    /// gRPC, known by the HTTP/2 connection preface.
    pub const GRPC: Self = Self(38);

    /// Number of known applications, [`Application::UNKNOWN`] included. Below 64, so that a mask is one word.
    pub const COUNT: usize = TABLE.len();

    /// The application with this dense index, if there is one.
    #[must_use]
    pub const fn from_index(index: u8) -> Option<Self> {
        if (index as usize) < TABLE.len() {
            Some(Self(index))
        } else {
            None
        }
    }

    /// The application with this NeuVector id.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        TABLE
            .iter()
            .zip(0u8..)
            .find(|((known, _), _)| *known == id)
            .map(|(_, index)| Self(index))
    }

    /// Dense index: bit in an [`AppMask`], byte in kernel tables.
    #[must_use]
    pub const fn index(self) -> u8 {
        self.0
    }

    /// NeuVector's id, 0 for unknown.
    #[must_use]
    pub const fn id(self) -> u16 {
        TABLE[self.0 as usize].0
    }

    /// NeuVector's name, as it stands in rules and REST.
    #[must_use]
    pub const fn name(self) -> &'static str {
        TABLE[self.0 as usize].1
    }

    /// All applications that a rule may name.
    pub fn all() -> impl Iterator<Item = Self> {
        (1u8..).take(TABLE.len() - 1).map(Self)
    }
}

const _: () = assert!(TABLE.len() < 64);

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown application name")]
pub struct UnknownApplication;

impl FromStr for Application {
    type Err = UnknownApplication;

    /// Names are compared without regard to case; `any` is not an application.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        TABLE
            .iter()
            .zip(0u8..)
            .find(|((_, known), _)| known.eq_ignore_ascii_case(name))
            .map(|(_, index)| Self(index))
            .ok_or(UnknownApplication)
    }
}

/// A set of applications; [`AppMask::ANY`] also holds the unknown one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct AppMask(pub u64);

impl AppMask {
    /// Every application, known or not: a rule without applications.
    pub const ANY: Self = Self(u64::MAX);
    /// No application.
    pub const NONE: Self = Self(0);

    /// Whether the mask is [`AppMask::ANY`].
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.0 == u64::MAX
    }

    /// Whether it holds this application.
    #[must_use]
    pub const fn contains(self, app: Application) -> bool {
        self.0 >> app.index() & 1 == 1
    }

    /// The mask with one more application.
    #[must_use]
    pub const fn with(self, app: Application) -> Self {
        Self(self.0 | 1 << app.index())
    }

    /// The known applications in it.
    pub fn iter(self) -> impl Iterator<Item = Application> {
        Application::all().filter(move |app| self.contains(*app))
    }
}

impl FromIterator<Application> for AppMask {
    fn from_iter<I: IntoIterator<Item = Application>>(apps: I) -> Self {
        apps.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(feature = "serde")]
mod serde_impl {
    use super::Application;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    impl Serialize for Application {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(self.name())
        }
    }

    impl<'de> Deserialize<'de> for Application {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let name = alloc::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            name.parse()
                .map_err(|_| D::Error::custom(alloc::format!("unknown application '{name}'")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_constants_have_their_names() {
        for (app, name, id) in [
            (Application::HTTP, "HTTP", 1001),
            (Application::NTP, "NTP", 1006),
            (Application::MYSQL, "MySQL", 2001),
            (Application::REDIS, "Redis", 2002),
            (Application::MONGODB, "MongoDB", 2005),
            (Application::POSTGRESQL, "PostgreSQL", 2006),
            (Application::GRPC, "GRPC", 2028),
        ] {
            assert_eq!((app.name(), app.id()), (name, id));
            assert_eq!(name.to_ascii_lowercase().parse(), Ok(app));
            assert_eq!(Application::from_id(id), Some(app));
            assert_eq!(Application::from_index(app.index()), Some(app));
        }
        assert!("any".parse::<Application>().is_err());
    }

    #[test]
    fn a_mask_of_applications_never_holds_the_unknown_one() {
        let mask: AppMask = Application::all().collect();
        assert!(!mask.contains(Application::UNKNOWN));
        assert!(AppMask::ANY.contains(Application::UNKNOWN));
        assert_eq!(mask.iter().count(), Application::COUNT - 1);
    }
}
