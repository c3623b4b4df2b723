//! WireGuard (its paper and page, *Protocol*, 5.4): four kinds of messages, three of a fixed size.

use super::Payload;

/// Kind with three bytes of zero after it; data is padded to sixteen bytes and counts from zero.
#[inline(never)]
pub(super) const fn is_message(payload: &Payload) -> bool {
    match payload.le32(0) {
        1 => payload.len == 148 && payload.be32(4) != 0,
        2 => payload.len == 92 && payload.be32(4) != 0,
        3 => payload.len == 64 && payload.be32(4) != 0,
        4 => payload.len >= 32 && payload.len & 15 == 0 && payload.le64(8) < 1 << 40 && payload.be32(4) != 0,
        _ => false,
    }
}
