//! Kernel programs of nv: two classifiers for the host side of a veth, one a direction.
//!
//! They only fetch bytes and look up maps; every decision is made by [`nv_dp_common::run`].
#![feature(asm_experimental_arch)]
#![no_std]
#![no_main]

mod answer;
mod maps;
mod overhear;
mod packet;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use nv_dp_common::layout::RELEASE_MARK;
use nv_dp_common::{Passage, run};
use nv_types::{Direction, Verdict};

/// Packets that leave the workload: they come in at the host's end.
#[classifier]
pub fn nv_egress(ctx: TcContext) -> i32 {
    judge(ctx, Direction::Egress)
}

/// Packets for the workload: they go out at the host's end.
#[classifier]
pub fn nv_ingress(ctx: TcContext) -> i32 {
    judge(ctx, Direction::Ingress)
}

#[inline(always)]
fn judge(ctx: TcContext, direction: Direction) -> i32 {
    // SAFETY: the context is the kernel's `__sk_buff` and lives as long as the program runs.
    let (ifindex, mark) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).mark) };
    if matches!(direction, Direction::Ingress) && mark == RELEASE_MARK {
        return TC_ACT_UNSPEC; // judged and counted when it was held
    }
    // Not found only if the object and its loader disagree; then there is nothing to judge by either.
    let Some((scratch, tables, now_ns)) = maps::open() else {
        return TC_ACT_UNSPEC;
    };
    let passage = Passage {
        ifindex,
        direction,
        now_ns,
    };
    match run(&packet::Skb(&ctx), &tables, scratch, passage) {
        Verdict::Deny => answer::deny(&ctx, &tables, scratch, passage),
        // Not OK: programs after ours have their say too.
        Verdict::Allow | Verdict::Alert => overhear::pass(&ctx, &tables, scratch, passage),
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel asks for a licence that is compatible with its own before it opens all helpers to a program; these
/// two words mean that this object may be used under the GPL as well.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
