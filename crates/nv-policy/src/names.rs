//! DNS names in address groups: what they stand for now.
//!
//! An address group may hold names: `api.example.com`, `*.example.com` (any number of labels before it, at least one) and either with
//! `vh:` in front. A name stands for the addresses that [`Names`] holds for it, which whoever watches DNS puts there:
//!
//! - [`Wanted`] says which names any group asks about; others are not worth telling.
//! - [`Names::put`] takes the addresses that one source (a node) has seen answered for a name, all of them that still count; the list
//!   before is replaced, an empty one takes it away. How long an answer counts is the source's to say: nothing here has a clock.
//! - [`Change::Name`](crate::Change::Name) tells a [`Compiler`](crate::Compiler) which name changed.
//!
//! In a store the source is a node: `name/<node>/<name>` ([`nv_types::keys::name`]) holds a [`StoredName`], which only that node's agent
//! may write and [`PolicyState`](crate::PolicyState) reads; what several nodes heard is added up.
//!
//! An answer is not believed blindly. Loopback, link-local, multicast and unspecified addresses never count; other addresses that are not
//! public count only for names on the setting `internal_names`, so that the owner of a public name cannot open a way to an internal
//! host by answering with its address; and the address of a workload or of a node is never made a name's, whatever was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nv_types::{Group, PolicySettings};
use serde::{Deserialize, Serialize};

use crate::address::AddressSet;

/// Most names that have addresses at one time.
pub const NAMES_MAX: usize = 4096;
/// Most addresses that one source may give a name.
pub const NAME_ADDRESSES_MAX: usize = 128;

/// Value of [`nv_types::keys::name`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoredName {
    /// Addresses that the node has seen answered and that still count.
    pub addresses: BTreeSet<IpAddr>,
}

/// A name that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// It is no host's name.
    #[error("'{0}' is not the name of a host")]
    Name(String),
    /// Too many names.
    #[error("there are addresses of {NAMES_MAX} names already; '{0}' is left out")]
    TooMany(String),
    /// Too many addresses.
    #[error("{count} addresses of '{name}' are more than {NAME_ADDRESSES_MAX}")]
    Addresses {
        /// Name.
        name: String,
        /// How many.
        count: usize,
    },
}

/// Addresses of names, by who said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// By name and source; neither list is empty.
    answers: BTreeMap<String, BTreeMap<String, BTreeSet<IpAddr>>>,
}

impl Names {
    /// Takes all addresses that a source gives a name now; none takes its word back. Whether anything changed.
    ///
    /// # Errors
    /// [`InvalidName`]; nothing changes then.
    pub fn put(
        &mut self,
        source: &str,
        name: &str,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<bool, InvalidName> {
        let name = host(name).ok_or_else(|| InvalidName::Name(name.chars().take(300).collect()))?;
        if addresses.len() > NAME_ADDRESSES_MAX {
            let count = addresses.len();
            return Err(InvalidName::Addresses { name, count });
        }
        if addresses.is_empty() {
            let Some(sources) = self.answers.get_mut(&name) else {
                return Ok(false);
            };
            let was = sources.remove(source).is_some();
            if sources.is_empty() {
                self.answers.remove(&name);
            }
            return Ok(was);
        }
        if self.answers.len() >= NAMES_MAX && !self.answers.contains_key(&name) {
            return Err(InvalidName::TooMany(name));
        }
        let sources = self.answers.entry(name).or_default();
        if sources.get(source) == Some(addresses) {
            return Ok(false);
        }
        sources.insert(source.to_owned(), addresses.clone());
        Ok(true)
    }

    /// Makes these all that a source has said. What finds no room is left out.
    pub fn replace<'a>(
        &mut self,
        source: &str,
        lists: impl IntoIterator<Item = (&'a str, BTreeSet<IpAddr>)>,
    ) {
        self.answers.retain(|_, sources| {
            sources.remove(source);
            !sources.is_empty()
        });
        for (name, list) in lists {
            // Names and lists of a source keep to the bounds of this one; only what other sources say can have taken the room.
            let _ = self.put(source, name, &list);
        }
    }

    /// Takes over what a source gave a name in another list.
    pub(crate) fn keep(&mut self, source: &str, name: &str, before: &Self) {
        let Some(list) = before.answers.get(name).and_then(|sources| sources.get(source)) else {
            return;
        };
        let sources = self.answers.entry(name.to_owned()).or_default();
        sources.insert(source.to_owned(), list.clone());
    }

    /// Addresses of a name, as they were told; not all of them need to count.
    #[must_use]
    pub fn told(&self, name: &str) -> BTreeSet<IpAddr> {
        let sources = self.answers.get(name);
        sources
            .into_iter()
            .flat_map(BTreeMap::values)
            .flatten()
            .copied()
            .collect()
    }

    /// Names that have addresses.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.answers.keys().map(String::as_str)
    }

    /// Names whose answers differ from another's.
    pub(crate) fn differing<'a>(&'a self, other: &'a Self, mut each: impl FnMut(&str)) {
        let names: BTreeSet<_> = self.answers.keys().chain(other.answers.keys()).collect();
        for name in names {
            if self.answers.get(name) != other.answers.get(name) {
                each(name);
            }
        }
    }

    /// Names that a pattern holds, each with the addresses that count, and whether some were refused as internal.
    pub(crate) fn of<'a>(
        &'a self,
        pattern: &'a NamePattern,
        settings: &'a PolicySettings,
    ) -> impl Iterator<Item = (&'a str, BTreeSet<IpAddr>, Option<IpAddr>)> {
        let single = (!pattern.wildcard).then(|| self.answers.get_key_value(&pattern.name));
        let many = pattern.wildcard.then(|| {
            let all = self.answers.iter();
            all.filter(|(name, _)| pattern.holds(name))
        });
        let found = single.into_iter().flatten().chain(many.into_iter().flatten());
        found.map(|(name, sources)| {
            let trusted = settings
                .internal_names
                .iter()
                .any(|text| text == "*" || NamePattern::read(text).is_some_and(|own| own.holds(name)));
            let (mut counting, mut refused) = (BTreeSet::new(), None);
            for address in sources.values().flatten().map(IpAddr::to_canonical) {
                match reach(address) {
                    Reach::Public => {
                        counting.insert(address);
                    }
                    Reach::Internal if trusted => {
                        counting.insert(address);
                    }
                    Reach::Internal | Reach::Nowhere => refused = refused.or(Some(address)),
                }
            }
            (name.as_str(), counting, refused)
        })
    }
}

/// Which names groups ask about: what is worth telling [`Names`].
///
/// ```
/// use nv_policy::Wanted;
/// # let criterion = nv_types::Criterion { key: "address".into(), value: "*.example.com".into(), op: nv_types::CriterionOp::Equal };
/// # let group = nv_types::Group { name: "apis".parse().unwrap(), kind: nv_types::GroupKind::Address, origin: None, comment: String::new(), domain: String::new(), criteria: vec![criterion] };
/// let wanted = Wanted::new([&group]); // its criterion: address = *.example.com
/// assert!(wanted.contains("API.example.com."));
/// assert!(!wanted.contains("example.com"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    exact: BTreeSet<String>,
    /// What follows `*.`.
    below: BTreeSet<String>,
}

impl Wanted {
    /// The names that these groups speak of.
    pub fn new<'a>(groups: impl IntoIterator<Item = &'a Group>) -> Self {
        let mut wanted = Self::default();
        for criterion in groups.into_iter().flat_map(|group| &group.criteria) {
            if criterion.key != "address" {
                continue;
            }
            let Ok(AddressSet::Name(text)) = AddressSet::parse(&criterion.value) else {
                continue;
            };
            if let Some(pattern) = NamePattern::read(&text) {
                let names = if pattern.wildcard {
                    &mut wanted.below
                } else {
                    &mut wanted.exact
                };
                names.insert(pattern.name);
            }
        }
        wanted
    }

    /// Whether a group speaks of the name, itself or by a wildcard.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        let Some(name) = host(name) else { return false };
        self.exact.contains(&name)
            || name
                .match_indices('.')
                .any(|(dot, _)| name.get(dot + 1..).is_some_and(|rest| self.below.contains(rest)))
    }

    /// Names without a wildcard: those that can be asked for before anybody does.
    pub fn exact(&self) -> impl Iterator<Item = &str> {
        self.exact.iter().map(String::as_str)
    }

    /// Whether no group speaks of any name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty()
    }
}

/// A name as a criterion has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamePattern {
    /// It has `vh:` in front.
    pub(crate) vhost: bool,
    wildcard: bool,
    /// Lower case, without `vh:` and `*.`.
    name: String,
}

impl NamePattern {
    /// Reads a name that [`AddressSet::parse`] has let through, or a setting.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (vhost, text) = text
            .strip_prefix("vh:")
            .map_or((false, text), |rest| (true, rest));
        let (wildcard, text) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        Some(Self {
            vhost,
            wildcard,
            name: host(text)?,
        })
    }

    /// Whether a name, in its normal form, is one of these.
    pub(crate) fn holds(&self, name: &str) -> bool {
        if !self.wildcard {
            return name == self.name;
        }
        name.strip_suffix(self.name.as_str())
            .is_some_and(|front| front.len() > 1 && front.ends_with('.'))
    }
}

/// Whether the text can stand in the setting `internal_names`.
#[must_use]
pub fn is_name_pattern(text: &str) -> bool {
    text == "*" || NamePattern::read(text).is_some_and(|pattern| !pattern.vhost)
}

/// A host's name in its normal form: lower case, no dot at the end. `None` if it is none.
fn host(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let fine = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    (text.len() <= 253 && text.split('.').all(fine)).then(|| text.to_ascii_lowercase())
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Public,
    /// Private, shared or reserved: the operator's own networks.
    Internal,
    /// Nobody that a flow could go to: loopback, link-local (cloud metadata, too), multicast.
    Nowhere,
}

/// IANA's special-purpose registries (RFC 6890), read strictly; IPv6 that carries an IPv4 address goes where that goes.
fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => reach_v6(v6),
    }
}

fn reach_v4(v4: Ipv4Addr) -> Reach {
    let [a, b, c, _] = v4.octets();
    match (a, b, c) {
        (0 | 127 | 224..=255, ..) | (169, 254, _) => Reach::Nowhere,
        _ if v4.is_private() => Reach::Internal,
        // Shared (RFC 6598), protocol assignments, benchmarking.
        (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _) => Reach::Internal,
        _ => Reach::Public,
    }
}

fn reach_v6(v6: Ipv6Addr) -> Reach {
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        // Unspecified, loopback, and the old form of IPv4 in IPv6.
        [0, 0, 0, 0, 0, 0, ..] => Reach::Nowhere,
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        [0x64, 0xff9b, 1, ..] => Reach::Internal,
        [first, ..] if first & 0xff00 == 0xff00 || first & 0xffc0 == 0xfe80 => Reach::Nowhere,
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => Reach::Internal,
        _ => Reach::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn counting(names: &Names, pattern: &str, settings: &PolicySettings) -> BTreeSet<IpAddr> {
        let pattern = NamePattern::read(pattern).unwrap();
        names
            .of(&pattern, settings)
            .flat_map(|(_, list, _)| list)
            .collect()
    }

    #[test]
    fn what_several_sources_heard_is_added_up_and_taken_back_by_itself() {
        let mut names = Names::default();
        let settings = PolicySettings::default();
        assert_eq!(
            names.put("n1", "API.Example.com.", &addresses(&["192.0.2.1"])),
            Ok(true)
        );
        assert_eq!(
            names.put("n1", "api.example.com", &addresses(&["192.0.2.1"])),
            Ok(false)
        );
        names
            .put("n2", "api.example.com", &addresses(&["192.0.2.2"]))
            .unwrap();
        names
            .put("n2", "a.b.example.com", &addresses(&["192.0.2.3"]))
            .unwrap();
        names
            .put("n2", "notexample.com", &addresses(&["192.0.2.4"]))
            .unwrap();
        let of = |names: &Names, pattern| counting(names, pattern, &settings);
        assert_eq!(
            of(&names, "api.example.com"),
            addresses(&["192.0.2.1", "192.0.2.2"])
        );
        assert_eq!(
            of(&names, "vh:*.example.com"),
            addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.3"])
        );
        assert_eq!(of(&names, "example.com"), addresses(&[]));
        assert_eq!(names.put("n1", "api.example.com", &addresses(&[])), Ok(true));
        assert_eq!(of(&names, "api.example.com"), addresses(&["192.0.2.2"]));
        assert_eq!(names.put("n1", "api.example.com", &addresses(&[])), Ok(false));
    }

    #[test]
    fn an_answer_that_points_inside_needs_the_operators_word() {
        let mut names = Names::default();
        let inside = [
            "10.0.0.5",
            "192.168.1.1",
            "100.64.0.1",
            "fd00::1",
            "64:ff9b::a00:5",
            "2002:a00:5::1",
        ];
        let nowhere = [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
        ];
        let mut all = addresses(&inside);
        all.extend(addresses(&nowhere));
        all.extend(addresses(&["192.0.2.9", "2001:db8::9", "64:ff9b::c000:209"]));
        names.put("n1", "db.corp.example", &all).unwrap();
        let mut settings = PolicySettings::default();
        let public = addresses(&["192.0.2.9", "2001:db8::9", "64:ff9b::c000:209"]);
        assert_eq!(counting(&names, "db.corp.example", &settings), public);
        settings.internal_names.insert("*.example.org".into());
        assert_eq!(counting(&names, "*.corp.example", &settings), public);
        settings.internal_names.insert("*.corp.example".into());
        let with: BTreeSet<_> = public.iter().copied().chain(addresses(&inside)).collect();
        assert_eq!(
            counting(&names, "*.corp.example", &settings),
            with,
            "what leads nowhere never counts"
        );
    }

    #[test]
    fn numbers_are_bounded_and_bad_names_refused() {
        let mut names = Names::default();
        for bad in [
            "",
            ".",
            "a..b",
            "*.example.com",
            "vh:a",
            "a b",
            "ü.example",
            &"a".repeat(64),
            &"a.".repeat(130),
        ] {
            assert!(
                matches!(
                    names.put("n", bad, &addresses(&["192.0.2.1"])),
                    Err(InvalidName::Name(_))
                ),
                "{bad}"
            );
        }
        let many = (0..=128u32)
            .map(|n| IpAddr::from(Ipv4Addr::from(0x0800_0000 + n)))
            .collect();
        assert!(matches!(
            names.put("n", "a", &many),
            Err(InvalidName::Addresses { count: 129, .. })
        ));
        for number in 0..NAMES_MAX {
            names
                .put("n", &format!("n{number}.example"), &addresses(&["192.0.2.1"]))
                .unwrap();
        }
        let one_more = names.put("n", "more.example", &addresses(&["192.0.2.1"]));
        assert_eq!(one_more, Err(InvalidName::TooMany("more.example".into())));
        assert_eq!(
            names.put("n", "n7.example", &addresses(&["192.0.2.2"])),
            Ok(true),
            "a known one changes"
        );
        names.put("n", "n7.example", &addresses(&[])).unwrap();
        assert_eq!(
            names.put("n", "more.example", &addresses(&["192.0.2.1"])),
            Ok(true)
        );
    }
}
