//! System calls: the packet ring, namespaces, interfaces. The only unsafe code of the crate.
#![allow(
    unsafe_code,
    reason = "packet sockets and their shared ring have no safe interface"
)]

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nv_types::MacAddr;

use crate::{LinkType, Program};

/// Bytes of a block: more than the longest packet of a veth (64 KiB segments), so that none is cut short.
const BLOCK: usize = 128 << 10;
/// Blocks of a ring: of a capture, and of what is only kept for a while.
pub(crate) const BLOCKS: usize = 32;
pub(crate) const FEW_BLOCKS: usize = 8;
/// The kernel hands over a block that is not full after this many milliseconds.
const RETIRE_MS: u32 = 10;

/// A packet in the ring.
#[derive(Debug)]
pub(crate) struct RawPacket<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) wire_len: u32,
    pub(crate) time_ns: u64,
    pub(crate) ifindex: u32,
    pub(crate) outgoing: bool,
    /// Tag protocol and tag control of a VLAN tag that the kernel took out.
    pub(crate) vlan: Option<(u16, u16)>,
    hardware: u16,
}

impl RawPacket<'_> {
    pub(crate) fn link(&self) -> LinkType {
        match self.hardware {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkType::ETHERNET,
            _ => LinkType::RAW,
        }
    }
}

/// A `TPACKET_V3` ring: the kernel fills whole blocks and hands them over by their status word.
#[derive(Debug)]
pub(crate) struct Ring {
    socket: OwnedFd,
    map: NonNull<u8>,
    blocks: usize,
    block: usize,
    /// Offset in the block of the next packet, and packets left; `None` when the block is not ours.
    cursor: Option<(usize, u32)>,
}

// SAFETY: the mapping belongs to this value alone, and every access goes through `&self` or `&mut self`.
unsafe impl Send for Ring {}

impl Ring {
    /// Makes a ring of so many blocks on a socket that is not bound yet.
    pub(crate) fn new(socket: OwnedFd, blocks: usize) -> io::Result<Self> {
        set_option(
            &socket,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V3 as libc::c_int),
        )?;
        let size = |bytes: usize| libc::c_uint::try_from(bytes).map_err(io::Error::other);
        let request = libc::tpacket_req3 {
            tp_block_size: size(BLOCK)?,
            tp_block_nr: size(blocks)?,
            tp_frame_size: size(BLOCK)?,
            tp_frame_nr: size(blocks)?,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(&socket, libc::PACKET_RX_RING, &request)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                BLOCK * blocks,
                protection,
                flags,
                socket.as_raw_fd(),
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self {
            socket,
            map,
            blocks,
            block: 0,
            cursor: None,
        })
    }

    /// Begins to capture on this interface, 0 for all.
    pub(crate) fn bind(&self, ifindex: u32) -> io::Result<()> {
        // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
        address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
        let length = socklen::<libc::sockaddr_ll>()?;
        // SAFETY: the pointer and length describe `address`, which outlives the call.
        check(unsafe { libc::bind(self.socket.as_raw_fd(), ptr::from_ref(&address).cast(), length) })
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Waits until a block is ours; false when the time is over.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        if self.is_ready() {
            return Ok(true);
        }
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let events = PollFlags::POLLIN | PollFlags::POLLERR;
        let mut fds = [PollFd::new(self.socket.as_fd(), events)];
        match nix::poll::poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if fds
            .iter()
            .any(|fd| fd.revents().is_some_and(|got| got.contains(PollFlags::POLLERR)))
        {
            // A bound interface went down: reading the error clears it. The caller looks whether it is gone.
            let _ = nix::sys::socket::getsockopt(&self.socket, nix::sys::socket::sockopt::SocketError);
        }
        Ok(self.is_ready())
    }

    fn is_ready(&self) -> bool {
        self.cursor.is_some() || self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    fn block_start(&self) -> NonNull<u8> {
        // SAFETY: `block` is below `blocks`, so the result is inside the mapping.
        unsafe { self.map.add(self.block * BLOCK) }
    }

    /// The status word of the current block, which the kernel and we take turns to write.
    fn status(&self) -> &AtomicU32 {
        let offset = mem::offset_of!(libc::tpacket_block_desc, hdr)
            + mem::offset_of!(libc::tpacket_hdr_v1, block_status);
        // SAFETY: the word lies inside the block.
        let word = unsafe { self.block_start().add(offset) };
        // SAFETY: blocks are page-aligned and the offset is a multiple of 4; both sides only use atomic access, and
        // the mapping lives as long as `self`.
        unsafe { AtomicU32::from_ptr(word.cast().as_ptr()) }
    }

    /// The next packet of the block that is ours; a block without further packets goes back to the kernel.
    pub(crate) fn next_packet(&mut self) -> Option<RawPacket<'_>> {
        loop {
            match self.cursor {
                None => {
                    if self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                        return None;
                    }
                    let hdr = mem::offset_of!(libc::tpacket_block_desc, hdr);
                    let header: libc::tpacket_hdr_v1 = self.read(hdr)?;
                    self.cursor = Some((usize::try_from(header.offset_to_first_pkt).ok()?, header.num_pkts));
                }
                Some((_, 0)) => {
                    self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
                    self.block = (self.block + 1) % self.blocks;
                    self.cursor = None;
                }
                Some((offset, left)) => {
                    let Some(header) = self.read::<libc::tpacket3_hdr>(offset) else {
                        // Cannot be: the kernel wrote past its block. Give the block back rather than loop.
                        self.cursor = Some((offset, 0));
                        continue;
                    };
                    let next = usize::try_from(header.tp_next_offset).unwrap_or(BLOCK);
                    self.cursor = Some((offset.saturating_add(next), left - 1));
                    return self.packet_at(offset, &header);
                }
            }
        }
    }

    /// The packet with this header at this offset of the current block.
    fn packet_at(&self, offset: usize, header: &libc::tpacket3_hdr) -> Option<RawPacket<'_>> {
        let align = libc::TPACKET_ALIGNMENT;
        let address_at = offset + size_of::<libc::tpacket3_hdr>().next_multiple_of(align);
        let address: libc::sockaddr_ll = self.read(address_at)?;
        let data = self.bytes(
            offset + usize::from(header.tp_mac),
            usize::try_from(header.tp_snaplen).ok()?,
        )?;
        let has = |flag| header.tp_status & flag != 0;
        let vlan = has(libc::TP_STATUS_VLAN_VALID).then(|| {
            let told = has(libc::TP_STATUS_VLAN_TPID_VALID);
            let tpid = if told { header.hv1.tp_vlan_tpid } else { 0x8100 };
            (tpid, u16::try_from(header.hv1.tp_vlan_tci & 0xffff).unwrap_or(0))
        });
        Some(RawPacket {
            data,
            wire_len: header.tp_len.max(header.tp_snaplen),
            time_ns: u64::from(header.tp_sec) * 1_000_000_000 + u64::from(header.tp_nsec),
            ifindex: u32::try_from(address.sll_ifindex).unwrap_or(0),
            outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
            vlan,
            hardware: address.sll_hatype,
        })
    }

    /// Reads a plain kernel structure out of the current block.
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        let bytes = self.bytes(offset, size_of::<T>())?;
        // SAFETY: `bytes` is as long as `T`, an integer-only C structure for which every bit pattern is valid.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    /// Bytes of the current block, which must be ours; `None` past its end.
    fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        if offset.checked_add(length)? > BLOCK {
            return None;
        }
        // SAFETY: the offset is inside the block.
        let start = unsafe { self.block_start().add(offset) };
        // SAFETY: the range lies inside the block, which the kernel does not touch until it is given back.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), length) })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nothing borrows from it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), BLOCK * self.blocks) };
    }
}

/// A packet socket in this thread's network namespace that receives nothing until it is bound.
pub(crate) fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets this thread run when others have no use for the processor: packets are dropped before a workload suffers. A kernel that
/// refuses has it run as before.
pub(crate) fn give_way() {
    // SAFETY: takes no pointers; 0 is the calling thread (setpriority(2)).
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

/// Moves this thread into a network namespace.
pub(crate) fn enter_netns(netns: &File) -> io::Result<()> {
    nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// Has the kernel run this program on each packet of the socket.
pub(crate) fn set_filter(socket: &OwnedFd, program: &Program) -> io::Result<()> {
    let mut program: Vec<_> = program
        .instructions()
        .iter()
        .map(|i| libc::sock_filter {
            code: i.code,
            jt: i.jt,
            jf: i.jf,
            k: i.k,
        })
        .collect();
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog {
        len: length,
        filter: program.as_mut_ptr(),
    };
    let size = socklen::<libc::sock_fprog>()?;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    // SAFETY: `filter` and the program that it points to outlive the call, which copies both.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&filter).cast(),
            size,
        )
    })
}

/// Packets received and dropped since the last call.
pub(crate) fn packet_statistics(socket: &OwnedFd) -> io::Result<(u32, u32)> {
    let mut stats = libc::tpacket_stats_v3 {
        tp_packets: 0,
        tp_drops: 0,
        tp_freeze_q_cnt: 0,
    };
    let mut size = socklen::<libc::tpacket_stats_v3>()?;
    let (fd, name) = (socket.as_raw_fd(), libc::PACKET_STATISTICS);
    let target = ptr::from_mut(&mut stats).cast();
    // SAFETY: the pointer and size describe `stats`, which outlives the call.
    check(unsafe { libc::getsockopt(fd, libc::SOL_PACKET, name, target, &raw mut size) })?;
    Ok((stats.tp_packets, stats.tp_drops))
}

/// Name of an interface in the socket's namespace.
pub(crate) fn interface_name(socket: &OwnedFd, index: u32) -> io::Result<String> {
    let mut request = request("")?;
    request.ifr_ifru.ifru_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    ioctl(socket, libc::SIOCGIFNAME, &mut request)?;
    let bytes = request
        .ifr_name
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| c.to_ne_bytes()[0])
        .collect();
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// Index of an interface in the socket's namespace.
pub(crate) fn interface_index(socket: &OwnedFd, name: &str) -> io::Result<u32> {
    let mut request = request(name)?;
    ioctl(socket, libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: the call filled this member.
    u32::try_from(unsafe { request.ifr_ifru.ifru_ifindex }).map_err(io::Error::other)
}

/// Ethernet address of an interface in the socket's namespace.
pub(crate) fn interface_mac(socket: &OwnedFd, name: &str) -> io::Result<Option<MacAddr>> {
    let mut request = request(name)?;
    ioctl(socket, libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: the call filled this member.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    if address.sa_family != libc::ARPHRD_ETHER {
        return Ok(None);
    }
    let [a, b, c, d, e, f, ..] = address.sa_data.map(|byte| byte.to_ne_bytes()[0]);
    Ok(Some(MacAddr([a, b, c, d, e, f])))
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn ioctl(socket: &OwnedFd, call: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: each of the calls made here reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), call, ptr::from_mut(request)) })
}

fn set_option<T>(socket: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let (fd, level) = (socket.as_raw_fd(), libc::SOL_PACKET);
    // SAFETY: the pointer and size describe `value`, which outlives the call.
    check(unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), socklen::<T>()?) })
}

fn socklen<T>() -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
