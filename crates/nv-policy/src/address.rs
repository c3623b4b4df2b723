//! Addresses as criteria write them: IP, CIDR, range, name.

use std::net::IpAddr;
use std::str::FromStr as _;

use ipnetwork::IpNetwork;
use nv_types::IpPrefix;

/// An address criterion's value, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSet {
    /// IP, CIDR (host bits are allowed and ignored) or range, as the prefixes that make it up.
    Prefixes(Vec<IpPrefix>),
    /// A DNS name, perhaps with `*.` or `vh:` in front: judged by the addresses that are told for it.
    Name(String),
}

/// Text that is no address, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid address '{text}': {problem}")]
pub struct InvalidAddress {
    /// As it was written.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl AddressSet {
    /// Reads an IP address, a CIDR, a range `A-B` of one family, or a DNS name.
    ///
    /// # Errors
    /// [`InvalidAddress`] that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let fail = |problem| {
            Err(InvalidAddress {
                text: text.to_owned(),
                problem,
            })
        };
        if text.is_empty() || text.len() > 300 {
            return fail("it is empty or too long");
        }
        if let Ok(addr) = IpAddr::from_str(text) {
            return Ok(Self::Prefixes(vec![IpPrefix::host(addr)]));
        }
        if text.contains('/') {
            return match IpNetwork::from_str(text) {
                Ok(net) => Ok(Self::Prefixes(network(net))),
                Err(_) => {
                    fail("a CIDR is ADDRESS/LENGTH, with a length of at most 32 for IPv4 and 128 for IPv6")
                }
            };
        }
        if let Some((first, last)) = text.split_once('-')
            && let (Ok(first), Ok(last)) = (IpAddr::from_str(first.trim()), IpAddr::from_str(last.trim()))
        {
            if first.is_ipv4() != last.is_ipv4() {
                return fail("both ends of a range must be of one family");
            }
            if first > last {
                return fail("the range ends before it starts");
            }
            return Ok(Self::Prefixes(range(first, last)));
        }
        if let Some(problem) = name_problem(text) {
            return fail(problem);
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

/// Where IPv4 lies among the addresses of policy tables: `::ffff:0:0/96`.
const MAPPED: (u128, u128) = (0xffff_0000_0000, 0xffff_ffff_ffff);

/// The prefixes of a CIDR. One of IPv6 that is wide enough to hold the mapped IPv4 addresses does not mean them.
fn network(net: IpNetwork) -> Vec<IpPrefix> {
    let holds_mapped = match net.network() {
        IpAddr::V4(_) => false,
        IpAddr::V6(addr) => {
            net.prefix() < 96 && {
                let shift = 128 - u32::from(net.prefix());
                MAPPED.0.checked_shr(shift).unwrap_or(0) == addr.to_bits().checked_shr(shift).unwrap_or(0)
            }
        }
    };
    if holds_mapped {
        range(net.network(), net.broadcast())
    } else {
        vec![IpPrefix::new(net.ip(), net.prefix())]
    }
}

/// The prefixes of a range; one of IPv6 leaves the mapped IPv4 addresses out, unless it lies within them.
fn range(first: IpAddr, last: IpAddr) -> Vec<IpPrefix> {
    let (IpAddr::V6(low), IpAddr::V6(high)) = (first, last) else {
        return cover(first, last);
    };
    let (low, high) = (low.to_bits(), high.to_bits());
    let is_within = MAPPED.0 <= low && high <= MAPPED.1;
    if is_within || high < MAPPED.0 || MAPPED.1 < low {
        return cover(first, last);
    }
    let mut prefixes = Vec::new();
    if low < MAPPED.0 {
        prefixes.extend(cover(first, IpAddr::V6((MAPPED.0 - 1).into())));
    }
    if MAPPED.1 < high {
        prefixes.extend(cover(IpAddr::V6((MAPPED.1 + 1).into()), last));
    }
    prefixes
}

/// The fewest prefixes that hold exactly `first..=last`.
fn cover(first: IpAddr, last: IpAddr) -> Vec<IpPrefix> {
    let number = |addr| u128::from_be_bytes(nv_types::v4_mapped(addr));
    let (mut first, last) = (number(first), number(last));
    let mut prefixes = Vec::new();
    loop {
        // The largest block that starts here and does not reach beyond the end.
        let mut bits = first.trailing_zeros().min(128);
        while bits > 0
            && (bits == 128
                || first
                    .checked_add((1u128 << bits) - 1)
                    .is_none_or(|end| end > last))
        {
            bits -= 1;
        }
        let len = u8::try_from(128 - bits).unwrap_or(128);
        prefixes.push(IpPrefix {
            addr: first.to_be_bytes(),
            len,
        });
        match first.checked_add(1u128 << bits) {
            Some(next) if next <= last => first = next,
            _ => return prefixes,
        }
    }
}

/// What keeps the text from being a DNS name, `*.` and `vh:` in front allowed.
fn name_problem(text: &str) -> Option<&'static str> {
    let name = text.strip_prefix("vh:").unwrap_or(text);
    let (name, least) = name.strip_prefix("*.").map_or((name, 1), |rest| (rest, 2));
    let labels: Vec<_> = name.split('.').collect();
    if labels.len() < least {
        return Some("at least two labels must follow '*.'");
    }
    let fine = |label: &&str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if !labels.iter().all(fine) {
        return Some("it is neither an address, a CIDR, a range nor a DNS name");
    }
    let numeric = labels
        .iter()
        .all(|label| label.bytes().all(|b| b.is_ascii_digit()));
    numeric.then_some("it is neither an address nor a name: four numbers from 0 to 255 are needed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neuvectors_cases() {
        for good in [
            "1.2.3.4",
            "1.2.3.4/24",
            "10.0.0.1-10.0.0.9",
            "abc",
            "abc-.xyz_",
            "8.us",
            "*.google.com",
            "*.docs.google.com",
            "vh:a.b",
            "fd00::/8",
            "fd00::1-fd00::ff",
        ] {
            assert!(AddressSet::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "1.2.3.789",
            "1.2.3.4,1.2.3.5",
            "1.2.3.4/33",
            "1.2.3.0/24-1.2.4.0/24",
            "10.0.0.9-10.0.0.1",
            "*.google",
            "a*.google.com",
            ".a",
            "a.",
            "a..b",
            "10.0.0.1-fd00::1",
            "<b>",
        ] {
            let error = AddressSet::parse(bad).unwrap_err();
            assert_eq!(error.text, bad);
        }
    }

    #[test]
    fn ipv6_does_not_mean_the_mapped_ipv4() {
        for text in ["::/0", "::/64", "::-ffff::", "::ffff:0.0.0.1-::1:0:0:0"] {
            let Ok(AddressSet::Prefixes(prefixes)) = AddressSet::parse(text) else {
                panic!("{text}")
            };
            let holds = |addr: &str| {
                let addr: IpAddr = addr.parse().unwrap();
                prefixes
                    .iter()
                    .any(|prefix| prefix.contains(nv_types::v4_mapped(addr)))
            };
            assert!(!holds("10.0.0.1"), "{text}");
            assert!(holds("::1") || holds("::1:0:0:0"), "{text}");
        }
        assert_eq!(
            AddressSet::parse("::ffff:10.0.0.0/104"),
            AddressSet::parse("10.0.0.0/8")
        );
    }

    #[test]
    fn the_whole_space_is_one_prefix_per_family() {
        assert_eq!(
            cover("0.0.0.0".parse().unwrap(), "255.255.255.255".parse().unwrap()).len(),
            1
        );
        let all6 = cover(
            "::".parse().unwrap(),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
        );
        assert!(all6.len() <= 2, "{all6:?}");
    }

    proptest! {
        #[test]
        fn a_range_holds_what_lies_in_it(a: u32, b: u32, probe: u32) {
            let (first, last) = (a.min(b), a.max(b));
            let prefixes = cover(IpAddr::V4(first.into()), IpAddr::V4(last.into()));
            let holds = |addr: u32| prefixes.iter().filter(|p| p.contains(nv_types::v4_mapped(IpAddr::V4(addr.into())))).count();
            prop_assert_eq!(holds(probe), usize::from((first..=last).contains(&probe)));
            prop_assert_eq!((holds(first), holds(last)), (1, 1));
        }

        #[test]
        fn text_never_panics(text in ".{0,50}") {
            let _ = AddressSet::parse(&text);
        }
    }
}
