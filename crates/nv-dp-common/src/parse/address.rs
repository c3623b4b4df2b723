//! Kinds of addresses.

/// IPv4 address as tables hold it.
#[inline(always)]
pub(crate) const fn mapped(a: u8, b: u8, c: u8, d: u8) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Multicast (224.0.0.0/4, ff00::/8) or the limited broadcast address.
#[inline(always)]
#[must_use]
pub fn is_multicast(addr: &[u8; 16]) -> bool {
    if is_v4(addr) {
        addr[12] & 0xf0 == 0xe0 || [addr[12], addr[13], addr[14], addr[15]] == [255; 4]
    } else {
        addr[0] == 0xff
    }
}

/// Whether it is an IPv4 address.
#[inline(always)]
#[must_use]
pub fn is_v4(addr: &[u8; 16]) -> bool {
    addr[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
}

/// An address that a host may use before it has one of its own: unspecified, or IPv6 link-local.
#[inline(always)]
#[must_use]
pub fn is_unspecified(addr: &[u8; 16]) -> bool {
    *addr == [0; 16] || *addr == mapped(0, 0, 0, 0)
}

/// IPv6 link-local unicast, fe80::/10.
#[inline(always)]
#[must_use]
pub const fn is_link_local_v6(addr: &[u8; 16]) -> bool {
    addr[0] == 0xfe && addr[1] & 0xc0 == 0x80
}
