//! From one payload to what is known of a flow: the budget and the candidates.

use nv_types::{Application, IpProto};

use super::{Payload, recognize};
use crate::layout::{APP_GREETED, APP_HTTP2, APP_PENDING, PAYLOAD_BUDGET};
use crate::packet::{Packet, WINDOW};
use crate::parse::Headers;
use crate::tables::Tables;

/// What was known before a payload came.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    /// Application byte of the flow.
    pub(crate) app: u8,
    /// Payloads of this side that were not identified.
    pub(crate) tries: u8,
    /// Digest of the other side's first payload, 0 if there is none.
    pub(crate) others_digest: u32,
}

/// What is known after it.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    /// Application byte of the flow.
    pub(crate) app: u8,
    /// Payloads of this side that were not identified.
    pub(crate) tries: u8,
    /// Digest of this payload if it is the first of its side and was not identified, else 0.
    pub(crate) digest: u32,
}

/// The two applications that a flow of this application byte can be, as far as rules can ask: its payload is held while both are
/// denied.
#[inline(always)]
#[must_use]
pub const fn candidates(app: u8) -> [Application; 2] {
    match app {
        APP_HTTP2 => [Application::HTTP2, Application::GRPC],
        APP_GREETED => [Application::SMTP, Application::FTP],
        _ => [Application::UNKNOWN, Application::UNKNOWN],
    }
}

/// Application after this payload.
#[inline(always)]
pub(crate) fn classify<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    headers: &Headers,
    payload: &mut Payload,
    from_client: bool,
    known: &Known,
) -> Found {
    if known.app == APP_HTTP2 && !from_client {
        return Found {
            app: known.app, // the server has its say before the client has asked
            tries: known.tries,
            digest: 0,
        };
    }
    payload.bytes = [0; WINDOW];
    payload.len = headers.payload_len;
    payload.from_client = from_client;
    // A later fragment starts in the middle of a message: nothing to recognize.
    let is_read = headers.fragment_offset == 0
        && packet.window(headers.payload, headers.payload_len, &mut payload.bytes);
    if !is_read {
        return unnamed(known, 0);
    }
    let proto = IpProto(headers.key.proto);
    let found = recognize(proto, payload, packet, headers.payload, known.app);
    // Through memory: to the kernel's verifier the name of one protocol is then that of any.
    let found = (tables.opaque(u32::from(found)) & 0xff) as u8;
    if found == APP_PENDING {
        let digest = if known.tries == 0 { digest(payload) } else { 0 };
        if digest != 0 && digest == known.others_digest && !from_client {
            return Found {
                app: Application::ECHO.index(),
                tries: known.tries,
                digest: 0,
            };
        }
        return unnamed(known, digest);
    }
    Found {
        app: found,
        // A plain greeting may go on for as long as it likes, but not unknown for as long.
        tries: known.tries + (found == APP_GREETED) as u8,
        digest: 0,
    }
}

/// A payload that shows nothing.
#[inline(always)]
const fn unnamed(known: &Known, digest: u32) -> Found {
    let tries = known.tries + 1;
    let is_over = tries >= PAYLOAD_BUDGET;
    let app = match known.app {
        // HTTP/2 it is, whatever it does next.
        APP_HTTP2 if is_over => Application::HTTP2.index(),
        APP_PENDING | APP_GREETED if !is_over => known.app,
        APP_HTTP2 => APP_HTTP2,
        _ => Application::UNKNOWN.index(),
    };
    Found { app, tries, digest }
}

/// Digest of what the window holds and of the length; 0 for payloads too short to be told apart.
#[inline(always)]
fn digest(payload: &Payload) -> u32 {
    if payload.len < 4 {
        return 0;
    }
    let mut sum = u64::from(payload.len);
    let mut at = 0;
    while at < WINDOW {
        sum = (sum ^ payload.le64(at)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^= sum >> 29;
        at += 8;
    }
    (sum >> 32) as u32 | 1
}
