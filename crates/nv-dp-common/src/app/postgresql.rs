//! PostgreSQL: the client's first message (PostgreSQL documentation, *Message Formats*).

use super::Payload;

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
const VERSION_3: u32 = 3 << 16;

/// Start-up with at least one parameter, a request for encryption, or one to cancel; the stated length must be the
/// length that was sent.
#[inline(never)]
pub(super) const fn is_startup(payload: &Payload) -> bool {
    let length = payload.be32(0);
    let code = payload.be32(4);
    if payload.len < 8 || length != payload.len {
        return false;
    }
    match code {
        SSL_REQUEST | GSSENC_REQUEST => length == 8,
        CANCEL_REQUEST => length == 16,
        _ => {
            code & !0xff == VERSION_3
                && length > 13
                && length <= 10_000
                && payload.bytes[8].is_ascii_lowercase()
        }
    }
}
