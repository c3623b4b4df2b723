//! AMQP: the protocol header (AMQP 0-9-1, 4.2.2; AMQP 1.0 (OASIS), 2.2 and 5.3). A server that wants another version answers
//! with one too.

use super::Payload;

/// `AMQP`, then 0-0-9-1 and its forerunners, or a layer (0 plain, 2 TLS, 3 SASL) of 1.0.0.
#[inline(never)]
pub(super) const fn is_header(payload: &Payload) -> bool {
    payload.len >= 8
        && payload.starts(b"AMQP")
        && matches!(
            payload.be32(4),
            0x0000_0901 | 0x0101_0009 | 0x0101_0008 | 0x0101_000a | 0x0001_0000 | 0x0201_0000 | 0x0301_0000
        )
}
