//! NATS (NATS documentation, *Client Protocol*): the server's `INFO`, which comes first, or a client's `CONNECT`.

use super::Payload;

#[inline(never)]
pub(super) const fn is_info(payload: &Payload) -> bool {
    payload.len >= 16 && payload.begins(b"INFO {\"")
}

#[inline(never)]
pub(super) const fn is_connect(payload: &Payload) -> bool {
    payload.len >= 11 && payload.begins(b"CONNECT {") && matches!(payload.bytes[9], b'"' | b'}')
}
