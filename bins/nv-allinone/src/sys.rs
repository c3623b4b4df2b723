//! Splitting the process in two, so that a crash of one half is cleaned up after by the other.
#![allow(unsafe_code, reason = "fork has no safe form")]

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid};

/// How the working half ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this code.
    Code(u8),
    /// By a signal: it could not clean up.
    Killed(Signal),
}

/// Which half this is.
#[derive(Debug)]
pub(crate) enum Half {
    /// The one that works.
    Worker,
    /// The one that stayed; the other one has ended.
    Guardian(Ended),
}

/// Splits the process. The worker returns at once; the guardian passes on the signals that ask to stop, and returns
/// when the worker has ended. When the guardian is killed, the worker is asked to stop.
///
/// # Errors
/// When the kernel refuses a new process.
pub(crate) fn split() -> Result<Half, Errno> {
    let mut passed_on = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        passed_on.add(signal);
    }
    let before = passed_on.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
    let guardian = nix::unistd::getpid();
    // SAFETY: called first thing in main: this process has one thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            prctl::set_pdeathsig(Signal::SIGTERM)?;
            before.thread_set_mask()?;
            if getppid() != guardian {
                // It was killed in between.
                return Err(Errno::ESRCH);
            }
            Ok(Half::Worker)
        }
        ForkResult::Parent { child } => guard(child, passed_on).map(Half::Guardian),
    }
}

fn guard(worker: Pid, signals: SigSet) -> Result<Ended, Errno> {
    loop {
        let signal = signals.wait()?;
        if signal != Signal::SIGCHLD {
            // It may have ended already, which the next round sees.
            let _ = kill(worker, signal);
        }
        match waitpid(worker, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => return Ok(Ended::Code(u8::try_from(code).unwrap_or(1))),
            WaitStatus::Signaled(_, signal, _) => return Ok(Ended::Killed(signal)),
            WaitStatus::Stopped(..)
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(_)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive => {}
        }
    }
}
