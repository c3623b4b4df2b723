//! One capture of one flood by one tool, each in a process of its own on the second processor.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nv_capture::{
    CaptureConfig, CaptureLimits, CaptureManager, CaptureSpec, CaptureTarget, Headers, PacketReader,
};
use nv_types::WorkloadId;

use super::flood::{self, Sent};
use crate::traffic::{Ends, UDP_PORT, inside, join, pin};

/// Room for what a run can bring.
const MOST: u64 = 4 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Nv,
    Dumpcap,
}

/// What became of a flood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    sent: Sent,
    captured: u64,
    cpu: Duration,
}

impl Run {
    pub(super) const fn lost(&self) -> u64 {
        self.sent.packets.saturating_sub(self.captured)
    }

    /// Packets offered a second.
    pub(super) fn rate(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "millions, far below 2^52")]
        let packets = self.sent.packets as f64;
        packets / self.sent.time.as_secs_f64()
    }

    /// Processors that the capture kept busy while packets came.
    pub(super) fn cores(&self) -> f64 {
        self.cpu.as_secs_f64() / self.sent.time.as_secs_f64()
    }
}

/// Captures a flood in the server's namespace to a pcapng file, and counts what is in the file.
pub(super) fn run(ends: &Ends, tool: Tool, filter: &str, rate: f64, time: Duration) -> anyhow::Result<Run> {
    let folder = tempfile::tempdir()?;
    let (path, filter) = (folder.path().to_owned(), filter.to_owned());
    let mut child = join(inside(&ends.server, move || {
        // The child stays where this thread is: in the namespace, on the second processor.
        pin(1)?;
        Process::start(tool, &path, &filter)
    }))?;
    child.settle(folder.path())?;
    let before = child.cpu()?;
    let sent = flood::send(ends, rate, time)?;
    // Blocks that are not full are handed over a moment later.
    child.settle(folder.path())?;
    let cpu = child.cpu()?.saturating_sub(before);
    child.stop()?;
    let run = Run {
        sent,
        captured: count(folder.path())?,
        cpu,
    };
    ensure!(run.captured > 0, "{tool:?} captured nothing");
    Ok(run)
}

struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Process {
    fn start(tool: Tool, folder: &Path, filter: &str) -> anyhow::Result<Self> {
        let mut command = match tool {
            Tool::Nv => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("capture").arg(folder).arg(filter);
                command
            }
            Tool::Dumpcap => {
                let mut command = Command::new("dumpcap");
                command.args(["-q", "-i", "eth0", "-w"]);
                command.arg(folder.join("dumpcap.pcapng"));
                if !filter.is_empty() {
                    command.args(["-f", filter]);
                }
                command
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {tool:?}: scripts/setup.sh installs what benches need"))?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    /// Waits until its file is there and it has come to rest.
    fn settle(&mut self, folder: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut last = (0, Duration::ZERO);
        loop {
            ensure!(
                self.child.try_wait()?.is_none(),
                "the capture ended before its time"
            );
            ensure!(Instant::now() < deadline, "the capture does not come to rest");
            thread::sleep(Duration::from_millis(200));
            let size: u64 = files(folder)?.iter().map(|(_, size)| size).sum();
            let now = (size, self.cpu()?);
            // An idle capture looks around now and then.
            if size > 0 && size == last.0 && now.1.saturating_sub(last.1) < Duration::from_millis(5) {
                return Ok(());
            }
            last = now;
        }
    }

    /// Processor time of all its threads (proc(5): the first number is nanoseconds on a processor).
    fn cpu(&self) -> anyhow::Result<Duration> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = text.split_whitespace().next().context("an empty schedstat")?;
            sum += first.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(sum))
    }

    fn stop(mut self) -> anyhow::Result<()> {
        drop(self.stdin.take());
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT);
        self.child.wait()?;
        Ok(())
    }
}

fn files(folder: &Path) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|end| end == "pcapng") {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(found)
}

/// Packets of the flood in the files.
fn count(folder: &Path) -> anyhow::Result<u64> {
    let mut count = 0;
    for (path, _) in files(folder)? {
        let mut reader = PacketReader::new(fs::File::open(path)?)?;
        while let Some(packet) = reader.next_view()? {
            let headers = Headers::parse(packet.interface.link, packet.data);
            count += u64::from(headers.is_some_and(|headers| headers.destination_port == UDP_PORT));
        }
    }
    Ok(count)
}

/// The measured capture of nv: one session as an agent runs it, until the standard input ends.
pub(super) fn capture(folder: &Path, filter: &str) -> anyhow::Result<()> {
    // The end comes by the input; the signal is for the other tool.
    let _guard = nix::sys::signal::SigSet::from(Signal::SIGINT).thread_block();
    let manager = CaptureManager::open(CaptureConfig {
        max_disk_bytes: MOST,
        ..CaptureConfig::new(folder)
    })?;
    let spec = CaptureSpec {
        limits: CaptureLimits {
            max_bytes: MOST,
            ..CaptureLimits::default()
        },
        filter: filter.parse()?,
        ..CaptureSpec::new(
            WorkloadId::try_new("server")?,
            "server",
            CaptureTarget::host_interface("eth0"),
        )
    };
    manager.start(&spec)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    manager.shutdown();
    Ok(())
}
