//! System calls that aya does not have: taking a link off its interface at once, reading many entries of a
//! table at once, and sending a frame out of an interface.
//!
//! Removing a pin lets the kernel free the link later, after a grace period; until then the program is still there.
#![allow(
    unsafe_code,
    reason = "bpf(2) and packet sockets have no safe wrapper for these"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `enum bpf_cmd` of linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `union bpf_attr` as `BPF_OBJ_GET` reads it.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` as `BPF_LINK_DETACH` reads it.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Calls bpf(2) with a command that gives a descriptor.
///
/// # Safety
/// `attr` is the part of `union bpf_attr` that the command reads, and what it points to is live.
unsafe fn make<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: a live struct of the size that is given; the rest is the caller's word.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    let fd = i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a descriptor that the kernel has just made and that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens what is pinned.
fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let get = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: the struct is what the command reads, its path a C string that outlives the call.
    unsafe { make(BPF_OBJ_GET, &get) }
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` reads it.
#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` of a TCX link.
#[repr(C)]
#[derive(Default)]
struct TcxInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    ifindex: u32,
    attach_type: u32,
}

/// The interface that a pinned TCX link is on; `None` when it has been taken off, or its interface has gone.
///
/// # Errors
/// What the kernel says; `ENOENT` when there is no such pin.
pub(super) fn linked_to(path: &Path) -> io::Result<Option<u32>> {
    let link = pinned(path)?;
    let mut info = TcxInfo::default();
    let ask = InfoByFd {
        bpf_fd: link.as_raw_fd().unsigned_abs(),
        info_len: u32::try_from(size_of::<TcxInfo>()).unwrap_or(0),
        info: &raw mut info as u64,
    };
    // SAFETY: the attribute is a live struct of the size that is given, and so is what it points to.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const ask,
            size_of::<InfoByFd>(),
        )
    };
    if done == 0 {
        Ok(Some(info.ifindex).filter(|ifindex| *ifindex != 0))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes the program of a pinned link off its interface.
///
/// # Errors
/// What the kernel says; `ENOENT` when there is no such pin, `ENOLINK` when the interface has gone already.
pub(super) fn detach_pinned(path: &Path) -> io::Result<()> {
    let link = pinned(path)?;
    let detach = LinkDetach {
        link_fd: link.as_raw_fd().unsigned_abs(),
    };
    // SAFETY: the attribute is a live struct of the size that is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_DETACH,
            &raw const detach,
            size_of::<LinkDetach>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `union bpf_attr` as the batch commands read it.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Where a walk over a hash table stands: the bucket after the last one that was read.
#[derive(Debug, Default)]
pub(super) struct Place(Option<u32>);

/// Reads the next entries of a hash table, whole buckets at a time, at most as many as both slices hold. Gives their number and
/// whether more may follow. `K` and `V` must be of the table's sizes.
///
/// # Errors
/// What the kernel says; `ENOSPC` when a bucket has more entries than the slices.
pub(super) fn read_batch<const K: usize, const V: usize>(
    map: BorrowedFd<'_>,
    place: &mut Place,
    keys: &mut [[u8; K]],
    values: &mut [[u8; V]],
) -> io::Result<(usize, bool)> {
    let from = place.0;
    let mut next = 0u32;
    let mut batch = Batch {
        in_batch: from.as_ref().map_or(0, |from| std::ptr::from_ref(from) as u64),
        out_batch: &raw mut next as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(keys.len().min(values.len())).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().unsigned_abs(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the attribute is a live struct of the size that is given; both slices and both numbers that it points to outlive
    // the call and are as large as the table's keys and values times `count`.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            &raw mut batch,
            size_of::<Batch>(),
        )
    };
    let read = usize::try_from(batch.count).unwrap_or(0).min(keys.len());
    if done == 0 {
        place.0 = Some(next);
        return Ok((read, true));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOENT) {
        return Ok((read, false));
    }
    Err(error)
}

/// A socket that sends whole frames under a mark, and receives none.
///
/// # Errors
/// What the kernel says.
pub(super) fn packet_socket(mark: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; protocol 0 receives nothing.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made and that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the option is a live number of the size that is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const mark).cast(),
            libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(4),
        )
    };
    if done == 0 {
        Ok(socket)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends a frame out of an interface.
///
/// # Errors
/// What the kernel says; `ENXIO` when the interface is gone.
pub(super) fn send_frame(socket: BorrowedFd<'_>, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let protocol = frame.get(12..14).and_then(|bytes| bytes.try_into().ok());
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(too_large)?,
        sll_protocol: u16::from_ne_bytes(protocol.ok_or(io::ErrorKind::InvalidInput)?),
        sll_ifindex: i32::try_from(ifindex).map_err(too_large)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: frame and address are live and of the sizes that are given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(too_large)?,
        )
    };
    if sent >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
