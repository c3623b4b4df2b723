//! Apache Cassandra: the CQL binary protocol (specifications of versions 1 to 5, 2 and 4), as DataStax's and ScyllaDB's servers
//! speak it too.

use super::Payload;

const ERROR: u8 = 0;
const STARTUP: u8 = 1;
const READY: u8 = 2;
const AUTHENTICATE: u8 = 3;
const OPTIONS: u8 = 5;
const SUPPORTED: u8 = 6;

/// Header and body length from version 3 on, where the stream takes two bytes; flags and stream in range.
#[inline(always)]
const fn body(payload: &Payload) -> u32 {
    let length = payload.be32(5);
    if payload.len < 9
        || payload.bytes[1] > 0x1f
        || payload.bytes[2] > 0x7f
        || length > 1 << 16
        || length + 9 < payload.len
    {
        u32::MAX
    } else {
        length
    }
}

/// OPTIONS, which has no body, or STARTUP with its version.
#[inline(never)]
pub(super) const fn is_request(payload: &Payload) -> bool {
    // Versions 1 and 2 have one byte of stream, and so a header of eight.
    if payload.bytes[0] <= 2 {
        let length = payload.be32(4);
        return payload.len >= 8
            && payload.bytes[1] <= 3
            && length < 1 << 16
            && length + 8 == payload.len
            && match payload.bytes[3] {
                OPTIONS => length == 0,
                STARTUP => payload.has(12, b"CQL_"),
                _ => false,
            };
    }
    let length = body(payload);
    match payload.bytes[4] {
        OPTIONS => length == 0 && payload.len == 9,
        // A map of strings: their number, then length and text of the first.
        STARTUP => {
            length != u32::MAX
                && length >= 13
                && payload.be16(9) >= 1
                && payload.be16(9) <= 16
                && payload.be16(11) <= 32
                && payload.bytes[13].is_ascii_uppercase()
                && payload.bytes[14].is_ascii_uppercase()
        }
        _ => false,
    }
}

/// An answer to one of these.
#[inline(never)]
pub(super) const fn is_response(payload: &Payload) -> bool {
    let length = body(payload);
    length != u32::MAX
        && payload.bytes[0] >= 0x83
        && match payload.bytes[4] {
            READY => length == 0,
            SUPPORTED => {
                length >= 4
                    && payload.be16(9) <= 32
                    && payload.be16(11) <= 32
                    && payload.bytes[13].is_ascii_uppercase()
            }
            AUTHENTICATE => {
                length >= 4 && payload.be16(9) as u32 + 2 == length && payload.bytes[11].is_ascii_alphabetic()
            }
            ERROR => length >= 6 && payload.be32(9) < 1 << 14 && payload.be16(13) as u32 + 6 <= length,
            _ => false,
        }
}
