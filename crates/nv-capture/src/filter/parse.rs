//! Tokens to a tree, by the grammar of pcap-filter(7): `and` and `or` have the same precedence and bind to the
//! left, `not` binds closest, and a bare id takes the qualifiers of the id before it.

mod arith;
mod port;
mod primitive;

use super::FilterError;
use super::ast::{Expr, Side};
use super::lex::{Tok, Token, tokens};
use super::names::Proto;

/// Deepest nesting of parentheses and `not`.
const MAX_DEPTH: u32 = 100;
/// Most primitives of a filter.
const MAX_TERMS: usize = 1024;

/// What an id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Proto,
    Workload,
    Group,
    Service,
    Domain,
}

/// Qualifiers of a primitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quals {
    proto: Option<Proto>,
    side: Side,
    kind: Kind,
}

/// Parses a filter; an empty one is every packet.
pub(super) fn parse(text: &str) -> Result<Expr, FilterError> {
    let tokens = tokens(text)?;
    let closing = closings(&tokens);
    let mut parser = Parser {
        tokens,
        closing,
        at: 0,
        depth: 0,
        terms: 0,
        quals: None,
        shift: 0,
    };
    if *parser.peek() == Tok::End {
        return Ok(Expr::All);
    }
    let expr = parser.expr(false)?;
    match parser.peek() {
        Tok::End => Ok(expr),
        Tok::Sign(")") => Err(parser.wrong("this parenthesis was not opened")),
        _ => Err(parser.wrong("'and' or 'or' is missing before this")),
    }
}

/// For each opening parenthesis the place of its closing one.
fn closings(tokens: &[Token]) -> Vec<usize> {
    let mut closing = vec![usize::MAX; tokens.len()];
    let mut open = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.tok {
            Tok::Sign("(") => open.push(at),
            Tok::Sign(")") => {
                if let Some(place) = open.pop().and_then(|start: usize| closing.get_mut(start)) {
                    *place = at;
                }
            }
            _ => {}
        }
    }
    closing
}

struct Parser {
    tokens: Vec<Token>,
    closing: Vec<usize>,
    at: usize,
    depth: u32,
    terms: usize,
    /// Of the id before, for a bare one.
    quals: Option<Quals>,
    /// Bytes of tags that `vlan` has stepped over so far.
    shift: u32,
}

impl Parser {
    fn peek(&self) -> &Tok {
        self.tokens.get(self.at).map_or(&Tok::End, |token| &token.tok)
    }

    fn peek_at(&self, at: usize) -> &Tok {
        self.tokens.get(at).map_or(&Tok::End, |token| &token.tok)
    }

    /// The next word, if it is one that may be a keyword.
    fn keyword(&self) -> Option<&str> {
        match self.peek() {
            Tok::Word { text, escaped: false } => Some(text),
            _ => None,
        }
    }

    fn take(&mut self) -> Tok {
        let tok = self.peek().clone();
        // The end stays where it is.
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        tok
    }

    fn took(&mut self, sign: &'static str) -> bool {
        let is = *self.peek() == Tok::Sign(sign);
        if is {
            self.take();
        }
        is
    }

    fn took_word(&mut self, word: &str) -> bool {
        let is = self.keyword() == Some(word);
        if is {
            self.take();
        }
        is
    }

    fn column(&self) -> usize {
        self.tokens.get(self.at).map_or(1, |token| token.column)
    }

    fn wrong(&self, problem: impl Into<String>) -> FilterError {
        FilterError::new(self.column(), problem)
    }

    fn deeper<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, FilterError>,
    ) -> Result<T, FilterError> {
        if self.depth >= MAX_DEPTH {
            return Err(self.wrong(format!("nested deeper than {MAX_DEPTH}")));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn expr(&mut self, bare: bool) -> Result<Expr, FilterError> {
        let mut left = self.term(bare)?;
        loop {
            match self.peek() {
                Tok::And => {
                    self.take();
                    left = left.and(self.term(true)?);
                }
                Tok::Or => {
                    self.take();
                    left = left.or(self.term(true)?);
                }
                _ => return Ok(left),
            }
        }
    }

    /// `bare`: an id without qualifiers may stand here.
    fn term(&mut self, bare: bool) -> Result<Expr, FilterError> {
        self.terms += 1;
        if self.terms > MAX_TERMS {
            return Err(self.wrong(format!("more than {MAX_TERMS} primitives")));
        }
        match self.peek() {
            Tok::Not => {
                self.take();
                let inner = self.deeper(|parser| parser.term(bare))?;
                Ok(Expr::Not(Box::new(inner)))
            }
            Tok::Sign("(") if !self.is_arithmetic(self.closing.get(self.at).copied()) => {
                let open = self.column();
                self.take();
                let inner = self.deeper(|parser| parser.expr(bare))?;
                if self.took(")") {
                    Ok(inner)
                } else if *self.peek() == Tok::End {
                    Err(FilterError::new(open, "this parenthesis is not closed"))
                } else {
                    Err(self.wrong("'and', 'or' or ')' is missing before this"))
                }
            }
            Tok::Sign("(" | "-") => self.comparison(),
            Tok::Num(_) if self.is_arithmetic(Some(self.at)) => self.comparison(),
            Tok::Word { escaped: false, .. } if self.is_primitive() => self.primitive(),
            Tok::End => Err(self.wrong("the filter ends where something should follow")),
            Tok::Num(_) | Tok::Dotted(..) | Tok::V6(_) | Tok::Mac(_) | Tok::Word { .. } => {
                match self.quals.filter(|_| bare) {
                    Some(quals) => self.id(quals),
                    None => Err(self.bare_id()),
                }
            }
            Tok::Sign(_) | Tok::And | Tok::Or => {
                Err(self.wrong("a primitive such as 'host' or 'tcp' should stand here"))
            }
        }
    }

    fn bare_id(&self) -> FilterError {
        match self.peek() {
            Tok::Word { text, .. } if super::UNSUPPORTED.contains(&text.as_str()) => self.wrong(format!(
                "'{text}' is not supported: it speaks of links that no container has"
            )),
            Tok::Word { text, .. } => self.wrong(format!(
                "'{text}' is not a word of filters; did you mean 'host {text}' or 'workload {text}'?"
            )),
            _ => self.wrong("a word such as 'host', 'net' or 'port' is missing before this"),
        }
    }

    /// Whether the token after this place makes what stands before it a value, and not a test.
    fn is_arithmetic(&self, place: Option<usize>) -> bool {
        let after = place.and_then(|place| place.checked_add(1));
        let Some(Tok::Sign(sign)) = after.map(|after| self.peek_at(after)) else {
            return false;
        };
        !matches!(*sign, "(" | ")" | "[" | "]" | ":" | "/") || (*sign == "/" && !self.is_prefix(place))
    }

    /// Whether a slash after this place begins a prefix length: `net 10/8 or 11/8`.
    fn is_prefix(&self, place: Option<usize>) -> bool {
        let is_number = place.is_some_and(|place| matches!(self.peek_at(place), Tok::Num(_)));
        is_number
            && self
                .quals
                .is_some_and(|quals| matches!(quals.kind, Kind::Net | Kind::Host))
    }
}
