//! Redis serialization protocol (redis.io, *RESP protocol description*): a command as an array of bulk strings, an
//! inline `PING`, or a reply that no other protocol has.

use super::Payload;

#[inline(never)]
pub(super) const fn is_reply(payload: &Payload) -> bool {
    payload.begins(b"-NOAUTH ") | payload.begins(b"-DENIED ") | payload.begins(b"+PONG\r\n")
}

/// `*<count>\r\n$<length>`, the count of one or two digits; or `PING`.
#[inline(never)]
pub(super) const fn is_command(payload: &Payload) -> bool {
    if payload.begins(b"PING\r\n") {
        return payload.len == 6;
    }
    if payload.bytes[0] != b'*' || !payload.bytes[1].is_ascii_digit() || payload.bytes[1] == b'0' {
        return false;
    }
    let one = payload.be16(2) == 0x0d0a && payload.bytes[4] == b'$' && payload.bytes[5].is_ascii_digit();
    let two = payload.bytes[2].is_ascii_digit()
        && payload.be16(3) == 0x0d0a
        && payload.bytes[5] == b'$'
        && payload.bytes[6].is_ascii_digit();
    one || two
}
