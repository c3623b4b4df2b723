//! Apache Spark (network-common: `MessageEncoder`, `Message`): length of the frame, kind of the message, and the lengths that it
//! must agree with.

use super::Payload;

const CHUNK_FETCH_REQUEST: u8 = 0;
const RPC_REQUEST: u8 = 3;
const STREAM_REQUEST: u8 = 6;
const ONE_WAY: u8 = 9;
const UPLOAD_STREAM: u8 = 10;
/// Frames are allowed to be larger, first ones are not.
const MAX_FRAME: u64 = 1 << 24;

#[inline(never)]
pub(super) const fn is_message(payload: &Payload) -> bool {
    let frame = payload.be64(0);
    if payload.len < 14 || frame > MAX_FRAME || frame < payload.len as u64 {
        return false;
    }
    match payload.bytes[8] {
        // The number of the call, then a body as long as the rest.
        RPC_REQUEST => frame == 21 + payload.be32(17) as u64,
        ONE_WAY => frame == 13 + payload.be32(9) as u64,
        STREAM_REQUEST => frame == 13 + payload.be32(9) as u64 && payload.bytes[13] == b'/',
        // Stream and chunk.
        CHUNK_FETCH_REQUEST => frame == 21,
        UPLOAD_STREAM => {
            payload.be32(17) as u64 + 29 <= frame && payload.be32(17) > 0 && payload.be32(17) < 1 << 16
        }
        _ => false,
    }
}
