//! MongoDB wire protocol: the standard message header (MongoDB manual, *Wire Protocol*).

use super::Payload;

const OP_REPLY: u32 = 1;
const OP_QUERY: u32 = 2004;
const OP_COMPRESSED: u32 = 2012;
const OP_MSG: u32 = 2013;
const MAX_MESSAGE: u32 = 48_000_000;

/// A message whose length, reference and operation fit its side; flag bits that are not defined are zero.
#[inline(never)]
pub(super) const fn is_message(payload: &Payload) -> bool {
    let length = payload.le32(0);
    let response_to = payload.le32(8);
    let operation = payload.le32(12);
    if payload.len < 26 || length < 26 || length > MAX_MESSAGE || length < payload.len {
        return false;
    }
    let flags = payload.le32(16);
    match operation {
        OP_MSG => flags & !0x1_0003 == 0 && (payload.from_client == (response_to == 0)),
        OP_QUERY => payload.from_client && response_to == 0 && flags & !0xfe == 0,
        OP_COMPRESSED => payload.from_client == (response_to == 0) && payload.bytes[24] <= 3,
        OP_REPLY => !payload.from_client && response_to != 0 && flags & !0x0f == 0,
        _ => false,
    }
}
