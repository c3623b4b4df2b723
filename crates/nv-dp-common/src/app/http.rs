//! HTTP/1.x (RFC 9112, 3 and 4) and the HTTP/2 connection preface (RFC 9113, 3.4).

use super::Payload;

/// `PRI * HTTP/2.0\r\n`: what a client of HTTP/2 without TLS sends first.
#[inline(always)]
pub(super) const fn is_http2_preface(payload: &Payload) -> bool {
    payload.from_client
        && payload.len >= 16
        && payload.starts(b"PRI ")
        && payload.has(4, b"* HT")
        && payload.has(8, b"TP/2")
        && payload.has(12, b".0\r\n")
}

/// A request line by its method (RFC 9110, 9 and RFC 5789) and the start of its target, or a status line.
#[inline(always)]
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
    if payload.starts(b"GET ") || payload.starts(b"PUT ") {
        4
    } else if (payload.starts(b"HEAD") || payload.starts(b"POST")) && payload.bytes[4] == b' ' {
        5
    } else if (payload.starts(b"PATC") && payload.bytes[4] == b'H'
        || payload.starts(b"TRAC") && payload.bytes[4] == b'E')
        && payload.bytes[5] == b' '
    {
        6
    } else if payload.starts(b"DELE")
        && payload.bytes[4] == b'T'
        && payload.bytes[5] == b'E'
        && payload.bytes[6] == b' '
    {
        7
    } else if (payload.starts(b"CONN") && payload.has(4, b"ECT "))
        || (payload.starts(b"OPTI") && payload.has(4, b"ONS "))
    {
        8
    } else {
        0
    }
}

/// First byte of a request target (RFC 9112, 3.2): path, absolute form, authority or asterisk.
#[inline(always)]
const fn is_target(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'*' | b'[')
}
