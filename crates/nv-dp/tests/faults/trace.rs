//! Taking a link off its interface, as who is root can.
#![allow(unsafe_code, reason = "bpf(2) has no safe form")]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

fn checked(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Takes the program of a pinned link off its interface (`BPF_LINK_DETACH`), as who is root can.
pub fn take_off(link: &Path) -> io::Result<()> {
    #[repr(C)]
    struct ObjGet {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(link.as_os_str().as_bytes())?;
    let get = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: the attribute is what the command (7, `BPF_OBJ_GET`) reads, its path a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, 7, &raw const get, size_of::<ObjGet>()) };
    checked(fd)?;
    let number = u32::try_from(fd).unwrap();
    // SAFETY: the attribute is what the command (34, `BPF_LINK_DETACH`) reads: the descriptor.
    let done = unsafe { libc::syscall(libc::SYS_bpf, 34, &raw const number, size_of::<u32>()) };
    let result = checked(done);
    // SAFETY: the descriptor was opened above and is used by nothing else.
    unsafe { libc::close(i32::try_from(fd).unwrap()) };
    result
}
