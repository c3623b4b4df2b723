//! HTTP/2 without TLS (RFC 9113), and what tells gRPC from other uses of it.
//!
//! The connection preface (3.4) says HTTP/2; only a request says what for. gRPC (*gRPC over HTTP/2*) is the one whose content
//! type begins with `application/grpc`. Clients may wait for the server's SETTINGS before they ask, so that a flow is pending
//! as HTTP/2 from the preface, or from the server's SETTINGS, until the first HEADERS frame. Frames that ask for
//! nothing (SETTINGS, PING and such) are not counted against the budget of payloads.
//!
//! The fields of the first header block are walked (RFC 7541, 6) as far as the content type: its table begins empty, so that the
//! value must stand there literally, in plain text or in HPACK's Huffman code (5.2 and appendix B).

use nv_types::Application;

use super::Payload;
use crate::layout::{APP_HTTP2, APP_PENDING};
use crate::packet::Packet;

/// Bytes of a frame header (RFC 9113, 4.1).
const HEADER: u32 = 9;
/// Frames before the first request that are looked through.
const FRAMES: u32 = 6;
/// Fields of a header block that are walked: gRPC's has the content type among the first eight.
const FIELDS: u32 = 12;
/// Largest frame before a setting has allowed more (RFC 9113, 4.2).
const MAX_FRAME: u32 = 1 << 14;

const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// Types from here on are extensions, to be ignored (RFC 9113, 5.5).
const EXTENSIONS: u8 = 10;

/// Place of `content-type` in the static table (RFC 7541, appendix A).
const CONTENT_TYPE: u32 = 31;
/// `application/grpc` as text, and in Huffman code, where it ends with a whole byte.
const GRPC: [u8; 16] = *b"application/grpc";
const GRPC_CODED: [u8; 11] = [0x1d, 0x75, 0xd0, 0x62, 0x0d, 0x26, 0x3d, 0x4c, 0x4d, 0x65, 0x64];

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`.
#[inline(always)]
const fn is_preface(payload: &Payload) -> bool {
    payload.len >= 24
        && payload.begins(b"PRI * HTTP/2.0\r\n")
        && payload.has(16, b"\r\nSM")
        && payload.has(20, b"\r\n\r\n")
}

/// What a client's first payload says.
#[inline(always)]
pub(super) fn opening<P: Packet>(payload: &mut Payload, packet: &P, offset: u32) -> u8 {
    if is_preface(payload) {
        request(payload, packet, offset)
    } else {
        APP_PENDING
    }
}

/// What a client's payload says in a flow that is known to be HTTP/2.
#[inline(never)]
pub(super) fn request<P: Packet>(payload: &mut Payload, packet: &P, offset: u32) -> u8 {
    let mut at = if is_preface(payload) { 24 } else { 0 };
    let mut fields_at = 0;
    for _ in 0..FRAMES {
        if at >= payload.len {
            break;
        }
        let Some(frame) = packet.load::<{ HEADER as usize }>(offset + at) else {
            return APP_PENDING;
        };
        let len = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        let kind = frame[3];
        if len > MAX_FRAME || frame[5] & 0x80 != 0 {
            return APP_PENDING;
        }
        at += HEADER;
        if kind == HEADERS {
            // A byte that tells of padding, and five of a priority.
            let flags = u32::from(frame[4]);
            fields_at = at + (flags >> 3 & 1) + (flags >> 5 & 1) * 5;
            break;
        }
        if !(matches!(kind, PRIORITY | SETTINGS | PING | WINDOW_UPDATE) || kind >= EXTENSIONS) {
            return APP_PENDING;
        }
        at += len;
    }
    if fields_at == 0 {
        return APP_HTTP2;
    }
    fields(packet, offset + fields_at, offset + payload.len)
}

/// The server's SETTINGS, which it may send first: whole settings on stream 0, not an acknowledgement (RFC 9113, 6.5).
#[inline(never)]
pub(super) const fn settings(payload: &Payload) -> u8 {
    let len = payload.be32(0) >> 8;
    let fits = payload.len >= HEADER
        && len <= 64 * 6
        && len.is_multiple_of(6)
        && (len == 0 || payload.bytes[9] == 0);
    if fits && payload.bytes[3] == SETTINGS && payload.be32(4) == 0 && payload.bytes[8] == 0 {
        APP_HTTP2
    } else {
        APP_PENDING
    }
}

/// Whether the header block at `at` has the content type of gRPC.
#[inline(never)]
fn fields<P: Packet>(packet: &P, at: u32, end: u32) -> u8 {
    let mut at = at;
    for _ in 0..FIELDS {
        if at >= end {
            break;
        }
        let Some([first]) = packet.load::<1>(at) else {
            break;
        };
        at += 1;
        if first & 0x80 != 0 {
            continue; // a field of the table
        }
        if first & 0xe0 == 0x20 {
            if first & 0x1f == 0x1f {
                at += varint(packet, at) >> 24; // a new size of the table
            }
            continue;
        }
        let most = if first & 0x40 != 0 { 0x3f } else { 0x0f };
        let mut index = u32::from(first) & most;
        if index == most {
            let more = varint(packet, at);
            index += more & 0xffff;
            at += more >> 24;
        }
        if index == 0 {
            let name = string(packet, at);
            at += (name >> 24) + (name & 0xffff);
        }
        let value = string(packet, at);
        at += value >> 24;
        if index == CONTENT_TYPE {
            let is_grpc = if value & CODED != 0 {
                packet.load::<11>(at) == Some(GRPC_CODED)
            } else {
                packet.load::<16>(at) == Some(GRPC)
            };
            return if is_grpc {
                Application::GRPC.index()
            } else {
                Application::HTTP2.index()
            };
        }
        at += value & 0xffff;
    }
    Application::HTTP2.index()
}

/// In what [`string`] gives: the bytes of the string are in Huffman code.
const CODED: u32 = 1 << 16;

/// The head of a string (RFC 7541, 5.2): its length, [`CODED`], and from bit 24 on how many bytes the head takes.
#[inline(never)]
fn string<P: Packet>(packet: &P, at: u32) -> u32 {
    let Some([first]) = packet.load::<1>(at) else {
        return 0xffff;
    };
    let coded = if first & 0x80 != 0 { CODED } else { 0 };
    let len = u32::from(first & 0x7f);
    if len < 0x7f {
        return 1 << 24 | coded | len;
    }
    let more = varint(packet, at + 1);
    ((more & 0xff00_0000) + (1 << 24)) | coded | ((more + len) & 0xffff)
}

/// The rest of a number that did not fit its prefix (RFC 7541, 5.1), of at most two bytes, and from bit 24 on how many it took.
#[inline(never)]
fn varint<P: Packet>(packet: &P, at: u32) -> u32 {
    let Some([one, two]) = packet.load::<2>(at) else {
        return 0;
    };
    if one & 0x80 == 0 {
        1 << 24 | u32::from(one)
    } else {
        2 << 24 | u32::from(one & 0x7f) | u32::from(two & 0x7f) << 7
    }
}
