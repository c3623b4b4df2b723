//! TFTP (RFC 1350, 5; options: RFC 2347): a request by its file name and mode (the third mode, mail, is obsolete). The server answers from a port of its own, so that its
//! first data, or its options, begin a flow.

use super::Payload;
use super::payload::words;

const MAX_REQUEST: u32 = 512;
/// Takes the case of letters away.
const CASE: u32 = !0x2020_2020;

#[inline(never)]
pub(super) fn is_tftp(payload: &Payload) -> bool {
    match payload.be16(0) {
        1 | 2 => {
            payload.len >= 9
                && payload.len <= MAX_REQUEST
                && payload.bytes[2].is_ascii_graphic()
                && payload.holds(words(*b"OCTE", *b"NETA"), CASE) != 0
        }
        3 => payload.be16(2) == 1 && payload.len <= 4 + MAX_REQUEST,
        6 => {
            payload.len >= 8
                && payload.len <= MAX_REQUEST
                && payload.bytes[2].is_ascii_alphabetic()
                && payload.bytes[3].is_ascii_alphanumeric()
        }
        _ => false,
    }
}
