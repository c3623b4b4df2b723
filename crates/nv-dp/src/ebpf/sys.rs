//! One system call that aya does not have: taking a link off its interface at once.
//!
//! Removing a pin lets the kernel free the link later, after a grace period; until then the program is still there.
#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper for these two commands")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `enum bpf_cmd` of linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
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

/// Takes the program of a pinned link off its interface.
///
/// # Errors
/// What the kernel says; `ENOENT` when there is no such pin, `ENOLINK` when the interface has gone already.
pub(super) fn detach_pinned(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let get = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: the attribute is a live struct of the size that is given, its path a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of::<ObjGet>()) };
    let fd = i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a descriptor that the kernel has just made and that nothing else owns.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
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
