//! As much of DNS (RFC 1035) as it takes to learn addresses from answers: one question, and of the answer section the addresses that it leads
//! to. Whatever is not understood is no answer; nothing is read past its end, no pointer is followed but backwards.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Records of an answer that are looked at.
const RECORDS: usize = 256;
/// Aliases that are followed.
const ALIASES: usize = 16;
/// Longest name, its dots counted (RFC 1035, 2.3.4).
const LONGEST: usize = 253;
/// Pointers in one name; each goes back, so that none is needed twice.
const POINTERS: usize = 32;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const ANY: u16 = 255;
const INTERNET: u16 = 1;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const RCODE: u16 = 0x000f;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) id: u16,
    /// Lower case, without a dot at the end.
    pub(crate) name: String,
    pub(crate) kind: u16,
}

/// An address that the name in the question leads to, and for how many seconds.
pub(crate) type Found = BTreeMap<IpAddr, u32>;

/// Reads one thing after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let end = self.at.checked_add(N)?;
        let field = self.bytes.get(self.at..end)?.try_into().ok()?;
        self.at = end;
        Some(field)
    }

    fn number(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    /// A name in lower case. One that is no host's (a label with other bytes) is read and comes out empty, as the root does.
    fn name(&mut self) -> Option<String> {
        let (mut name, mut at, mut back_at, mut is_host) = (String::new(), self.at, None, true);
        let mut lowest = self.at;
        for _ in 0..POINTERS + 128 {
            let length = *self.bytes.get(at)?;
            match length & 0xc0 {
                0 if length == 0 => {
                    self.at = back_at.unwrap_or(at + 1);
                    return Some(if is_host { name } else { String::new() });
                }
                0 => {
                    let label = self.bytes.get(at + 1..at + 1 + usize::from(length))?;
                    at += 1 + label.len();
                    if !name.is_empty() {
                        name.push('.');
                    }
                    for byte in label {
                        is_host &= byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_';
                        name.push(char::from(byte.to_ascii_lowercase()));
                    }
                    if name.len() > LONGEST {
                        return None;
                    }
                }
                0xc0 => {
                    let low = *self.bytes.get(at + 1)?;
                    let target = usize::from(length & 0x3f) << 8 | usize::from(low);
                    // To an earlier place, each time: no loop ends nowhere.
                    if target >= lowest {
                        return None;
                    }
                    back_at = back_at.or(Some(at + 2));
                    (at, lowest) = (target, target);
                }
                _ => return None,
            }
        }
        None
    }
}

/// Header and question; the reader stands behind them. `None` for anything but one question of the ordinary kind.
fn begin<'a>(bytes: &'a [u8], is_response: bool) -> Option<(Reader<'a>, Question, u16, u16)> {
    let mut reader = Reader { bytes, at: 0 };
    let (id, flags) = (reader.number()?, reader.number()?);
    if (flags & RESPONSE != 0) != is_response || flags & OPCODE != 0 || reader.number()? != 1 {
        return None;
    }
    let answers = reader.number()?;
    reader.take::<4>()?;
    let name = reader.name()?;
    let (kind, class) = (reader.number()?, reader.number()?);
    if name.is_empty() || class != INTERNET || !matches!(kind, A | AAAA | ANY) {
        return None;
    }
    Some((reader, Question { id, name, kind }, flags, answers))
}

/// A question for addresses.
pub(crate) fn question(bytes: &[u8]) -> Option<Question> {
    begin(bytes, false).map(|(_, question, ..)| question)
}

/// An answer to a question for addresses, and the addresses: those of the name itself, and those of what it is an alias of, over
/// several steps. An address counts as long as the shortest-lived record on the way to it.
pub(crate) fn answer(bytes: &[u8]) -> Option<(Question, Found)> {
    let (mut reader, question, flags, answers) = begin(bytes, true)?;
    if flags & RCODE != 0 {
        return Some((question, Found::new()));
    }
    let mut addresses: BTreeMap<String, Found> = BTreeMap::new();
    let mut aliases: BTreeMap<String, (String, u32)> = BTreeMap::new();
    for _ in 0..usize::from(answers).min(RECORDS) {
        let owner = reader.name()?;
        let (kind, class) = (reader.number()?, reader.number()?);
        let seconds = u32::from_be_bytes(reader.take()?);
        // RFC 2181, 8: with the first bit set it counts as none.
        let seconds = if seconds >> 31 == 0 { seconds } else { 0 };
        let length = usize::from(reader.number()?);
        let end = reader.at.checked_add(length).filter(|end| *end <= bytes.len())?;
        let asked = |kind| question.kind == kind || question.kind == ANY;
        if class == INTERNET && !owner.is_empty() {
            let address = match (kind, length) {
                (A, 4) if asked(A) => reader.take::<4>().map(|a| IpAddr::V4(Ipv4Addr::from(a))),
                (AAAA, 16) if asked(AAAA) => reader.take::<16>().map(|a| IpAddr::V6(Ipv6Addr::from(a))),
                (CNAME, _) => {
                    let target = reader.name().filter(|_| reader.at == end)?;
                    aliases.insert(owner.clone(), (target, seconds));
                    None
                }
                _ => None,
            };
            if let Some(address) = address {
                let life = addresses.entry(owner).or_default().entry(address).or_default();
                *life = seconds.max(*life);
            }
        }
        reader.at = end;
    }
    let (mut name, mut shortest) = (&question.name, u32::MAX);
    let mut found = Found::new();
    for _ in 0..=ALIASES {
        for (address, seconds) in addresses.get(name).into_iter().flatten() {
            found.insert(*address, shortest.min(*seconds));
        }
        let Some((target, seconds)) = aliases.get(name) else {
            break;
        };
        (name, shortest) = (target, shortest.min(*seconds));
    }
    Some((question, found))
}

#[cfg(test)]
pub(crate) mod samples {
    use std::net::IpAddr;

    /// A name without compression.
    pub(crate) fn name(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in text.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes
    }

    pub(crate) fn query(id: u16, of: &str, kind: u16) -> Vec<u8> {
        let head = [id, 0x0100, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
        [head, name(of), kind.to_be_bytes().into(), vec![0, 1]].concat()
    }

    /// A record: its owner as bytes, its kind, seconds, and data.
    pub(crate) fn record(owner: &[u8], kind: u16, seconds: u32, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        let kind = kind.to_be_bytes();
        [owner, &kind, &[0, 1], &seconds.to_be_bytes(), &length, data].concat()
    }

    pub(crate) fn address(owner: &[u8], seconds: u32, address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(v4) => record(owner, 1, seconds, &v4.octets()),
            IpAddr::V6(v6) => record(owner, 28, seconds, &v6.octets()),
        }
    }

    pub(crate) fn response(id: u16, of: &str, kind: u16, records: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = query(id, of, kind);
        bytes[2] = 0x81;
        bytes[3] = 0x80;
        bytes[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
        bytes.extend(records.concat());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::samples::{address, name, query, record, response};
    use super::*;

    /// A pointer to the name in the question.
    const ASKED: &[u8] = &[0xc0, 12];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn found(message: &[u8]) -> Option<Vec<(String, u32)>> {
        let (_, found) = answer(message)?;
        Some(found.into_iter().map(|(a, s)| (a.to_string(), s)).collect())
    }

    fn list(of: &[(&str, u32)]) -> Option<Vec<(String, u32)>> {
        Some(of.iter().map(|(a, s)| ((*a).to_owned(), *s)).collect())
    }

    #[test]
    fn questions_are_for_addresses_of_a_host() {
        let asked = question(&query(7, "API.Example.test", A)).unwrap();
        assert_eq!(
            (asked.id, asked.name.as_str(), asked.kind),
            (7, "api.example.test", A)
        );
        for other in [16, 15, 65, 12] {
            assert_eq!(question(&query(7, "a.test", other)), None);
        }
        assert_eq!(question(&query(7, "", A)), None, "the root has no address");
        assert_eq!(question(&query(7, "a b.test", A)), None);
        assert_eq!(question(&response(7, "a.test", A, &[])), None);
        assert_eq!(answer(&query(7, "a.test", A)), None);
    }

    #[test]
    fn aliases_are_followed_within_the_answer_and_the_shortest_life_counts() {
        let mut records = vec![
            address(&name("b.cdn.test"), 300, ip("192.0.2.2")),
            record(&name("a.cdn.test"), CNAME, 20, &name("B.CDN.test")),
            record(ASKED, CNAME, 60, &name("a.cdn.test")),
            address(&name("other.test"), 300, ip("192.0.2.9")),
            address(&name("b.cdn.test"), 10, ip("192.0.2.3")),
        ];
        let message = response(1, "www.test", A, &records);
        assert_eq!(found(&message), list(&[("192.0.2.2", 20), ("192.0.2.3", 10)]));
        records.remove(1);
        assert_eq!(found(&response(1, "www.test", A, &records)), list(&[]));
        // Aliases in a circle lead nowhere, and end.
        let circle = [
            record(ASKED, CNAME, 60, &name("a.test")),
            record(&name("a.test"), CNAME, 60, ASKED),
        ];
        assert_eq!(found(&response(1, "www.test", A, &circle)), list(&[]));
    }

    #[test]
    fn only_what_was_asked_for_counts() {
        let both = [
            address(ASKED, 5, ip("192.0.2.1")),
            address(ASKED, 6, ip("2001:db8::1")),
        ];
        assert_eq!(found(&response(1, "a.test", A, &both)), list(&[("192.0.2.1", 5)]));
        assert_eq!(
            found(&response(1, "a.test", AAAA, &both)),
            list(&[("2001:db8::1", 6)])
        );
        assert_eq!(
            found(&response(1, "a.test", ANY, &both)),
            list(&[("192.0.2.1", 5), ("2001:db8::1", 6)])
        );
        let mut failed = response(1, "a.test", A, &both);
        failed[3] |= 3;
        assert_eq!(found(&failed), list(&[]), "no such name");
        let forever = [address(ASKED, 1 << 31, ip("192.0.2.1"))];
        assert_eq!(
            found(&response(1, "a.test", A, &forever)),
            list(&[("192.0.2.1", 0)])
        );
    }

    #[test]
    fn what_contradicts_itself_is_no_answer() {
        let good = response(1, "a.test", A, &[address(ASKED, 5, ip("192.0.2.1"))]);
        for cut in 0..good.len() {
            assert_eq!(found(&good[..cut]), None, "cut at {cut}");
        }
        for owner in [
            &[0xc0, 0xff][..],    // beyond the end
            &[0xc0, 24],          // to itself (the question takes 24 bytes)
            &[0xc0, 26],          // forwards
            &[1, b'a', 0xc0, 24], // a loop through a label
            &[0x40, 0],           // a kind of label that there is none of
            &[63, b'a'],          // longer than what is there
        ] {
            let message = response(1, "a.test", A, &[address(owner, 5, ip("192.0.2.1"))]);
            assert_eq!(found(&message), None, "{owner:?}");
        }
        let long = [name(&"a.".repeat(127))[..254].to_vec(), vec![1, b'a', 0]].concat();
        let message = response(1, "a.test", A, &[address(&long, 5, ip("192.0.2.1"))]);
        assert_eq!(found(&message), None, "a name that is too long");
        let short = response(1, "a.test", A, &[record(ASKED, A, 5, &[192, 0, 2])]);
        assert_eq!(found(&short), list(&[]), "three bytes are no address");
        let mut two = good;
        two[5] = 2;
        assert_eq!(found(&two), None, "two questions");
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_makes_it_stumble(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), shape in any::<bool>()) {
            if shape && bytes.len() > 12 {
                bytes[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 40]);
            }
            let _ = (question(&bytes), answer(&bytes));
        }

        #[test]
        fn every_address_that_is_sent_is_found(
            list in proptest::collection::btree_map(any::<[u8; 16]>(), 0u32..1000, 0..40), id in any::<u16>(),
        ) {
            let records: Vec<_> = list.iter().map(|(a, s)| address(ASKED, *s, IpAddr::from(*a))).collect();
            let (question, found) = answer(&response(id, "x.y.test", AAAA, &records)).unwrap();
            prop_assert_eq!((question.id, question.name.as_str()), (id, "x.y.test"));
            let expected: Found = list.into_iter().map(|(a, s)| (IpAddr::from(a), s)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
