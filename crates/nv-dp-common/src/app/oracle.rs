//! Oracle Net: the TNS Connect packet, by the fields that the free drivers write (python-oracledb, go-ora).

use super::Payload;

const CONNECT: u8 = 1;

/// Length, no checksums, a version from 8i on, the oldest version that would do, and where the connect data is.
#[inline(never)]
pub(super) const fn is_connect(payload: &Payload) -> bool {
    let length = payload.be16(0) as u32;
    let version = payload.be16(8);
    let compatible = payload.be16(10);
    let data_len = payload.be16(24) as u32;
    let data_at = payload.be16(26) as u32;
    payload.len >= 34
        && length >= 34
        && length <= payload.len
        && payload.be16(2) == 0
        && payload.be16(4) == (CONNECT as u16) << 8
        && payload.be16(6) == 0
        && version >= 300
        && version < 400
        && compatible >= 200
        && compatible <= version
        && data_at >= 34
        && data_at <= 128
        && (data_at + data_len == length || data_at == length)
}
