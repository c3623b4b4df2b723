//! The kernel backend: loads or adopts the programs and tables, and drives them.

mod backend;
mod endpoints;
mod hook;
mod maps;
mod pins;
pub mod probe;
mod repair;
mod setup;
mod spec;
mod sys;
mod tap;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions, TestRunResult};
use nv_dp_common::ABI_VERSION;
use nv_dp_common::ANSWER_ROOM;
use nv_dp_common::layout::{EndpointValue, STATE_ABI, STATE_EPOCH};
use nv_types::Direction;

use self::hook::{Hook, classifier};
use self::maps::Maps;
use self::pins::Pins;
use self::setup::{check_abi, fault, load};
use crate::slot::{Capacity, SlotTables};
use crate::{DatapathError, DatapathEvent, EndpointSpec};

pub use self::hook::HookChoice;
pub use self::tap::{NameGate, NameTap};

/// Verdicts of a program (linux/pkt_cls.h): drop it, and send it elsewhere.
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// Endpoints that a node can have; the counters are a fixed array.
const MAX_ENDPOINTS: usize = 1024;

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
    /// What the tables hold in truth: those that were adopted keep the size they were made with.
    capacity: Capacity,
    max_flows: usize,
    hook: Hook,
    epoch: u32,
    slots: [SlotTables; 2],
    endpoints: BTreeMap<u32, Endpoint>,
    /// Interfaces that were let go: their flows are still in the table.
    gone: BTreeSet<u32>,
    /// Interfaces whose programs could not be put back.
    open: BTreeSet<u32>,
    /// Nothing is to be put back.
    purged: bool,
    /// What the sweep has found, for whoever polls events.
    found: VecDeque<DatapathEvent>,
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

impl EbpfDatapath {
    /// Loads the programs. Tables that are pinned are adopted, and the programs on every interface that is
    /// guarded are replaced by these, without a packet that is not judged. Interfaces that have vanished are
    /// forgotten.
    ///
    /// # Errors
    /// [`DatapathError::Unsupported`] names what kernel or caller lack, [`DatapathError::AbiMismatch`] tables of another
    /// version, [`DatapathError::Kernel`] what the kernel refused or that another process holds the instance.
    pub fn open(config: EbpfConfig) -> Result<Self, DatapathError> {
        probe::check(&probe::ThisKernel)?;
        let pins = Pins::open(&config.pin_dir)?;
        check_abi(&pins)?;
        let mut ebpf = load(&config, &pins.maps())?;
        let mut maps = Maps::take(&mut ebpf)?;
        maps.state
            .set(STATE_ABI, ABI_VERSION, 0)
            .map_err(|error| fault("write the layout version", &error))?;
        let epoch = maps
            .state
            .get(&STATE_EPOCH, 0)
            .map_err(|error| fault("read the epoch", &error))?;
        let slots = [maps.read_slot(0)?, maps.read_slot(1)?];
        let (capacity, max_flows) = maps.sizes()?;
        let hook = Hook::choose(config.hook);
        let mut datapath = Self {
            ebpf,
            maps,
            capacity,
            max_flows,
            hook,
            epoch,
            slots,
            endpoints: BTreeMap::new(),
            gone: BTreeSet::new(),
            open: BTreeSet::new(),
            purged: false,
            found: VecDeque::new(),
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
        self.repeat_frame(ifindex, direction, frame, 1)
            .map(|(passes, _)| passes)
    }

    /// As [`EbpfDatapath::run_frame`], with the frame that its sender gets in answer, if it gets one.
    ///
    /// # Errors
    /// When the kernel refuses to run it.
    pub fn answer_frame(
        &mut self,
        ifindex: u32,
        direction: Direction,
        frame: &[u8],
    ) -> Result<(bool, Option<Vec<u8>>), DatapathError> {
        let mut out = vec![0; frame.len().max(ANSWER_ROOM)];
        let result = self.test_run(ifindex, direction, frame, 1, Some(&mut out))?;
        let answered = result.return_value == REDIRECT;
        out.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
        Ok((!answered && result.return_value != SHOT, answered.then_some(out)))
    }

    /// As [`EbpfDatapath::run_frame`], `times` in a row (at least once); also gives the mean time of one run.
    ///
    /// # Errors
    /// When the kernel refuses to run it.
    pub fn repeat_frame(
        &mut self,
        ifindex: u32,
        direction: Direction,
        frame: &[u8],
        times: u32,
    ) -> Result<(bool, Duration), DatapathError> {
        let result = self.test_run(ifindex, direction, frame, times, None)?;
        Ok((!matches!(result.return_value, SHOT | REDIRECT), result.duration))
    }

    fn test_run(
        &mut self,
        ifindex: u32,
        direction: Direction,
        frame: &[u8],
        times: u32,
        out: Option<&mut [u8]>,
    ) -> Result<TestRunResult, DatapathError> {
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
            data_out: out,
            ctx_in: Some(&context),
            repeat: times.max(1),
            ..TestRunOptions::default()
        };
        classifier(&mut self.ebpf, program)?
            .test_run(options)
            .map_err(|error| fault(&format!("run program {program}"), &error))
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
}
