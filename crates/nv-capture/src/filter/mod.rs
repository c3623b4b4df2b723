//! Filters: the language of pcap-filter(7), with words of nv beside it.
//!
//! A filter is parsed to a tree, and the tree compiled to classic BPF that the kernel runs on the packet socket.
//! Words of nv need more than bytes; the kernel then leaves out what cannot match, and [`Filter::judge`] the rest.

mod ast;
mod bpf;
mod compile;
mod lex;
mod names;
mod parse;
mod words;

use std::fmt;
use std::str::FromStr;

use ast::Expr;
pub use bpf::{Instruction, InvalidProgram, MAX_INSTRUCTIONS, Program};
use words::Known;
pub use words::{Annotator, FlowNote, Party};

use crate::headers::Headers;
use crate::{LinkType, Packet};

/// Words of libpcap that are refused by name.
const UNSUPPORTED: [&str; 20] = [
    "aarp", "atalk", "clnp", "esis", "fddi", "gateway", "geneve", "ifname", "iso", "ipx", "isis", "llc",
    "mpls", "ppp", "pppoed", "pppoes", "slip", "tr", "type", "wlan",
];

/// A filter that cannot be used, with the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {problem}")]
pub struct FilterError {
    /// Character of the text, from 1.
    pub column: usize,
    /// What is wrong, and where it can be said what to do.
    pub problem: String,
}

impl FilterError {
    fn new(column: usize, problem: impl Into<String>) -> Self {
        Self {
            column,
            problem: problem.into(),
        }
    }
}

/// A filter. `Display` gives its text.
///
/// ```
/// use nv_capture::{Filter, LinkType};
///
/// let filter: Filter = "tcp port 80 and not workload web".parse()?;
/// assert!(filter.needs_annotator());
/// let error = "tcp prot 80".parse::<Filter>().unwrap_err();
/// assert_eq!(error.column, 5);
/// # Ok::<(), nv_capture::FilterError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    text: String,
    expr: Expr,
    judge: Judge,
}

/// The tree with its plain parts compiled, one program for each link type.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Judge {
    Plain(Vec<(LinkType, Program)>),
    Word(words::Word),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

/// Link types whose headers are known.
const LINKS: [LinkType; 6] = [
    LinkType::ETHERNET,
    LinkType::RAW,
    LinkType::LINUX_SLL,
    LinkType::LINUX_SLL2,
    LinkType::IPV4,
    LinkType::IPV6,
];

impl Judge {
    fn new(expr: &Expr) -> Result<Self, compile::TooComplex> {
        if expr.is_plain() {
            let mut programs = Vec::new();
            for link in LINKS {
                if let Some(program) = compile::program(expr, link, 1)? {
                    programs.push((link, program));
                }
            }
            return Ok(Self::Plain(programs));
        }
        let all = |parts: &[Expr]| parts.iter().map(Self::new).collect::<Result<Vec<_>, _>>();
        Ok(match expr {
            Expr::Word(word) => Self::Word(word.clone()),
            Expr::Not(inner) => Self::Not(Box::new(Self::new(inner)?)),
            Expr::And(parts) => Self::All(all(parts)?),
            Expr::Or(parts) => Self::Any(all(parts)?),
            Expr::All | Expr::Test { .. } => Self::Plain(Vec::new()),
        })
    }

    fn holds(&self, packet: &Packet<'_>, link: LinkType, known: &Known<'_>) -> bool {
        match self {
            Self::Plain(programs) => programs
                .iter()
                .find(|(of, _)| *of == link)
                .is_some_and(|(_, program)| program.run(packet.data, packet.original_len) != 0),
            Self::Word(word) => word.holds(known),
            Self::Not(inner) => !inner.holds(packet, link, known),
            Self::All(parts) => parts.iter().all(|part| part.holds(packet, link, known)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(packet, link, known)),
        }
    }
}

impl Filter {
    /// The filter of every packet.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            text: String::new(),
            expr: Expr::All,
            judge: Judge::All(Vec::new()),
        }
    }

    /// Whether it is [`Self::all`].
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.expr == Expr::All
    }

    /// Whether bytes alone cannot answer it: it asks for names, verdicts, applications or directions.
    #[must_use]
    pub fn needs_annotator(&self) -> bool {
        !self.expr.is_plain()
    }

    /// The program for packets of this link type, with words of nv taken for true where that keeps more packets.
    /// `None` when the headers of that type are not known.
    #[must_use]
    pub fn program(&self, link: LinkType) -> Option<Program> {
        compile::program(&upper(&self.expr), link, LinkType::KEEP)
            .ok()
            .flatten()
    }

    /// The program for a packet socket on interfaces of any type: keeps `keep` bytes, and at least every packet of
    /// this filter that is as long as its tests need it to be. `None` when it is longer than the kernel takes.
    #[must_use]
    pub(crate) fn socket_program(&self, skip_loopback: bool, keep: u32) -> Option<Program> {
        compile::socket_program(&upper(&self.expr), skip_loopback, keep).ok()
    }

    /// Whether this packet, seen on an interface of this link type, is one of the filter's. A test that reads past the
    /// end of the packet does not hold, and neither does anything around it that has no word of nv inside.
    #[must_use]
    pub fn judge(&self, packet: &Packet<'_>, link: LinkType, annotator: Option<&dyn Annotator>) -> bool {
        let needs = self.needs_annotator();
        let known = Known {
            annotator,
            direction: packet.direction,
            headers: if needs {
                Headers::parse(link, packet.data)
            } else {
                None
            },
        };
        self.judge.holds(packet, link, &known)
    }
}

/// The smallest plain filter that keeps every packet of `expr`.
fn upper(expr: &Expr) -> Expr {
    bound(expr, true)
}

/// `expr` with every word of nv replaced by what makes the whole true (`above`) or false. What is decided by that
/// is left out: a test that reads past the end of a packet must not stand before it.
fn bound(expr: &Expr, above: bool) -> Expr {
    let never = || Expr::Not(Box::new(Expr::All));
    match expr {
        Expr::Word(_) if above => Expr::All,
        Expr::Word(_) => never(),
        Expr::Not(inner) => match bound(inner, !above) {
            Expr::Not(twice) => *twice,
            once => Expr::Not(Box::new(once)),
        },
        Expr::And(inner) => join(inner, above, &Expr::All, &never(), Expr::And),
        Expr::Or(inner) => join(inner, above, &never(), &Expr::All, Expr::Or),
        plain @ (Expr::All | Expr::Test { .. }) => plain.clone(),
    }
}

/// Joins the bounds of parts: those that change nothing are left out, one that decides stands alone.
fn join(parts: &[Expr], above: bool, nothing: &Expr, decides: &Expr, whole: fn(Vec<Expr>) -> Expr) -> Expr {
    let mut kept = Vec::new();
    for part in parts {
        let part = bound(part, above);
        if part == *decides {
            return part;
        }
        if part != *nothing {
            kept.push(part);
        }
    }
    match kept.pop() {
        None => nothing.clone(),
        Some(only) if kept.is_empty() => only,
        Some(last) => {
            kept.push(last);
            whole(kept)
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expr = parse::parse(text)?;
        let complex = |_| {
            FilterError::new(
                1,
                format!("needs more than the kernel's {MAX_INSTRUCTIONS} instructions or 16 scratch words"),
            )
        };
        let judge = Judge::new(&expr).map_err(complex)?;
        Ok(Self {
            text: text.to_owned(),
            expr,
            judge,
        })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
