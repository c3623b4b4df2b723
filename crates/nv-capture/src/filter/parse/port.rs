//! Ids of ports and protocols.

use super::super::FilterError;
use super::super::ast::{Expr, Family, Test};
use super::super::lex::Tok;
use super::super::names::{self, Proto};
use super::{Parser, Quals};

impl Parser {
    fn ports(
        &self,
        quals: Quals,
        low: u16,
        high: u16,
        only: Option<u8>,
        column: usize,
    ) -> Result<Expr, FilterError> {
        let proto = match (quals.proto, only) {
            (Some(Proto::Ip(_, asked)), Some(only)) if asked != only => {
                return Err(FilterError::new(column, "this service is not of that protocol"));
            }
            (Some(Proto::Ip(_, asked)), _) => Some(asked),
            (_, only) => only,
        };
        let (low, high) = (low.min(high), low.max(high));
        Ok(self.test(Test::Ports {
            proto,
            side: quals.side,
            low,
            high,
        }))
    }

    pub(super) fn port(&mut self, quals: Quals) -> Result<Expr, FilterError> {
        let column = self.column();
        match self.take() {
            Tok::Num(number) => {
                let port = u16::try_from(number).map_err(|_| {
                    FilterError::new(column, format!("{number} is not a port: the highest is 65535"))
                })?;
                self.ports(quals, port, port, None, column)
            }
            Tok::Word { text, .. } => {
                let (port, only) = port_name(&text, column)?;
                self.ports(quals, port, port, only, column)
            }
            _ => Err(FilterError::new(column, "a port should stand here")),
        }
    }

    pub(super) fn port_range(&mut self, quals: Quals) -> Result<Expr, FilterError> {
        let column = self.column();
        let text = match self.peek() {
            Tok::Word { text, .. } => text.clone(),
            Tok::Num(_) => return self.port(quals),
            _ => return Err(self.wrong("a range such as 8000-8100 should stand here")),
        };
        self.take();
        // Names may hold dashes themselves.
        for (at, _) in text.match_indices('-') {
            let (low, high) = (
                text.get(..at).unwrap_or_default(),
                text.get(at + 1..).unwrap_or_default(),
            );
            if let (Ok((low, a)), Ok((high, b))) = (one_port(low, column), one_port(high, column)) {
                return self.ports(quals, low, high, a.or(b), column);
            }
        }
        let (port, only) = one_port(&text, column)?;
        self.ports(quals, port, port, only, column)
    }

    pub(super) fn proto_id(&mut self, quals: Quals) -> Result<Expr, FilterError> {
        let column = self.column();
        let tok = self.take();
        if quals.proto == Some(Proto::Ether) {
            let kind = match &tok {
                Tok::Num(number) if *number <= 0xffff => Some(*number),
                Tok::Word { text, .. } => names::ether_type(text),
                _ => None,
            };
            let kind = kind.ok_or_else(|| {
                FilterError::new(
                    column,
                    "an Ethernet type such as 0x0806 or \\arp should stand here",
                )
            })?;
            return Ok(self.test(Test::LinkProto(kind)));
        }
        let proto = match &tok {
            Tok::Num(number) => u8::try_from(*number).ok(),
            Tok::Word { text, .. } => names::ip_protocol(text),
            _ => None,
        };
        let proto = proto
            .ok_or_else(|| FilterError::new(column, "a protocol such as 6 or \\tcp should stand here"))?;
        let family = match quals.proto {
            Some(Proto::Link(names::IP)) => Family::V4,
            Some(Proto::Link(_)) => Family::V6,
            _ => Family::Any,
        };
        Ok(self.test(Test::IpProto { family, proto }))
    }
}

fn one_port(text: &str, column: usize) -> Result<(u16, Option<u8>), FilterError> {
    match text.parse() {
        Ok(port) => Ok((port, None)),
        Err(_) => port_name(text, column),
    }
}

fn port_name(text: &str, column: usize) -> Result<(u16, Option<u8>), FilterError> {
    names::port(text).ok_or_else(|| {
        FilterError::new(
            column,
            format!("'{text}' is not a service that nv knows: use the port's number"),
        )
    })
}
