//! Real packets in real network namespaces.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    reason = "a test fails by panic, and its numbers are small"
)]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{SlicedPacket, TransportSlice};
use nv_capture::{
    AfPacketSource, Annotator, CaptureConfig, CaptureError, CaptureInfo, CaptureLimits, CaptureManager,
    CaptureSpec, CaptureStatus, CaptureTarget, CapturedPacket, Filter, FlowNote, Headers, LinkType, NetnsRef,
    PacketDirection, PacketReader, Party, RingSink, SessionControl, SessionEnd, SourceError, run_session,
};
use nv_types::{Decision, Reason, RuleId, Verdict, WorkloadId};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

macro_rules! needs_root {
    ($name:literal) => {
        if !nix::unistd::geteuid().is_root() {
            if std::env::var_os("CI").is_some() {
                panic!("needs root");
            }
            eprintln!("SKIPPED {}: needs root", $name);
            return;
        }
    };
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Two namespaces joined by a veth pair: `<prefix>c` has 192.0.2.1, `<prefix>s` has 192.0.2.2.
struct Pair {
    client: String,
    server: String,
}

impl Pair {
    fn new(test: &str) -> Self {
        let prefix = format!("nvcap{test}{}", std::process::id());
        let pair = Self {
            client: format!("{prefix}c"),
            server: format!("{prefix}s"),
        };
        let (c, s) = (&pair.client, &pair.server);
        ip(&format!("netns add {c}"));
        ip(&format!("netns add {s}"));
        ip(&format!(
            "-n {c} link add eth0 type veth peer name eth0 netns {s}"
        ));
        for (netns, address) in [(c, CLIENT), (s, SERVER)] {
            // No IPv6: its neighbour discovery would be packets that no test sent.
            let off = Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    netns,
                    "sysctl",
                    "-qw",
                    "net.ipv6.conf.all.disable_ipv6=1",
                ])
                .status();
            assert!(off.unwrap().success());
            ip(&format!("-n {netns} addr add {address}/24 dev eth0"));
            ip(&format!("-n {netns} link set lo up"));
            ip(&format!("-n {netns} link set eth0 up"));
        }
        pair
    }

    fn path(name: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(name)
    }

    fn target(&self) -> CaptureTarget {
        CaptureTarget::netns(NetnsRef::Path(Self::path(&self.server)))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in [&self.client, &self.server] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Runs in a namespace, on a thread of its own.
fn inside<T: Send + 'static>(
    netns: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let file = std::fs::File::open(Pair::path(netns)).unwrap();
    thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

fn spec(target: CaptureTarget, limits: CaptureLimits) -> CaptureSpec {
    CaptureSpec {
        workload: WorkloadId::try_new("netns:server").unwrap(),
        name: "server".into(),
        target,
        limits,
        filter: Filter::all(),
        cause: String::new(),
    }
}

fn wait(manager: &CaptureManager, info: &CaptureInfo, done: impl Fn(&CaptureInfo) -> bool) -> CaptureInfo {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let info = manager.info(info.id).unwrap();
        if done(&info) {
            return info;
        }
        assert!(Instant::now() < deadline, "still {info:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn packets(manager: &CaptureManager, info: &CaptureInfo) -> Vec<CapturedPacket> {
    PacketReader::new(manager.read(info.id, false).unwrap())
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// Protocol payload bytes of a packet of this transport, with its source address.
fn payload(packet: &CapturedPacket, tcp: bool) -> Option<(Ipv4Addr, Vec<u8>)> {
    let sliced = SlicedPacket::from_ethernet(&packet.data).ok()?;
    let etherparse::NetSlice::Ipv4(v4) = sliced.net? else {
        return None;
    };
    let data = match (tcp, sliced.transport?) {
        (true, TransportSlice::Tcp(tcp)) => tcp.payload().to_vec(),
        (false, TransportSlice::Udp(udp)) => udp.payload().to_vec(),
        _ => return None,
    };
    Some((v4.header().source_addr(), data))
}

#[test]
fn udp_and_tcp_are_captured_with_counts_direction_and_time() {
    needs_root!("udp_and_tcp_are_captured_with_counts_direction_and_time");
    let pair = Pair::new("a");
    let folder = tempfile::tempdir().unwrap();
    let manager = CaptureManager::open(CaptureConfig::new(folder.path())).unwrap();
    let before = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    let info = manager
        .start(&spec(pair.target(), CaptureLimits::default()))
        .unwrap();

    // 100 datagrams there, 100 back, one at a time; then 100,000 bytes over TCP.
    let server = inside(&pair.server, || {
        let udp = UdpSocket::bind((SERVER, 9000)).unwrap();
        let tcp = TcpListener::bind((SERVER, 9001)).unwrap();
        // On loopback, which is not to be captured.
        let own = UdpSocket::bind("127.0.0.1:0").unwrap();
        own.send_to(b"own", own.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 64];
        for _ in 0..100 {
            let (length, from) = udp.recv_from(&mut buffer).unwrap();
            udp.send_to(&buffer[..length], from).unwrap();
        }
        let mut all = Vec::new();
        tcp.accept().unwrap().0.read_to_end(&mut all).unwrap();
        all.len()
    });
    let client = inside(&pair.client, || {
        let udp = UdpSocket::bind((CLIENT, 0)).unwrap();
        udp.connect((SERVER, 9000)).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut buffer = [0; 64];
        let mut sent = 0;
        for n in 0..100u8 {
            // Until the server listens the datagram is refused.
            loop {
                sent += 1;
                let _ = udp.send(&[n; 33]);
                if udp.recv(&mut buffer).is_ok() {
                    break;
                }
                assert!(sent < 1000, "the server does not answer");
            }
        }
        let mut tcp = TcpStream::connect(SocketAddr::from((SERVER, 9001))).unwrap();
        tcp.write_all(&vec![7; 100_000]).unwrap();
        sent
    });
    let sent = client.join().unwrap();
    assert_eq!(server.join().unwrap(), 100_000);
    let info = manager.stop(info.id).unwrap();
    let packets = packets(&manager, &info);
    assert_eq!(info.packets, packets.len() as u64);
    assert_eq!((info.dropped, info.status), (0, CaptureStatus::Stopped));

    let udp: Vec<_> = packets
        .iter()
        .filter_map(|p| Some((p, payload(p, false)?)))
        .collect();
    let from = |address| udp.iter().filter(|(_, (source, _))| *source == address).count();
    assert_eq!((from(CLIENT), from(SERVER)), (sent, 100));
    let tcp: Vec<_> = packets
        .iter()
        .filter_map(|p| Some((p, payload(p, true)?)))
        .collect();
    let bytes: usize = tcp
        .iter()
        .filter(|(_, (source, _))| *source == CLIENT)
        .map(|(_, (_, data))| data.len())
        .sum();
    assert_eq!(bytes, 100_000);
    for (packet, (source, _)) in udp.iter().chain(&tcp) {
        let expected = if *source == SERVER {
            PacketDirection::Outbound
        } else {
            PacketDirection::Inbound
        };
        assert_eq!(packet.direction, expected);
        assert_eq!(packet.interface.as_ref().unwrap().name, "server/eth0");
        assert!(packet.interface.as_ref().unwrap().mac.is_some());
        assert!(packet.timestamp.0 > before && packet.timestamp.0 < before + 60_000_000_000);
    }
    assert!(
        packets.iter().all(|p| !p.data.windows(3).any(|w| w == b"own")),
        "loopback was captured"
    );
}

#[test]
fn a_burst_is_either_kept_or_counted() {
    needs_root!("a_burst_is_either_kept_or_counted");
    const SENT: u64 = 50_000;
    let pair = Pair::new("b");
    let mut source = AfPacketSource::open(&pair.target(), 0).unwrap();
    // Without a listener: the kernel's answers to refused datagrams would be packets of their own.
    let sink = inside(&pair.server, || UdpSocket::bind((SERVER, 9000)).unwrap())
        .join()
        .unwrap();
    let sender = inside(&pair.client, || {
        let udp = UdpSocket::bind((CLIENT, 0)).unwrap();
        for n in 0..SENT {
            udp.send_to(&[n as u8; 1400], (SERVER, 9000)).unwrap();
        }
    });
    sender.join().unwrap();
    let mut ring = RingSink::new(usize::MAX, u64::MAX);
    let control = SessionControl::default();
    control.stop();
    let limits = CaptureLimits {
        max_bytes: u64::MAX,
        ..CaptureLimits::default()
    };
    let mut sums = Vec::new();
    // Stopped at once: one batch is drained, and the rest is still accounted for.
    let end = run_session(&mut source, &mut ring, &limits, &control, &mut |progress| {
        sums.push(progress)
    })
    .unwrap();
    assert_eq!(end, SessionEnd::Stopped);
    drop(sink);
    let totals = ring.totals()[0];
    let stats = nv_capture::PacketSource::statistics(&mut source).unwrap();
    // Two more packets at most: address resolution.
    assert!((SENT..=SENT + 2).contains(&stats.received), "{stats:?}");
    assert!(
        stats.dropped > 0 && totals.dropped == stats.dropped,
        "a ring of 4 MiB cannot hold 70 MB: {stats:?}"
    );
    assert!(totals.kept > 0 && totals.kept + totals.dropped <= stats.received);
    assert_eq!(sums.last().unwrap().dropped, stats.dropped);
}

#[test]
fn a_vanished_namespace_ends_the_capture_cleanly() {
    needs_root!("a_vanished_namespace_ends_the_capture_cleanly");
    let pair = Pair::new("c");
    let folder = tempfile::tempdir().unwrap();
    let manager = CaptureManager::open(CaptureConfig::new(folder.path())).unwrap();
    let info = manager
        .start(&spec(pair.target(), CaptureLimits::default()))
        .unwrap();
    let server = pair.server.clone();
    ip(&format!("netns del {server}"));
    let info = wait(&manager, &info, |info| info.status != CaptureStatus::Running);
    assert_eq!(info.status, CaptureStatus::Stopped);
    assert_eq!(info.detail, "the workload's network namespace is gone");
    // The capture's socket must not keep the namespace: its veth goes, and the client's end with it.
    let deadline = Instant::now() + Duration::from_secs(10);
    let exists = || {
        let show = Command::new("ip")
            .args(["-n", &pair.client, "link", "show", "eth0"])
            .output()
            .unwrap();
        show.status.success()
    };
    while exists() {
        assert!(Instant::now() < deadline, "the namespace is still held");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(packets(&manager, &info), []);
}

#[test]
fn the_wrong_namespace_or_interface_is_refused() {
    needs_root!("the_wrong_namespace_or_interface_is_refused");
    let pair = Pair::new("d");
    let folder = tempfile::tempdir().unwrap();
    let manager = CaptureManager::open(CaptureConfig::new(folder.path())).unwrap();
    let start = |target| match manager.start(&spec(target, CaptureLimits::default())) {
        Err(CaptureError::Source { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    let other = CaptureTarget {
        inode: Some(1),
        ..pair.target()
    };
    assert!(matches!(
        start(other),
        SourceError::OtherNetns { expected: 1, .. }
    ));
    let gone = CaptureTarget::netns(NetnsRef::Path("/run/netns/nv-never-there".into()));
    assert!(matches!(start(gone), SourceError::Netns { .. }));
    let dead = CaptureTarget::netns(NetnsRef::Pid(u32::MAX));
    assert!(matches!(start(dead), SourceError::Netns { .. }));
    let interface = CaptureTarget {
        interface: Some("eth9".into()),
        ..pair.target()
    };
    assert!(matches!(start(interface), SourceError::NoInterface { name } if name == "eth9"));
    let file = CaptureTarget::netns(NetnsRef::Path("/etc/hostname".into()));
    assert!(matches!(start(file), SourceError::System { .. }));
    assert_eq!(manager.list(None), []);
}

#[test]
fn one_interface_by_name_and_by_process_id() {
    needs_root!("one_interface_by_name_and_by_process_id");
    let pair = Pair::new("e");
    let folder = tempfile::tempdir().unwrap();
    let manager = CaptureManager::open(CaptureConfig::new(folder.path())).unwrap();
    let mut holder = Command::new("ip")
        .args(["netns", "exec", &pair.server, "sleep", "60"])
        .spawn()
        .unwrap();
    // `ip` enters the namespace before it becomes `sleep`.
    let wanted = std::fs::metadata(Pair::path(&pair.server)).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&wanted);
    let deadline = Instant::now() + Duration::from_secs(5);
    let target = CaptureTarget {
        netns: NetnsRef::Pid(holder.id()),
        inode: Some(inode),
        interface: Some("lo".into()),
    };
    let info = loop {
        match manager.start(&spec(
            target.clone(),
            CaptureLimits {
                max_packets: 2,
                ..CaptureLimits::default()
            },
        )) {
            Ok(info) => break info,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    inside(&pair.server, || {
        let own = UdpSocket::bind("127.0.0.1:0").unwrap();
        own.send_to(b"own", own.local_addr().unwrap()).unwrap();
    })
    .join()
    .unwrap();
    // Loopback shows a packet twice: sent and received.
    let info = wait(&manager, &info, |info| info.status != CaptureStatus::Running);
    assert_eq!(info.detail, "packet limit reached");
    let packets = packets(&manager, &info);
    assert_eq!(
        packets
            .iter()
            .filter(|packet| packet.direction == PacketDirection::Outbound)
            .count(),
        1
    );
    assert!(
        packets
            .iter()
            .all(|packet| packet.interface.as_ref().unwrap().name == "server/lo")
    );

    let follow = CaptureTarget {
        interface: None,
        ..target
    };
    let info = manager.start(&spec(follow, CaptureLimits::default())).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let info = wait(&manager, &info, |info| info.status != CaptureStatus::Running);
    assert_eq!(info.detail, "the workload's network namespace is gone");
}

/// A datagram to this port with a VLAN tag.
fn tagged(vlan: u16, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [0xff; 6])
        .single_vlan(etherparse::VlanId::try_new(vlan).unwrap())
        .ipv4(CLIENT.octets(), SERVER.octets(), 64)
        .udp(5555, port)
        .write(&mut frame, &[2; 64])
        .unwrap();
    frame
}

/// Sends a frame as it is out of an interface of this thread's namespace.
#[allow(unsafe_code, reason = "packet sockets have no safe interface")]
fn send_frame(interface: &str, frame: &[u8]) {
    let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
    let index = nix::net::if_::if_nametoindex(interface).unwrap();
    // SAFETY: takes no pointers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    assert!(socket >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(socket) };
    // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    // SAFETY: both pointers and lengths describe values that outlive the call.
    let sent = unsafe {
        libc::sendto(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}

/// Knows the pair of a test, and that everything on port 9001 is denied.
#[derive(Debug)]
struct Facts;

impl Annotator for Facts {
    fn party(&self, address: IpAddr) -> Option<Arc<Party>> {
        let workload = if address == CLIENT { "web" } else { "db" }.to_owned();
        (address == CLIENT || address == SERVER).then(|| {
            Arc::new(Party {
                workload,
                groups: vec!["shop".into()],
                ..Party::default()
            })
        })
    }

    fn flow(&self, headers: &Headers) -> Option<FlowNote> {
        let denied = headers.destination_port == 9001;
        let verdict = if denied { Verdict::Deny } else { Verdict::Allow };
        Some(FlowNote {
            decision: Decision {
                verdict,
                reason: Reason::Rule,
                rule: RuleId(10_002),
            },
            application: None,
        })
    }
}

#[test]
fn filters_hold_in_the_kernel_and_with_words_of_nv() {
    needs_root!("filters_hold_in_the_kernel_and_with_words_of_nv");
    let pair = Pair::new("f");
    let folder = tempfile::tempdir().unwrap();
    let config = CaptureConfig {
        max_running: 32,
        ..CaptureConfig::new(folder.path())
    };
    let manager = CaptureManager::open_with(config, Some(Arc::new(Facts))).unwrap();
    let long: Vec<_> = (0..160)
        .map(|n| format!("host 10.0.{}.{}", n / 200, n % 200))
        .collect();
    let long = format!("udp dst port 9000 or {}", long.join(" or "));
    let cases: Vec<(&str, BTreeSet<u16>)> = vec![
        ("", [9000, 9001, 9005].into()),
        ("udp dst port 9000", [9000].into()),
        ("udp and not dst port 9000", [9001].into()),
        ("vlan 5 and udp", [9005].into()),
        ("vlan 6", [].into()),
        ("udp and not vlan", [9000, 9001].into()),
        (&long, [9000].into()),
        ("verdict deny and udp", [9001].into()),
        ("src workload web and not verdict deny and udp", [9000].into()),
        ("dst workload web and udp", [].into()),
        ("group shop and dst port 9000", [9000].into()),
        ("inbound and udp port 9000", [9000].into()),
        ("outbound and udp", [].into()),
        ("rule 10002 and udp dst port 9001 or vlan 6", [9001].into()),
    ];
    let running: Vec<_> = cases
        .iter()
        .map(|(filter, ports)| {
            let target = CaptureTarget {
                interface: Some("eth0".into()),
                ..pair.target()
            };
            let spec = CaptureSpec {
                filter: filter.parse().unwrap(),
                ..spec(
                    target,
                    CaptureLimits {
                        max_bytes: 1 << 20,
                        ..CaptureLimits::default()
                    },
                )
            };
            (manager.start(&spec).unwrap(), filter, ports)
        })
        .collect();
    let sender = inside(&pair.client, || {
        let udp = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        udp.send_to(&[0; 64], (SERVER, 9000)).unwrap();
        udp.send_to(&[1; 64], (SERVER, 9001)).unwrap();
        // The kernel takes the tag out of the packet and keeps it beside it: `vlan` must see it all the same.
        send_frame("eth0", &tagged(5, 9005));
    });
    sender.join().unwrap();
    thread::sleep(Duration::from_millis(300));
    for (info, filter, ports) in running {
        let stopped = manager.stop(info.id).unwrap();
        assert_eq!(stopped.filter, **filter);
        let found: BTreeSet<u16> = packets(&manager, &info)
            .iter()
            .filter_map(|packet| {
                let headers = Headers::parse(LinkType::ETHERNET, &packet.data)?;
                // What is not denied says so too, and each flow has its story once.
                assert_eq!(
                    packet.verdict == Some(Verdict::Deny),
                    headers.destination_port == 9001
                );
                (headers.proto.0 == 17 && headers.destination_port != 0).then_some(headers.destination_port)
            })
            .filter(|port| (9000..=9005).contains(port))
            .collect();
        assert_eq!(found, *ports, "{filter}");
    }
}
