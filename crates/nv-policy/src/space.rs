//! Protocols and ports as one line of numbers, so that ports of rules can be added up and taken from each other.
//!
//! ICMP is 0, every protocol without ports 1, then come 65,536 numbers each for TCP, UDP and SCTP.

use std::fmt;

use nv_types::{IpProto, PortRange, PortSet, PortSpec};

/// From, to, both inclusive.
pub(crate) type Span = (u32, u32);

const LAST: u32 = 0x3_ffff;
const WITH_PORTS: [IpProto; 3] = [IpProto::TCP, IpProto::UDP, IpProto::SCTP];
/// A protocol without ports that stands for all of them (GRE).
const OTHER: IpProto = IpProto(47);

fn base(proto: IpProto) -> Option<u32> {
    let place = WITH_PORTS.iter().position(|known| *known == proto)?;
    Some((u32::try_from(place).ok()? + 1) << 16)
}

/// A set of protocols and ports. Unlike [`PortSet`] it can hold any protocol without ICMP, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSpace(Vec<Span>);

impl PortSpace {
    /// What these ports mean.
    pub(crate) fn of(ports: &PortSet, icmp_policy: bool) -> Self {
        let mut space = Self::default();
        for spec in ports.specs() {
            match *spec {
                PortSpec::Icmp => space.add((0, 0)),
                PortSpec::Any => space.add((u32::from(!icmp_policy), LAST)),
                PortSpec::Ports(proto, range) => {
                    if let Some(base) = base(proto) {
                        space.add((base + u32::from(range.first), base + u32::from(range.last)));
                    }
                }
            }
        }
        space
    }

    pub(crate) fn spans(&self) -> &[Span] {
        &self.0
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a span; neighbours become one.
    pub(crate) fn add(&mut self, (mut first, mut last): Span) {
        let from = self.0.partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = self
            .0
            .partition_point(|(start, _)| *start <= last.saturating_add(1));
        if let Some((start, _)) = self.0.get(from).filter(|_| from < to) {
            first = first.min(*start);
        }
        if let Some((_, end)) = to
            .checked_sub(1)
            .and_then(|at| self.0.get(at))
            .filter(|_| from < to)
        {
            last = last.max(*end);
        }
        self.0.splice(from..to.max(from), [(first, last)]);
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        for span in &other.0 {
            self.add(*span);
        }
    }

    /// What is left of this without the other.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(first, last) in &self.0 {
            let mut at = first;
            let start = other.0.partition_point(|(_, end)| *end < first);
            for &(from, to) in other.0.iter().skip(start).take_while(|(from, _)| *from <= last) {
                if from > at {
                    left.push((at, from - 1));
                }
                at = at.max(to.saturating_add(1));
            }
            if at <= last {
                left.push((at, last));
            }
        }
        Self(left)
    }

    /// What both hold.
    pub(crate) fn common(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }

    /// Whether a packet of this protocol to this port is in it; the port counts for TCP, UDP and SCTP only.
    #[must_use]
    pub fn contains(&self, proto: IpProto, port: u16) -> bool {
        let place = match base(proto) {
            Some(base) => base + u32::from(port),
            None => u32::from(proto.for_policy() != IpProto::ICMP),
        };
        self.0
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&place))
    }

    fn holds(&self, span: Span) -> bool {
        self.0
            .iter()
            .any(|(first, last)| *first <= span.0 && span.1 <= *last)
    }
}

/// In port syntax, as far as it goes.
impl fmt::Display for PortSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.holds((1, LAST)) {
            return f.write_str(if self.holds((0, 0)) { "any" } else { "any but icmp" });
        }
        let mut words = Vec::new();
        if self.holds((0, 0)) {
            words.push("icmp".to_owned());
        }
        for proto in WITH_PORTS {
            let Some(base) = base(proto) else { continue };
            for &(first, last) in &self.0 {
                let (from, to) = (first.max(base), last.min(base + 0xffff));
                if from <= to
                    && let (Ok(first), Ok(last)) = (u16::try_from(from - base), u16::try_from(to - base))
                {
                    words.push(PortSpec::Ports(proto, PortRange { first, last }).to_string());
                }
            }
        }
        if self.holds((1, 1)) {
            words.push("other protocols".to_owned());
        }
        f.write_str(&words.join(","))
    }
}

/// A protocol and port at a place of the line.
pub(crate) fn point(place: u32) -> (IpProto, u16) {
    match place {
        0 => (IpProto::ICMP, 0),
        1..0x1_0000 => (OTHER, 0),
        _ => {
            let proto = usize::try_from((place >> 16) - 1)
                .ok()
                .and_then(|at| WITH_PORTS.get(at));
            (
                proto.copied().unwrap_or(OTHER),
                u16::try_from(place & 0xffff).unwrap_or(0),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space(text: &str) -> PortSpace {
        PortSpace::of(&text.parse().unwrap(), true)
    }

    #[test]
    fn ports_add_up_and_are_taken_away() {
        assert_eq!(space("tcp/80,tcp/81-90"), space("tcp/80-90"));
        assert!(space("tcp/80-90").without(&space("any")).is_empty());
        let rest = space("tcp/1-100").without(&space("tcp/10-20,udp/1-100"));
        assert_eq!(rest, space("tcp/1-9,tcp/21-100"));
        assert_eq!(rest.to_string(), "tcp/1-9,tcp/21-100");
        assert_eq!(
            space("any").without(&space("icmp")),
            PortSpace::of(&PortSet::any(), false)
        );
        assert_eq!(space("any").to_string(), "any");
        assert_eq!(space("any").without(&space("icmp")).to_string(), "any but icmp");
        let odd = space("any").without(&space("tcp/0-79,tcp/81-65535,sctp/any"));
        assert_eq!(odd.to_string(), "icmp,tcp/80,udp/any,other protocols");
        assert!(
            odd.contains(IpProto(47), 0)
                && odd.contains(IpProto::ICMPV6, 0)
                && !odd.contains(IpProto::SCTP, 1)
        );
        assert_eq!(space("tcp/any").common(&space("80,udp/53")), space("80"));
    }

    proptest! {
        #[test]
        fn every_place_is_in_or_out(
            a in proptest::collection::vec((0_u32..60, 0_u32..9), 0..9),
            b in proptest::collection::vec((0_u32..60, 0_u32..9), 0..9),
        ) {
            let make = |list: &[(u32, u32)]| {
                let mut space = PortSpace::default();
                list.iter().for_each(|(at, len)| space.add((*at, at + len)));
                space
            };
            let holds = |list: &[(u32, u32)], x: u32| list.iter().any(|(at, len)| (*at..=at + len).contains(&x));
            let (left, right) = (make(&a), make(&b));
            let inside = |space: &PortSpace, x: u32| space.spans().iter().any(|(from, to)| (*from..=*to).contains(&x));
            for x in 0..80 {
                prop_assert_eq!(inside(&left, x), holds(&a, x));
                prop_assert_eq!(inside(&left.without(&right), x), holds(&a, x) && !holds(&b, x));
                prop_assert_eq!(inside(&left.common(&right), x), holds(&a, x) && holds(&b, x));
            }
            prop_assert!(left.spans().windows(2).all(|two| two[0].1 + 1 < two[1].0));
        }
    }
}
