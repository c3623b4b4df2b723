//! Text to tokens.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::FilterError;

/// Longest text and most tokens of a filter.
const MAX_TEXT: usize = 64 << 10;
const MAX_TOKENS: usize = 16 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tok {
    /// A name; `escaped` when it was quoted or stood behind a backslash, and so is no keyword.
    Word {
        text: String,
        escaped: bool,
    },
    Num(u32),
    /// Two to four numbers with dots: left-aligned bits, and how many were told.
    Dotted(Ipv4Addr, u32),
    V6(Ipv6Addr),
    Mac([u8; 6]),
    And,
    Or,
    Not,
    /// Anything else, by its characters.
    Sign(&'static str),
    End,
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) tok: Tok,
    /// Column of its first character, from 1.
    pub(super) column: usize,
}

const SIGNS: [&str; 22] = [
    "&&", "||", "<<", ">>", "<=", ">=", "==", "!=", "(", ")", "[", "]", ":", "/", "+", "-", "*", "%", "&",
    "|", "^", "=",
];

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b':') || byte >= 0x80
}

/// The tokens, [`Tok::End`] last.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    if text.len() > MAX_TEXT {
        return Err(FilterError::new(1, format!("longer than {MAX_TEXT} bytes")));
    }
    let mut found = Vec::new();
    let mut at = 0;
    let mut brackets = 0_u32;
    // Columns count characters, positions bytes.
    let (mut column, mut counted) = (1, 0);
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let blank = rest.len() - rest.trim_start().len();
        at += blank;
        column += text.get(counted..at).map_or(0, |passed| passed.chars().count());
        counted = at;
        let rest = rest.get(blank..).unwrap_or_default();
        if rest.is_empty() {
            found.push(Token {
                tok: Tok::End,
                column,
            });
            return Ok(found);
        }
        let (tok, used) = next(rest, column, brackets > 0)?;
        match &tok {
            Tok::Sign("[") => brackets += 1,
            Tok::Sign("]") => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        found.push(Token { tok, column });
        if found.len() > MAX_TOKENS {
            return Err(FilterError::new(
                column,
                format!("more than {MAX_TOKENS} words and signs"),
            ));
        }
        at += used;
    }
}

fn next(rest: &str, column: usize, in_brackets: bool) -> Result<(Tok, usize), FilterError> {
    let bytes = rest.as_bytes();
    let first = bytes.first().copied().unwrap_or_default();
    if first == b'"' || first == b'\'' {
        let inner = rest.get(1..).unwrap_or_default();
        let end = inner
            .find(char::from(first))
            .ok_or_else(|| FilterError::new(column, "the quote is not closed"))?;
        let text = inner.get(..end).unwrap_or_default().to_owned();
        return Ok((Tok::Word { text, escaped: true }, end + 2));
    }
    if first == b'\\' {
        let length = bytes.iter().skip(1).take_while(|byte| is_word(**byte)).count();
        let text = rest.get(1..=length).unwrap_or_default().to_owned();
        if text.is_empty() {
            return Err(FilterError::new(column, "a word must follow the backslash"));
        }
        return Ok((Tok::Word { text, escaped: true }, length + 1));
    }
    // `::1` begins with the sign that parts sizes in brackets.
    let starts_word = first.is_ascii_alphanumeric() || first >= 0x80 || (first == b':' && !in_brackets);
    if starts_word {
        let ends = |byte: u8| !is_word(byte) || (in_brackets && byte == b':');
        let mut length = bytes.iter().take_while(|byte| !ends(**byte)).count();
        if in_brackets && first.is_ascii_digit() {
            // `12-2` in brackets is arithmetic.
            length = bytes
                .iter()
                .take_while(|byte| byte.is_ascii_alphanumeric())
                .count();
        }
        let word = rest.get(..length).unwrap_or_default();
        return Ok((word_token(word, column)?, length));
    }
    for sign in SIGNS {
        if rest.starts_with(sign) {
            let tok = match sign {
                "&&" => Tok::And,
                "||" => Tok::Or,
                "==" => Tok::Sign("="),
                sign => Tok::Sign(sign),
            };
            return Ok((tok, sign.len()));
        }
    }
    match first {
        b'!' => Ok((Tok::Not, 1)),
        b'<' => Ok((Tok::Sign("<"), 1)),
        b'>' => Ok((Tok::Sign(">"), 1)),
        _ => {
            let sign = rest.chars().next().unwrap_or_default();
            Err(FilterError::new(
                column,
                format!("{sign:?} means nothing in a filter"),
            ))
        }
    }
}

fn word_token(word: &str, column: usize) -> Result<Tok, FilterError> {
    match word {
        "and" => return Ok(Tok::And),
        "or" => return Ok(Tok::Or),
        "not" => return Ok(Tok::Not),
        _ => {}
    }
    if let Some(mac) = mac(word) {
        return Ok(Tok::Mac(mac));
    }
    if word.contains(':') {
        return word.parse().map(Tok::V6).map_err(|_| {
            FilterError::new(
                column,
                format!("'{word}' is neither an IPv6 nor an Ethernet address"),
            )
        });
    }
    if !word.bytes().next().is_some_and(|byte| byte.is_ascii_digit()) {
        return Ok(Tok::Word {
            text: word.to_owned(),
            escaped: false,
        });
    }
    if word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && word.contains('.') {
        return dotted(word)
            .ok_or_else(|| FilterError::new(column, format!("'{word}' is not an IPv4 address")));
    }
    let number = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None if word.len() > 1 && word.starts_with('0') => u32::from_str_radix(word, 8),
        None => word.parse(),
    };
    match number {
        Ok(number) => Ok(Tok::Num(number)),
        Err(_) if word.bytes().all(|byte| byte.is_ascii_digit()) => Err(FilterError::new(
            column,
            format!("'{word}' is not a number of 32 bits"),
        )),
        // `80-90`, `3com`.
        Err(_) => Ok(Tok::Word {
            text: word.to_owned(),
            escaped: false,
        }),
    }
}

/// `10.1` is `10.1.0.0` of which 16 bits were told.
fn dotted(word: &str) -> Option<Tok> {
    let mut bytes = [0; 4];
    let mut count = 0;
    for part in word.split('.') {
        *bytes.get_mut(count)? = part.parse().ok()?;
        count += 1;
    }
    Some(Tok::Dotted(Ipv4Addr::from(bytes), u32::try_from(count).ok()? * 8))
}

/// `0:1:2:a:b:c` and the same with `-`, or three groups with dots.
fn mac(word: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    for sign in [':', '-'] {
        let parts: Vec<_> = word.split(sign).collect();
        if parts.len() == 6 && parts.iter().all(|part| (1..=2).contains(&part.len())) {
            for (byte, part) in mac.iter_mut().zip(parts) {
                *byte = u8::from_str_radix(part, 16).ok()?;
            }
            return Some(mac);
        }
    }
    let parts: Vec<_> = word.split('.').collect();
    if parts.len() == 3 && parts.iter().all(|part| part.len() == 4) {
        for (pair, part) in mac.chunks_exact_mut(2).zip(parts) {
            pair.copy_from_slice(&u16::from_str_radix(part, 16).ok()?.to_be_bytes());
        }
        return Some(mac);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toks(text: &str) -> Vec<Tok> {
        tokens(text).unwrap().into_iter().map(|token| token.tok).collect()
    }

    #[test]
    fn colons_belong_to_addresses_outside_brackets_and_to_sizes_inside() {
        assert_eq!(toks("::1"), [Tok::V6(Ipv6Addr::LOCALHOST), Tok::End]);
        assert_eq!(toks("0:1:2:a:b:c"), [Tok::Mac([0, 1, 2, 10, 11, 12]), Tok::End]);
        assert_eq!(
            toks("0001.0203.0aff"),
            [Tok::Mac([0, 1, 2, 3, 10, 255]), Tok::End]
        );
        let word = |text: &str| Tok::Word {
            text: text.into(),
            escaped: false,
        };
        assert_eq!(
            toks("ip[2:2]"),
            [
                word("ip"),
                Tok::Sign("["),
                Tok::Num(2),
                Tok::Sign(":"),
                Tok::Num(2),
                Tok::Sign("]"),
                Tok::End
            ]
        );
    }

    #[test]
    fn numbers_have_three_bases_and_32_bits() {
        assert_eq!(
            toks("10 0x10 010"),
            [Tok::Num(10), Tok::Num(16), Tok::Num(8), Tok::End]
        );
        assert_eq!(tokens("a 4294967296").unwrap_err().column, 3);
        assert_eq!(
            toks("10.1"),
            [Tok::Dotted(Ipv4Addr::new(10, 1, 0, 0), 16), Tok::End]
        );
        for bad in ["1.2.3.4.5", "1..2", "1.256", "1:2", "\"open", "\\", "a ; b"] {
            assert!(tokens(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn columns_count_characters() {
        let found = tokens("\"\u{e4}\u{f6}\" and tcp").unwrap();
        assert_eq!(
            found.iter().map(|token| token.column).collect::<Vec<_>>(),
            [1, 6, 10, 13]
        );
    }
}
