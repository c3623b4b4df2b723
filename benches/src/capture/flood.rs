//! Small packets at a steady rate.

use std::io::IoSlice;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, setsockopt, sockopt};

use crate::traffic::{Ends, UDP_PORT, inside, join, pin};

/// UDP payload of a 64-byte frame.
const PAYLOAD: usize = 64 - 14 - 20 - 8;
const BURST: usize = 32;

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) packets: u64,
    pub(super) time: Duration,
}

/// Sends 64-byte frames from the client to the server from the first processor, `rate` a second, infinite for as many as
/// one thread can. Nobody reads them: the server's socket is full at once, and the kernel drops them there.
pub(super) fn send(ends: &Ends, rate: f64, time: Duration) -> anyhow::Result<Sent> {
    let address = SocketAddrV4::new(ends.server_addr, UDP_PORT);
    let receiver = join(inside(&ends.server, move || Ok(UdpSocket::bind(address)?)))?;
    setsockopt(&receiver, sockopt::RcvBuf, &4096)?;
    let from = SocketAddrV4::new(ends.client_addr, 0);
    let sent = join(inside(&ends.client, move || {
        let socket = UdpSocket::bind(from)?;
        socket.connect(address)?;
        pin(0)?;
        flood(&socket, rate, time)
    }))?;
    drop(receiver);
    Ok(sent)
}

fn flood(socket: &UdpSocket, rate: f64, time: Duration) -> anyhow::Result<Sent> {
    let payload = [0x5a; PAYLOAD];
    let slices = [[IoSlice::new(&payload)]; BURST];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BURST, None);
    let begun = Instant::now();
    let mut packets = 0_u64;
    while begun.elapsed() < time {
        #[allow(clippy::cast_precision_loss, reason = "millions, far below 2^52")]
        let due = Duration::from_secs_f64(packets as f64 / rate);
        while begun.elapsed() < due {
            std::hint::spin_loop();
        }
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices,
            [None; BURST],
            [],
            MsgFlags::empty(),
        );
        match sent {
            Ok(sent) => packets += sent.count() as u64,
            Err(nix::errno::Errno::ENOBUFS) => {}
            Err(error) => return Err(error).context("sendmmsg"),
        }
    }
    Ok(Sent {
        packets,
        time: begun.elapsed(),
    })
}
