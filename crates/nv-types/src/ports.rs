//! Port syntax: `any`, `icmp`, `tcp/80`, `udp/53`, `tcp/8000-8100`, `tcp/any`, `sctp/…`; lists by comma; a bare
//! number is TCP.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::IpProto;

/// An inclusive range of port numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below `first`.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// Whether the port is in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// One item of a port list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortSpec {
    /// ICMP and ICMPv6 of every type.
    Icmp,
    /// Every protocol and port; ICMP too unless the setting `icmp_policy` is off.
    Any,
    /// Ports of TCP, UDP or SCTP.
    Ports(IpProto, PortRange),
}

/// A list of ports as a rule has it: sorted, without duplicates, never empty (an empty text means `any`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub struct PortSet(Vec<PortSpec>);

/// Port text that cannot be read; names the item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid ports '{item}': {problem}")]
pub struct InvalidPorts {
    /// The item as it was written.
    pub item: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Longest list that is read.
const MAX_ITEMS: usize = 4096;

impl PortSet {
    /// Every protocol and port.
    #[must_use]
    pub fn any() -> Self {
        Self(alloc::vec![PortSpec::Any])
    }

    /// A set of these items; empty means any.
    pub fn from_specs(specs: impl IntoIterator<Item = PortSpec>) -> Self {
        let mut specs: Vec<_> = specs.into_iter().collect();
        if specs.is_empty() || specs.contains(&PortSpec::Any) {
            return Self::any();
        }
        specs.sort_unstable();
        specs.dedup();
        Self(specs)
    }

    /// The items, sorted: ICMP, any, then TCP, UDP and SCTP by number.
    #[must_use]
    pub fn specs(&self) -> &[PortSpec] {
        &self.0
    }

    /// Whether it is `any`.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.contains(&PortSpec::Any)
    }

    /// Whether a packet of this protocol to this port is meant. `icmp_policy` is the setting: does `any` hold ICMP.
    #[must_use]
    pub fn matches(&self, proto: IpProto, port: u16, icmp_policy: bool) -> bool {
        let proto = proto.for_policy();
        self.0.iter().any(|spec| match *spec {
            PortSpec::Any => proto != IpProto::ICMP || icmp_policy,
            PortSpec::Icmp => proto == IpProto::ICMP,
            PortSpec::Ports(wanted, range) => wanted == proto && range.contains(port),
        })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Icmp => f.write_str("icmp"),
            Self::Any => f.write_str("any"),
            Self::Ports(proto, PortRange::ALL) => write!(f, "{proto}/any"),
            Self::Ports(proto, PortRange { first, last }) if first == last => write!(f, "{proto}/{first}"),
            Self::Ports(proto, PortRange { first, last }) => write!(f, "{proto}/{first}-{last}"),
        }
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, spec) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            fmt::Display::fmt(spec, f)?;
        }
        Ok(())
    }
}

impl FromStr for PortSpec {
    type Err = InvalidPorts;

    fn from_str(item: &str) -> Result<Self, Self::Err> {
        let fail = |problem| {
            Err(InvalidPorts {
                item: item.to_string(),
                problem,
            })
        };
        if item.eq_ignore_ascii_case("any") {
            return Ok(Self::Any);
        }
        if item.eq_ignore_ascii_case("icmp") {
            return Ok(Self::Icmp);
        }
        let (proto, range) = match item.split_once('/') {
            None => (IpProto::TCP, item),
            Some((proto, range)) => {
                let proto = match proto.to_ascii_lowercase().as_str() {
                    "tcp" => IpProto::TCP,
                    "udp" => IpProto::UDP,
                    "sctp" => IpProto::SCTP,
                    "icmp" => return fail("icmp has no ports; write 'icmp'"),
                    _ => return fail("the protocol must be tcp, udp or sctp"),
                };
                (proto, range)
            }
        };
        if range.eq_ignore_ascii_case("any") {
            return Ok(Self::Ports(proto, PortRange::ALL));
        }
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Some(first), Some(last)) = (parse_port(first), parse_port(last)) else {
            return fail("a port is a number from 0 to 65535, a range is FIRST-LAST");
        };
        if first > last {
            return fail("the range ends before it starts");
        }
        Ok(Self::Ports(proto, PortRange { first, last }))
    }
}

/// Digits only: `u16::from_str` would also take a leading `+`.
fn parse_port(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

impl FromStr for PortSet {
    type Err = InvalidPorts;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut specs = Vec::new();
        for item in text.split([',', ' ', '\t']).filter(|item| !item.is_empty()) {
            if specs.len() == MAX_ITEMS {
                return Err(InvalidPorts {
                    item: item.to_string(),
                    problem: "the list has more than 4096 items",
                });
            }
            specs.push(item.parse()?);
        }
        Ok(Self::from_specs(specs))
    }
}

impl TryFrom<String> for PortSet {
    type Error = InvalidPorts;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PortSet> for String {
    fn from(ports: PortSet) -> Self {
        ports.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("", "any"),
            ("80", "tcp/80"),
            ("8080,80", "tcp/80,tcp/8080"),
            (
                "100 , TCP/80  11153-11260,udp/60-60",
                "tcp/80,tcp/100,tcp/11153-11260,udp/60",
            ),
            ("udp/any,icmp", "icmp,udp/any"),
            ("tcp/80,any", "any"),
            ("sctp/1-2", "sctp/1-2"),
            ("0-65535", "tcp/any"),
        ] {
            assert_eq!(text.parse::<PortSet>().unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refused_and_named() {
        for text in [
            "icmp/8",
            "200-100",
            "90-",
            "90 -100",
            "tcp/",
            "tcp/65536",
            "gre/1",
            "+80",
            "1-2-3",
            "-",
            "tcp/80/1",
        ] {
            let error = text.parse::<PortSet>().unwrap_err();
            assert!(text.contains(&error.item), "{text}: {error}");
        }
    }

    #[test]
    fn any_holds_icmp_only_when_the_setting_is_on() {
        assert!(PortSet::any().matches(IpProto::ICMPV6, 0, true));
        assert!(!PortSet::any().matches(IpProto::ICMP, 0, false));
        assert!(PortSet::any().matches(IpProto(47), 0, false));
        assert!(
            "icmp"
                .parse::<PortSet>()
                .unwrap()
                .matches(IpProto::ICMPV6, 0, false)
        );
    }

    proptest! {
        #[test]
        fn display_parses_back(ports in proptest::collection::vec((0usize..5, any::<u16>(), any::<u16>()), 0..20)) {
            let set = PortSet::from_specs(ports.into_iter().map(|(kind, a, b)| {
                let range = PortRange { first: a.min(b), last: a.max(b) };
                match kind {
                    0 => PortSpec::Icmp,
                    1 => PortSpec::Ports(IpProto::TCP, range),
                    2 => PortSpec::Ports(IpProto::UDP, range),
                    3 => PortSpec::Ports(IpProto::SCTP, range),
                    _ => PortSpec::Ports(IpProto::TCP, PortRange { first: a, last: a }),
                }
            }));
            prop_assert_eq!(set.to_string().parse::<PortSet>().unwrap(), set);
        }

        #[test]
        fn text_never_panics(text in ".{0,40}") {
            let _ = text.parse::<PortSet>();
        }
    }
}
