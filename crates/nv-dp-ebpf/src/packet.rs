//! Packet bytes by helper: works for linear and paged packets alike, and the verifier needs no bounds of ours.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use nv_dp_common::{Packet, WINDOW};

/// The packet that a program was called for.
pub(crate) struct Skb<'a>(pub(crate) &'a TcContext);

impl Packet for Skb<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn stripped_tags(&self) -> u32 {
        // SAFETY: the context is the kernel's `__sk_buff`.
        u32::from(unsafe { (*self.0.skb.skb).vlan_present } != 0)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes exactly `N` bytes to a buffer of `N`, or fails.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.0.skb.skb as *const c_void,
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        if failed == 0 {
            // SAFETY: it has written all of them.
            Some(unsafe { bytes.assume_init() })
        } else {
            None
        }
    }

    #[inline(always)]
    fn window(&self, offset: u32, len: u32, window: &mut [u8; WINDOW]) -> bool {
        let wanted = bounded(if len > WINDOW as u32 { WINDOW as u32 } else { len });
        if wanted == 0 || wanted > WINDOW as u32 {
            return false;
        }
        let skb = self.0.skb.skb as *const c_void;
        // SAFETY: `wanted` is at most the size of the window.
        unsafe { bpf_skb_load_bytes(skb, offset, window.as_mut_ptr().cast(), wanted) == 0 }
    }
}

/// Hides from the compiler what it knows of a number, so that it keeps the comparison that the verifier needs.
#[inline(always)]
pub(crate) fn bounded(mut value: u32) -> u32 {
    // SAFETY: no instruction, no effect.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack)) };
    value
}
