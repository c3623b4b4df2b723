//! Which flows: the words that `GET /v1/flow?where=…` and `nvctl flows` know, and what they mean.
//!
//! A filter is a list of clauses with `;` between them; all must hold. A clause is `[not ]WORD VALUE[,VALUE…]`; one of its values must
//! be met, or with `not` none of them.
//!
//! Words are a side and what is asked of it. The sides: `from` (the client), `to` (the server), or neither word for any of the two. What
//! is asked: nothing (`from web`, and `either web` for any side: a name, an id, a service or its group, an address or CIDR, `external`),
//! or one of `namespace`, `workload`, `label`, `ip`, `port`, `service` (`from-ip 10.0.0.0/8`, `label app=web`). And without a side:
//! `verdict`, `protocol`, `application`, `family` (4 or 6), `node`.
//!
//! ```
//! use nv_api::filter::{End, Facts, FlowFilter};
//! use nv_types::{IpProto, Verdict};
//!
//! let filter = FlowFilter::parse("from web;not ip 10.0.0.0/8;verdict alert,deny").unwrap();
//! let mut facts = Facts {
//!     client: End { name: "web", address: "192.0.2.1".parse().ok(), ..End::default() },
//!     server: End { name: "app", address: "192.0.2.2".parse().ok(), ..End::default() },
//!     proto: IpProto::TCP,
//!     verdict: Some(Verdict::Deny),
//!     application: "",
//!     node: "",
//! };
//! assert!(filter.lets_through(&facts));
//! facts.server.address = "10.1.2.3".parse().ok();
//! assert!(!filter.lets_through(&facts));
//! assert!(FlowFilter::parse("from-ip 10.0.0.0/33").unwrap_err().to_string().contains("10.0.0.0/33"));
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use nv_types::{IpPrefix, IpProto, Verdict, v4_mapped};

/// Most clauses and most values of one filter.
const MOST: usize = 256;
/// Shortest start of an id that stands for it.
const SHORTEST_ID: usize = 4;

/// Which end of a flow a word speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client.
    From,
    /// The server.
    To,
    /// Any of the two.
    Either,
}

/// What a word asks of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Name, id, service, group, address, CIDR or `external`.
    Name,
    /// Domain.
    Namespace,
    /// Start of a name or an id.
    Workload,
    /// `key=value`, or `key` for any value.
    Label,
    /// Address or CIDR.
    Ip,
    /// Port.
    Port,
    /// Service or its group.
    Service,
}

/// A filter's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Of an end.
    End(Side, Of),
    /// `allow`, `alert`, `deny`.
    Verdict,
    /// By name or number.
    Protocol,
    /// By name, `unknown` where none was found.
    Application,
    /// 4 or 6.
    Family,
    /// Where it was seen.
    Node,
}

/// Every word, as it is written.
const WORDS: [(Word, &str); 26] = [
    (Word::End(Side::From, Of::Name), "from"),
    (Word::End(Side::From, Of::Namespace), "from-namespace"),
    (Word::End(Side::From, Of::Workload), "from-workload"),
    (Word::End(Side::From, Of::Label), "from-label"),
    (Word::End(Side::From, Of::Ip), "from-ip"),
    (Word::End(Side::From, Of::Port), "from-port"),
    (Word::End(Side::From, Of::Service), "from-service"),
    (Word::End(Side::To, Of::Name), "to"),
    (Word::End(Side::To, Of::Namespace), "to-namespace"),
    (Word::End(Side::To, Of::Workload), "to-workload"),
    (Word::End(Side::To, Of::Label), "to-label"),
    (Word::End(Side::To, Of::Ip), "to-ip"),
    (Word::End(Side::To, Of::Port), "to-port"),
    (Word::End(Side::To, Of::Service), "to-service"),
    (Word::End(Side::Either, Of::Name), "either"),
    (Word::End(Side::Either, Of::Namespace), "namespace"),
    (Word::End(Side::Either, Of::Workload), "workload"),
    (Word::End(Side::Either, Of::Label), "label"),
    (Word::End(Side::Either, Of::Ip), "ip"),
    (Word::End(Side::Either, Of::Port), "port"),
    (Word::End(Side::Either, Of::Service), "service"),
    (Word::Verdict, "verdict"),
    (Word::Protocol, "protocol"),
    (Word::Application, "application"),
    (Word::Family, "family"),
    (Word::Node, "node"),
];

impl Word {
    /// Every word.
    pub fn all() -> impl Iterator<Item = Self> {
        WORDS.iter().map(|(word, _)| *word)
    }

    /// As it is written: `from-ip`, `ip`, `either`, `verdict`.
    #[must_use]
    pub fn name(self) -> &'static str {
        WORDS
            .iter()
            .find(|(word, _)| *word == self)
            .map_or("", |(_, name)| name)
    }
}

/// A clause or a whole filter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidFilter(String);

impl std::fmt::Display for InvalidFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidFilter {}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Label(String, Option<String>),
    Prefix(IpPrefix),
    Number(u16),
    Verdict(Verdict),
}

/// One clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    not: bool,
    word: Word,
    values: Vec<Value>,
    /// As it was written.
    texts: Vec<String>,
}

impl Clause {
    /// A clause of this word that one of the values must meet, or none with `not`.
    ///
    /// # Errors
    /// [`InvalidFilter`] names the word and the value.
    pub fn new(not: bool, word: Word, texts: &[String]) -> Result<Self, InvalidFilter> {
        let texts: Vec<String> = texts
            .iter()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .collect();
        if texts.is_empty() {
            return Err(InvalidFilter(format!("{}: a value is missing", word.name())));
        }
        let values = texts
            .iter()
            .map(|text| value(word, text))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            not,
            word,
            values,
            texts,
        })
    }

    /// Whether it is of the same word and sense, so that its values can join this one's.
    fn joins(&self, other: &Self) -> bool {
        !self.not && !other.not && self.word == other.word
    }

    fn holds(&self, facts: &Facts<'_>) -> bool {
        self.not != self.values.iter().any(|value| meets(self.word, value, facts))
    }
}

/// Clauses that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowFilter {
    clauses: Vec<Clause>,
}

impl FlowFilter {
    /// Reads clauses with `;` between them.
    ///
    /// # Errors
    /// [`InvalidFilter`] names the clause.
    pub fn parse(text: &str) -> Result<Self, InvalidFilter> {
        let mut filter = Self::default();
        for clause in text.split(';').map(str::trim).filter(|clause| !clause.is_empty()) {
            let (not, rest) = match clause.strip_prefix("not ") {
                Some(rest) => (true, rest.trim_start()),
                None => (false, clause),
            };
            let (name, values) = rest.split_once(' ').unwrap_or((rest, ""));
            let word = Word::all().find(|word| word.name() == name).ok_or_else(|| {
                let known = Word::all().map(Word::name).collect::<Vec<_>>().join(", ");
                InvalidFilter(format!(
                    "'{clause}': there is no word '{name}'; there are {known}"
                ))
            })?;
            let values: Vec<String> = values.split(',').map(str::to_owned).collect();
            filter.push(Clause::new(not, word, &values)?)?;
        }
        Ok(filter)
    }

    /// Adds a clause. Values of the same word are alternatives.
    ///
    /// # Errors
    /// [`InvalidFilter`] when it becomes too long.
    pub fn push(&mut self, clause: Clause) -> Result<(), InvalidFilter> {
        match self.clauses.iter_mut().find(|known| known.joins(&clause)) {
            Some(known) => {
                known.values.extend(clause.values);
                known.texts.extend(clause.texts);
            }
            None => self.clauses.push(clause),
        }
        let values: usize = self.clauses.iter().map(|clause| clause.values.len()).sum();
        if values > MOST {
            return Err(InvalidFilter(format!("a filter has at most {MOST} values")));
        }
        Ok(())
    }

    /// Whether nothing is asked.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.clauses.is_empty()
    }

    /// Words that are used.
    pub fn words(&self) -> impl Iterator<Item = Word> {
        self.clauses.iter().map(|clause| clause.word)
    }

    /// Whether a flow is meant.
    #[must_use]
    pub fn lets_through(&self, facts: &Facts<'_>) -> bool {
        self.clauses.iter().all(|clause| clause.holds(facts))
    }
}

/// The form that [`FlowFilter::parse`] reads.
impl std::fmt::Display for FlowFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, clause) in self.clauses.iter().enumerate() {
            let between = if at == 0 { "" } else { ";" };
            let not = if clause.not { "not " } else { "" };
            write!(
                f,
                "{between}{not}{} {}",
                clause.word.name(),
                clause.texts.join(",")
            )?;
        }
        Ok(())
    }
}

/// What is known of a flow.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Who opened it.
    pub client: End<'a>,
    /// Whom it was opened to.
    pub server: End<'a>,
    /// Protocol.
    pub proto: IpProto,
    /// Verdict, where there is one.
    pub verdict: Option<Verdict>,
    /// Application; empty while it is not known.
    pub application: &'a str,
    /// Node that saw it.
    pub node: &'a str,
}

/// What is known of an end; what is not is empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct End<'a> {
    /// Workload's id, `external` or `Host:<node>`.
    pub id: &'a str,
    /// Name.
    pub name: &'a str,
    /// Group of its service: `nv.web`, `nv.web.shop`.
    pub group: &'a str,
    /// Domain.
    pub domain: &'a str,
    /// Labels.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// Address.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: u16,
}

impl End<'_> {
    /// By its group, with or without what the group's name adds to the service's.
    fn is_of_service(&self, text: &str) -> bool {
        if self.group.is_empty() {
            return false;
        }
        let service = self.group.strip_prefix("nv.").unwrap_or(self.group);
        let bare = service
            .strip_suffix(self.domain)
            .and_then(|rest| rest.strip_suffix('.'));
        text == self.group || text == service || bare == Some(text)
    }

    fn is(&self, of: Of, value: &Value) -> bool {
        let begins = |text: &String| {
            self.name.starts_with(text.as_str())
                || (text.len() >= SHORTEST_ID && self.id.starts_with(text.as_str()))
        };
        match (of, value) {
            (_, Value::Prefix(prefix)) => self.address.is_some_and(|address| is_in(address, *prefix)),
            (Of::Name, Value::Text(text)) => text == self.id || text == self.name || self.is_of_service(text),
            (Of::Namespace, Value::Text(text)) => text == self.domain,
            (Of::Workload, Value::Text(text)) => begins(text),
            (Of::Service, Value::Text(text)) => self.is_of_service(text),
            (Of::Label, Value::Label(key, wanted)) => {
                let found = self.labels.and_then(|labels| labels.get(key));
                found.is_some_and(|found| wanted.as_ref().is_none_or(|wanted| wanted == found))
            }
            (Of::Port, Value::Number(port)) => *port == self.port,
            _ => false,
        }
    }
}

/// Within its own family: `::/0` is not what IPv4 addresses are in.
fn is_in(address: IpAddr, prefix: IpPrefix) -> bool {
    let is_v4 = prefix.len >= 96 && Ipv6Addr::from(prefix.addr).to_ipv4_mapped().is_some();
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.len)).unwrap_or(0);
    address.is_ipv4() == is_v4
        && u128::from_be_bytes(v4_mapped(address)) & mask == u128::from_be_bytes(prefix.addr)
}

fn meets(word: Word, value: &Value, facts: &Facts<'_>) -> bool {
    match (word, value) {
        (Word::End(side, of), value) => {
            (side != Side::To && facts.client.is(of, value))
                || (side != Side::From && facts.server.is(of, value))
        }
        (Word::Verdict, Value::Verdict(verdict)) => facts.verdict == Some(*verdict),
        (Word::Protocol, Value::Text(text)) => {
            text.eq_ignore_ascii_case(&facts.proto.to_string())
                || text.eq_ignore_ascii_case(&facts.proto.for_policy().to_string())
                || *text == facts.proto.0.to_string()
        }
        (Word::Application, Value::Text(text)) => {
            let found = if facts.application.is_empty() {
                "unknown"
            } else {
                facts.application
            };
            text.eq_ignore_ascii_case(found)
        }
        (Word::Family, Value::Number(family)) => {
            let address = facts.client.address.or(facts.server.address);
            address.is_some_and(|address| {
                if *family == 4 {
                    address.is_ipv4()
                } else {
                    address.is_ipv6()
                }
            })
        }
        (Word::Node, Value::Text(text)) => text == facts.node,
        _ => false,
    }
}

fn value(word: Word, text: &str) -> Result<Value, InvalidFilter> {
    let wrong = |needed: &str| InvalidFilter(format!("{}: '{text}' is {needed}", word.name()));
    Ok(match word {
        Word::End(_, Of::Ip) => Value::Prefix(prefix(text).ok_or_else(|| wrong("no address and no CIDR"))?),
        // A name has no '/': what looks like a CIDR and is none is a slip.
        Word::End(_, Of::Name) => match prefix(text) {
            Some(prefix) => Value::Prefix(prefix),
            None if text.contains('/') => return Err(wrong("no CIDR")),
            None => Value::Text(text.to_owned()),
        },
        Word::End(_, Of::Port) => Value::Number(text.parse().map_err(|_error| wrong("no port"))?),
        Word::End(_, Of::Label) => match text.split_once('=') {
            Some(("", _)) => return Err(wrong("no label: write key=value, or key")),
            Some((key, wanted)) => Value::Label(key.to_owned(), Some(wanted.to_owned())),
            None => Value::Label(text.to_owned(), None),
        },
        Word::Family => match text {
            "4" => Value::Number(4),
            "6" => Value::Number(6),
            _ => return Err(wrong("neither 4 nor 6")),
        },
        Word::Verdict => Value::Verdict(verdict(text).ok_or_else(|| wrong("none of allow, alert, deny"))?),
        Word::End(..) | Word::Protocol | Word::Application | Word::Node => Value::Text(text.to_owned()),
    })
}

/// A verdict by its name, or by NeuVector's word for it.
#[must_use]
pub fn verdict(text: &str) -> Option<Verdict> {
    if text == "violate" {
        return Some(Verdict::Alert);
    }
    [Verdict::Allow, Verdict::Alert, Verdict::Deny]
        .into_iter()
        .find(|verdict| verdict.name() == text)
}

/// A protocol by its name or number.
#[must_use]
pub fn protocol(text: &str) -> Option<IpProto> {
    let known = [
        IpProto::TCP,
        IpProto::UDP,
        IpProto::ICMP,
        IpProto::ICMPV6,
        IpProto::SCTP,
    ];
    known
        .into_iter()
        .find(|proto| proto.name().is_some_and(|name| name.eq_ignore_ascii_case(text)))
        .or_else(|| text.parse().ok().map(IpProto))
}

fn prefix(text: &str) -> Option<IpPrefix> {
    let (address, len) = text
        .split_once('/')
        .map_or((text, None), |(address, len)| (address, Some(len)));
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let len = len.map_or(Some(longest), |len| len.parse::<u8>().ok())?;
    (len <= longest).then(|| IpPrefix::new(address, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(labels: &'a BTreeMap<String, String>) -> Facts<'a> {
        Facts {
            client: End {
                id: "abcdef0123456789",
                name: "shop-web-1",
                group: "nv.web.shop",
                domain: "shop",
                labels: Some(labels),
                address: "10.1.2.3".parse().ok(),
                port: 40_000,
            },
            server: End {
                id: "external",
                name: "external",
                address: "192.0.2.9".parse().ok(),
                port: 443,
                ..End::default()
            },
            proto: IpProto::TCP,
            verdict: Some(Verdict::Alert),
            application: "TLS",
            node: "here",
        }
    }

    #[test]
    fn every_word_asks_what_it_says_of_the_side_it_says() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let facts = of(&labels);
        for (text, holds) in [
            ("", true),
            ("from shop-web-1", true),
            ("from shop-web", false),
            ("to shop-web-1", false),
            ("either shop-web-1", true),
            ("from abcdef0123456789", true),
            ("from web", true),
            ("from nv.web.shop", true),
            ("from web.shop", true),
            ("from nv.web", false),
            ("to external", true),
            ("to 192.0.2.9", true),
            ("either 192.0.2.0/24", true),
            ("from 192.0.2.0/24", false),
            ("either ::/0", false),
            ("from-workload shop-w", true),
            ("from-workload abcd", true),
            ("from-workload abc", false),
            ("workload extern", true),
            ("from-namespace shop", true),
            ("to-namespace shop", false),
            ("namespace shop", true),
            ("from-label app=web", true),
            ("label app", true),
            ("label app=db", false),
            ("to-label app", false),
            ("from-ip 10.0.0.0/8", true),
            ("ip 10.1.2.3", true),
            ("to-ip 10.0.0.0/8", false),
            ("from-port 40000", true),
            ("to-port 443", true),
            ("port 443", true),
            ("to-port 40000", false),
            ("service web", true),
            ("to-service web", false),
            ("verdict alert", true),
            ("verdict violate", true),
            ("verdict allow,deny", false),
            ("protocol TCP", true),
            ("protocol 6", true),
            ("protocol udp", false),
            ("application tls", true),
            ("application unknown", false),
            ("family 4", true),
            ("family 6", false),
            ("node here", true),
            ("node there", false),
            ("not from web", false),
            ("not to web", true),
            ("not ip 10.0.0.0/8", false),
            ("not verdict allow,deny", true),
            ("from db,web", true),
            ("from db; from web", true),
            ("from web; to db", false),
            ("not from db; not from app", true),
            ("not from db; not from web", false),
        ] {
            let filter = FlowFilter::parse(text).unwrap();
            assert_eq!(filter.lets_through(&facts), holds, "{text}");
            assert_eq!(FlowFilter::parse(&filter.to_string()), Ok(filter), "{text}");
        }
    }

    #[test]
    fn no_labels_no_group_and_no_domain_are_nobodys() {
        let mut facts = of(const { &BTreeMap::new() });
        facts.client = End::default();
        facts.server = End::default();
        for text in ["label app", "service .", "ip 0.0.0.0/0", "family 4", "from nv."] {
            assert!(!FlowFilter::parse(text).unwrap().lets_through(&facts), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, says) in [
            ("colour red", "'colour'"),
            ("from", "from: a value is missing"),
            ("not", "'not'"),
            ("from-ip 10.0.0.300", "'10.0.0.300'"),
            ("ip 10.0.0.0/33", "'10.0.0.0/33'"),
            ("from 10.0.0.0/33", "'10.0.0.0/33'"),
            ("ip ::/129", "'::/129'"),
            ("port 65536", "'65536'"),
            ("port tcp/80", "'tcp/80'"),
            ("verdict denied", "'denied'"),
            ("family 5", "'5'"),
            ("label =x", "'=x'"),
        ] {
            let error = FlowFilter::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(FlowFilter::parse(&format!("from {}", ["x"; MOST + 1].join(","))).is_err());
    }

    #[test]
    fn words_are_written_in_one_way() {
        let names: std::collections::BTreeSet<_> = Word::all().map(Word::name).collect();
        assert_eq!(names.len(), 26);
        assert!(Word::all().all(|word| !word.name().is_empty()));
    }
}
