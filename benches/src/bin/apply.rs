//! `apply`: from the answer of REST to the kernel's map, on one host.
//!
//! A rule is changed over REST; from the moment its answer is there, the pinned epoch word of the datapath is read without a pause until it has
//! changed. That word is what every packet reads first.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use aya::maps::{Array, Map, MapData};
use nv_benches::figure::{Figure, median, range, write};
use nv_benches::product::{Process, Rest, binary, wait_for, word_after};
use nv_benches::say;
use nv_dp_common::layout::STATE_EPOCH;
use nv_lab::{HostSpec, Lab};
use serde_json::json;

const RUNS: usize = 31;
const LONGEST: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    let tag = format!("nvba{}", std::process::id() % 10_000);
    let lab = Lab::create(
        &tag,
        &[
            HostSpec::new(format!("{tag}-a"), 241, 2),
            HostSpec::new(format!("{tag}-b"), 241, 3),
        ],
    )?;
    let folder = tempfile::tempdir()?;
    let pins = format!("/sys/fs/bpf/nv/{tag}");
    let allinone = binary("nv-allinone")?;
    let product = Process::start(
        Command::new(&allinone)
            .args([
                "--rest",
                "127.0.0.1:0",
                "--grpc",
                "127.0.0.1:0",
                "--listen",
                "127.0.0.1:0",
                "--docker",
                "off",
            ])
            .args(["--pin-dir", &pins, "--data-dir"])
            .arg(folder.path()),
        Some("REST on "),
    )?;
    let measured = measure(&product, folder.path(), &pins, &format!("nv.{tag}-a"));
    drop(product);
    drop(lab);
    let purged = Command::new(&allinone)
        .args(["--purge", "--pin-dir", &pins])
        .status()?;
    let times = measured?;
    if !purged.success() {
        bail!("enforcement is left at {pins}");
    }
    let (least, most) = range(&times);
    let middle = median(&times);
    say(&format!(
        "rest_to_kernel_ms  median {middle:.2}  from {least:.2} to {most:.2}  of {} runs",
        times.len()
    ));
    let figure = Figure {
        name: "rest_to_kernel_ms".into(),
        value: middle,
        unit: "ms",
        baseline: None,
        ratio: None,
        runs: times.len(),
    };
    say(&format!("written: {}", write("apply", &[figure])?.display()));
    Ok(())
}

fn measure(product: &Process, folder: &std::path::Path, pins: &str, group: &str) -> anyhow::Result<Vec<f64>> {
    let server = word_after(&product.lines, "REST on ").context("no address")?;
    let password = word_after(&product.lines, "password of 'admin' is ").context("no password")?;
    let rest = Rest::login(&server, &folder.join("ca.pem"), &password)?;
    wait_for("the bench's services", 20, || {
        let services = rest.call("GET", "/v1/service", None)?;
        Ok(services["services"]
            .as_array()
            .is_some_and(|list| list.iter().any(|service| service["name"] == group)))
    })?;
    let rule = |ports: &str| json!({"kind": "Rule", "id": 1, "from": group, "to": "external", "ports": ports, "action": "allow"});
    let state = format!("{pins}/maps/NV_STATE");
    let state = Map::Array(MapData::from_pin(&state).with_context(|| format!("cannot open {state}"))?);
    let state = Array::<_, u32>::try_from(state)?;
    let mut times = Vec::new();
    for run in 0..RUNS {
        // Everything that went before has settled.
        std::thread::sleep(Duration::from_millis(200));
        let before = state.get(&STATE_EPOCH, 0)?;
        let body = json!({"documents": [rule(&format!("tcp/{}", 1000 + run))], "dry_run": false});
        rest.call("POST", "/v1/apply", Some(&body))?;
        let answered = Instant::now();
        while state.get(&STATE_EPOCH, 0)? == before {
            if answered.elapsed() > LONGEST {
                bail!("run {run}: the kernel has nothing after {LONGEST:?}");
            }
        }
        times.push(answered.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}
