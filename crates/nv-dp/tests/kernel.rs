//! The kernel backend on real interfaces with real traffic: hooks, pins, adoption, cut-off starts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed"
)]

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::frames::{self, SYN, tcp};
use common::image::{Builder, config, endpoint, rule};
use common::netns::{Bed, Cleanup, Namespace, is_root, pin_dir};
use nv_dp::{Datapath, DatapathConfig, DatapathError, EbpfConfig, EbpfDatapath, EndpointSpec, HookChoice};
use nv_types::{Direction, IpProto, Mode, PolicyImage, Verdict};

const HOST: &str = "10.9.0.1";
const OWN: [&str; 2] = ["10.9.0.2", "fd09::2"];
const SHORT: Duration = Duration::from_millis(400);

fn allow(proto: IpProto, port: u16) -> PolicyImage {
    Builder::new(Mode::Protect)
        .friend(HOST)
        .friend("fd09::1")
        .port(Direction::Ingress, proto, port, rule(Verdict::Allow, 7))
        .build()
}

fn open(dir: &Path) -> EbpfDatapath {
    EbpfDatapath::open(EbpfConfig::new(dir)).unwrap()
}

/// A TCP server in the workload that sends back what it gets, on every address.
fn echo_server(bed: &Bed, port: u16) {
    let listener = bed
        .workload
        .run(move || TcpListener::bind(format!("[::]:{port}")).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 256];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn connect(bed: &Bed, to: &str) -> Result<TcpStream, ErrorKind> {
    let to: SocketAddr = to.parse().unwrap();
    bed.host.run(move || {
        let stream = TcpStream::connect_timeout(&to, SHORT).map_err(|error| error.kind())?;
        stream.set_read_timeout(Some(SHORT)).unwrap();
        Ok(stream)
    })
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut buffer).is_ok() && &buffer == b"ping"
}

/// What the verifier walked when this was last looked at; it gives up at a million.
const VERIFIED_INSTRUCTIONS: [(&str, u32); 2] = [("nv_egress", 320_100), ("nv_ingress", 381_400)];

#[test]
fn programs_load_fast_and_small() {
    if !is_root("programs_load_fast_and_small") {
        return;
    }
    let dir = pin_dir();
    let _cleanup = Cleanup(dir.clone());
    let start = Instant::now();
    let mut datapath = open(&dir);
    let took = start.elapsed();
    let counts = datapath.verified_instructions().unwrap();
    eprintln!("loaded in {took:?}, verified instructions {counts:?}");
    for (program, recorded) in VERIFIED_INSTRUCTIONS {
        let count = counts[program];
        assert!(
            count.abs_diff(recorded) <= recorded / 10,
            "{program}: {count} verified instructions, {recorded} are recorded: if that is meant, record it anew"
        );
    }
    datapath.purge().unwrap();
    assert!(!dir.exists());
}

fn traffic_follows_policy(hook: HookChoice, name: &str) {
    let bed = Bed::new();
    echo_server(&bed, 8080);
    echo_server(&bed, 9090);
    let (dir, ifindex) = (pin_dir(), bed.ifindex);
    let _cleanup = Cleanup(dir.clone());
    let config_of = EbpfConfig {
        hook,
        ..EbpfConfig::new(&dir)
    };
    let mut datapath = bed.host.run(move || {
        let mut datapath = EbpfDatapath::open(config_of).unwrap();
        datapath.apply(&allow(IpProto::TCP, 8080), &config()).unwrap();
        datapath.attach(&endpoint(ifindex, "veth0", &OWN)).unwrap();
        datapath
    });
    assert_eq!(datapath.status().unwrap().hook, name);
    let mut streams: Vec<_> = ["10.9.0.2:8080", "[fd09::2]:8080"]
        .iter()
        .map(|to| connect(&bed, to).unwrap())
        .collect();
    for stream in &mut streams {
        assert!(echoes(stream));
    }
    for to in ["10.9.0.2:9090", "[fd09::2]:9090"] {
        assert!(connect(&bed, to).is_err(), "{to} is not allowed");
    }
    let refused = bed
        .workload
        .run(|| TcpStream::connect_timeout(&"10.9.0.1:22".parse().unwrap(), SHORT).unwrap_err());
    assert_eq!(
        refused.kind(),
        ErrorKind::TimedOut,
        "the workload may not connect out, not even to be refused"
    );
    // The rule goes: open connections are cut too.
    datapath
        .apply(&Builder::new(Mode::Protect).build(), &config())
        .unwrap();
    for stream in &mut streams {
        assert!(!echoes(stream), "cut");
    }
    datapath
        .apply(&Builder::new(Mode::Discover).build(), &config())
        .unwrap();
    assert!(echoes(&mut connect(&bed, "10.9.0.2:9090").unwrap()));
    let status = datapath.status().unwrap();
    assert!(status.endpoints[&ifindex].ingress.denied > 0 && status.endpoints[&ifindex].egress.denied > 0);
    bed.host.run(move || datapath.purge().unwrap());
    assert!(!dir.exists());
    assert!(
        echoes(&mut connect(&bed, "10.9.0.2:8080").unwrap()),
        "nothing of it is left"
    );
    let filters = bed.host.run(|| {
        let list = Command::new("tc")
            .args(["filter", "show", "dev", "veth0", "ingress"])
            .output()
            .unwrap();
        String::from_utf8(list.stdout).unwrap()
    });
    assert!(!filters.contains("nv_"), "{filters}");
}

#[test]
fn traffic_follows_policy_by_tcx() {
    if is_root("traffic_follows_policy_by_tcx") {
        traffic_follows_policy(HookChoice::Auto, "tcx");
    }
}

#[test]
fn traffic_follows_policy_by_clsact() {
    if is_root("traffic_follows_policy_by_clsact") {
        traffic_follows_policy(HookChoice::Clsact, "clsact");
    }
}

#[test]
fn an_attach_that_failed_is_not_taken_for_done_when_it_is_tried_again() {
    if !is_root("an_attach_that_failed_is_not_taken_for_done_when_it_is_tried_again") {
        return;
    }
    let bed = Bed::new();
    echo_server(&bed, 8080);
    let (dir, ifindex) = (pin_dir(), bed.ifindex);
    let _cleanup = Cleanup(dir.clone());
    bed.host.run(move || {
        let config_of = EbpfConfig {
            hook: HookChoice::Tcx,
            ..EbpfConfig::new(&dir)
        };
        let mut datapath = EbpfDatapath::open(config_of).unwrap();
        datapath
            .apply(&Builder::new(Mode::Protect).build(), &config())
            .unwrap();
        // Without the folder the links cannot be pinned.
        std::fs::remove_dir(dir.join("links")).unwrap();
        let spec = endpoint(ifindex, "veth0", &OWN);
        for _ in 0..2 {
            datapath.attach(&spec).unwrap_err();
            assert!(datapath.status().unwrap().endpoints.is_empty());
        }
        std::fs::create_dir(dir.join("links")).unwrap();
        datapath.attach(&spec).unwrap();
        let to = "10.9.0.2:8080".parse().unwrap();
        TcpStream::connect_timeout(&to, SHORT).unwrap_err();
        datapath.purge().unwrap();
        TcpStream::connect_timeout(&to, SHORT).unwrap();
    });
}

/// Keeps an allowed connection busy and a denied port under fire while the datapath is dropped and taken up again.
fn adoption_leaves_no_gap(hook: HookChoice) {
    let bed = Bed::new();
    echo_server(&bed, 8080);
    let (dir, ifindex) = (pin_dir(), bed.ifindex);
    let _cleanup = Cleanup(dir.clone());
    let config_of = EbpfConfig {
        hook,
        ..EbpfConfig::new(&dir)
    };
    let first = config_of.clone();
    let datapath = bed.host.run(move || {
        let mut datapath = EbpfDatapath::open(first).unwrap();
        datapath.apply(&allow(IpProto::TCP, 8080), &config()).unwrap();
        datapath.attach(&endpoint(ifindex, "veth0", &OWN)).unwrap();
        datapath
    });
    let mut stream = connect(&bed, "10.9.0.2:8080").unwrap();
    assert!(echoes(&mut stream));
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let victim = bed.workload.run(|| {
        let socket = UdpSocket::bind("10.9.0.2:9999").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    });
    let attacker = bed.host.run(|| UdpSocket::bind("10.9.0.1:0").unwrap());
    let fire = {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = attacker.send_to(b"x", "10.9.0.2:9999");
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    drop(datapath); // as a crash does: nothing is cleaned up
    for _ in 0..3 {
        let again = config_of.clone();
        let status = bed
            .host
            .run(move || EbpfDatapath::open(again).unwrap().status().unwrap());
        let guarded = &status.endpoints[&ifindex];
        assert_eq!(guarded.spec, endpoint(ifindex, "veth0", &OWN));
        assert_eq!(guarded.mode, Some(Mode::Protect));
        assert_eq!(status.revision.map(|revision| revision.0), Some(1));
        assert!(echoes(&mut stream), "the open connection goes on");
    }
    stop.store(true, Ordering::Relaxed);
    fire.join().unwrap();
    let mut buffer = [0; 8];
    assert_eq!(
        victim.recv(&mut buffer).unwrap_err().kind(),
        ErrorKind::WouldBlock,
        "not one packet got through"
    );
    assert!(sent.load(Ordering::Relaxed) > 1000);
    let again = config_of;
    let denied = bed.host.run(move || {
        let mut datapath = EbpfDatapath::open(again).unwrap();
        let denied = datapath.status().unwrap().endpoints[&ifindex].ingress.denied;
        datapath.purge().unwrap();
        denied
    });
    assert!(
        denied >= sent.load(Ordering::Relaxed) / 2,
        "{denied} of {sent:?} were denied by us"
    );
}

#[test]
fn adoption_by_tcx_leaves_no_gap() {
    if is_root("adoption_by_tcx_leaves_no_gap") {
        adoption_leaves_no_gap(HookChoice::Tcx);
    }
}

#[test]
fn adoption_by_clsact_leaves_no_gap() {
    if is_root("adoption_by_clsact_leaves_no_gap") {
        adoption_leaves_no_gap(HookChoice::Clsact);
    }
}

#[test]
fn the_workload_cannot_remove_the_programs() {
    if !is_root("the_workload_cannot_remove_the_programs") {
        return;
    }
    let bed = Bed::new();
    echo_server(&bed, 9090);
    let (dir, ifindex) = (pin_dir(), bed.ifindex);
    let _cleanup = Cleanup(dir.clone());
    bed.host.run(move || {
        let mut datapath = open(&dir);
        datapath.apply(&allow(IpProto::TCP, 8080), &config()).unwrap();
        datapath.attach(&endpoint(ifindex, "veth0", &OWN)).unwrap();
    });
    bed.workload.run(|| {
        let _ = Command::new("tc")
            .args(["qdisc", "del", "dev", "eth0", "clsact"])
            .output()
            .unwrap();
    });
    bed.workload.ip("link set eth0 down");
    bed.workload.ip("link set eth0 up");
    assert!(connect(&bed, "10.9.0.2:9090").is_err());
}

#[test]
fn vanished_interfaces_are_forgotten() {
    if !is_root("vanished_interfaces_are_forgotten") {
        return;
    }
    let bed = Bed::new();
    let (dir, ifindex) = (pin_dir(), bed.ifindex);
    let _cleanup = Cleanup(dir.clone());
    let first = dir.clone();
    bed.host.run(move || {
        let mut datapath = open(&first);
        datapath.apply(&allow(IpProto::TCP, 8080), &config()).unwrap();
        datapath.attach(&endpoint(ifindex, "veth0", &OWN)).unwrap();
    });
    bed.host.ip("link del veth0");
    bed.host.run(move || {
        let mut datapath = open(&dir);
        assert!(datapath.status().unwrap().endpoints.is_empty());
        let links = std::fs::read_dir(dir.join("links")).unwrap().count();
        assert_eq!(links, 0, "stale links");
        let gone = datapath.attach(&endpoint(ifindex, "veth0", &OWN)).unwrap_err();
        assert!(matches!(gone, DatapathError::NoInterface { .. }), "{gone}");
        datapath.detach(ifindex).unwrap();
        datapath.purge().unwrap();
    });
}

#[test]
fn one_process_drives_an_instance() {
    if !is_root("one_process_drives_an_instance") {
        return;
    }
    let dir = pin_dir();
    let _cleanup = Cleanup(dir.clone());
    let first = open(&dir);
    let error = EbpfDatapath::open(EbpfConfig::new(&dir)).unwrap_err().to_string();
    assert!(error.contains("another process"), "{error}");
    drop(first);
    open(&dir).purge().unwrap();
}

#[test]
fn tables_of_another_layout_are_refused() {
    if !is_root("tables_of_another_layout_are_refused") {
        return;
    }
    let dir = pin_dir();
    let _cleanup = Cleanup(dir.clone());
    drop(open(&dir));
    let state = aya::maps::MapData::from_pin(dir.join("maps/NV_STATE")).unwrap();
    let mut state = aya::maps::Array::<_, u32>::try_from(aya::maps::Map::Array(state)).unwrap();
    state.set(0, 99, 0).unwrap();
    drop(state);
    let error = EbpfDatapath::open(EbpfConfig::new(&dir)).unwrap_err();
    assert!(
        matches!(error, DatapathError::AbiMismatch { found: 99, .. }),
        "{error}"
    );
    EbpfDatapath::purge_pins(&dir).unwrap();
    assert!(!dir.exists());
}

#[test]
fn a_folder_that_cannot_hold_pins_is_named() {
    if !is_root("a_folder_that_cannot_hold_pins_is_named") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let error = EbpfDatapath::open(EbpfConfig::new(folder.path().join("nv"))).unwrap_err();
    assert!(matches!(error, DatapathError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("BPF file system"), "{error}");
}

#[test]
fn a_full_ring_loses_events_and_nothing_else() {
    if !is_root("a_full_ring_loses_events_and_nothing_else") {
        return;
    }
    let bed = Bed::new();
    let ifindex = bed.ifindex;
    bed.host.run(move || {
        let dir = pin_dir();
        let _cleanup = Cleanup(dir.clone());
        let small = EbpfConfig {
            events_bytes: 4096,
            ..EbpfConfig::new(&dir)
        };
        let mut datapath = EbpfDatapath::open(small).unwrap();
        datapath
            .apply(&Builder::new(Mode::Protect).build(), &config())
            .unwrap();
        datapath.attach(&endpoint(ifindex, "veth0", &OWN)).unwrap();
        for port in 0..100 {
            let path = frames::Path::new(HOST, 40_000, OWN[0], 1000 + port);
            assert!(
                !datapath
                    .run_frame(ifindex, Direction::Ingress, &tcp(path, SYN, b""))
                    .unwrap()
            );
        }
        let taken = datapath.poll_events(1000).unwrap().len() as u64;
        let status = datapath.status().unwrap();
        assert!(taken > 10 && status.lost_events > 10);
        assert_eq!(taken + status.lost_events, 100);
        assert_eq!(status.flows, 100);
        datapath.purge().unwrap();
    });
}

#[test]
fn idle_flows_and_flows_of_gone_endpoints_are_swept() {
    if !is_root("idle_flows_and_flows_of_gone_endpoints_are_swept") {
        return;
    }
    let bed = Bed::new();
    let ifindex = bed.ifindex;
    bed.host.run(move || {
        let dir = pin_dir();
        let _cleanup = Cleanup(dir.clone());
        let mut datapath = open(&dir);
        datapath
            .apply(&Builder::new(Mode::Discover).build(), &config())
            .unwrap();
        let spec = EndpointSpec {
            addresses: vec![],
            ..endpoint(ifindex, "veth0", &[])
        };
        datapath.attach(&spec).unwrap();
        let path = frames::Path::new(HOST, 40_000, OWN[0], 1000);
        datapath
            .run_frame(ifindex, Direction::Ingress, &tcp(path, SYN, b""))
            .unwrap();
        datapath.sweep(&mut |_| {}).unwrap();
        assert_eq!(datapath.status().unwrap().flows, 1);
        datapath.detach(ifindex).unwrap();
        datapath
            .sweep(&mut |flow| assert_eq!(flow.state, nv_types::FlowState::Closed))
            .unwrap();
        assert_eq!(datapath.status().unwrap().flows, 0);
        datapath.purge().unwrap();
    });
}

const CHILD_DIR: &str = "NV_TEST_CHILD_DIR";
const CHILD_IFINDEX: &str = "NV_TEST_CHILD_IFINDEX";

/// Revision `n` allows port `n % 2`, among many entries that differ from those of the revision before.
fn numbered(revision: u64) -> PolicyImage {
    let base = if revision.is_multiple_of(2) {
        20_000
    } else {
        30_000
    };
    let mut image = allow(IpProto::TCP, base);
    image.revision = nv_types::Revision(revision);
    for n in 0..2000_u32 {
        let addr = std::net::Ipv4Addr::from(0x0b00_0000 + n * 2 + u32::try_from(revision % 2).unwrap());
        image.addresses.push(nv_types::AddressEntry {
            prefix: nv_types::IpPrefix::host(addr.into()),
            identity: common::image::FRIEND,
        });
    }
    image
}

/// Not a test of its own: the process that [`a_kill_in_the_middle_leaves_the_old_policy`] kills.
#[test]
fn child_that_applies_for_ever() {
    let (Some(dir), Some(ifindex)) = (std::env::var_os(CHILD_DIR), std::env::var(CHILD_IFINDEX).ok()) else {
        return;
    };
    let ifindex = ifindex.parse().unwrap();
    let mut datapath = open(&PathBuf::from(dir));
    let start = datapath
        .status()
        .unwrap()
        .revision
        .map_or(1, |revision| revision.0 + 1);
    for revision in start.. {
        datapath.apply(&numbered(revision), &config()).unwrap();
        datapath.attach(&endpoint(ifindex, "veth0", &OWN)).unwrap();
        println!("applied {revision}");
    }
}

#[test]
fn a_kill_in_the_middle_leaves_the_old_policy() {
    if !is_root("a_kill_in_the_middle_leaves_the_old_policy") {
        return;
    }
    let bed = Bed::new();
    let (dir, ifindex) = (pin_dir(), bed.ifindex);
    let _cleanup = Cleanup(dir.clone());
    for round in 0..6_u64 {
        let child_dir = dir.clone();
        let mut child = bed.host.run(move || {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_that_applies_for_ever", "--nocapture"])
                .env(CHILD_DIR, child_dir)
                .env(CHILD_IFINDEX, ifindex.to_string())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("applied") {
            line.clear();
            assert!(
                std::io::BufRead::read_line(&mut lines, &mut line).unwrap() > 0,
                "the child ended"
            );
        }
        // Somewhere in the next change of four thousand writes.
        std::thread::sleep(Duration::from_micros(300 * (1 + round * 3)));
        child.kill().unwrap();
        child.wait().unwrap();
        let dir = dir.clone();
        bed.host.run(move || {
            let mut datapath = open(&dir);
            let revision = datapath.status().unwrap().revision.unwrap().0;
            let allowed = |datapath: &mut EbpfDatapath, port: u16, source: u16| {
                let path = frames::Path::new(HOST, source, OWN[0], port);
                datapath
                    .run_frame(ifindex, Direction::Ingress, &tcp(path, SYN, b""))
                    .unwrap()
            };
            let source = 40_000 + u16::try_from(round).unwrap() * 10;
            assert_eq!(
                allowed(&mut datapath, 20_000, source),
                revision.is_multiple_of(2),
                "revision {revision}"
            );
            assert_eq!(
                allowed(&mut datapath, 30_000, source),
                !revision.is_multiple_of(2),
                "revision {revision}"
            );
            // The half-written slot is known for what it is: the next change lands as a whole.
            datapath.apply(&numbered(revision + 1), &config()).unwrap();
            assert_eq!(
                allowed(&mut datapath, 20_000, source + 1),
                !revision.is_multiple_of(2)
            );
            assert_eq!(
                allowed(&mut datapath, 30_000, source + 1),
                revision.is_multiple_of(2)
            );
        });
    }
    bed.host.run(move || open(&dir).purge().unwrap());
}

#[test]
fn unknown_endpoints_are_closed_on_the_wire() {
    if !is_root("unknown_endpoints_are_closed_on_the_wire") {
        return;
    }
    let bed = Bed::new();
    echo_server(&bed, 8080);
    let (dir, ifindex) = (pin_dir(), bed.ifindex);
    let _cleanup = Cleanup(dir.clone());
    let unknown = EndpointSpec {
        workload: None,
        addresses: vec![],
        ..endpoint(ifindex, "veth0", &[])
    };
    let closed = DatapathConfig {
        unknown: Verdict::Deny,
        ..config()
    };
    let mut datapath = bed.host.run(move || {
        let mut datapath = open(&dir);
        datapath.apply(&allow(IpProto::TCP, 8080), &closed).unwrap();
        datapath.attach(&unknown).unwrap();
        datapath
    });
    assert!(connect(&bed, "10.9.0.2:8080").is_err());
    let mut datapath = bed.host.run(move || {
        datapath.attach(&endpoint(ifindex, "veth0", &OWN)).unwrap();
        datapath
    });
    assert!(echoes(&mut connect(&bed, "10.9.0.2:8080").unwrap()));
    bed.host.run(move || datapath.purge().unwrap());
}

#[test]
fn a_namespace_of_its_own_needs_nothing_outside() {
    if !is_root("a_namespace_of_its_own_needs_nothing_outside") {
        return;
    }
    let namespace = Namespace::new();
    let absent = namespace.run(|| {
        let dir = pin_dir();
        let _cleanup = Cleanup(dir.clone());
        let mut datapath = open(&dir);
        let error = datapath.attach(&endpoint(4_000_000, "veth9", &OWN)).unwrap_err();
        datapath.purge().unwrap();
        error
    });
    assert!(absent.to_string().contains("veth9"), "{absent}");
}
