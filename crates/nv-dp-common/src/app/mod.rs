//! Applications by the first payload bytes of either side. One file a protocol; a port is never proof.
//!
//! Each recognizer is a pure function of the [`Payload`]: fixed places, no allocation, no search beyond the window. None is
//! inlined: the kernel's verifier would carry what one has ruled out through all that follow, and double its work with each.

mod dhcp;
mod dns;
mod http;
mod mongodb;
mod mysql;
mod ntp;
mod postgresql;
mod redis;
mod ssh;
mod tls;

use nv_types::{Application, IpProto};

use crate::packet::{Packet, WINDOW};

/// The start of a packet's payload.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// First bytes; zero beyond `len`.
    pub bytes: [u8; WINDOW],
    /// Length of the whole payload, which may be longer than the window.
    pub len: u32,
    /// Whether the client sent it.
    pub from_client: bool,
}

impl Payload {
    #[inline(always)]
    const fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    #[inline(always)]
    const fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes([
            self.bytes[at],
            self.bytes[at + 1],
            self.bytes[at + 2],
            self.bytes[at + 3],
        ])
    }

    #[inline(always)]
    const fn le32(&self, at: usize) -> u32 {
        self.be32(at).swap_bytes()
    }

    /// The first four bytes are these.
    #[inline(always)]
    const fn starts(&self, text: &[u8; 4]) -> bool {
        self.be32(0) == u32::from_be_bytes(*text)
    }

    /// The four bytes at `at` are these.
    #[inline(always)]
    const fn has(&self, at: usize, text: &[u8; 4]) -> bool {
        self.be32(at) == u32::from_be_bytes(*text)
    }
}

/// The application that this payload shows, if it shows one. `packet` and `offset` give bytes beyond the window.
#[inline(always)]
pub fn identify<P: Packet>(
    proto: IpProto,
    payload: &Payload,
    packet: &P,
    offset: u32,
) -> Option<Application> {
    match recognize(proto.0, payload, packet, offset) {
        0 => None,
        index => Application::from_index(index),
    }
}

/// Index of the application, 0 for none: a kernel function returns one register.
#[inline(never)] // a frame of its own on the kernel's small stack
fn recognize<P: Packet>(proto: u8, payload: &Payload, packet: &P, offset: u32) -> u8 {
    first_match(IpProto(proto), payload, packet, offset).map_or(0, Application::index)
}

#[inline(always)]
fn first_match<P: Packet>(proto: IpProto, payload: &Payload, packet: &P, offset: u32) -> Option<Application> {
    match proto {
        IpProto::TCP => identify_tcp(payload),
        IpProto::UDP => {
            if dns::is_datagram(payload) {
                Some(Application::DNS)
            } else if dhcp::is_dhcp(payload, packet, offset) {
                Some(Application::DHCP)
            } else if ntp::is_ntp(payload) {
                Some(Application::NTP)
            } else {
                None
            }
        }
        _ => None,
    }
}

#[inline(always)]
fn identify_tcp(payload: &Payload) -> Option<Application> {
    if http::is_http2_preface(payload) {
        Some(Application::GRPC)
    } else if http::is_http1(payload) {
        Some(Application::HTTP)
    } else if tls::is_tls(payload) {
        Some(Application::SSL)
    } else if ssh::is_ssh(payload) {
        Some(Application::SSH)
    } else if redis::is_redis(payload) {
        Some(Application::REDIS)
    } else if postgresql::is_postgresql(payload) {
        Some(Application::POSTGRESQL)
    } else if mysql::is_mysql(payload) {
        Some(Application::MYSQL)
    } else if mongodb::is_mongodb(payload) {
        Some(Application::MONGODB)
    } else if dns::is_stream(payload) {
        Some(Application::DNS)
    } else {
        None
    }
}

#[cfg(test)]
mod samples;
