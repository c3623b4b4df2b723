//! A denied packet: dropped, or made into the answer that its ends get.
//!
//! The packet itself is rewritten and sent back the way it came; where both ends are told, a copy goes on first. Either passes a guarded
//! interface again, under a mark by which the programs know it. The mark is taken off whatever leaves a network namespace, so that a workload
//! cannot set it for the host to see.

use core::ffi::c_void;

use aya_ebpf::bindings::{
    BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC, __sk_buff,
};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_redirect, bpf_skb_change_tail, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use nv_dp_common::layout::ANSWER_MARK;
use nv_dp_common::{ANSWER_ROOM, Passage, Scratch, Told, told, write_answer};
use nv_types::Direction;

use crate::maps::KernelTables;
use crate::packet::{Skb, bounded};

/// What becomes of a packet that is denied.
#[inline(always)]
pub(crate) fn deny(ctx: &TcContext, tables: &KernelTables, scratch: &mut Scratch, passage: Passage) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the kernel's `__sk_buff` and lives as long as the program runs.
    if unsafe { (*skb).mark } == ANSWER_MARK {
        return TC_ACT_UNSPEC as i32;
    }
    let both = match told(tables, scratch, passage) {
        Told::Nobody => return TC_ACT_SHOT as i32,
        Told::Sender => false,
        Told::Both => true,
    };
    // What leaves the workload came in at the host's end, and goes back out of it.
    let (back, on) = match passage.direction {
        Direction::Egress => (0, BPF_F_INGRESS),
        Direction::Ingress => (BPF_F_INGRESS, 0),
    };
    if both && rewrite(ctx, scratch, passage.direction, false) {
        // SAFETY: the context, and the interface that the packet is at.
        unsafe { bpf_clone_redirect(skb, passage.ifindex, u64::from(on)) };
    }
    if rewrite(ctx, scratch, passage.direction, true) {
        // SAFETY: as above; it only notes where to.
        return unsafe { bpf_redirect(passage.ifindex, u64::from(back)) } as i32;
    }
    TC_ACT_SHOT as i32
}

/// Makes the packet the answer.
#[inline(never)] // once, though it is called twice
fn rewrite(ctx: &TcContext, scratch: &mut Scratch, direction: Direction, to_sender: bool) -> bool {
    let len = write_answer(&Skb(ctx), direction, scratch, to_sender);
    let len = bounded(len);
    if len == 0 || len > ANSWER_ROOM as u32 {
        return false;
    }
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the context; the answer has room for `len` bytes.
    unsafe {
        if bpf_skb_change_tail(skb, len, 0) != 0 {
            return false;
        }
        let bytes = scratch.answer().as_ptr().cast::<c_void>();
        if bpf_skb_store_bytes(skb, 0, bytes, len, u64::from(BPF_F_RECOMPUTE_CSUM)) != 0 {
            return false;
        }
        (*skb).mark = ANSWER_MARK;
    }
    true
}
