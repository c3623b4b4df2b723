//! What must be there before anything is loaded, and loading.

use std::error::Error;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use nv_dp_common::ABI_VERSION;
use nv_dp_common::layout::STATE_ABI;

use super::EbpfConfig;
use super::hook::classifier;
use super::pins::Pins;
use super::probe::os_error;
use crate::DatapathError;

/// The kernel programs, built from `nv-dp-ebpf` by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/nv.bpf.o");

/// A failed kernel call in the words of the trait; what no retry will change becomes `Unsupported`.
pub(super) fn fault(action: &str, error: &(dyn Error + 'static)) -> DatapathError {
    let mut detail = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        let text = inner.to_string();
        if !detail.contains(&text) {
            detail = format!("{detail}: {text}");
        }
        next = inner.source();
    }
    match os_error(error) {
        Some(libc::ENOSYS) => DatapathError::Unsupported {
            what: format!("{action}: this kernel has no bpf(2)"),
            hint: "a kernel with CONFIG_BPF_SYSCALL, or the software datapath".into(),
        },
        Some(libc::EPERM | libc::EACCES) if !action.starts_with("load program") => DatapathError::Unsupported {
            what: format!("{action}: not permitted ({detail})"),
            hint: "run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN, outside of kernel lockdown"
                .into(),
        },
        _ => DatapathError::Kernel { action: action.to_owned(), detail },
    }
}

/// Name of an interface in this thread's network namespace.
pub(super) fn interface_name(ifindex: u32) -> Option<String> {
    // An index that is none gives an empty name.
    nix::net::if_::if_indextoname(ifindex)
        .ok()?
        .into_string()
        .ok()
        .filter(|name| !name.is_empty())
}

/// Refuses pinned tables of another layout; clears those of a start that was cut off before it wrote any.
pub(super) fn check_abi(pins: &Pins) -> Result<(), DatapathError> {
    let path = pins.maps().join("NV_STATE");
    if !path.exists() {
        return pins.remove_maps();
    }
    let found = MapData::from_pin(&path)
        .and_then(|data| Array::<_, u32>::try_from(Map::Array(data)))
        .and_then(|state| state.get(&STATE_ABI, 0))
        .map_err(|error| fault(&format!("read {}", path.display()), &error))?;
    match found {
        ABI_VERSION => Ok(()),
        0 => pins.remove_maps(),
        found => Err(DatapathError::AbiMismatch {
            path: pins.dir().display().to_string(),
            found,
            needed: ABI_VERSION,
            hint: "start the version that made them, or purge them: interfaces are unguarded until the new tables are in force"
                .into(),
        }),
    }
}

/// Creates or adopts the tables and loads both programs.
pub(super) fn load(config: &EbpfConfig, maps: &Path) -> Result<Ebpf, DatapathError> {
    // The verifier's log costs more time than its work: it is asked for only when there is something to read in it.
    load_with(config, maps, VerifierLogLevel::STATS)
        .or_else(|_| load_with(config, maps, VerifierLogLevel::DEBUG))
}

fn load_with(config: &EbpfConfig, maps: &Path, log: VerifierLogLevel) -> Result<Ebpf, DatapathError> {
    let twice = |entries: usize| u32::try_from(entries.saturating_mul(2)).unwrap_or(u32::MAX);
    let capacity = &config.capacity;
    let mut ebpf = EbpfLoader::new()
        .btf(None) // no relocations; reading the kernel's own types would cost megabytes
        .verifier_log_level(log)
        .default_map_pin_directory(maps)
        .map_max_entries("NV_FLOWS", config.conntrack_entries)
        .map_max_entries("NV_EVENTS", config.events_bytes)
        .map_max_entries("NV_ADDRESSES", twice(capacity.addresses))
        .map_max_entries("NV_PAIRS", twice(capacity.pairs))
        .map_max_entries("NV_PORTS", twice(capacity.ports))
        .map_max_entries("NV_CHAINS", twice(capacity.chains))
        .load(OBJECT)
        .map_err(|error| fault("create the tables", &error))?;
    for program in ["nv_egress", "nv_ingress"] {
        let loaded = classifier(&mut ebpf, program)?;
        loaded
            .load()
            .map_err(|error| fault(&format!("load program {program}"), &error))?;
    }
    Ok(ebpf)
}
