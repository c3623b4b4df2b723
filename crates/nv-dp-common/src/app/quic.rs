//! QUIC versions 1 and 2 (RFC 9000, RFC 9369) by the invariants of its long header (RFC 8999): what follows it is encrypted.

use super::Payload;

const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;
/// Smallest datagram that a client may begin with (RFC 9000, 14.1).
const MIN_INITIAL: u32 = 1200;
const MAX_ID: u8 = 20;

/// Of a version that is in use, or one that was made up to keep servers honest (RFC 9000, 15).
#[inline(always)]
const fn is_version(version: u32) -> bool {
    version == VERSION_1 || version == VERSION_2 || version & 0x0f0f_0f0f == 0x0a0a_0a0a
}

/// The type bits of the first byte say Initial; version 2 numbers the types anew (RFC 9369, 3.2).
#[inline(always)]
const fn is_initial(payload: &Payload) -> bool {
    let kind = payload.bytes[0] >> 4 & 3;
    kind == (payload.be32(1) == VERSION_2) as u8
}

/// Initial in a datagram of full size, connection ids in range: the one that the client made up has at least eight bytes.
#[inline(never)]
pub(super) fn is_client_initial(payload: &Payload) -> bool {
    let id = payload.bytes[5];
    payload.len >= MIN_INITIAL
        && payload.bytes[0] & 0xc0 == 0xc0
        && is_version(payload.be32(1))
        && is_initial(payload)
        && (8..=MAX_ID).contains(&id)
        && payload.at(6 + id as usize) <= MAX_ID
}

/// A long header of the server: Initial, Handshake or Retry of a version in use, or a negotiation of one.
#[inline(never)]
pub(super) fn is_server_hello(payload: &Payload) -> bool {
    let id = payload.bytes[5];
    let version = payload.be32(1);
    payload.len >= 24
        && payload.bytes[0] & 0x80 != 0
        && id <= MAX_ID
        && payload.at(6 + id as usize) <= MAX_ID
        && match version {
            VERSION_1 | VERSION_2 => payload.bytes[0] & 0x40 != 0,
            // Version negotiation: whole versions after both ids.
            0 => (payload.len - 7 - id as u32 - payload.at(6 + id as usize) as u32) & 3 == 0 && id != 0,
            _ => false,
        }
}
