//! The start of a payload, and how recognizers read it.

use core::hint::black_box;

use crate::packet::WINDOW;

/// The start of a packet's payload.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// First bytes; zero beyond `len`.
    pub bytes: [u8; WINDOW],
    /// Length of the whole payload, which may be longer than the window.
    pub len: u32,
    /// Whether the client sent it.
    pub from_client: bool,
}

impl Payload {
    #[inline(always)]
    pub(super) const fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    #[inline(always)]
    pub(super) const fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes([
            self.bytes[at],
            self.bytes[at + 1],
            self.bytes[at + 2],
            self.bytes[at + 3],
        ])
    }

    #[inline(always)]
    pub(super) const fn be64(&self, at: usize) -> u64 {
        (self.be32(at) as u64) << 32 | self.be32(at + 4) as u64
    }

    #[inline(always)]
    pub(super) const fn le16(&self, at: usize) -> u16 {
        self.be16(at).swap_bytes()
    }

    #[inline(always)]
    pub(super) const fn le32(&self, at: usize) -> u32 {
        self.be32(at).swap_bytes()
    }

    #[inline(always)]
    pub(super) const fn le64(&self, at: usize) -> u64 {
        self.be64(at).swap_bytes()
    }

    /// The first four bytes are these.
    #[inline(always)]
    pub(super) const fn starts(&self, text: &[u8; 4]) -> bool {
        self.be32(0) == u32::from_be_bytes(*text)
    }

    /// The four bytes at `at` are these.
    #[inline(always)]
    pub(super) const fn has(&self, at: usize, text: &[u8; 4]) -> bool {
        self.be32(at) == u32::from_be_bytes(*text)
    }

    /// Begins with this word of at most sixteen bytes: one comparison, or two.
    #[inline(always)]
    pub(super) const fn begins(&self, word: &[u8]) -> bool {
        is_word(self.be64(0), word, 0) && (word.len() <= 8 || is_word(self.be64(8), word, 8))
    }

    /// The first eight bytes, letters in lower case, begin with this word of at most as many.
    #[inline(always)]
    pub(super) const fn begins_in_any_case(&self, word: &[u8]) -> bool {
        is_word(self.be64(0) | 0x2020_2020_2020_2020, word, 0)
    }

    /// The byte at a place that is only known when it runs, within the window. What the compiler knows of the place is hidden from
    /// it, so that it keeps the mask, by which the kernel's verifier sees the bound.
    #[inline(always)]
    pub(super) fn at(&self, place: usize) -> u8 {
        self.bytes[black_box(place) & (WINDOW - 1)]
    }

    /// The line that the payload begins with is at its end: the last two bytes are CR LF, as far as the window shows.
    #[inline(always)]
    pub(super) fn ends_line(&self) -> bool {
        let len = self.len as usize;
        if len < 2 {
            return false;
        }
        if len > WINDOW {
            return true;
        }
        self.at(len - 2) == b'\r' && self.at(len - 1) == b'\n'
    }

    /// Whether these words, with `mask` over them, stand anywhere in the window after the first
    /// byte: a bit each, the first word's the lowest.
    ///
    /// Without branches, so that the kernel's verifier has one path to walk.
    #[inline(never)]
    pub(super) fn holds(&self, words: u64, mask: u32) -> u64 {
        let [one, other] = [(words >> 32) as u32, (words & 0xffff_ffff) as u32];
        let mut last = 0;
        let mut found = 0;
        let mut at = 1;
        while at < WINDOW {
            last = last << 8 | u32::from(self.bytes[at]);
            // Below zero, and so with its highest bit set, only if nothing differs.
            found |= u64::from((last ^ one) & mask).wrapping_sub(1) >> 63;
            found |= u64::from((last ^ other) & mask).wrapping_sub(1) >> 63 << 1;
            at += 1;
        }
        found
    }
}

/// Two words as [`Payload::holds`] takes them.
#[inline(always)]
pub(super) const fn words(one: [u8; 4], other: [u8; 4]) -> u64 {
    (u32::from_be_bytes(one) as u64) << 32 | u32::from_be_bytes(other) as u64
}

/// Whether eight bytes begin with what the word has from `from` on.
#[inline(always)]
const fn is_word(start: u64, word: &[u8], from: usize) -> bool {
    let mut wanted = 0;
    let mut len = 0;
    while from + len < word.len() && len < 8 {
        wanted = wanted << 8 | word[from + len] as u64;
        len += 1;
    }
    len == 0 || start >> (64 - 8 * len) == wanted
}
