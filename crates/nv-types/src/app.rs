//! Applications: NeuVector's names and ids, ours for what it has no name for, and a mask over them for decision chains.

use core::fmt;
use core::str::FromStr;

/// An application protocol, as identified from payload bytes or named by a rule.
///
/// Ids and names are NeuVector's (`dp/apis.h`, `controller/common/common.go`), so that its dashboards and rule
/// files keep working. What NeuVector does not name has an id in [`Application::OWN_IDS`], far from any that it may still
/// give. `index` is this crate's own dense number: the bit in an [`AppMask`] and the byte in the kernel tables. Index 0 is
/// [`Application::UNKNOWN`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Application(u8);

/// (id, name). The place in the list is the index; append only, the kernel ABI depends on it.
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
    (9001, "HTTP2"),
    (9002, "SMTP"),
    (9003, "FTP"),
    (9004, "AMQP"),
    (9005, "MQTT"),
    (9006, "NATS"),
    (9007, "LDAP"),
    (9008, "RDP"),
    (9009, "SMB"),
    (9010, "QUIC"),
    (9011, "WireGuard"),
    (9012, "BitTorrent"),
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
    /// TFTP (RFC 1350).
    pub const TFTP: Self = Self(7);
    /// Echo (RFC 862).
    pub const ECHO: Self = Self(8);
    /// RTSP (RFC 2326, RFC 7826).
    pub const RTSP: Self = Self(9);
    /// SIP (RFC 3261).
    pub const SIP: Self = Self(10);
    /// MySQL client/server protocol.
    pub const MYSQL: Self = Self(11);
    /// Redis serialization protocol.
    pub const REDIS: Self = Self(12);
    /// ZooKeeper client protocol.
    pub const ZOOKEEPER: Self = Self(13);
    /// Cassandra's CQL binary protocol.
    pub const CASSANDRA: Self = Self(14);
    /// MongoDB wire protocol.
    pub const MONGODB: Self = Self(15);
    /// PostgreSQL frontend/backend protocol.
    pub const POSTGRESQL: Self = Self(16);
    /// Kafka protocol.
    pub const KAFKA: Self = Self(17);
    /// Couchbase's own commands of the memcached binary protocol.
    pub const COUCHBASE: Self = Self(18);
    /// Memcached, text and binary protocol.
    pub const MEMCACHED: Self = Self(23);
    /// Spark's network protocol.
    pub const SPARK: Self = Self(30);
    /// Oracle TNS.
    pub const ORACLE: Self = Self(36);
    /// Microsoft SQL Server's TDS.
    pub const MSSQL: Self = Self(37);
    /// gRPC over HTTP/2, known by the content type of its first request. HTTP/2 without it is [`Application::HTTP2`].
    pub const GRPC: Self = Self(38);
    /// HTTP/2 without TLS (RFC 9113) that is not gRPC.
    pub const HTTP2: Self = Self(39);
    /// SMTP (RFC 5321).
    pub const SMTP: Self = Self(40);
    /// FTP control connection (RFC 959).
    pub const FTP: Self = Self(41);
    /// AMQP 0-9-1 and 1.0.
    pub const AMQP: Self = Self(42);
    /// MQTT 3.1 to 5.
    pub const MQTT: Self = Self(43);
    /// NATS client protocol.
    pub const NATS: Self = Self(44);
    /// LDAP (RFC 4511).
    pub const LDAP: Self = Self(45);
    /// Remote Desktop Protocol.
    pub const RDP: Self = Self(46);
    /// SMB of any version over TCP.
    pub const SMB: Self = Self(47);
    /// QUIC (RFC 9000, RFC 9369).
    pub const QUIC: Self = Self(48);
    /// WireGuard.
    pub const WIREGUARD: Self = Self(49);
    /// BitTorrent: peers, trackers over UDP, DHT, uTP.
    pub const BITTORRENT: Self = Self(50);

    /// Ids of applications that NeuVector has no name for; its own stay below 3000 so far.
    pub const OWN_IDS: core::ops::RangeInclusive<u16> = 9001..=9999;

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

    /// The application with this id.
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

    /// Its id, as NeuVector's REST has it; 0 for unknown.
    #[must_use]
    pub const fn id(self) -> u16 {
        TABLE[self.0 as usize].0
    }

    /// Its name, as it stands in rules and REST.
    #[must_use]
    pub const fn name(self) -> &'static str {
        TABLE[self.0 as usize].1
    }

    /// All applications that a rule may name.
    pub fn all() -> impl Iterator<Item = Self> {
        (1u8..).take(TABLE.len() - 1).map(Self)
    }
}

// A mask has a bit for each, and one that no application has: the mask of all of them is not that of a rule without any.
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
            (Application::SSL, "SSL", 1002),
            (Application::SSH, "SSH", 1003),
            (Application::DNS, "DNS", 1004),
            (Application::DHCP, "DHCP", 1005),
            (Application::NTP, "NTP", 1006),
            (Application::TFTP, "TFTP", 1007),
            (Application::ECHO, "Echo", 1008),
            (Application::RTSP, "RTSP", 1009),
            (Application::SIP, "SIP", 1010),
            (Application::MYSQL, "MySQL", 2001),
            (Application::REDIS, "Redis", 2002),
            (Application::ZOOKEEPER, "ZooKeeper", 2003),
            (Application::CASSANDRA, "Cassandra", 2004),
            (Application::MONGODB, "MongoDB", 2005),
            (Application::POSTGRESQL, "PostgreSQL", 2006),
            (Application::KAFKA, "Kafka", 2007),
            (Application::COUCHBASE, "Couchbase", 2008),
            (Application::MEMCACHED, "Memcached", 2013),
            (Application::SPARK, "Spark", 2020),
            (Application::ORACLE, "Oracle", 2026),
            (Application::MSSQL, "MSSQL", 2027),
            (Application::GRPC, "GRPC", 2028),
            (Application::HTTP2, "HTTP2", 9001),
            (Application::SMTP, "SMTP", 9002),
            (Application::FTP, "FTP", 9003),
            (Application::AMQP, "AMQP", 9004),
            (Application::MQTT, "MQTT", 9005),
            (Application::NATS, "NATS", 9006),
            (Application::LDAP, "LDAP", 9007),
            (Application::RDP, "RDP", 9008),
            (Application::SMB, "SMB", 9009),
            (Application::QUIC, "QUIC", 9010),
            (Application::WIREGUARD, "WireGuard", 9011),
            (Application::BITTORRENT, "BitTorrent", 9012),
        ] {
            assert_eq!((app.name(), app.id()), (name, id));
            assert_eq!(name.to_ascii_lowercase().parse(), Ok(app));
            assert_eq!(Application::from_id(id), Some(app));
            assert_eq!(Application::from_index(app.index()), Some(app));
        }
        assert!("any".parse::<Application>().is_err());
    }

    #[test]
    fn ids_and_names_are_given_once_and_ours_are_in_their_range() {
        for (place, (id, name)) in TABLE.iter().enumerate() {
            assert!(*id < 3000 || Application::OWN_IDS.contains(id), "{name}");
            for (other, known) in &TABLE[..place] {
                assert!(other != id && !known.eq_ignore_ascii_case(name), "{name}");
            }
        }
    }

    #[test]
    fn a_mask_of_applications_never_holds_the_unknown_one() {
        let mask: AppMask = Application::all().collect();
        assert!(!mask.contains(Application::UNKNOWN));
        assert!(AppMask::ANY.contains(Application::UNKNOWN));
        assert_eq!(mask.iter().count(), Application::COUNT - 1);
    }
}
