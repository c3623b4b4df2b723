//! LDAP (RFC 4511): a message that a client may begin with, in BER (RFC 4511, 5.1: definite lengths).

use super::Payload;

const BIND: u8 = 0x60;
const SEARCH: u8 = 0x63;
const EXTENDED: u8 = 0x77;

/// A sequence as long as it says, a message number of one byte, and a bind of version 2 or 3, a search, or StartTLS.
#[inline(never)]
pub(super) const fn is_request(payload: &Payload) -> bool {
    let stated = payload.bytes[1] as u32;
    match stated {
        0..=0x7f => payload.len == stated + 2 && is_message(payload, 2),
        0x81 => payload.len == payload.bytes[2] as u32 + 3 && is_message(payload, 3),
        0x82 => payload.be16(2) as u32 + 4 >= payload.len && is_message(payload, 4),
        0x84 => payload.be32(2) < 1 << 20 && payload.be32(2) + 6 >= payload.len && is_message(payload, 6),
        _ => false,
    }
}

#[inline(always)]
const fn is_message(payload: &Payload, at: usize) -> bool {
    if payload.bytes[0] != 0x30 || payload.be16(at) != 0x0201 || payload.len < 14 {
        return false;
    }
    let length = payload.bytes[at + 4];
    // Of the operation's own length only its size matters here.
    let body = match length {
        0..=0x7f => at + 5,
        0x81 => at + 6,
        0x82 => at + 7,
        0x84 => at + 9,
        _ => return false,
    };
    match payload.bytes[at + 3] {
        BIND => {
            payload.be16(body) == 0x0201
                && matches!(payload.bytes[body + 2], 2 | 3)
                && payload.bytes[body + 3] == 4
        }
        SEARCH => payload.bytes[body] == 4,
        EXTENDED => payload.bytes[body] == 0x80 && payload.has(body + 2, b"1.3."),
        _ => false,
    }
}
