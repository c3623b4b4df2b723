//! SIP over UDP and TCP (RFC 3261, 7): either side may ask.

use super::Payload;

/// A status line, or a request by its method and the scheme of its target.
#[inline(never)]
pub(super) const fn is_message(payload: &Payload) -> bool {
    if payload.begins(b"SIP/2.0 ") {
        return payload.bytes[8].is_ascii_digit();
    }
    let target = if payload.begins(b"OPTIONS ") | payload.begins(b"MESSAGE ") | payload.begins(b"PUBLISH ") {
        payload.be32(8)
    } else if payload.begins(b"REGISTER ") {
        payload.be32(9)
    } else if payload.begins(b"SUBSCRIBE ") {
        payload.be32(10)
    } else if payload.begins(b"INVITE ")
        | payload.begins(b"NOTIFY ")
        | payload.begins(b"CANCEL ")
        | payload.begins(b"UPDATE ")
    {
        payload.be32(7)
    } else if payload.begins(b"REFER ") | payload.begins(b"PRACK ") {
        payload.be32(6)
    } else if payload.begins(b"INFO ") {
        payload.be32(5)
    } else if payload.begins(b"ACK ") | payload.begins(b"BYE ") {
        payload.be32(4)
    } else {
        0
    };
    target == u32::from_be_bytes(*b"sip:")
        || target == u32::from_be_bytes(*b"sips")
        || target == u32::from_be_bytes(*b"tel:")
}
