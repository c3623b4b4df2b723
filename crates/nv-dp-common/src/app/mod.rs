//! Applications by the first payload bytes of either side. One file a protocol; a port is never proof.
//!
//! Each recognizer is a pure function of the [`Payload`]: fixed places, no allocation, no search beyond the window (only gRPC,
//! TLS and DHCP read a few bytes further). Which ones are asked, and after which document they were written, stands in one
//! table (`table.rs`); the first byte of the payload tells which of its rows can match at all, so that a packet costs a few of
//! them and not all. None is inlined: the kernel's verifier would carry what one has ruled out through all that follow, and
//! double its work with each.
//!
//! A protocol whose first message does not yet tell which of two it is (HTTP/2 and gRPC; SMTP and FTP behind a plain `220`) is
//! *pending* with these two as candidates: its payload is held only if both of them are denied ([`candidates`]).

mod amqp;
mod bittorrent;
mod cassandra;
mod dhcp;
mod dns;
mod ftp;
mod http;
mod http2;
mod kafka;
mod ldap;
mod memcached;
mod mongodb;
mod mqtt;
mod mssql;
mod mysql;
mod nats;
mod ntp;
mod oracle;
mod payload;
mod postgresql;
mod quic;
mod rdp;
mod redis;
mod rtsp;
mod sip;
mod smb;
mod smtp;
mod spark;
mod ssh;
mod stage;
mod table;
mod tftp;
mod tls;
mod wireguard;
mod zookeeper;

use nv_types::{Application, IpProto};

use crate::layout::{APP_GREETED, APP_HTTP2, APP_PENDING};
use crate::packet::Packet;

pub use payload::Payload;
pub use stage::candidates;
pub(crate) use stage::{Known, classify};
#[cfg(any(test, feature = "user"))]
pub use table::{Row, rows};

/// What this payload says of a flow of which `before` is known: an application's index, [`APP_HTTP2`], [`APP_GREETED`], or
/// [`APP_PENDING`] if it says nothing. `packet` and `offset` give bytes beyond the window.
#[inline(always)]
pub fn recognize<P: Packet>(
    proto: IpProto,
    payload: &mut Payload,
    packet: &P,
    offset: u32,
    before: u8,
) -> u8 {
    const TCP: u8 = IpProto::TCP.0;
    const UDP: u8 = IpProto::UDP.0;
    let found = match (proto.0, payload.from_client) {
        (TCP, true) if before == APP_HTTP2 => return http2::request(payload, packet, offset),
        (TCP, true) => table::tcp_client(payload, packet, offset),
        (TCP, false) => table::tcp_server(payload, packet, offset),
        (UDP, true) => table::udp_client(payload, packet, offset),
        (UDP, false) => table::udp_server(payload, packet, offset),
        _ => APP_PENDING,
    };
    // After the table, not before: the verifier walks it once for whatever is known.
    if found == APP_PENDING && before == APP_GREETED && payload.from_client && ftp::is_command(payload) {
        return Application::FTP.index();
    }
    found
}

/// The application that this payload alone shows, if it shows one.
#[inline(always)]
pub fn identify<P: Packet>(
    proto: IpProto,
    payload: &mut Payload,
    packet: &P,
    offset: u32,
) -> Option<Application> {
    Application::from_index(recognize(proto, payload, packet, offset, APP_PENDING))
}

#[cfg(test)]
mod more_samples;
#[cfg(test)]
mod samples;
