//! DNS over UDP and TCP (RFC 1035, 4.1; RFC 6895 for opcodes and classes).

use super::Payload;
use crate::packet::WINDOW;

const HEADER: usize = 12;
/// Labels of a name that are followed.
const MAX_LABELS: usize = 4;

/// A message in a datagram.
#[inline(never)]
pub(super) fn is_datagram(payload: &Payload) -> bool {
    payload.len >= 17 && is_message(payload, 0)
}

/// A message on a stream: two bytes of length before it.
#[inline(never)]
pub(super) fn is_stream(payload: &Payload) -> bool {
    let stated = u32::from(payload.be16(0));
    payload.len >= 19 && stated >= 17 && stated + 2 >= payload.len && is_message(payload, 2)
}

/// Header and question fit each other.
#[inline(always)]
fn is_message(payload: &Payload, at: usize) -> bool {
    let high = payload.bytes[at + 2];
    let low = payload.bytes[at + 3];
    let is_response = high & 0x80 != 0;
    let opcode = high >> 3 & 0x0f;
    let questions = payload.be16(at + 4);
    let answers = payload.be16(at + 6);
    let authorities = payload.be16(at + 8);
    let additional = payload.be16(at + 10);
    let plausible = (opcode <= 2 || opcode == 4 || opcode == 5)
        && low & 0x40 == 0
        && questions == 1
        && is_response != payload.from_client
        && (is_response || (answers == 0 && authorities <= 1 && additional <= 2 && low & 0x0f == 0))
        && answers <= 512
        && authorities <= 512
        && additional <= 512;
    plausible && is_question(payload, at + HEADER)
}

/// A name of labels, its type and a known class; the part of it that the window holds.
#[inline(always)]
fn is_question(payload: &Payload, start: usize) -> bool {
    let mut at = start;
    for _ in 0..MAX_LABELS {
        let Some(length) = byte(payload, at) else {
            return true;
        };
        if length == 0 {
            let (Some(high), Some(low)) = (byte(payload, at + 3), byte(payload, at + 4)) else {
                return at + 5 > WINDOW;
            };
            return high & 0x7f == 0 && matches!(low, 1 | 3 | 4 | 254 | 255);
        }
        if length > 63 {
            return false;
        }
        at += length as usize + 1;
        if at >= payload.len as usize {
            return false;
        }
    }
    true
}

/// A byte of the window; masked, so that the kernel's verifier sees the bound.
#[inline(always)]
fn byte(payload: &Payload, at: usize) -> Option<u8> {
    if at >= WINDOW || at >= payload.len as usize {
        None
    } else {
        Some(payload.bytes[at & (WINDOW - 1)])
    }
}
