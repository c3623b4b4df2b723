//! SSH: the identification string of either side (RFC 4253, 4.2).

use super::Payload;

/// `SSH-2.0-` or the older `SSH-1.`.
#[inline(never)]
pub(super) const fn is_ssh(payload: &Payload) -> bool {
    payload.len >= 8
        && payload.starts(b"SSH-")
        && payload.bytes[5] == b'.'
        && (payload.bytes[4] == b'2' || payload.bytes[4] == b'1')
}
