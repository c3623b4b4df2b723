//! SSH: the identification string of either side (RFC 4253, 4.2 and 5.1).

use super::Payload;

/// `SSH-2.0-`, or `SSH-1.99-` and older, and a software version.
#[inline(never)]
pub(super) const fn is_ssh(payload: &Payload) -> bool {
    payload.len >= 9
        && (payload.begins(b"SSH-2.0-") | payload.begins(b"SSH-1.99-") | payload.begins(b"SSH-1.5-"))
        && payload.bytes[8].is_ascii_graphic()
}
