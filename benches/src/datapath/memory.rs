//! What a full table of flows takes.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, ensure};
use nv_dp::{Datapath as _, EbpfConfig, EbpfDatapath};
use nv_types::Direction;

use super::program::{IFINDEX, attach, ends, udp};
use crate::figure::Figure;
use crate::traffic::UDP_PORT;

const FLOWS: u32 = 100_000;

/// Megabytes that 100,000 flows take: the kernel's table, and what the process grows by when it has walked it.
pub(super) fn measure() -> anyhow::Result<Vec<Figure>> {
    let pins = format!("/sys/fs/bpf/nv/bench-{}", std::process::id());
    let mut config = EbpfConfig::new(&pins);
    // The kernel hands entries out to processors in batches: a table of just this size would forget some before it is full.
    config.conntrack_entries = FLOWS + FLOWS / 4;
    let mut datapath = EbpfDatapath::open(config)?;
    let measured = fill(&mut datapath, Path::new(&pins));
    datapath.purge()?;
    measured
}

fn fill(datapath: &mut EbpfDatapath, pins: &Path) -> anyhow::Result<Vec<Figure>> {
    let ends = ends();
    attach(datapath, &ends, 1000)?;
    let before = resident()?;
    for number in 0..FLOWS {
        // Two client addresses are enough ports.
        let mut client = ends.client_addr.octets();
        client[2] += u8::try_from(number / 50_000)?;
        let port = u16::try_from(10_000 + number % 50_000)?;
        let frame = udp((client.into(), port), (ends.server_addr, UDP_PORT))?;
        datapath.run_frame(IFINDEX, Direction::Ingress, &frame)?;
        if number % 1000 == 0 {
            datapath.poll_events(usize::MAX)?;
        }
    }
    let mut seen: u32 = 0;
    datapath.sweep(&mut |_| seen += 1)?;
    ensure!(seen >= FLOWS, "only {seen} of {FLOWS} flows are in the table");
    let grown = resident()?.saturating_sub(before);
    let table = map_bytes(&pins.join("maps/NV_FLOWS"))?;
    // The table has room for a quarter more, which is not these flows'.
    let kernel = table * 4 / 5;
    crate::say(&format!(
        "{seen} flows: {:.1} MB in the kernel ({:.1} MB with the room left), {:.1} MB in the process",
        mega(kernel),
        mega(table),
        mega(grown)
    ));
    Ok(vec![Figure {
        name: "rss_100k_flows".into(),
        value: mega(kernel + grown),
        unit: "MB",
        baseline: None,
        ratio: None,
        runs: 1,
    }])
}

#[allow(
    clippy::cast_precision_loss,
    reason = "bytes of this machine stay far below 2^52"
)]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Resident memory of this process.
fn resident() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    number(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024)
}

/// What the kernel counts for a map.
fn map_bytes(pin: &Path) -> anyhow::Result<u64> {
    let map = aya::maps::MapData::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
    number(&info, "memlock:")
}

fn number(text: &str, field: &str) -> anyhow::Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no field {field}"))
}
