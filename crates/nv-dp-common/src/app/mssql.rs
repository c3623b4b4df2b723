//! Microsoft SQL Server: TDS (MS-TDS, 2.2.3.1, 2.2.6.4 and 2.2.6.5): pre-login, or login without one.

use super::Payload;

const LOGIN7: u8 = 0x10;
const PRELOGIN: u8 = 0x12;
/// The whole message.
const END: u8 = 1;

#[inline(never)]
pub(super) const fn is_login(payload: &Payload) -> bool {
    let length = payload.be16(2) as u32;
    if payload.len < 26
        || length < 26
        || payload.bytes[1] != END
        || payload.be16(4) != 0
        || payload.bytes[7] != 0
    {
        return false;
    }
    match payload.bytes[0] {
        // The version comes first among the options: where it is, and its six bytes.
        PRELOGIN => {
            length == payload.len
                && payload.bytes[8] == 0
                && (payload.be16(9) as u32) < length
                && payload.be16(9) >= 6
                && payload.be16(11) == 6
        }
        // The length of the login in the other byte order, and a version from 7.0 to 7.4.
        LOGIN7 => {
            length >= payload.len
                && payload.le32(8) == length - 8
                && (payload.bytes[15] & 0xf0 == 0x70 || payload.le32(12) == 0x7000_0000)
        }
        _ => false,
    }
}
