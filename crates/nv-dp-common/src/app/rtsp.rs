//! RTSP 1.0 and 2.0 (RFC 2326, RFC 7826).

use super::Payload;

/// A request by its method and the scheme of its target, or the asterisk with the version.
#[inline(never)]
pub(super) const fn is_request(payload: &Payload) -> bool {
    let target = if payload.begins(b"OPTIONS ") {
        payload.be32(8)
    } else if payload.begins(b"DESCRIBE ") | payload.begins(b"ANNOUNCE ") | payload.begins(b"TEARDOWN ") {
        payload.be32(9)
    } else if payload.begins(b"SETUP ") {
        payload.be32(6)
    } else if payload.begins(b"PLAY ") {
        payload.be32(5)
    } else if payload.begins(b"RECORD ") {
        payload.be32(7)
    } else {
        0
    };
    target == u32::from_be_bytes(*b"rtsp") || target == u32::from_be_bytes(*b"* RT")
}

/// `RTSP/1.0 ` and a status.
#[inline(never)]
pub(super) const fn is_response(payload: &Payload) -> bool {
    (payload.begins(b"RTSP/1.0 ") | payload.begins(b"RTSP/2.0 "))
        && payload.len >= 13
        && payload.bytes[9].is_ascii_digit()
}
