//! MQTT 3.1, 3.1.1 and 5.0 (OASIS, 3.1): CONNECT, the only packet that may come first.

use super::Payload;

/// The fixed header, whose length takes one to three bytes, then the protocol's name and level.
#[inline(never)]
pub(super) const fn is_connect(payload: &Payload) -> bool {
    if payload.len < 14 || payload.bytes[0] != 0x10 {
        return false;
    }
    let [one, two, three] = [
        payload.bytes[1] as u32,
        payload.bytes[2] as u32,
        payload.bytes[3] as u32,
    ];
    if one & 0x80 == 0 {
        payload.len == one + 2 && is_named(payload, 2)
    } else if two & 0x80 == 0 {
        (one & 0x7f | two << 7) + 3 >= payload.len && is_named(payload, 3)
    } else {
        three & 0x80 == 0
            && (one & 0x7f | (two & 0x7f) << 7 | three << 14) + 4 >= payload.len
            && is_named(payload, 4)
    }
}

/// `MQTT` with level 4 or 5, or `MQIsdp` with level 3; the reserved flag is zero.
#[inline(always)]
const fn is_named(payload: &Payload, at: usize) -> bool {
    if payload.be16(at) == 4 {
        payload.has(at + 2, b"MQTT")
            && matches!(payload.bytes[at + 6], 4 | 5)
            && payload.bytes[at + 7] & 1 == 0
    } else {
        payload.be16(at) == 6
            && payload.has(at + 2, b"MQIs")
            && payload.be16(at + 6) == u16::from_be_bytes(*b"dp")
            && payload.bytes[at + 8] == 3
            && payload.bytes[at + 9] & 1 == 0
    }
}
