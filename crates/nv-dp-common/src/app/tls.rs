//! TLS (RFC 8446, 4.1 and 5.1; the same since SSL 3.0): a handshake record that holds a hello of the right side.

use super::Payload;
use crate::packet::Packet;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// 2^14 and what older versions let compression add (RFC 5246, 6.2.3).
const MAX_RECORD: u32 = 16_384 + 2_048;
/// Record and handshake header.
const HEADERS: u32 = 9;
/// Where the length of the session id stands, after version and random.
const SESSION_ID: u32 = HEADERS + 34;

/// Length of the hello of this kind, 0 if it is none. `alone`: nothing else is in its first record.
#[inline(always)]
const fn hello_len(payload: &Payload, kind: u8, alone: bool) -> u32 {
    let record = payload.be16(3) as u32;
    let len = payload.be32(5) & 0x00ff_ffff;
    let fits = payload.len > SESSION_ID + 2
        && payload.bytes[0] == HANDSHAKE
        && payload.bytes[1] == 3
        && payload.bytes[2] <= 4
        && record >= 6
        && record <= MAX_RECORD
        && payload.bytes[5] == kind
        && len >= 38
        && len < 1 << 16
        && (!alone || record <= len + 4)
        && payload.bytes[9] == 3
        && payload.bytes[10] <= 4
        && payload.bytes[SESSION_ID as usize] <= 32;
    if fits { len } else { 0 }
}

/// A ClientHello: session id, then a list of at least one cipher suite that fits in it.
#[inline(never)]
pub(super) fn is_client_hello<P: Packet>(payload: &Payload, packet: &P, offset: u32) -> bool {
    let len = hello_len(payload, CLIENT_HELLO, true);
    let suites_at = SESSION_ID + 1 + u32::from(payload.bytes[SESSION_ID as usize]);
    if len == 0 || payload.len < suites_at + 2 {
        return false;
    }
    let Some(suites) = packet.load::<2>(offset + suites_at) else {
        return false;
    };
    let suites = u32::from(u16::from_be_bytes(suites));
    suites >= 2 && suites & 1 == 0 && suites_at + 2 + suites <= HEADERS + len
}

/// A ServerHello: session id, a cipher suite, no compression but the two that ever were.
#[inline(never)]
pub(super) fn is_server_hello<P: Packet>(payload: &Payload, packet: &P, offset: u32) -> bool {
    let len = hello_len(payload, SERVER_HELLO, false);
    let suite_at = SESSION_ID + 1 + u32::from(payload.bytes[SESSION_ID as usize]);
    if len == 0 || payload.len < suite_at + 3 {
        return false;
    }
    matches!(packet.load::<3>(offset + suite_at), Some([_, _, 0 | 1]))
}
