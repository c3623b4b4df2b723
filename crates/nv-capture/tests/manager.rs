//! Captures without a kernel source: limits, files, streams, restarts.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panic, and its numbers are small"
)]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use nv_capture::{
    CaptureConfig, CaptureError, CaptureInfo, CaptureLimits, CaptureManager, CaptureSpec, CaptureStatus,
    CaptureTarget, EachPacket, Filter, InterfaceInfo, LinkType, NetnsRef, Packet, PacketDirection,
    PacketReader, PacketSource, SourceError, SourceState, SourceStats, StreamChunk,
};
use nv_types::{Timestamp, WorkloadId};

/// Gives the packets that a test sends it.
struct Fed {
    feed: Receiver<Vec<u8>>,
    given: u64,
}

impl PacketSource for Fed {
    fn poll(&mut self, timeout: Duration, each: &mut EachPacket<'_>) -> Result<SourceState, SourceError> {
        let data = match self.feed.recv_timeout(timeout) {
            Ok(data) => data,
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok(SourceState::Open),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Ok(SourceState::Ended("nothing more is fed"));
            }
        };
        self.given += 1;
        let packet = Packet {
            timestamp: Timestamp(self.given),
            interface: 0,
            direction: PacketDirection::Inbound,
            original_len: data.len() as u32,
            data: &data,
            ..Packet::default()
        };
        let _ = each(&packet, &InterfaceInfo::new("eth0", LinkType::ETHERNET));
        Ok(SourceState::Open)
    }

    fn statistics(&mut self) -> Result<SourceStats, SourceError> {
        Ok(SourceStats {
            received: self.given,
            dropped: 0,
        })
    }
}

fn fed() -> (Sender<Vec<u8>>, Box<Fed>) {
    let (send, feed) = mpsc::channel();
    (send, Box::new(Fed { feed, given: 0 }))
}

fn spec(limits: CaptureLimits) -> CaptureSpec {
    CaptureSpec {
        workload: WorkloadId::try_new("w1").unwrap(),
        name: "web".into(),
        target: CaptureTarget::netns(NetnsRef::Own),
        limits,
        filter: Filter::all(),
        cause: String::new(),
    }
}

fn open(directory: &Path) -> CaptureManager {
    CaptureManager::open(CaptureConfig::new(directory)).unwrap()
}

fn wait(manager: &CaptureManager, info: &CaptureInfo, done: impl Fn(&CaptureInfo) -> bool) -> CaptureInfo {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let info = manager.info(info.id).unwrap();
        if done(&info) {
            return info;
        }
        assert!(Instant::now() < deadline, "still {info:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ended(info: &CaptureInfo) -> bool {
    info.status != CaptureStatus::Running && info.stopped.0 != 0
}

fn names(directory: &Path) -> BTreeSet<String> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_capture_runs_stops_is_read_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("captures");
    let manager = open(&directory);
    let (feed, source) = fed();
    let info = manager
        .start_from(&spec(CaptureLimits::default()), source)
        .unwrap();
    for n in 0..10u8 {
        feed.send(vec![n; 60]).unwrap();
    }
    wait(&manager, &info, |info| info.packets == 10);
    let stopped = manager.stop(info.id).unwrap();
    assert_eq!(
        (stopped.status, stopped.detail.as_str()),
        (CaptureStatus::Stopped, "stopped")
    );
    assert_eq!((stopped.packets, stopped.dropped), (10, 0));
    let mut bytes = Vec::new();
    manager
        .read(info.id, false)
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(bytes.len() as u64, stopped.bytes);
    assert_eq!(
        PacketReader::new(bytes.as_slice())
            .unwrap()
            .map(Result::unwrap)
            .count(),
        10
    );
    assert_eq!(manager.list(Some(&info.workload)).len(), 1);
    assert_eq!(manager.list(Some(&WorkloadId::try_new("other").unwrap())), []);
    manager.delete(info.id).unwrap();
    assert!(matches!(manager.delete(info.id), Err(CaptureError::Unknown(id)) if id == info.id));
    assert_eq!(names(&directory), BTreeSet::from(["lock".to_owned()]));
}

#[test]
fn files_are_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("captures");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    let manager = open(&directory);
    let (feed, source) = fed();
    let info = manager
        .start_from(&spec(CaptureLimits::default()), source)
        .unwrap();
    drop(feed);
    let info = wait(&manager, &info, ended);
    assert_eq!(info.detail, "nothing more is fed");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for name in names(&directory) {
        assert_eq!(mode(&directory.join(&name)), 0o600, "{name}");
    }
    assert!(names(&directory).contains(&format!("{}.0.pcapng", info.id)));
}

#[test]
fn every_limit_holds() {
    let folder = tempfile::tempdir().unwrap();
    let manager = open(folder.path());
    let cases = [
        (
            CaptureLimits {
                max_bytes: 8000,
                ..CaptureLimits::default()
            },
            "byte limit reached",
        ),
        (
            CaptureLimits {
                max_packets: 7,
                ..CaptureLimits::default()
            },
            "packet limit reached",
        ),
        (
            CaptureLimits {
                duration: Duration::from_millis(80),
                ..CaptureLimits::default()
            },
            "time is over",
        ),
    ];
    for (limits, why) in cases {
        let (feed, source) = fed();
        let begun = Instant::now();
        let info = manager.start_from(&spec(limits), source).unwrap();
        if limits.duration.is_zero() {
            for _ in 0..100 {
                let _ = feed.send(vec![1; 1000]);
            }
        }
        let info = wait(&manager, &info, ended);
        assert_eq!((info.status, info.detail.as_str()), (CaptureStatus::Stopped, why));
        assert!(
            info.bytes <= limits.max_bytes,
            "{} of {}",
            info.bytes,
            limits.max_bytes
        );
        assert!(limits.max_packets == 0 || info.packets == limits.max_packets);
        assert!(begun.elapsed() >= limits.duration);
    }
}

#[test]
fn the_snap_length_holds_and_the_wire_length_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let manager = open(folder.path());
    let (feed, source) = fed();
    let limits = CaptureLimits {
        snap_len: 96,
        max_packets: 1,
        ..CaptureLimits::default()
    };
    let info = manager.start_from(&spec(limits), source).unwrap();
    feed.send(vec![1; 1000]).unwrap();
    wait(&manager, &info, ended);
    let packets: Vec<_> = PacketReader::new(manager.read(info.id, true).unwrap())
        .unwrap()
        .collect();
    let packet = packets[0].as_ref().unwrap();
    assert_eq!((packet.data.len(), packet.original_len), (96, 1000));
}

#[test]
fn a_ring_of_files_keeps_the_newest_within_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let manager = open(folder.path());
    let (feed, source) = fed();
    let limits = CaptureLimits {
        max_bytes: 40_000,
        files: 4,
        ..CaptureLimits::default()
    };
    let info = manager.start_from(&spec(limits), source).unwrap();
    for n in 0..200u32 {
        feed.send([&n.to_be_bytes()[..], &[0; 996]].concat()).unwrap();
    }
    // Too big for any file of the ring: counted, not kept.
    feed.send(vec![0xff; 20_000]).unwrap();
    drop(feed);
    let info = wait(&manager, &info, ended);
    assert!(info.bytes <= 40_000, "{}", info.bytes);
    let kept: Vec<_> = PacketReader::new(manager.read(info.id, false).unwrap())
        .unwrap()
        .map(|packet| u32::from_be_bytes(packet.unwrap().data[..4].try_into().unwrap()))
        .collect();
    let first = kept[0];
    assert_eq!(
        kept,
        (first..200).collect::<Vec<_>>(),
        "the newest, without a gap"
    );
    assert!(kept.len() >= 25, "only {} kept", kept.len());
    assert_eq!(info.dropped, u64::from(first) + 1, "what is gone is counted");
    assert_eq!(
        names(folder.path())
            .iter()
            .filter(|name| name.ends_with(".pcapng"))
            .count(),
        4
    );
}

#[test]
fn a_live_stream_follows_until_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let manager = open(folder.path());
    let (feed, source) = fed();
    let info = manager
        .start_from(&spec(CaptureLimits::default()), source)
        .unwrap();
    feed.send(vec![1; 60]).unwrap();
    wait(&manager, &info, |info| info.packets == 1);
    let mut stream = manager.read(info.id, true).unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 50];
    loop {
        match stream.read_chunk(&mut buffer, Duration::from_millis(1)).unwrap() {
            StreamChunk::Data(read) => bytes.extend(&buffer[..read]),
            StreamChunk::Idle => break,
            StreamChunk::End => panic!("the capture runs"),
        }
    }
    assert_eq!(
        PacketReader::new(bytes.as_slice())
            .unwrap()
            .map(Result::unwrap)
            .count(),
        1
    );
    feed.send(vec![2; 60]).unwrap();
    drop(feed);
    stream.read_to_end(&mut bytes).unwrap();
    let packets: Vec<_> = PacketReader::new(bytes.as_slice())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        packets.iter().map(|packet| packet.data[0]).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(bytes.len() as u64, manager.info(info.id).unwrap().bytes);
}

#[test]
fn a_follower_of_a_ring_sees_every_file_that_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let manager = open(folder.path());
    let (feed, source) = fed();
    let limits = CaptureLimits {
        max_bytes: 20_000,
        files: 2,
        ..CaptureLimits::default()
    };
    let info = manager.start_from(&spec(limits), source).unwrap();
    let mut stream = manager.read(info.id, true).unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        (bytes, stream.skipped_files())
    });
    for n in 1..=300u64 {
        feed.send(vec![9; 500]).unwrap();
        wait(&manager, &info, |info| info.packets >= n);
    }
    drop(feed);
    wait(&manager, &info, ended);
    let (bytes, skipped) = reader.join().unwrap();
    let times: Vec<_> = PacketReader::new(bytes.as_slice())
        .unwrap()
        .map(|packet| packet.unwrap().timestamp.0)
        .collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(
        skipped > 0 || times == (1..=300).collect::<Vec<_>>(),
        "{skipped} skipped, {} read",
        times.len()
    );
}

#[test]
fn bounds_of_the_folder_hold() {
    let folder = tempfile::tempdir().unwrap();
    let config = CaptureConfig {
        max_disk_bytes: 100_000,
        max_captures: 3,
        max_running: 2,
        ..CaptureConfig::new(folder.path())
    };
    let manager = CaptureManager::open(config.clone()).unwrap();
    assert!(matches!(
        CaptureManager::open(config),
        Err(CaptureError::FolderInUse(_))
    ));
    let limits = |max_bytes| CaptureLimits {
        max_bytes,
        ..CaptureLimits::default()
    };
    let start = |max_bytes| {
        let (feed, source) = fed();
        manager
            .start_from(&spec(limits(max_bytes)), source)
            .map(|info| (feed, info))
    };
    let (_feed1, first) = start(60_000).unwrap();
    assert!(matches!(
        start(60_000),
        Err(CaptureError::DiskBudget {
            wanted: 60_000,
            free: 40_000,
            budget: 100_000
        })
    ));
    let (_feed2, second) = start(40_000).unwrap();
    assert!(matches!(
        start(4096),
        Err(CaptureError::TooManyRunning { running: 2 })
    ));
    // What a stopped capture did not use is free again.
    manager.stop(first.id).unwrap();
    manager.stop(second.id).unwrap();
    let (_feed3, third) = start(60_000).unwrap();
    manager.stop(third.id).unwrap();
    assert!(matches!(start(4096), Err(CaptureError::TooManyKept { kept: 3 })));
    assert!(matches!(start(100), Err(CaptureError::Limits(_))));
    manager.shutdown();
}

#[test]
fn a_restart_takes_over_and_names_what_broke_off() {
    let folder = tempfile::tempdir().unwrap();
    let (stopped, broken);
    {
        let manager = open(folder.path());
        let (feed, source) = fed();
        stopped = manager
            .start_from(&spec(CaptureLimits::default()), source)
            .unwrap();
        feed.send(vec![1; 60]).unwrap();
        drop(feed);
        wait(&manager, &stopped, ended);
        let (feed, source) = fed();
        broken = manager
            .start_from(&spec(CaptureLimits::default()), source)
            .unwrap();
        // As a crash leaves it: the description still says that it runs.
        let description = folder.path().join(format!("{}.json", broken.id));
        let running = std::fs::read(&description).unwrap();
        drop(feed);
        wait(&manager, &broken, ended);
        drop(manager);
        std::fs::write(&description, running).unwrap();
        // And half a block at the end of its file.
        let path = folder.path().join(format!("{}.0.pcapng", broken.id));
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        std::io::Write::write_all(&mut file, &[6, 0, 0, 0, 80, 0, 0, 0, 1, 2]).unwrap();
    }
    let orphan = format!("{}.3.pcapng", "ab".repeat(16));
    std::fs::write(folder.path().join(&orphan), b"x").unwrap();
    std::fs::write(folder.path().join("notes.txt"), b"not ours").unwrap();
    // The threads of the first manager let go of the folder a moment after their captures have ended.
    let deadline = Instant::now() + Duration::from_secs(5);
    let manager = loop {
        match CaptureManager::open(CaptureConfig::new(folder.path())) {
            Ok(manager) => break manager,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    let first = manager.info(stopped.id).unwrap();
    assert_eq!((first.status, first.packets), (CaptureStatus::Stopped, 1));
    let second = manager.info(broken.id).unwrap();
    assert_eq!(second.status, CaptureStatus::Failed);
    assert!(
        second.detail.contains("process that made it ended"),
        "{}",
        second.detail
    );
    assert_eq!(
        PacketReader::new(manager.read(stopped.id, true).unwrap())
            .unwrap()
            .count(),
        1
    );
    // What broke off is whole up to its last block.
    let whole: Result<Vec<_>, _> = PacketReader::new(manager.read(broken.id, false).unwrap())
        .unwrap()
        .collect();
    assert_eq!(whole.unwrap().len(), 0);
    let names = names(folder.path());
    assert!(
        !names.contains(&orphan) && names.contains("notes.txt"),
        "{names:?}"
    );
    manager.delete(broken.id).unwrap();
}

/// B11 of the table of bad input: what stands in the place of a capture's file.
#[test]
fn what_was_put_in_the_place_of_a_file_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "a secret").unwrap();
    let captures = folder.path().join("captures");
    let manager = open(&captures);
    let (feed, source) = fed();
    let info = manager
        .start_from(&spec(CaptureLimits::default()), source)
        .unwrap();
    feed.send(vec![7; 60]).unwrap();
    wait(&manager, &info, |info| info.packets == 1);
    drop(feed);
    wait(&manager, &info, ended);
    let read = |id| {
        let mut bytes = Vec::new();
        let result = manager.read(id, false).unwrap().read_to_end(&mut bytes);
        (result.is_ok(), bytes)
    };
    let (whole, bytes) = read(info.id);
    assert!(whole && !bytes.is_empty());
    let file = captures.join(format!("{}.0.pcapng", info.id));
    let kept = captures.join("kept");
    type Put = fn(&Path, &Path);
    let puts: [(&str, Put); 4] = [
        ("symbolic link", |secret, file| {
            std::os::unix::fs::symlink(secret, file).unwrap();
        }),
        ("hard link", |secret, file| {
            std::fs::hard_link(secret, file).unwrap()
        }),
        ("pipe", |_, file| {
            nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("folder", |_, file| std::fs::create_dir(file).unwrap()),
    ];
    for (what, put) in puts {
        std::fs::rename(&file, &kept).unwrap();
        put(&secret, &file);
        assert_eq!(read(info.id), (false, Vec::new()), "{what}");
        if file.is_dir() && !file.is_symlink() {
            std::fs::remove_dir(&file).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        std::fs::rename(&kept, &file).unwrap();
    }
    assert_eq!(read(info.id), (true, bytes), "with its own file back it is whole");
    for id in [
        "../secret",
        "..%2fsecret",
        "/etc/passwd",
        "1/../../secret",
        "1\0",
        "0x1",
        "+1",
        " 1",
        "1.0.pcapng",
    ] {
        assert!(
            id.parse::<nv_capture::CaptureId>().is_err(),
            "{id:?} names no capture"
        );
    }
}

#[test]
fn a_trigger_saves_what_led_to_it_and_what_follows() {
    let folder = tempfile::tempdir().unwrap();
    let manager = open(folder.path());
    let spec = spec(CaptureLimits::default());
    let limits = CaptureLimits {
        max_packets: 6,
        ..CaptureLimits::default()
    };
    let refused = manager.trigger(&spec.workload, "nothing", limits);
    assert!(matches!(refused, Err(CaptureError::NotWatched(_))), "{refused:?}");
    let (feed, source) = fed();
    manager.watch_from(&spec, 4 * 600, source).unwrap();
    (0..50_u8).for_each(|n| feed.send(vec![n; 500]).unwrap());
    let kept = |newest: u64| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while manager.kept(&spec.workload).unwrap().0 as u64 != newest {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    // Fifty are too many for the ring: it holds four at last.
    std::thread::sleep(Duration::from_millis(50));
    kept(4);
    let cause = "deny by rule 10002: 10.0.0.1:1 -> 10.0.0.2:2, protocol 6";
    let info = manager.trigger(&spec.workload, cause, limits).unwrap();
    assert_eq!(info.cause, cause);
    let again = manager.trigger(&spec.workload, cause, limits);
    assert!(
        matches!(again, Err(CaptureError::AlreadyTriggered(_))),
        "{again:?}"
    );
    (50..60_u8).for_each(|n| feed.send(vec![n; 500]).unwrap());
    let info = wait(&manager, &info, ended);
    assert_eq!((info.detail.as_str(), info.packets), ("packet limit reached", 6));
    let mut bytes = Vec::new();
    manager
        .read(info.id, false)
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    let packets: Vec<_> = PacketReader::new(bytes.as_slice())
        .unwrap()
        .map(|packet| packet.unwrap().data[0])
        .collect();
    assert_eq!(packets, [46, 47, 48, 49, 50, 51], "no gap and nothing twice");
    assert!(String::from_utf8_lossy(&bytes).contains(&format!("started by {cause}")));
    // They make room for each other, and for nobody else's.
    let asked = manager.start_from(&spec, fed().1).unwrap();
    for _ in 0..20 {
        let one = CaptureLimits {
            max_packets: 1,
            ..limits
        };
        feed.send(vec![1; 500]).unwrap();
        kept(manager.kept(&spec.workload).unwrap().0.max(1) as u64);
        let info = manager.trigger(&spec.workload, cause, one).unwrap();
        wait(&manager, &info, ended);
    }
    let triggered = manager
        .list(None)
        .iter()
        .filter(|info| !info.cause.is_empty())
        .count();
    assert!(triggered <= 16, "{triggered}");
    assert!(manager.info(asked.id).is_ok());
    manager.unwatch(&spec.workload);
    assert_eq!(manager.kept(&spec.workload), None);
    manager.shutdown();
    drop(manager);
    assert_eq!(
        open(folder.path()).info(info.id).map(|info| info.cause).ok(),
        None,
        "the oldest made room"
    );
}
