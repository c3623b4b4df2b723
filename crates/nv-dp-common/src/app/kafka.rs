//! Apache Kafka (protocol guide, *Request Header*): size, key of the API, its version, a number, the client's name.

use super::Payload;

/// Largest request that begins a connection.
const MAX_SIZE: u32 = 1 << 20;
/// Keys in use, with some room.
const MAX_KEY: u16 = 120;
const MAX_VERSION: u16 = 24;

const METADATA: u16 = 3;
const SASL_HANDSHAKE: u16 = 17;
const API_VERSIONS: u16 = 18;

/// Keys and versions in range, a name that is printable and fits. Without a name, only what begins connections.
#[inline(never)]
pub(super) const fn is_request(payload: &Payload) -> bool {
    let size = payload.be32(0);
    let key = payload.be16(4);
    let version = payload.be16(6);
    let name = payload.be16(12);
    if payload.len < 14
        || size < 10
        || size > MAX_SIZE
        || size + 4 < payload.len
        || key > MAX_KEY
        || version > MAX_VERSION
    {
        return false;
    }
    let begins = matches!(key, METADATA | SASL_HANDSHAKE | API_VERSIONS);
    if name == 0xffff || name == 0 {
        return begins && size + 4 == payload.len && payload.bytes[8] == 0;
    }
    name <= 255
        && 10 + (name as u32) <= size
        && payload.len > 17
        && payload.bytes[14].is_ascii_graphic()
        && (name < 2 || payload.bytes[15].is_ascii_graphic())
        && (name < 3 || payload.bytes[16].is_ascii_graphic())
        && (begins || size + 4 == payload.len)
}
