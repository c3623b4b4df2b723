//! NTP (RFC 5905, 7.3).

use super::Payload;

const CLIENT: u8 = 3;
const SERVER: u8 = 4;

/// Header alone or with a message authentication code, client or server mode, version 1 to 4, values in range.
#[inline(never)]
pub(super) const fn is_ntp(payload: &Payload) -> bool {
    let version = payload.bytes[0] >> 3 & 7;
    let mode = payload.bytes[0] & 7;
    let stratum = payload.bytes[1];
    let poll = payload.bytes[2];
    let right_length = matches!(payload.len, 48 | 52 | 68 | 72);
    let right_side = if payload.from_client {
        mode == CLIENT
    } else {
        mode == SERVER
    };
    right_length && right_side && version >= 1 && version <= 4 && stratum <= 16 && poll <= 17
}
