//! `footprint`: resident memory of an idle agent: joined, its policy in force, two workloads under guard, nothing going on.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nv_benches::figure::{Figure, write};
use nv_benches::product::{Process, Rest, binary, memory, wait_for, word_after};
use nv_benches::say;
use nv_lab::{HostSpec, Lab};

const REST: &str = "127.0.0.1:31443";
const GRPC: &str = "127.0.0.1:31400";
/// Time for start-up to be forgotten.
const SETTLE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let tag = format!("nvbf{}", std::process::id() % 10_000);
    let lab = Lab::create(
        &tag,
        &[
            HostSpec::new(format!("{tag}-a"), 242, 2),
            HostSpec::new(format!("{tag}-b"), 242, 3),
        ],
    )?;
    let folder = tempfile::tempdir()?;
    let pins = format!("/sys/fs/bpf/nv/{tag}");
    let (controller, agent) = (binary("nv-controller")?, binary("nv-agent")?);
    let data = folder.path().join("controller");
    let running = Process::start(
        Command::new(&controller)
            .args(["--rest", REST, "--grpc", GRPC, "--data-dir"])
            .arg(&data),
        Some("password of 'admin' is "),
    )?;
    let password = word_after(&running.lines, "password of 'admin' is ").context("no password")?;
    let token = Command::new(&controller)
        .args(["--join-token", &tag, "--data-dir"])
        .arg(&data)
        .output()?;
    if !token.status.success() {
        bail!("no join token: {}", String::from_utf8_lossy(&token.stderr));
    }
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, token.stdout)?;
    let mut command = Command::new(&agent);
    command.args([
        "--node",
        &tag,
        "--controller",
        GRPC,
        "--listen",
        "127.0.0.1:0",
        "--docker",
        "off",
        "--pin-dir",
        &pins,
    ]);
    command
        .arg("--data-dir")
        .arg(folder.path().join("agent"))
        .arg("--join-token-file")
        .arg(&token_file);
    command.arg("--ca").arg(data.join("ca.pem"));
    let guard = Process::start(&mut command, None)?;
    let rest = Rest::login(&format!("https://{REST}"), &data.join("ca.pem"), &password)?;
    let measured = wait_for("two interfaces under guard", 20, || {
        let nodes = rest.call("GET", "/v1/node", None)?;
        Ok(nodes["nodes"][0]["endpoints"]
            .as_u64()
            .is_some_and(|count| count >= 2))
    })
    .and_then(|()| {
        std::thread::sleep(SETTLE);
        memory(guard.pid(), "VmRSS")
    });
    drop(guard);
    drop(running);
    drop(lab);
    let purged = Command::new(&agent)
        .args(["--pin-dir", &pins, "purge"])
        .status()?;
    let mib = measured?;
    if !purged.success() {
        bail!("enforcement is left at {pins}");
    }
    say(&format!("agent_idle_rss_mib  {mib:.1}"));
    let figure = Figure {
        name: "agent_idle_rss_mib".into(),
        value: mib,
        unit: "MiB",
        baseline: None,
        ratio: None,
        runs: 1,
    };
    say(&format!("written: {}", write("footprint", &[figure])?.display()));
    Ok(())
}
