//! Memcached, its text protocol (`doc/protocol.txt`) and its binary one (*BinaryProtocolRevamped*), and the commands that
//! Couchbase has added to the latter. NeuVector calls all of the binary protocol Couchbase.

use super::Payload;
use super::payload::words;

const HELO: u8 = 0x1f;
const SASL_LIST: u8 = 0x20;
const SASL_AUTH: u8 = 0x21;
const SELECT_BUCKET: u8 = 0x89;
const CLUSTER_CONFIG: u8 = 0xb5;
const ERROR_MAP: u8 = 0xfe;
/// Header of the binary protocol.
const HEADER: u32 = 24;

/// Key, extras and body fit each other and the payload; no data type.
#[inline(always)]
const fn is_binary(payload: &Payload, key: u32, extras: u32) -> bool {
    let body = payload.be32(8);
    payload.len >= HEADER
        && key <= 250
        && extras <= 32
        && payload.bytes[5] == 0
        && key + extras <= body
        && body < 1 << 21
        && body + HEADER >= payload.len
}

/// HELO and others that stock memcached does not know.
#[inline(never)]
pub(super) const fn is_couchbase(payload: &Payload) -> bool {
    payload.bytes[0] == 0x80
        && is_binary(payload, payload.be16(2) as u32, payload.bytes[4] as u32)
        && payload.bytes[4] == 0
        && payload.be16(6) == 0
        && payload.be64(16) == 0
        && match payload.bytes[1] {
            HELO => (payload.be32(8) - payload.be16(2) as u32).is_multiple_of(2),
            SELECT_BUCKET => payload.be32(8) == payload.be16(2) as u32,
            CLUSTER_CONFIG => payload.be32(8) == 0,
            ERROR_MAP => payload.be32(8) == 2,
            _ => false,
        }
}

/// A request of stock memcached: the extras that its command has, and a key where there must be one.
#[inline(never)]
pub(super) const fn is_binary_request(payload: &Payload) -> bool {
    let key = payload.be16(2) as u32;
    let extras = payload.bytes[4] as u32;
    let body = payload.be32(8);
    if !is_binary(payload, key, extras) || payload.be16(6) != 0 {
        return false;
    }
    match payload.bytes[1] {
        // Get in its four forms: the key alone.
        0x00 | 0x09 | 0x0c | 0x0d => extras == 0 && key != 0 && body == key,
        // Set, add, replace, with and without an answer: flags and expiry.
        0x01..=0x03 | 0x11..=0x13 => extras == 8 && key != 0,
        0x04 | 0x14 => extras == 0 && key != 0 && body == key,
        0x05 | 0x06 => extras == 20 && key != 0,
        // Quit, no operation, version.
        0x07 | 0x0a | 0x0b => body == 0 && payload.be64(16) == 0,
        0x08 => extras == 0 || extras == 4,
        0x10 => extras == 0 && body == key,
        SASL_LIST => body == 0,
        SASL_AUTH => extras == 0 && key != 0 && key < 32 && payload.bytes[24].is_ascii_uppercase(),
        _ => false,
    }
}

/// An answer: a status in range.
#[inline(never)]
pub(super) const fn is_binary_response(payload: &Payload) -> bool {
    payload.bytes[0] == 0x81
        && payload.bytes[1] <= 0x22
        && is_binary(payload, payload.be16(2) as u32, payload.bytes[4] as u32)
        && payload.be16(6) <= 0x100
}

/// A command line with what must follow the command.
#[inline(never)]
pub(super) fn is_text(payload: &Payload) -> bool {
    if !payload.ends_line() {
        return false;
    }
    if payload.begins(b"version\r\n") | payload.begins(b"stats\r\n") {
        return true;
    }
    let key = if payload.begins(b"mg ") | payload.begins(b"ms ") | payload.begins(b"md ") {
        payload.bytes[3]
    } else if payload.begins(b"get ") | payload.begins(b"set ") | payload.begins(b"add ") {
        payload.bytes[4]
    } else if payload.begins(b"gets ") | payload.begins(b"incr ") | payload.begins(b"decr ") {
        payload.bytes[5]
    } else if payload.begins(b"touch ") {
        payload.bytes[6]
    } else if payload.begins(b"delete ") {
        payload.bytes[7]
    } else if payload.begins(b"replace ") {
        payload.bytes[8]
    } else {
        return false;
    };
    // A request of HTTP in small letters would have a key, too.
    key.is_ascii_graphic() && payload.holds(words(*b"TTP/", *b"ttp/"), u32::MAX) == 0
}
