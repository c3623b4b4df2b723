//! DNS messages on their way to userspace.

/// Longest frame that is told; a longer one passes, counted, and nothing is learned of it.
pub const OVERHEARD_ROOM: usize = 4096;

/// What stands before a frame in the ring of DNS messages.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverheardValue {
    /// When, nanoseconds on the monotonic clock.
    pub at_ns: u64,
    /// Endpoint.
    pub ifindex: u32,
    /// Bytes of the frame, which follows.
    pub len: u32,
    /// [`Direction`](nv_types::Direction) as a number.
    pub direction: u8,
    /// 1 for a frame that does not go on by itself.
    pub held: u8,
    /// Zero.
    pub pad: [u8; 6],
}
