//! HTTP/1.x (RFC 9112, 3 and 4) and the HTTP/2 connection preface (RFC 9113, 3.4).

use super::Payload;

/// `PRI * HTTP/2.0\r\n`: what a client of HTTP/2 without TLS sends first.
#[inline(never)]
pub(super) const fn is_http2_preface(payload: &Payload) -> bool {
    payload.from_client
        && payload.len >= 16
        && payload.starts(b"PRI ")
        && payload.has(4, b"* HT")
        && payload.has(8, b"TP/2")
        && payload.has(12, b".0\r\n")
}

/// A request line by its method (RFC 9110, 9 and RFC 5789) and the start of its target, or a status line.
#[inline(never)]
pub(super) const fn is_http1(payload: &Payload) -> bool {
    if payload.starts(b"HTTP") {
        return !payload.from_client
            && payload.len >= 12
            && payload.bytes[4] == b'/'
            && payload.bytes[5] == b'1'
            && payload.bytes[6] == b'.'
            && payload.bytes[8] == b' '
            && payload.bytes[9].is_ascii_digit();
    }
    let target = method_len(payload);
    payload.from_client && target != 0 && is_target(payload.bytes[target])
}

/// Length of the method with its space, 0 if there is none.
#[inline(always)]
const fn method_len(payload: &Payload) -> usize {
    let start = (payload.be32(0) as u64) << 32 | payload.be32(4) as u64;
    if is_one(start, b"GET ") | is_one(start, b"PUT ") {
        4
    } else if is_one(start, b"POST ") | is_one(start, b"HEAD ") {
        5
    } else if is_one(start, b"PATCH ") | is_one(start, b"TRACE ") {
        6
    } else if is_one(start, b"DELETE ") {
        7
    } else if is_one(start, b"OPTIONS ") | is_one(start, b"CONNECT ") {
        8
    } else {
        0
    }
}

/// Whether eight bytes begin with this method: one comparison.
#[inline(always)]
const fn is_one(start: u64, method: &[u8]) -> bool {
    let mut wanted = 0;
    let mut i = 0;
    while i < method.len() {
        wanted = wanted << 8 | method[i] as u64;
        i += 1;
    }
    start >> (64 - 8 * method.len()) == wanted
}

/// First byte of a request target (RFC 9112, 3.2): path, absolute form, authority or asterisk.
#[inline(always)]
const fn is_target(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'*' | b'[')
}
