//! Single runs of the kernel programs (`BPF_PROG_TEST_RUN`), against a minimal program in C.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use etherparse::PacketBuilder;
use nv_dp::{Datapath as _, DatapathConfig, EbpfConfig, EbpfDatapath, EndpointSpec};
use nv_types::{Direction, Verdict, WorkloadId};

use super::against;
use crate::figure::{Figure, median};
use crate::scenario::{SERVER, Scenario};
use crate::traffic::{BULK_PORT, Ends};

/// The loopback interface of a fresh network namespace: nothing passes it but what this bench runs.
pub(super) const IFINDEX: u32 = 1;
const RULES: usize = 1_000;
/// Runs in a row of what leaves no trace.
const TIMES: u32 = 200_000;
/// Flows that are begun one by one.
const FRESH: u16 = 20_000;
const CLIENT_PORT: u16 = 40_000;

pub(super) fn ends() -> Ends {
    Ends {
        client: "/proc/self/ns/net".into(),
        server: "/proc/self/ns/net".into(),
        client_addr: [10, 221, 7, 2].into(),
        server_addr: [10, 221, 7, 3].into(),
    }
}

/// A policy of this many rules, and the server's endpoint on the loopback interface.
pub(super) fn attach(datapath: &mut EbpfDatapath, ends: &Ends, rules: usize) -> anyhow::Result<()> {
    let config = DatapathConfig {
        unknown: Verdict::Deny,
        failsafe_ports: Vec::new(),
        failsafe_addresses: Vec::new(),
        ..DatapathConfig::default()
    };
    datapath.apply(&Scenario::new(ends, rules)?.compile()?, &config)?;
    datapath.attach(&EndpointSpec {
        ifindex: IFINDEX,
        name: "lo".into(),
        workload: Some(WorkloadId::try_new(SERVER)?),
        mac: None,
        addresses: vec![IpAddr::from(ends.server_addr)],
        quarantine: false,
    })?;
    Ok(())
}

pub(super) fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> anyhow::Result<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .udp(from.1, to.1)
        .write(&mut frame, &[0x5a; 22])?;
    Ok(frame)
}

fn tcp(ends: &Ends, port: u16, opens: bool, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let step = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(ends.client_addr.octets(), ends.server_addr.octets(), 64)
        .tcp(port, BULK_PORT, 1, 65_000);
    let step = if opens { step.syn() } else { step.ack(1) };
    let mut frame = Vec::new();
    step.write(&mut frame, payload)?;
    Ok(frame)
}

pub(super) fn measure(rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let minimal = match compile() {
        Ok(object) => Some(object),
        Err(error) => {
            crate::say(&format!("the C program is left out: {error:#}"));
            None
        }
    };
    let pins = format!("/sys/fs/bpf/nv/bench-{}", std::process::id());
    let mut datapath = EbpfDatapath::open(EbpfConfig::new(pins))?;
    let measured = runs(&mut datapath, minimal.as_deref(), rounds);
    datapath.purge()?;
    measured
}

fn runs(datapath: &mut EbpfDatapath, minimal: Option<&Path>, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let ends = ends();
    attach(datapath, &ends, RULES)?;
    let mut minimal = minimal.map(Minimal::load).transpose()?;
    let established = tcp(&ends, CLIENT_PORT, false, &[0x5a; 1448])?;
    // Three payloads, and what the application is not is known.
    for _ in 0..4 {
        ensure!(
            datapath.run_frame(IFINDEX, Direction::Ingress, &established)?,
            "wrong verdict"
        );
    }
    let (mut settled, mut alone, mut in_c) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (_, time) = datapath.repeat_frame(IFINDEX, Direction::Ingress, &established, TIMES)?;
        settled.push(nanos(time));
        if let Some(minimal) = &mut minimal {
            in_c.push(nanos(minimal.run(&established, TIMES)?));
        }
    }
    // A single run is timed with the clock's own cost: what is above that of many in a row is taken off.
    for _ in 0..FRESH {
        let (_, time) = datapath.repeat_frame(IFINDEX, Direction::Ingress, &established, 1)?;
        alone.push(nanos(time));
    }
    let value = median(&settled);
    let clock = (median(&alone) - value).max(0.0);
    let request = b"GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: nv\r\nAccept: */*\r\n\r\n";
    let (mut begins, mut identifies) = (Vec::new(), Vec::new());
    for at in 0..FRESH {
        let port = 10_000 + at;
        let (passes, time) =
            datapath.repeat_frame(IFINDEX, Direction::Ingress, &tcp(&ends, port, true, b"")?, 1)?;
        ensure!(passes, "a new flow was refused");
        begins.push(nanos(time) - clock);
        let (passes, time) =
            datapath.repeat_frame(IFINDEX, Direction::Ingress, &tcp(&ends, port, false, request)?, 1)?;
        ensure!(passes, "a first payload was refused");
        identifies.push(nanos(time) - clock);
        if at % 1000 == 0 {
            datapath.poll_events(usize::MAX)?;
        }
    }
    let established = if in_c.is_empty() {
        Figure {
            name: "ns_established".into(),
            value,
            unit: "ns",
            baseline: None,
            ratio: None,
            runs: rounds,
        }
    } else {
        against("ns_established", "ns", value, median(&in_c), rounds)
    };
    let fresh = usize::from(FRESH);
    Ok(vec![
        established,
        against("ns_new_flow", "ns", median(&begins), value, fresh),
        against("ns_first_payload", "ns", median(&identifies), value, fresh),
    ])
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// The program in C, loaded.
struct Minimal(aya::Ebpf);

impl Minimal {
    fn load(object: &Path) -> anyhow::Result<Self> {
        let mut ebpf = aya::Ebpf::load_file(object).context("cannot load the C program")?;
        program(&mut ebpf)?
            .load()
            .context("the kernel refuses the C program")?;
        Ok(Self(ebpf))
    }

    /// Mean time of one of so many runs. The flow is entered by the first.
    fn run(&mut self, frame: &[u8], times: u32) -> anyhow::Result<Duration> {
        let before = self.counted()?;
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: times,
            ..TestRunOptions::default()
        };
        let result = program(&mut self.0)?
            .test_run(options)
            .context("cannot run the C program")?;
        ensure!(result.return_value == 0, "the C program let nothing pass");
        let counted = self.counted()? - before;
        ensure!(
            counted == u64::from(times),
            "the C program counted {counted} of {times} packets"
        );
        Ok(result.duration)
    }

    /// Packets, over all processors: the first word of its counters.
    fn counted(&mut self) -> anyhow::Result<u64> {
        let map = self.0.map("COUNTERS").context("no map COUNTERS")?;
        let counters: aya::maps::PerCpuArray<_, [u64; 7]> = map.try_into()?;
        Ok(counters.get(&0, 0)?.iter().map(|words| words[0]).sum())
    }
}

fn program(ebpf: &mut aya::Ebpf) -> anyhow::Result<&mut SchedClassifier> {
    let program = ebpf.program_mut("minimal").context("no program 'minimal'")?;
    Ok(program.try_into()?)
}

/// Compiles the program with whatever clang is there.
fn compile() -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c/minimal.bpf.c");
    let folder = crate::figure::folder();
    std::fs::create_dir_all(&folder)?;
    let object = folder.join("minimal.bpf.o");
    let clang = ["clang", "clang-19", "clang-16", "clang-14"]
        .into_iter()
        .find(|name| {
            Command::new(name)
                .arg("--version")
                .output()
                .is_ok_and(|output| output.status.success())
        })
        .context("there is no clang: run scripts/setup.sh bench")?;
    let output = Command::new(clang)
        .args([
            "-O2",
            "-g",
            "-target",
            "bpf",
            "-mcpu=v3",
            "-Wall",
            "-Wno-address-of-packed-member",
            "-c",
        ])
        .arg(&source)
        .arg("-o")
        .arg(&object)
        .output()
        .with_context(|| format!("cannot start {clang}"))?;
    ensure!(
        output.status.success(),
        "{clang}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(object)
}
