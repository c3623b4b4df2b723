//! The kernel backend: loads or adopts the programs and tables, and drives them.

mod hook;
mod maps;
mod pins;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::programs::{TestRun as _, TestRunOptions};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use nix::time::{ClockId, clock_gettime};
use nv_dp_common::ABI_VERSION;
use nv_dp_common::layout::{
    EndpointValue, EventValue, FlowData, FlowKeyValue, LocalView, OwnKey, STATE_ABI, STATE_EPOCH,
};
use nv_dp_common::timeout::idle_ns;
use nv_types::{Direction, FlowState, IpProto, PolicyImage, Revision};

use self::hook::{Hook, classifier};
use self::maps::Maps;
use self::pins::Pins;
use crate::slot::{Capacity, SlotTables};
use crate::{
    Datapath, DatapathConfig, DatapathError, DatapathEvent, DatapathStatus, DirectionCounters, EndpointSpec,
    EndpointStatus, FlowStats, convert,
};

pub use self::hook::HookChoice;

/// The kernel programs, built from `nv-dp-ebpf` by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/nv.bpf.o");

/// Endpoints that a node can have; the counters are a fixed array.
const MAX_ENDPOINTS: usize = 1024;
/// What the programs use: BPF atomics, ring buffers and the coarse clock.
const NEEDED_KERNEL: (u8, u8) = (5, 12);

/// Where and how large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EbpfConfig {
    /// Folder on a BPF file system that holds this instance's pins, `/sys/fs/bpf/nv/<instance>` by convention.
    pub pin_dir: PathBuf,
    /// Flows; the table keeps the most recently used. Tables that are adopted keep their size.
    pub conntrack_entries: u32,
    /// Bytes of the event ring, a power of two of whole pages.
    pub events_bytes: u32,
    /// Policy tables, for one image; twice as much is made.
    pub capacity: Capacity,
    /// How programs are put on interfaces.
    pub hook: HookChoice,
}

impl EbpfConfig {
    /// Default sizes for an instance with its pins in this folder.
    #[must_use]
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            conntrack_entries: 65_536,
            events_bytes: 1 << 20,
            capacity: Capacity::default(),
            hook: HookChoice::Auto,
        }
    }
}

struct Endpoint {
    spec: EndpointSpec,
    value: EndpointValue,
}

/// The datapath in the kernel. Dropping it leaves everything in force; [`EbpfDatapath::open`] takes it up again.
pub struct EbpfDatapath {
    // Declared before the lock: what is dropped first must not outlive it.
    ebpf: Ebpf,
    maps: Maps,
    config: EbpfConfig,
    hook: Hook,
    epoch: u32,
    slots: [SlotTables; 2],
    endpoints: BTreeMap<u32, Endpoint>,
    /// Interfaces that were let go: their flows are still in the table.
    gone: BTreeSet<u32>,
    pins: Pins,
}

impl std::fmt::Debug for EbpfDatapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EbpfDatapath")
            .field("pins", &self.pins.dir())
            .field("hook", &self.hook)
            .field("epoch", &self.epoch)
            .field("endpoints", &self.endpoints.len())
            .finish_non_exhaustive()
    }
}

/// A failed kernel call in the words of the trait; what no retry will change becomes `Unsupported`.
fn fault(action: &str, error: &(dyn Error + 'static)) -> DatapathError {
    let mut detail = error.to_string();
    let mut os_error = None;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            os_error = os_error.or_else(|| io.raw_os_error());
        }
        next = error.source();
        if let Some(inner) = next {
            let text = inner.to_string();
            if !detail.contains(&text) {
                detail = format!("{detail}: {text}");
            }
        }
    }
    match os_error {
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
fn interface_name(ifindex: u32) -> Option<String> {
    // An index that is none gives an empty name.
    nix::net::if_::if_indextoname(ifindex)
        .ok()?
        .into_string()
        .ok()
        .filter(|name| !name.is_empty())
}

/// What the kernel must have, said in words before anything is tried.
fn probe() -> Result<(), DatapathError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(DatapathError::Unsupported {
            what: "the eBPF datapath needs root, this process has none".into(),
            hint: "start it as root; the software datapath needs no rights".into(),
        });
    }
    let (major, minor) = NEEDED_KERNEL;
    let needed = KernelVersion::new(major, minor, 0);
    match KernelVersion::current() {
        Ok(found) if found < needed => Err(DatapathError::Unsupported {
            what: format!("kernel {found:?} is older than {major}.{minor}"),
            hint: format!("Linux {major}.{minor} or newer; 6.6 or newer for TCX links"),
        }),
        _ => Ok(()),
    }
}

impl EbpfDatapath {
    /// Loads the programs. Tables that are pinned are adopted, and the programs on every interface that is
    /// guarded are replaced by these, without a packet that is not judged. Interfaces that have vanished are
    /// forgotten.
    ///
    /// # Errors
    /// [`DatapathError::Unsupported`] names what kernel or caller lack, [`DatapathError::AbiMismatch`] tables of another
    /// version, [`DatapathError::Kernel`] what the kernel refused or that another process holds the instance.
    pub fn open(config: EbpfConfig) -> Result<Self, DatapathError> {
        probe()?;
        let pins = Pins::open(&config.pin_dir)?;
        check_abi(&pins)?;
        let mut ebpf = load(&config, &pins.maps())?;
        for program in ["nv_egress", "nv_ingress"] {
            let loaded = classifier(&mut ebpf, program)?;
            loaded
                .load()
                .map_err(|error| fault(&format!("load program {program}"), &error))?;
        }
        let mut maps = Maps::take(&mut ebpf)?;
        maps.state
            .set(STATE_ABI, ABI_VERSION, 0)
            .map_err(|error| fault("write the layout version", &error))?;
        let epoch = maps
            .state
            .get(&STATE_EPOCH, 0)
            .map_err(|error| fault("read the epoch", &error))?;
        let slots = [maps.read_slot(0)?, maps.read_slot(1)?];
        let hook = Hook::choose(config.hook);
        let mut datapath = Self {
            ebpf,
            maps,
            config,
            hook,
            epoch,
            slots,
            endpoints: BTreeMap::new(),
            gone: BTreeSet::new(),
            pins,
        };
        datapath.adopt()?;
        Ok(datapath)
    }

    /// Removes an instance's pins without loading anything: what is left of one whose tables cannot be adopted. Filters of
    /// the clsact hook stay until their interface goes.
    ///
    /// # Errors
    /// When another process holds the instance, or a pin cannot be removed.
    pub fn purge_pins(pin_dir: &Path) -> Result<(), DatapathError> {
        if pin_dir.exists() {
            Pins::open(pin_dir)?.remove_all()
        } else {
            Ok(())
        }
    }

    /// Runs the kernel's program on a frame without sending it (`BPF_PROG_TEST_RUN`): `true` if it would pass. Counters,
    /// flows and events are those of a real packet. The interface must exist in this network namespace.
    ///
    /// # Errors
    /// When the kernel refuses to run it.
    pub fn run_frame(
        &mut self,
        ifindex: u32,
        direction: Direction,
        frame: &[u8],
    ) -> Result<bool, DatapathError> {
        /// Place of `ifindex` in `struct __sk_buff` (linux/bpf.h).
        const IFINDEX: usize = 40;
        let mut context = [0; IFINDEX + 4];
        context[IFINDEX..].copy_from_slice(&ifindex.to_ne_bytes());
        let program = match direction {
            Direction::Egress => "nv_egress",
            Direction::Ingress => "nv_ingress",
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = classifier(&mut self.ebpf, program)?
            .test_run(options)
            .map_err(|error| fault(&format!("run program {program}"), &error))?;
        Ok(result.return_value != 2) // TC_ACT_SHOT
    }

    /// Instructions that the verifier walked through, by program: the early sign of one that an older kernel refuses.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn verified_instructions(&mut self) -> Result<BTreeMap<&'static str, u32>, DatapathError> {
        let mut counts = BTreeMap::new();
        for name in ["nv_egress", "nv_ingress"] {
            let info = classifier(&mut self.ebpf, name)?
                .info()
                .map_err(|error| fault(&format!("ask for program {name}"), &error))?;
            counts.insert(name, info.verified_instruction_count().unwrap_or(0));
        }
        Ok(counts)
    }

    fn slot(&self) -> u32 {
        self.epoch & 1
    }

    /// Takes up every endpoint that is pinned.
    fn adopt(&mut self) -> Result<(), DatapathError> {
        let specs: Vec<_> = self.maps.specs.iter().collect();
        for item in specs {
            let (ifindex, bytes) = item.map_err(|error| fault("read the pinned endpoints", &error))?;
            let value = self.maps.endpoints.get(&ifindex, 0);
            let (Some(spec), Ok(value)) = (spec::decode(ifindex, &bytes), value) else {
                self.forget(ifindex)?;
                continue;
            };
            let value = EndpointValue::from_bytes(&value);
            if self.hook.attach(&mut self.ebpf, &self.pins, ifindex)? {
                if let Some(workload) = &spec.workload {
                    for (slot, view) in self.slots.iter_mut().zip(value.views) {
                        if view.state == LocalView::POLICED {
                            slot.locals.insert(workload.clone(), view);
                        }
                    }
                }
                self.endpoints.insert(ifindex, Endpoint { spec, value });
            } else {
                self.forget(ifindex)?;
            }
        }
        for ifindex in self.pins.linked()? {
            if !self.endpoints.contains_key(&ifindex) {
                self.forget(ifindex)?;
            }
        }
        Ok(())
    }

    /// Removes an interface from links and tables; the links first, so that nothing is judged by half an entry.
    fn forget(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.hook.detach(&self.pins, ifindex)?;
        absent_is_fine(self.maps.endpoints.remove(&ifindex), "remove an endpoint")?;
        absent_is_fine(self.maps.specs.remove(&ifindex), "remove an endpoint")?;
        self.write_own(ifindex, &BTreeSet::new())?;
        self.gone.insert(ifindex);
        Ok(())
    }

    /// Makes these the addresses of an endpoint: new ones first.
    fn write_own(&mut self, ifindex: u32, wanted: &BTreeSet<[u8; 16]>) -> Result<(), DatapathError> {
        for addr in wanted {
            let key = OwnKey { addr: *addr, ifindex }.to_bytes();
            self.maps
                .own
                .insert(key, 1, 0)
                .map_err(|error| fault("write an endpoint's address", &error))?;
        }
        let stale: Vec<_> = self
            .maps
            .own
            .keys()
            .filter_map(Result::ok)
            .filter(|key| {
                let key = OwnKey::from_bytes(key);
                key.ifindex == ifindex && !wanted.contains(&key.addr)
            })
            .collect();
        for key in stale {
            absent_is_fine(self.maps.own.remove(&key), "remove an endpoint's address")?;
        }
        Ok(())
    }

    fn write_endpoint(&mut self, ifindex: u32, value: &EndpointValue) -> Result<(), DatapathError> {
        self.maps
            .endpoints
            .insert(ifindex, value.to_bytes(), 0)
            .map_err(|error| fault("write an endpoint", &error))
    }

    fn write_epoch(&mut self, epoch: u32) -> Result<(), DatapathError> {
        self.maps
            .state
            .set(STATE_EPOCH, epoch, 0)
            .map_err(|error| fault("switch the epoch", &error))?;
        self.epoch = epoch;
        Ok(())
    }

    /// A place in the counters that no endpoint has; its counts start at zero.
    fn free_index(&mut self) -> Result<u32, DatapathError> {
        let used: BTreeSet<u32> = self
            .endpoints
            .values()
            .map(|endpoint| endpoint.value.index)
            .collect();
        let room = u32::try_from(MAX_ENDPOINTS).unwrap_or(u32::MAX);
        let index = (0..room)
            .find(|index| !used.contains(index))
            .ok_or(DatapathError::TooLarge {
                table: "endpoints",
                needed: used.len() + 1,
                capacity: MAX_ENDPOINTS,
            })?;
        for place in [index * 2, index * 2 + 1] {
            let zero = vec![[0; nv_dp_common::layout::COUNTER_WORDS]; cpus()?];
            let zero = zero
                .try_into()
                .map_err(|error: std::io::Error| fault("clear counters", &error))?;
            self.maps
                .counters
                .set(place, zero, 0)
                .map_err(|error| fault("clear counters", &error))?;
        }
        Ok(index)
    }

    fn counters(&self, index: u32, direction: Direction) -> Result<DirectionCounters, DatapathError> {
        let place = index * 2 + direction as u32;
        let values = self
            .maps
            .counters
            .get(&place, 0)
            .map_err(|error| fault("read counters", &error))?;
        let mut sum = DirectionCounters::default();
        for words in values.iter() {
            convert::add_counters(&mut sum, words);
        }
        Ok(sum)
    }

    /// Every flow once. The table changes while it is walked: the walk is bounded, and a flow that moves may be missed until
    /// the next one.
    fn flows(&self) -> Result<BTreeMap<FlowKeyValue, FlowData>, DatapathError> {
        let bound = usize::try_from(self.config.conntrack_entries)
            .unwrap_or(usize::MAX)
            .saturating_mul(2);
        let mut flows = BTreeMap::new();
        for item in self.maps.flows.iter().take(bound) {
            match item {
                Ok((key, flow)) => {
                    flows.insert(FlowKeyValue::from_bytes(&key), FlowData::from_bytes(&flow));
                }
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(fault("read the flows", &error)),
            }
        }
        Ok(flows)
    }
}

fn cpus() -> Result<usize, DatapathError> {
    aya::util::nr_cpus().map_err(|(what, error)| fault(&format!("read {what}"), &error))
}

fn absent_is_fine(result: Result<(), MapError>, action: &str) -> Result<(), DatapathError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(fault(action, &error)),
    }
}

/// Refuses pinned tables of another layout; clears those of a start that was cut off before it wrote any.
fn check_abi(pins: &Pins) -> Result<(), DatapathError> {
    use aya::maps::{Array, Map, MapData};

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

fn load(config: &EbpfConfig, maps: &Path) -> Result<Ebpf, DatapathError> {
    let twice = |entries: usize| u32::try_from(entries.saturating_mul(2)).unwrap_or(u32::MAX);
    let capacity = &config.capacity;
    EbpfLoader::new()
        .btf(None) // no relocations; reading the kernel's own types would cost megabytes
        .verifier_log_level(VerifierLogLevel::DEBUG)
        .default_map_pin_directory(maps)
        .map_max_entries("NV_FLOWS", config.conntrack_entries)
        .map_max_entries("NV_EVENTS", config.events_bytes)
        .map_max_entries("NV_ADDRESSES", twice(capacity.addresses))
        .map_max_entries("NV_PAIRS", twice(capacity.pairs))
        .map_max_entries("NV_PORTS", twice(capacity.ports))
        .map_max_entries("NV_CHAINS", twice(capacity.chains))
        .load(OBJECT)
        .map_err(|error| fault("create the tables", &error))
}

fn monotonic_ns() -> Result<u64, DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|error| fault("read the clock", &error))?;
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    Ok(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0))
}

impl Datapath for EbpfDatapath {
    fn apply(&mut self, image: &PolicyImage, config: &DatapathConfig) -> Result<(), DatapathError> {
        let next = self.epoch.wrapping_add(1);
        let slot = next & 1;
        let target = SlotTables::build(image, config, slot, &self.config.capacity)?;
        let place = usize::from(slot != 0);
        let writes = self.maps.write_slot(slot, &mut self.slots[place], &target)?;
        self.slots[place].locals = target.locals;
        let mut changed = Vec::new();
        for (ifindex, endpoint) in &mut self.endpoints {
            let view = self.slots[place].view(endpoint.spec.workload.as_ref());
            if endpoint.value.views[place] != view {
                endpoint.value.views[place] = view;
                changed.push((*ifindex, endpoint.value));
            }
        }
        for (ifindex, value) in &changed {
            self.write_endpoint(*ifindex, value)?;
        }
        self.write_epoch(next)?;
        tracing::debug!(
            revision = image.revision.0,
            epoch = next,
            writes,
            endpoints = changed.len(),
            "policy in force"
        );
        Ok(())
    }

    fn attach(&mut self, spec: &EndpointSpec) -> Result<(), DatapathError> {
        let no_interface = || DatapathError::NoInterface {
            ifindex: spec.ifindex,
            name: spec.name.clone(),
        };
        if interface_name(spec.ifindex).is_none() {
            return Err(no_interface());
        }
        let block = spec::encode(spec)?;
        let known = self.endpoints.get(&spec.ifindex);
        if known.is_some_and(|endpoint| endpoint.spec == *spec) {
            return Ok(());
        }
        let again = known.is_some() || self.gone.remove(&spec.ifindex);
        let index = match known.map(|endpoint| endpoint.value.index) {
            Some(index) => index,
            None => self.free_index()?,
        };
        let views = [0, 1].map(|slot: usize| self.slots[slot].view(spec.workload.as_ref()));
        let value = convert::endpoint_value(spec, views, index);
        self.write_own(spec.ifindex, &convert::own_addresses(spec).collect())?;
        self.maps
            .specs
            .insert(spec.ifindex, block, 0)
            .map_err(|error| fault("write an endpoint", &error))?;
        self.write_endpoint(spec.ifindex, &value)?;
        self.endpoints.insert(
            spec.ifindex,
            Endpoint {
                spec: spec.clone(),
                value,
            },
        );
        if again {
            self.write_epoch(self.epoch.wrapping_add(2))?; // flows are judged again, the slot stays
        }
        if !self.hook.attach(&mut self.ebpf, &self.pins, spec.ifindex)? {
            self.endpoints.remove(&spec.ifindex);
            self.forget(spec.ifindex)?;
            return Err(no_interface());
        }
        Ok(())
    }

    fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.endpoints.remove(&ifindex);
        self.forget(ifindex)
    }

    fn poll_events(&mut self, max: usize) -> Result<Vec<DatapathEvent>, DatapathError> {
        let mut events = Vec::new();
        while events.len() < max {
            let Some(item) = self.maps.events.next() else {
                break;
            };
            let event = <&[u8; size_of::<EventValue>()]>::try_from(&*item)
                .ok()
                .map(EventValue::from_bytes);
            events.extend(event.as_ref().and_then(convert::event));
        }
        Ok(events)
    }

    fn sweep(&mut self, each: &mut dyn FnMut(FlowStats)) -> Result<(), DatapathError> {
        let flows = self.flows()?;
        let now = monotonic_ns()?;
        for (key, flow) in &flows {
            let idle = now.saturating_sub(flow.last_ns) > idle_ns(IpProto(key.proto), flow);
            let orphan = !self.endpoints.contains_key(&key.ifindex);
            let state = if idle || orphan {
                FlowState::Closed
            } else {
                convert::state_of(flow)
            };
            if idle || orphan {
                absent_is_fine(self.maps.flows.remove(&key.to_bytes()), "remove a flow")?;
            }
            each(convert::flow_stats(key, flow, state));
        }
        self.gone.clear();
        Ok(())
    }

    fn status(&mut self) -> Result<DatapathStatus, DatapathError> {
        let place = usize::from(self.slot() != 0);
        let active = &self.slots[place];
        let mut endpoints = BTreeMap::new();
        for (ifindex, endpoint) in &self.endpoints {
            let status = EndpointStatus {
                spec: endpoint.spec.clone(),
                mode: endpoint.value.views[place].mode(),
                ingress: self.counters(endpoint.value.index, Direction::Ingress)?,
                egress: self.counters(endpoint.value.index, Direction::Egress)?,
            };
            endpoints.insert(*ifindex, status);
        }
        let lost = self
            .maps
            .lost
            .get(&0, 0)
            .map_err(|error| fault("read the lost events", &error))?;
        let bound = usize::try_from(self.config.conntrack_entries).unwrap_or(usize::MAX);
        let flows = self.maps.flows.keys().take(bound).filter(Result::is_ok).count();
        let capacity = &self.config.capacity;
        let room = |used: usize, capacity: usize| (used as u64, capacity as u64);
        Ok(DatapathStatus {
            hook: self.hook.name().into(),
            revision: (active.switches.valid != 0).then_some(Revision(active.switches.revision)),
            endpoints,
            lost_events: lost.iter().sum(),
            flows: flows as u64,
            tables: [
                ("addresses", room(active.addresses.len(), capacity.addresses)),
                ("pairs", room(active.pairs.len(), capacity.pairs)),
                ("ports", room(active.ports.len(), capacity.ports)),
                ("decisions", room(active.chains.len(), capacity.chains)),
                ("flows", room(flows, bound)),
                ("endpoints", room(self.endpoints.len(), MAX_ENDPOINTS)),
            ]
            .map(|(name, used)| (name.to_owned(), used))
            .into(),
        })
    }

    fn purge(&mut self) -> Result<(), DatapathError> {
        let guarded: Vec<u32> = self.endpoints.keys().copied().collect();
        for ifindex in guarded {
            self.detach(ifindex)?;
        }
        self.pins.remove_all()
    }
}
