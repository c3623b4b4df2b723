//! Packet sockets for the forwarder, and what interfaces leave to the card. The only unsafe code of the benches.
#![allow(
    unsafe_code,
    reason = "packet sockets and ethtool's requests have no safe form"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use nix::libc;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `ETHTOOL_STXCSUM`, `ETHTOOL_SSG`, `ETHTOOL_STSO`, `ETHTOOL_SGSO` (linux/ethtool.h).
const OFFLOADS: [u32; 4] = [0x17, 0x19, 0x1f, 0x24];

/// `struct ethtool_value`.
#[repr(C)]
struct Feature {
    command: u32,
    data: u32,
}

/// Turns what an interface of the caller's namespace leaves to the card on or off when it sends: checksums and segmentation.
pub(super) fn set_offloads(name: &str, on: bool) -> io::Result<()> {
    let socket =
        std::net::UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| std::net::UdpSocket::bind(("::", 0)))?;
    // On in this order, off in the other one: segmentation needs the rest.
    let mut order = OFFLOADS;
    if !on {
        order.reverse();
    }
    for command in order {
        let mut feature = Feature {
            command,
            data: u32::from(on),
        };
        // SAFETY: the all-zero bytes are a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request
            .ifr_name
            .iter_mut()
            .take(libc::IFNAMSIZ - 1)
            .zip(name.bytes())
        {
            *to = libc::c_char::try_from(from).map_err(io::Error::other)?;
        }
        request.ifr_ifru.ifru_data = (&raw mut feature).cast();
        // SAFETY: the request names the feature, and both live across the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        checked(done)?;
    }
    Ok(())
}

/// A packet socket on one interface of the caller's namespace.
#[derive(Debug)]
pub(super) struct Port(OwnedFd);

impl Port {
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(name)?;
        // SAFETY: no pointers are passed; the descriptor that comes back is nobody else's.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and is owned by nothing.
        let port = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        port.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(8_i32 << 20))?;
        let wait = libc::timeval {
            tv_sec: 0,
            tv_usec: Duration::from_millis(50).subsec_micros().into(),
        };
        port.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &wait)?;
        // SAFETY: the all-zero bytes are a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        // SAFETY: the address lives across the call and is as long as is said.
        let done = unsafe { libc::bind(fd, (&raw const address).cast(), length_of::<libc::sockaddr_ll>()) };
        checked(done).map(|()| port)
    }

    fn set<T>(&self, level: i32, option: i32, value: &T) -> io::Result<()> {
        // SAFETY: the value lives across the call and is as long as is said.
        let done = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                length_of::<T>(),
            )
        };
        checked(done)
    }

    /// The next frame that arrives; `None` if there is none for a while, or if it is one that was sent here.
    pub(super) fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        // SAFETY: the all-zero bytes are a valid address.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = length_of::<libc::sockaddr_ll>();
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
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(None),
                _ => Err(error),
            };
        };
        let sent_here = from.sll_pkttype == libc::PACKET_OUTGOING;
        Ok(buffer.get(..count).filter(|_| !sent_here))
    }

    /// Sends a frame; one that the queue has no room for is lost, as on a wire.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the frame lives across the call and is as long as is said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(()),
            _ => Err(error),
        }
    }
}

fn checked(done: i32) -> io::Result<()> {
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
