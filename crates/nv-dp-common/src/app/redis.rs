//! Redis serialization protocol (redis.io, *RESP protocol description*): a command as an array of bulk strings, an
//! inline `PING`, or a reply that no other protocol has.

use super::Payload;

#[inline(never)]
pub(super) const fn is_redis(payload: &Payload) -> bool {
    if payload.from_client {
        is_command(payload) || (payload.len == 6 && payload.starts(b"PING") && payload.be16(4) == 0x0d0a)
    } else {
        payload.starts(b"-NOA") && payload.has(4, b"UTH ")
            || payload.starts(b"-DEN") && payload.has(4, b"IED ")
            || payload.starts(b"+PON") && payload.bytes[4] == b'G' && payload.be16(5) == 0x0d0a
    }
}

/// `*<count>\r\n$<length>`, the count of one or two digits.
#[inline(always)]
const fn is_command(payload: &Payload) -> bool {
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
