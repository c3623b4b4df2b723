//! Comparisons of values: `tcp[tcpflags] & tcp-syn != 0`, `len > 100`. All values are unsigned, of 32 bits.

use super::super::FilterError;
use super::super::ast::{Arith, Expr, Relation, Test};
use super::super::bpf::{fold, op};
use super::super::lex::Tok;
use super::super::names;
use super::Parser;

/// Biggest constant offset: beyond any packet, and below what the kernel reads its own facts from.
const MAX_OFFSET: u32 = 0xffff;

impl Parser {
    /// Whether the word here begins a value.
    pub(super) fn is_value(&self) -> bool {
        let Some(word) = self.keyword() else { return false };
        word == "len"
            || names::constant(word).is_some()
            || (names::protocol(word).is_some() && *self.peek_at(self.at + 1) == Tok::Sign("["))
    }

    pub(super) fn comparison(&mut self) -> Result<Expr, FilterError> {
        let left = self.arith(0)?;
        let op = match self.peek() {
            Tok::Sign("=") => Relation::Eq,
            Tok::Sign("!=") => Relation::Ne,
            Tok::Sign("<") => Relation::Lt,
            Tok::Sign("<=") => Relation::Le,
            Tok::Sign(">") => Relation::Gt,
            Tok::Sign(">=") => Relation::Ge,
            _ => return Err(self.wrong("a comparison such as '=' or '>' should stand here")),
        };
        self.take();
        let right = self.arith(0)?;
        // What follows takes no qualifiers from here.
        self.quals = None;
        let test = Test::Compare { left, op, right };
        Ok(Expr::Test {
            test,
            shift: self.shift,
        })
    }

    /// Precedence climbing, with the order of C: `|`, `^`, `&`, shifts, sums, products.
    fn arith(&mut self, least: u8) -> Result<Arith, FilterError> {
        let mut left = self.deeper(Self::operand)?;
        loop {
            let (level, code) = match self.peek() {
                Tok::Sign("|") => (0, op::OR),
                Tok::Sign("^") => (1, op::XOR),
                Tok::Sign("&") => (2, op::AND),
                Tok::Sign("<<") => (3, op::LSH),
                Tok::Sign(">>") => (3, op::RSH),
                Tok::Sign("+") => (4, op::ADD),
                Tok::Sign("-") => (4, op::SUB),
                Tok::Sign("*") => (5, op::MUL),
                Tok::Sign("/") => (5, op::DIV),
                Tok::Sign("%") => (5, op::MOD),
                _ => return Ok(left),
            };
            if level < least {
                return Ok(left);
            }
            let column = self.column();
            self.take();
            self.terms += 1;
            if self.terms > super::MAX_TERMS {
                return Err(self.wrong("the arithmetic is too long"));
            }
            let right = self.deeper(|parser| parser.arith(level + 1))?;
            left = combine(code, left, right).map_err(|problem| FilterError::new(column, problem))?;
        }
    }

    fn operand(&mut self) -> Result<Arith, FilterError> {
        match self.peek().clone() {
            Tok::Num(value) => {
                self.take();
                Ok(Arith::Const(value))
            }
            Tok::Sign("-") => {
                self.take();
                Ok(match self.deeper(Self::operand)? {
                    Arith::Const(value) => Arith::Const(value.wrapping_neg()),
                    other => Arith::Neg(Box::new(other)),
                })
            }
            Tok::Sign("(") => {
                self.take();
                let inner = self.arith(0)?;
                if self.took(")") {
                    Ok(inner)
                } else {
                    Err(self.wrong("')' is missing before this"))
                }
            }
            Tok::Word { text, escaped: false } => {
                if text == "len" {
                    self.take();
                    return Ok(Arith::Len);
                }
                if let Some(constant) = names::constant(&text) {
                    self.take();
                    return Ok(constant);
                }
                self.load(&text)
            }
            _ => Err(self.wrong("a value such as '5', 'len' or 'tcp[13]' should stand here")),
        }
    }

    fn load(&mut self, name: &str) -> Result<Arith, FilterError> {
        let proto = names::protocol(name).ok_or_else(|| self.wrong(format!("'{name}' is not a value")))?;
        let base = names::base(proto).ok_or_else(|| self.wrong(format!("'{name}[…]' is not supported")))?;
        self.take();
        if !self.took("[") {
            return Err(self.wrong("'[' is missing before this"));
        }
        let column = self.column();
        let index = self.arith(0)?;
        if let Arith::Const(offset) = index
            && offset > MAX_OFFSET
        {
            return Err(FilterError::new(
                column,
                format!("offset {offset} is beyond any packet"),
            ));
        }
        let size = if self.took(":") {
            match self.peek() {
                Tok::Num(1) => 1,
                Tok::Num(2) => 2,
                Tok::Num(4) => 4,
                _ => return Err(self.wrong("the size must be 1, 2 or 4")),
            }
        } else {
            0
        };
        if size != 0 {
            self.take();
        }
        if !self.took("]") {
            return Err(self.wrong("']' is missing before this"));
        }
        Ok(Arith::Load {
            base,
            shift: self.shift,
            index: Box::new(index),
            size: size.max(1),
        })
    }
}

/// Constants are folded, with the meaning that they would have at run time.
fn combine(code: u16, left: Arith, right: Arith) -> Result<Arith, &'static str> {
    match (&left, &right) {
        (_, Arith::Const(0)) if matches!(code, op::DIV | op::MOD) => Err("division by zero"),
        (_, Arith::Const(32..)) if matches!(code, op::LSH | op::RSH) => Err("shift by more than 31 bits"),
        (Arith::Const(a), Arith::Const(b)) => fold(code, *a, *b).map(Arith::Const).ok_or("has no value"),
        _ => Ok(Arith::Op {
            code,
            left: Box::new(left),
            right: Box::new(right),
        }),
    }
}
