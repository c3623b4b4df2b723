//! Names: which DNS messages userspace reads, and which of them wait for it.
//!
//! While groups speak of DNS names, what a workload asks a resolver is copied to whoever listens, and the answer is taken out of the way and
//! copied as well: it goes on when the addresses in it are in the tables, so that the first connection after it finds them there.
//! An answer is what belongs to a flow that the workload opened to the resolver's port and has sent something in; anything else from that
//! port passes as any other packet does and nothing is learned of it. With nobody listening all messages pass.

use nv_types::{Direction, IpProto, Verdict};

use crate::layout::EndpointValue;
use crate::pipeline::{Passage, Scratch};
use crate::tables::Tables;

/// Where resolvers listen (RFC 1035, 4.2).
const DOMAIN: u16 = 53;
/// A message's header (RFC 1035, 4.1.1).
const HEADER: u32 = 12;

/// What becomes of a packet that the policy lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overheard {
    /// It passes.
    Nothing,
    /// It passes, and a copy goes to userspace: a question.
    Copied,
    /// A copy goes to userspace, which sends it on: an answer.
    Held,
}

/// Whether userspace is to see the packet that [`run`](crate::run) has just let through.
#[inline(always)]
pub fn overheard<T: Tables>(tables: &T, scratch: &Scratch, passage: Passage) -> Overheard {
    let headers = &scratch.headers;
    let key = &headers.key;
    if key.peer_port != DOMAIN
        || (key.proto != IpProto::UDP.0 && key.proto != IpProto::TCP.0)
        || headers.payload_len < HEADER
        || headers.more_fragments
        || headers.fragment_offset != 0
    {
        return Overheard::Nothing;
    }
    let slot = tables.epoch() & 1;
    let (Some(switches), Some(endpoint)) = (tables.switches(slot), tables.endpoint(passage.ifindex)) else {
        return Overheard::Nothing;
    };
    if switches.names == 0
        || endpoint.flags & EndpointValue::QUARANTINED != 0
        || u64::from(tables.listener()) * 1_000_000_000 < passage.now_ns
    {
        return Overheard::Nothing;
    }
    let Some(flow) = tables.flow(key) else {
        return Overheard::Nothing;
    };
    if flow.direction.get() != Direction::Egress as u8 || flow.verdict.get() == Verdict::Deny as u8 {
        return Overheard::Nothing;
    }
    match passage.direction {
        Direction::Egress => Overheard::Copied,
        Direction::Ingress if flow.tx.packets.get() > 0 => Overheard::Held,
        Direction::Ingress => Overheard::Nothing,
    }
}
