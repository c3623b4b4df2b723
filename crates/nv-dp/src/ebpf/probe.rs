//! What the kernel must have, asked before anything is loaded: what is missing has a name, and what would work is said.
//!
//! ```
//! use nv_dp::probe::{Answer, Feature, Kernel, check};
//!
//! struct Bare;
//! impl Kernel for Bare {
//!     fn release(&self) -> Option<(u8, u8)> {
//!         Some((6, 1))
//!     }
//!     fn is_root(&self) -> bool {
//!         true
//!     }
//!     fn has(&self, feature: Feature) -> Answer {
//!         if feature == Feature::RingBuffers { Answer::No } else { Answer::Yes }
//!     }
//! }
//! let error = check(&Bare).unwrap_err().to_string();
//! assert!(error.contains("BPF_MAP_TYPE_RINGBUF") && error.contains("5.8"), "{error}");
//! ```

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};
use aya::util::KernelVersion;

use crate::DatapathError;

/// The oldest kernel that the verifier and the instructions in use are of: BPF atomics that fetch.
const OLDEST: (u8, u8) = (5, 12);

/// Something that the programs are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The call itself.
    Syscall,
    /// Programs at interfaces.
    Classifiers,
    /// Hash tables that forget the least recently used.
    LruHashes,
    /// Tables of prefixes.
    LpmTries,
    /// Counters without contention.
    PerCpuArrays,
    /// The queue of events.
    RingBuffers,
    /// The clock that flows are aged by.
    CoarseClock,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is there.
    Yes,
    /// It is not.
    No,
    /// This process may not ask.
    Denied,
    /// Nothing that can be told: loading will show.
    Unknown,
}

/// Whom to ask.
pub trait Kernel {
    /// Major and minor number.
    fn release(&self) -> Option<(u8, u8)>;
    /// Whether this process is root's.
    fn is_root(&self) -> bool;
    /// Whether something is there.
    fn has(&self, feature: Feature) -> Answer;
}

struct Need {
    feature: Feature,
    what: &'static str,
    since: (u8, u8),
    option: &'static str,
}

const fn need(feature: Feature, what: &'static str, since: (u8, u8), option: &'static str) -> Need {
    Need {
        feature,
        what,
        since,
        option,
    }
}

const NEEDS: [Need; 7] = [
    need(Feature::Syscall, "bpf(2)", (3, 18), "CONFIG_BPF_SYSCALL"),
    need(
        Feature::Classifiers,
        "BPF programs at interfaces (BPF_PROG_TYPE_SCHED_CLS)",
        (4, 1),
        "CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS",
    ),
    need(
        Feature::LruHashes,
        "LRU hash tables (BPF_MAP_TYPE_LRU_HASH)",
        (4, 10),
        "CONFIG_BPF_SYSCALL",
    ),
    need(
        Feature::LpmTries,
        "tables of prefixes (BPF_MAP_TYPE_LPM_TRIE)",
        (4, 11),
        "CONFIG_BPF_SYSCALL",
    ),
    need(
        Feature::PerCpuArrays,
        "per-CPU arrays (BPF_MAP_TYPE_PERCPU_ARRAY)",
        (4, 6),
        "CONFIG_BPF_SYSCALL",
    ),
    need(
        Feature::RingBuffers,
        "ring buffers (BPF_MAP_TYPE_RINGBUF)",
        (5, 8),
        "CONFIG_BPF_SYSCALL",
    ),
    need(
        Feature::CoarseClock,
        "the coarse clock (bpf_ktime_get_coarse_ns)",
        (5, 11),
        "CONFIG_BPF_SYSCALL",
    ),
];

/// One thing that is needed, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What.
    pub what: &'static str,
    /// Kernel that has it first.
    pub since: (u8, u8),
    /// What was found.
    pub answer: Answer,
}

/// Everything that is needed, and what was found of it.
pub fn report(kernel: &impl Kernel) -> Vec<Line> {
    let lines = NEEDS.iter().map(|need| Line {
        what: need.what,
        since: need.since,
        answer: kernel.has(need.feature),
    });
    lines.collect()
}

/// Whether the kernel datapath can work here.
///
/// # Errors
/// [`DatapathError::Unsupported`] names everything that is missing, and what would work.
pub fn check(kernel: &impl Kernel) -> Result<(), DatapathError> {
    let unsupported = |what: String, hint: String| Err(DatapathError::Unsupported { what, hint });
    if !kernel.is_root() {
        return unsupported(
            "the eBPF datapath needs root, this process has none".into(),
            "start it as root; the software datapath needs no rights".into(),
        );
    }
    let (major, minor) = OLDEST;
    let release = kernel.release();
    if let Some(found) = release.filter(|found| *found < OLDEST) {
        // What it lacks by name, where that can be told; its number says the rest.
        let missing = missing(kernel);
        let lacks = if missing.is_empty() {
            String::new()
        } else {
            format!("; it has no {}", names(&missing))
        };
        return unsupported(
            format!(
                "kernel {}.{} is older than {major}.{minor}{lacks}",
                found.0, found.1
            ),
            format!("Linux {major}.{minor} or newer; 6.6 or newer for TCX links"),
        );
    }
    let missing = missing(kernel);
    if let Some(first) = missing.first() {
        let since = missing.iter().map(|need| need.since).max().unwrap_or(first.since);
        let mut options: Vec<_> = missing.iter().map(|need| need.option).collect();
        options.dedup();
        return unsupported(
            format!("this kernel has no {}", names(&missing)),
            format!(
                "Linux {}.{} or newer, built with {}",
                since.0,
                since.1,
                options.join(", ")
            ),
        );
    }
    if NEEDS
        .iter()
        .any(|need| kernel.has(need.feature) == Answer::Denied)
    {
        return unsupported(
            "bpf(2) is not permitted to this process".into(),
            "run it with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN, without a seccomp filter that forbids bpf(2), and outside of kernel lockdown"
                .into(),
        );
    }
    Ok(())
}

fn missing(kernel: &impl Kernel) -> Vec<&'static Need> {
    // Without the call nothing else can be asked.
    if kernel.has(Feature::Syscall) == Answer::No {
        return NEEDS.iter().take(1).collect();
    }
    NEEDS
        .iter()
        .filter(|need| kernel.has(need.feature) == Answer::No)
        .collect()
}

fn names(missing: &[&Need]) -> String {
    missing
        .iter()
        .map(|need| need.what)
        .collect::<Vec<_>>()
        .join(", no ")
}

/// The kernel that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisKernel;

impl Kernel for ThisKernel {
    fn release(&self) -> Option<(u8, u8)> {
        let code = KernelVersion::current().ok()?.code();
        Some((
            u8::try_from(code >> 16).ok()?,
            u8::try_from((code >> 8) & 0xff).ok()?,
        ))
    }

    fn is_root(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    fn has(&self, feature: Feature) -> Answer {
        let map = |kind| answer(is_map_supported(kind));
        match feature {
            Feature::Syscall => map(MapType::Array),
            Feature::Classifiers => answer(is_program_supported(ProgramType::SchedClassifier)),
            Feature::LruHashes => map(MapType::LruHash),
            Feature::LpmTries => map(MapType::LpmTrie),
            Feature::PerCpuArrays => map(MapType::PerCpuArray),
            Feature::RingBuffers => map(MapType::RingBuf),
            Feature::CoarseClock => answer(is_helper_supported(
                ProgramType::SchedClassifier,
                BpfHelper::BPF_FUNC_ktime_get_coarse_ns,
            )),
        }
    }
}

fn answer<E: std::error::Error + 'static>(found: Result<bool, E>) -> Answer {
    match found {
        Ok(true) => Answer::Yes,
        Ok(false) => Answer::No,
        Err(error) => match os_error(&error) {
            Some(libc::EPERM | libc::EACCES) => Answer::Denied,
            Some(libc::ENOSYS) => Answer::No,
            _ => Answer::Unknown,
        },
    }
}

/// The system's number in an error or in what caused it.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        if let Some(number) = io.and_then(std::io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        release: Option<(u8, u8)>,
        root: bool,
        lacks: Vec<Feature>,
        denies: bool,
    }

    impl Kernel for Fake {
        fn release(&self) -> Option<(u8, u8)> {
            self.release
        }

        fn is_root(&self) -> bool {
            self.root
        }

        fn has(&self, feature: Feature) -> Answer {
            match (self.denies, self.lacks.contains(&feature)) {
                (true, _) => Answer::Denied,
                (_, true) => Answer::No,
                _ => Answer::Yes,
            }
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_would_work() {
        let fake = |release, lacks: &[Feature]| Fake {
            release: Some(release),
            root: true,
            lacks: lacks.to_vec(),
            denies: false,
        };
        assert!(check(&fake((6, 6), &[])).is_ok());
        assert!(check(&fake((5, 12), &[])).is_ok());
        for (kernel, says) in [
            (
                Fake {
                    root: false,
                    ..fake((6, 6), &[])
                },
                &["root"][..],
            ),
            (fake((5, 11), &[]), &["5.11", "5.12 or newer"]),
            (
                fake((5, 4), &[Feature::RingBuffers, Feature::CoarseClock]),
                &[
                    "5.4",
                    "BPF_MAP_TYPE_RINGBUF",
                    "bpf_ktime_get_coarse_ns",
                    "5.12 or newer",
                ],
            ),
            // A newer kernel that was built without.
            (
                fake((6, 1), &[Feature::Classifiers]),
                &["BPF_PROG_TYPE_SCHED_CLS", "CONFIG_NET_CLS_BPF"],
            ),
            (
                fake((6, 1), &[Feature::Syscall, Feature::RingBuffers]),
                &["no bpf(2)", "CONFIG_BPF_SYSCALL"],
            ),
            (
                fake((6, 1), &[Feature::LpmTries]),
                &["BPF_MAP_TYPE_LPM_TRIE", "4.11"],
            ),
            (
                Fake {
                    denies: true,
                    ..fake((6, 1), &[])
                },
                &["CAP_BPF", "lockdown"],
            ),
            (
                Fake {
                    release: None,
                    ..fake((0, 0), &[Feature::LruHashes])
                },
                &["LRU_HASH"],
            ),
        ] {
            let error = check(&kernel).unwrap_err();
            assert!(matches!(error, DatapathError::Unsupported { .. }));
            let text = error.to_string();
            for says in says {
                assert!(text.contains(says), "no '{says}': {text}");
            }
        }
    }

    #[test]
    fn this_kernel_answers_for_everything() {
        let report = report(&ThisKernel);
        assert_eq!(report.len(), NEEDS.len());
        assert!(
            report.iter().all(|line| line.answer != Answer::Unknown),
            "{report:?}"
        );
    }
}
