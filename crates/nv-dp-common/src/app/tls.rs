//! TLS: a handshake record that holds a ClientHello or ServerHello (RFC 8446, 4.1 and 5.1; the same since SSL 3.0).

use super::Payload;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// 2^14 and what older versions let compression add (RFC 5246, 6.2.3).
const MAX_RECORD: u16 = 16_384 + 2_048;

/// Record header, hello of the right side, its version, and a length that the first record can begin.
#[inline(never)]
pub(super) const fn is_tls(payload: &Payload) -> bool {
    let hello = if payload.from_client {
        CLIENT_HELLO
    } else {
        SERVER_HELLO
    };
    let record = payload.be16(3);
    payload.len >= 11
        && payload.bytes[0] == HANDSHAKE
        && payload.bytes[1] == 3
        && payload.bytes[2] <= 4
        && record >= 6
        && record <= MAX_RECORD
        && payload.bytes[5] == hello
        && payload.bytes[6] == 0
        && payload.bytes[9] == 3
        && payload.bytes[10] <= 4
}
