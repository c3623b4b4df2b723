//! SMB over TCP (MS-SMB2, 2.1; MS-CIFS, 2.2.3): the direct transport's length, then a header of version 1, 2 or 3.

use super::Payload;

/// A message as long as it says, whose header is a version 1 negotiation, a version 2 header, or an encrypted one.
#[inline(never)]
pub(super) const fn is_smb(payload: &Payload) -> bool {
    let length = payload.be32(0);
    if payload.len < 36 || length >> 24 != 0 || length < 32 || length + 4 < payload.len {
        return false;
    }
    match payload.be32(4) {
        0xff53_4d42 => payload.bytes[8] == 0x72,
        0xfe53_4d42 => payload.le16(8) == 64 && payload.le16(16) <= 0x12,
        0xfd53_4d42 => payload.le16(42) == 0,
        _ => false,
    }
}
