//! DHCP (RFC 2131, 2 and 3): a BOOTP message with the magic cookie.

use super::Payload;
use crate::packet::Packet;

const COOKIE_AT: u32 = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

#[inline(never)]
pub(super) fn is_dhcp<P: Packet>(payload: &Payload, packet: &P, offset: u32) -> bool {
    let operation = payload.bytes[0];
    (operation == 1 || operation == 2)
        && payload.bytes[1] == 1
        && payload.bytes[2] == 6
        && payload.bytes[3] <= 16
        && payload.len > COOKIE_AT + 4
        && packet.load::<4>(offset + COOKIE_AT) == Some(COOKIE)
}
