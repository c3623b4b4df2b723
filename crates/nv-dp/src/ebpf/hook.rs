//! Putting the two programs on an interface: by TCX link where the kernel has it, else as filters of a clsact qdisc.

use std::io::ErrorKind;

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use aya::util::KernelVersion;
use nv_types::Direction;

use super::pins::Pins;
use super::setup::{fault, interface_name};
use super::sys;
use crate::DatapathError;

/// How programs are put on interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// TCX if the kernel has it (6.6), else clsact.
    #[default]
    Auto,
    /// TCX links: pinned, replaced atomically, not removable by `tc`.
    Tcx,
    /// Filters of a clsact qdisc, for older kernels: they stay as long as the qdisc does.
    Clsact,
}

/// The hook in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Tcx,
    Clsact,
}

/// Whether the programs are where they were put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// They are. Of filters of a clsact qdisc nothing else is known.
    On,
    /// A link is not there any more.
    Off,
    /// A link is there and on no interface: it was taken off, or its interface has gone, whatever has its index now.
    Loose,
}

/// First in line, at a handle of our own, so that a restarted agent finds its filter again.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x6e76);

/// Both directions, with the program of each and where it goes at the host's end of a veth.
const SIDES: [(Direction, &str); 2] = [
    (Direction::Egress, "nv_egress"),
    (Direction::Ingress, "nv_ingress"),
];

/// What leaves the workload comes in at the host's end.
const fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Egress => TcAttachType::Ingress,
        Direction::Ingress => TcAttachType::Egress,
    }
}

impl Hook {
    pub(crate) fn choose(choice: HookChoice) -> Self {
        let has_tcx = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        match choice {
            HookChoice::Tcx => Self::Tcx,
            HookChoice::Clsact => Self::Clsact,
            HookChoice::Auto if has_tcx => Self::Tcx,
            HookChoice::Auto => Self::Clsact,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// Puts both programs on the interface, in place of those of an earlier run: atomically, packet by packet.
    /// `false` if the interface has vanished.
    pub(crate) fn attach(self, ebpf: &mut Ebpf, pins: &Pins, ifindex: u32) -> Result<bool, DatapathError> {
        let Some(name) = interface_name(ifindex) else {
            return Ok(false);
        };
        for (direction, program) in SIDES {
            let program = classifier(ebpf, program)?;
            let result = match self {
                Self::Tcx => tcx(program, pins, ifindex, &name, direction)?,
                Self::Clsact => clsact(program, &name, direction)?,
            };
            if !result {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether both programs are on the interface.
    pub(crate) fn holds(self, pins: &Pins, ifindex: u32) -> Hold {
        if self == Self::Clsact {
            return Hold::On;
        }
        let mut hold = Hold::On;
        for (direction, _) in SIDES {
            match sys::linked_to(&pins.link(ifindex, direction)) {
                Ok(Some(found)) if found == ifindex => {}
                Ok(_) => return Hold::Loose,
                // This process lacks something: that says nothing of the link.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
                    ) => {}
                Err(_) => hold = Hold::Off,
            }
        }
        hold
    }

    /// Takes both programs off.
    pub(crate) fn detach(self, pins: &Pins, ifindex: u32) -> Result<(), DatapathError> {
        pins.unlink(ifindex)?;
        if self == Self::Clsact
            && let Some(name) = interface_name(ifindex)
        {
            for (direction, _) in SIDES {
                let link =
                    SchedClassifierLink::attached(&name, attach_type(direction), PRIORITY, HANDLE, None)
                        .map_err(|error| fault(&format!("find the filter of {name}"), &error))?;
                // Dropping it removes the filter; one that is gone already is no error.
                drop(link);
            }
        }
        Ok(())
    }
}

pub(crate) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program = ebpf.program_mut(name).ok_or_else(|| DatapathError::Kernel {
        action: format!("find program {name}"),
        detail: "the kernel object does not have it".into(),
    })?;
    program
        .try_into()
        .map_err(|error: ProgramError| fault(&format!("use program {name}"), &error))
}

fn tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    ifindex: u32,
    name: &str,
    direction: Direction,
) -> Result<bool, DatapathError> {
    let path = pins.link(ifindex, direction);
    let action = format!("attach to {name} by TCX");
    match PinnedLink::from_pin(&path) {
        Ok(old) => {
            let link: SchedClassifierLink = FdLink::from(old)
                .try_into()
                .map_err(|error: LinkError| fault(&action, &error))?;
            let id = match program.attach_to_link(link) {
                Ok(id) => id,
                // ENOLINK: its interface has vanished, and this index means another one now, or none.
                Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
                    if io_error.raw_os_error() == Some(libc::ENOLINK) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(fault(&action, &error)),
            };
            // The pin holds the link; this process need not.
            drop(program.take_link(id).map_err(|error| fault(&action, &error))?);
            Ok(true)
        }
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == ErrorKind::NotFound =>
        {
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = match program.attach_with_options(name, attach_type(direction), options) {
                Ok(id) => id,
                // Gone, or renamed meanwhile: it was asked for by its name.
                Err(_) if interface_name(ifindex).as_deref() != Some(name) => return Ok(false),
                Err(error) => return Err(fault(&action, &error)),
            };
            let link = program.take_link(id).map_err(|error| fault(&action, &error))?;
            let link: FdLink = link
                .try_into()
                .map_err(|error: LinkError| fault(&action, &error))?;
            link.pin(&path)
                .map_err(|error| fault(&format!("pin the link of {name}"), &error))?;
            Ok(true)
        }
        Err(error) => Err(fault(&action, &error)),
    }
}

fn clsact(program: &mut SchedClassifier, name: &str, direction: Direction) -> Result<bool, DatapathError> {
    let action = format!("attach to {name} by clsact");
    match qdisc_add_clsact(name) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(fault(&format!("add a clsact qdisc to {name}"), &error)),
    }
    let side = attach_type(direction);
    // Replacing comes first: it fails if there is no filter of ours, adding one beside it would not.
    let replaced = SchedClassifierLink::attached(name, side, PRIORITY, HANDLE, None)
        .ok()
        .and_then(|link| program.attach_to_link(link).ok());
    let id = match replaced {
        Some(id) => id,
        None => {
            let options = NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                classid: None,
            };
            program
                .attach_with_options(name, side, TcAttachOptions::Netlink(options))
                .map_err(|error| fault(&action, &error))?
        }
    };
    // The filter belongs to the qdisc; dropping the link would remove it.
    std::mem::forget(program.take_link(id).map_err(|error| fault(&action, &error))?);
    Ok(true)
}
