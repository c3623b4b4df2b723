//! RDP (MS-RDPBCGR, 2.2.1.1): an X.224 connection request in a TPKT (RFC 1006, 6). Others use these two as well: RDP is known by
//! its cookie, its routing token, or its negotiation request.

use super::Payload;

const CONNECTION_REQUEST: u8 = 0xe0;

#[inline(never)]
pub(super) const fn is_request(payload: &Payload) -> bool {
    payload.len >= 19
        && payload.be16(0) == 0x0300
        && payload.be16(2) as u32 == payload.len
        && payload.bytes[4] as u32 + 5 == payload.len
        && payload.bytes[5] == CONNECTION_REQUEST
        && payload.be16(6) == 0
        && payload.bytes[10] == 0
        && (payload.has(11, b"Cook") && payload.has(15, b"ie: ")
            || payload.bytes[11] == 1 && payload.le16(13) == 8 && payload.le32(15) < 1 << 6)
}
