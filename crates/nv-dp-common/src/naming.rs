//! Which application a flow is, as far as this packet says: done once, before policy is asked, and written to working memory.
//!
//! A function of its own that leaves its answer in memory: the kernel's verifier walks all recognizers once for each way that
//! leads here, and what they find is to it one number like any other.

use nv_types::Direction;

use crate::app::{Known, classify};
use crate::flow::{is_reopened, opener};
use crate::layout::{APP_PENDING, FlowCell, is_pending};
use crate::packet::Packet;
use crate::pipeline::Scratch;
use crate::tables::Tables;

/// What a payload that was asked for its application says, and leaves at its side of the flow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notes {
    /// See [`SideCell::digest`](crate::layout::SideCell::digest).
    pub(crate) digest: u32,
    /// Application byte of the flow.
    pub(crate) app: u8,
    /// See [`SideCell::payloads`](crate::layout::SideCell::payloads).
    pub(crate) payloads: u8,
    /// The payload was looked at.
    pub(crate) asked: bool,
    /// The application byte is another than before.
    pub(crate) learned: bool,
}

/// Fills [`Scratch::notes`] for a packet that has a payload and is not a later fragment.
#[inline(never)] // see the module's page
pub(crate) fn look<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    scratch: &mut Scratch,
    found: Option<&FlowCell>,
    direction: Direction,
) {
    let leaves = matches!(direction, Direction::Egress);
    let headers = &scratch.headers;
    let known = found.filter(|flow| !is_reopened(flow, headers));
    let (app, opened) = match known {
        Some(flow) => (flow.app.get(), flow.direction.get()),
        None => (APP_PENDING, opener(direction, headers) as u8),
    };
    if !is_pending(app) {
        return;
    }
    let (tries, digest, others_digest) = match known {
        Some(flow) => {
            let side = flow.side(leaves);
            (
                side.payloads.get(),
                side.digest.get(),
                flow.side(!leaves).digest.get(),
            )
        }
        None => (0, 0, 0),
    };
    // Through memory, all that is asked of it below: one way to walk on for a flow that is known and one that is not.
    let app = (tables.opaque(u32::from(app)) & 0xff) as u8;
    let tries = (tables.opaque(u32::from(tries)) & 0xff) as u8;
    let from_client = tables.opaque(u32::from((opened != 0) == leaves)) != 0;
    let before = Known {
        app,
        tries,
        others_digest,
    };
    let found = classify(
        packet,
        tables,
        headers,
        &mut scratch.payload,
        from_client,
        &before,
    );
    scratch.notes = Notes {
        digest: if found.digest == 0 { digest } else { found.digest },
        app: found.app,
        payloads: found.tries,
        asked: true,
        learned: found.app != app,
    };
}
