//! NTP (RFC 5905, 7.3; extension fields: RFC 7822).

use super::Payload;

const CLIENT: u8 = 3;
const SERVER: u8 = 4;

/// Header alone, with a message authentication code or with extension fields; client or server mode, version 1 to 4, values in
/// range.
#[inline(never)]
pub(super) const fn is_ntp(payload: &Payload) -> bool {
    let version = payload.bytes[0] >> 3 & 7;
    let mode = payload.bytes[0] & 7;
    let stratum = payload.bytes[1];
    let poll = payload.bytes[2];
    let field = payload.be16(50) as u32;
    let right_length = matches!(payload.len, 48 | 52 | 68 | 72)
        || payload.len > 72
            && payload.len & 3 == 0
            && field & 3 == 0
            && field >= 16
            && field + 48 <= payload.len;
    let right_side = if payload.from_client {
        mode == CLIENT
    } else {
        mode == SERVER
    };
    right_length && right_side && version >= 1 && version <= 4 && stratum <= 16 && poll <= 17
}
