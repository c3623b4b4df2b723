//! HTTP/1.x (RFC 9112, 3 and 4).

use super::Payload;

/// `HTTP/1.x ` and a status.
#[inline(never)]
pub(super) const fn is_response(payload: &Payload) -> bool {
    payload.begins(b"HTTP/1.")
        && payload.len >= 12
        && payload.bytes[8] == b' '
        && payload.bytes[9].is_ascii_digit()
}

/// A request line by its method (RFC 9110, 9; RFC 5789; RFC 4918 and others of WebDAV) and the start of its target. The same
/// methods with other targets are RTSP's and SIP's.
#[inline(never)]
pub(super) const fn is_request(payload: &Payload) -> bool {
    let target = method_len(payload);
    target != 0
        && is_target(payload.bytes[target])
        && (payload.bytes[target] == b'/' || payload.len as usize >= 4 + target)
        && !is_other(payload.be32(target))
}

/// Length of the method with its space, 0 if there is none.
#[inline(always)]
const fn method_len(payload: &Payload) -> usize {
    if payload.begins(b"GET ") | payload.begins(b"PUT ") {
        4
    } else if payload.begins(b"POST ")
        | payload.begins(b"HEAD ")
        | payload.begins(b"COPY ")
        | payload.begins(b"MOVE ")
        | payload.begins(b"LOCK ")
    {
        5
    } else if payload.begins(b"PATCH ") | payload.begins(b"TRACE ") | payload.begins(b"MKCOL ") {
        6
    } else if payload.begins(b"DELETE ") | payload.begins(b"REPORT ") | payload.begins(b"SEARCH ") {
        7
    } else if payload.begins(b"OPTIONS ") | payload.begins(b"CONNECT ") {
        8
    } else if payload.begins(b"PROPFIND ") {
        9
    } else {
        0
    }
}

/// First byte of a request target (RFC 9112, 3.2): path, absolute form, authority or asterisk.
#[inline(always)]
const fn is_target(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'*' | b'[')
}

/// How a target of another protocol begins: `rtsp:`, `sip:`, `sips:`, and RTSP's `* RTSP/1.0`.
#[inline(always)]
const fn is_other(start: u32) -> bool {
    const RTSP: u32 = u32::from_be_bytes(*b"rtsp");
    const SIP: u32 = u32::from_be_bytes(*b"sip:");
    const SIPS: u32 = u32::from_be_bytes(*b"sips");
    const ALL: u32 = u32::from_be_bytes(*b"* RT");
    start == RTSP || start == SIP || start == SIPS || start == ALL
}
