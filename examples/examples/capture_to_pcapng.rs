//! Captures the packets of a network namespace and reads them back.
//!
//! Makes a namespace of its own, sends ten datagrams inside it, and prints what the capture holds. Needs root:
//! `sudo -E cargo run -p nv-examples --example capture_to_pcapng`

use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nv_capture::{
    CaptureConfig, CaptureLimits, CaptureManager, CaptureSpec, CaptureTarget, NetnsRef, PacketReader,
};
use nv_types::WorkloadId;

/// A named namespace that is removed at the end, whatever happens in between.
struct Netns(String);

impl Netns {
    fn create() -> anyhow::Result<Self> {
        let netns = Self(format!("nv-example-{}", std::process::id()));
        ip(&["netns", "add", &netns.0])?;
        ip(&["-n", &netns.0, "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip")?;
    ensure!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn send_datagrams(netns: &Netns, count: u8) -> anyhow::Result<()> {
    let file = std::fs::File::open(netns.path())?;
    let sender = thread::spawn(move || -> anyhow::Result<()> {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        for n in 0..count {
            socket.send_to(&[n; 32], socket.local_addr()?)?;
        }
        Ok(())
    });
    sender
        .join()
        .map_err(|_| anyhow::anyhow!("the sender broke off"))?
}

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let netns = Netns::create()?;
    let manager = CaptureManager::open(CaptureConfig::new(folder.path()))?;

    // All interfaces but loopback would be the default; here loopback is the only one there is.
    let target = CaptureTarget {
        interface: Some("lo".into()),
        ..CaptureTarget::netns(NetnsRef::Path(netns.path().into()))
    };
    let limits = CaptureLimits {
        max_bytes: 1 << 20,
        duration: Duration::from_secs(10),
        ..CaptureLimits::default()
    };
    let workload = WorkloadId::try_new(format!("netns:{}", netns.0))?;
    let capture = manager.start(&CaptureSpec {
        workload,
        name: netns.0.clone(),
        target,
        limits,
        filter: "udp".parse()?,
        cause: String::new(),
    })?;
    println!("capture {} runs", capture.id);

    send_datagrams(&netns, 10)?;
    // Loopback shows each datagram twice: sent and received.
    let deadline = Instant::now() + Duration::from_secs(5);
    while manager.info(capture.id)?.packets < 20 {
        ensure!(Instant::now() < deadline, "the datagrams were not captured");
        thread::sleep(Duration::from_millis(10));
    }
    let capture = manager.stop(capture.id)?;
    println!(
        "{} ({}): {} packets, {} bytes",
        capture.status, capture.detail, capture.packets, capture.bytes
    );

    for packet in PacketReader::new(manager.read(capture.id, false)?)?.take(4) {
        let packet = packet?;
        let interface = packet
            .interface
            .as_ref()
            .map_or("?", |interface| interface.name.as_str());
        println!(
            "{} {interface} {:?} {} bytes",
            packet.timestamp.0, packet.direction, packet.original_len
        );
    }
    manager.delete(capture.id)?;
    Ok(())
}
