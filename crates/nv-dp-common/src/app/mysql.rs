//! MySQL and MariaDB: the server's greeting (MySQL source documentation, *Protocol::HandshakeV10*).

use super::Payload;

/// First packet of a connection (sequence 0), protocol version 10, a server version that starts as versions do.
#[inline(never)]
pub(super) const fn is_greeting(payload: &Payload) -> bool {
    let length = payload.le32(0);
    payload.len >= 32
        && length >> 24 == 0
        && length >= 28
        && length <= 512
        && length + 4 >= payload.len
        && payload.bytes[4] == 10
        && payload.bytes[5].is_ascii_digit()
        && (payload.bytes[6] == b'.' || payload.bytes[6].is_ascii_digit() && payload.bytes[7] == b'.')
}
