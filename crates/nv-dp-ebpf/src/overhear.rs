//! DNS messages for userspace: questions are copied, answers are copied and dropped. Userspace sends an answer on at the same interface,
//! under a mark by which the program knows it.
//!
//! Whoever sent the answer from this very node is told that it was dropped, as an error that a datagram socket hides unless it asks for
//! errors (`IP_RECVERR`); no code of TCX takes a packet in silence.

use core::ffi::c_void;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use nv_dp_common::layout::{OVERHEARD_ROOM, OverheardValue};
use nv_dp_common::{Overheard, Packet as _, Passage, Scratch, overheard};

use crate::maps::{KernelTables, message, message_lost, tell};
use crate::packet::{Skb, bounded};

const HEAD: usize = size_of::<OverheardValue>();

/// What becomes of a packet that the policy lets through.
#[inline(always)]
pub(crate) fn pass(ctx: &TcContext, tables: &KernelTables, scratch: &Scratch, passage: Passage) -> i32 {
    match overheard(tables, scratch, passage) {
        Overheard::Nothing => TC_ACT_UNSPEC,
        Overheard::Copied => {
            told(ctx, passage, 0);
            TC_ACT_UNSPEC
        }
        // Several segments in one packet are more than an interface takes from userspace: they are shown and go on.
        Overheard::Held if is_several(ctx) => {
            told(ctx, passage, 0);
            TC_ACT_UNSPEC
        }
        Overheard::Held if told(ctx, passage, 1) => TC_ACT_SHOT,
        Overheard::Held => TC_ACT_UNSPEC,
    }
}

/// Whether the packet is to be cut into segments, or may be: some drivers leave it open how many there are.
#[inline(always)]
fn is_several(ctx: &TcContext) -> bool {
    // SAFETY: the context is the kernel's `__sk_buff`.
    let (size, segments) = unsafe { ((*ctx.skb.skb).gso_size, (*ctx.skb.skb).gso_segs) };
    size != 0 && segments != 1
}

/// Puts the frame into the ring; `false`, counted, if it could not be.
#[inline(always)]
fn told(ctx: &TcContext, passage: Passage, held: u8) -> bool {
    let skb = Skb(ctx);
    let len = bounded(skb.len());
    // A tag that the kernel has taken out would be lost on the way.
    if len == 0 || len > OVERHEARD_ROOM as u32 || skb.stripped_tags() != 0 {
        message_lost();
        return false;
    }
    let Some(message) = message() else { return false };
    let value = OverheardValue {
        at_ns: passage.now_ns,
        ifindex: passage.ifindex,
        len,
        direction: passage.direction as u8,
        held,
        pad: [0; 6],
    };
    // SAFETY: this CPU's own memory has room for the head and `len` bytes.
    unsafe {
        message.cast::<OverheardValue>().write(value);
        let frame = message.add(HEAD);
        if bpf_skb_load_bytes(ctx.skb.skb as *const c_void, 0, frame.cast(), len) != 0 {
            message_lost();
            return false;
        }
        tell(message, HEAD + len as usize)
    }
}
