//! How the pipeline reads a packet.

/// Bytes of payload that application identification looks at.
pub const WINDOW: usize = 64;

/// A frame, from its Ethernet header on.
pub trait Packet {
    /// Length of the whole frame. Offloaded packets arrive whole: it may exceed any MTU.
    fn len(&self) -> u32;

    /// Whether the frame has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// VLAN tags that the network card or kernel has already taken out of the frame (0 or 1).
    fn stripped_tags(&self) -> u32;

    /// `N` bytes at `offset`; `None` if the frame ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// Writes the first `len` bytes at `offset`, at most [`WINDOW`], over the start of `window`. `false` if the frame
    /// ends before.
    fn window(&self, offset: u32, len: u32, window: &mut [u8; WINDOW]) -> bool;
}

/// A frame in memory.
#[cfg(feature = "user")]
#[derive(Clone, Copy, Debug)]
pub struct SlicePacket<'a>(pub &'a [u8]);

#[cfg(feature = "user")]
impl Packet for SlicePacket<'_> {
    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn stripped_tags(&self) -> u32 {
        0
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        self.0.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    fn window(&self, offset: u32, len: u32, window: &mut [u8; WINDOW]) -> bool {
        let (Ok(start), Ok(len)) = (usize::try_from(offset), usize::try_from(len)) else {
            return false;
        };
        let len = len.min(WINDOW);
        let Some(bytes) = start.checked_add(len).and_then(|end| self.0.get(start..end)) else {
            return false;
        };
        window[..len].copy_from_slice(bytes);
        true
    }
}
