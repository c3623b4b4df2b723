//! BitTorrent: peers (BEP 3), trackers over UDP (BEP 15), the distributed table (BEP 5), and peers over uTP (BEP 29).

use super::Payload;

/// 19 and the protocol's name.
#[inline(never)]
pub(super) const fn is_handshake(payload: &Payload) -> bool {
    payload.len >= 20 && payload.begins(b"\x13BitTorrent prot") && payload.has(16, b"ocol")
}

#[inline(never)]
pub(super) const fn is_datagram(payload: &Payload) -> bool {
    match payload.bytes[0] {
        b'd' => is_table_message(payload),
        0x41 => is_utp_opening(payload),
        _ => payload.len == 16 && payload.be64(0) == 0x0417_2710_1980 && payload.be32(8) == 0,
    }
}

/// A query or an answer: a dictionary whose first value is one with an id of twenty bytes.
#[inline(always)]
const fn is_table_message(payload: &Payload) -> bool {
    payload.len >= 40
        && (payload.begins(b"d1:ad2:id20:") | payload.begins(b"d1:rd2:id20:") | payload.begins(b"d2:ip6:"))
}

/// ST_SYN of version 1: nothing received yet, the first packet.
#[inline(always)]
const fn is_utp_opening(payload: &Payload) -> bool {
    payload.len >= 20
        && payload.len <= 64
        && payload.bytes[1] <= 2
        && payload.be32(8) == 0
        && payload.be32(12) >= 1500
        && payload.be16(16) == 1
        && payload.be16(18) == 0
}
