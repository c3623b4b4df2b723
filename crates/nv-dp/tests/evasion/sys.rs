//! Packet sockets: frames onto an interface as they are, and off it as they arrive (packet(7)).
#![allow(unsafe_code, reason = "the address of a packet socket has no safe form")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// A packet socket on one interface. It stays in the namespace that it was opened in, whoever uses it.
pub struct Wire(OwnedFd);

impl Wire {
    /// On an interface of the caller's namespace.
    pub fn open(name: &str) -> Self {
        let index = nix::net::if_::if_nametoindex(name).unwrap();
        // SAFETY: no pointers are passed; the descriptor that comes back is nobody else's.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                0,
            )
        };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: `fd` was just opened and is owned by nothing.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the all-zero bytes are a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET.try_into().unwrap();
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        address.sll_ifindex = index.try_into().unwrap();
        // SAFETY: the address lives across the call and is as long as is said.
        let done = unsafe {
            libc::bind(
                fd,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>().try_into().unwrap(),
            )
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        let wire = Self(socket);
        wire.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
        wire
    }

    /// Frames go to the driver past the queueing discipline.
    pub fn bypass_qdisc(&self) {
        self.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1);
    }

    /// Frames carry this mark (socket(7), `SO_MARK`).
    pub fn mark(&self, mark: u32) {
        self.set(libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed());
    }

    fn set(&self, level: i32, option: i32, value: i32) {
        // SAFETY: the value lives across the call and is as long as is said.
        let done = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<i32>().try_into().unwrap(),
            )
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }

    pub fn send(&self, frame: &[u8]) {
        for _ in 0..1000 {
            // SAFETY: the frame lives across the call and is as long as is said.
            let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if sent >= 0 {
                return;
            }
            let error = io::Error::last_os_error();
            // The last one tells, once, that the interface has been down meanwhile.
            let busy = [Some(libc::ENOBUFS), Some(libc::EAGAIN), Some(libc::ENETDOWN)];
            assert!(busy.contains(&error.raw_os_error()), "{error}");
            std::thread::yield_now();
        }
        panic!("the interface takes no frames");
    }

    /// The next frame that has arrived; what the namespace itself sent is left out.
    pub fn recv<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        loop {
            // SAFETY: the all-zero bytes are a valid address.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut length: libc::socklen_t = size_of::<libc::sockaddr_ll>().try_into().unwrap();
            // SAFETY: buffer and address live across the call and are as long as is said.
            let count = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            if count < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENETDOWN) {
                continue;
            }
            let count = usize::try_from(count).ok()?;
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Some(&buffer[..count]);
            }
        }
    }
}
