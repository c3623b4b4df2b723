//! A workload that fills the table of flows, and the others' connections meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nv_dp::{Datapath as _, DatapathConfig, DatapathEvent, EbpfConfig, EbpfDatapath, EndpointSpec};
use nv_types::{AppMask, Direction, IpProto, Mode, PolicyImage, Reason, Verdict, WorkloadId};

use crate::common::image::{Builder, config, rule, workload};
use crate::common::netns::{Cleanup, Namespace, is_root, pin_dir};
use crate::sys::Wire;
use crate::wire;

/// Entries of the table of flows, and the part of it that one workload may have.
const TABLE: u32 = 8192;
const SHARE: u8 = 10;
/// New flows of a flood: more than the table holds.
const FLOOD: u16 = 8_000;
/// Connections of the others: open before the flood, and new in it.
const OPEN: usize = 40;
const NEW: usize = 60;
const PORT: u16 = 8080;

/// Where floods go: nobody has it, so that the bridge sends them everywhere.
const NOBODY: &str = "10.78.0.99";

const NAMES: [&str; 3] = ["noisy", "client", "server"];

fn address(place: usize) -> IpAddr {
    format!("10.78.0.{}", place + 2).parse().unwrap()
}

fn mac(place: usize) -> wire::Mac {
    [2, 0, 0, 0, 0x78, u8::try_from(place).unwrap() + 2]
}

/// All three may do everything.
fn policy(mode: Mode) -> PolicyImage {
    let allow = [(AppMask::ANY, rule(Verdict::Allow, 1))];
    let protocols = [IpProto::TCP, IpProto::UDP, IpProto::ICMP].map(|proto| (proto, None, &allow[..]));
    let mut builder = Builder::new(mode).friend(NOBODY);
    for place in 0..NAMES.len() {
        builder = builder.friend(&address(place).to_string());
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        builder = builder.rules(direction, &protocols);
    }
    let mut image = builder.build();
    let one = image.locals[0].clone();
    image.locals = NAMES
        .map(|name| nv_types::LocalEntry {
            workload: workload(name),
            ..one.clone()
        })
        .to_vec();
    image
}

/// A bridge without guards of its own, and three workloads with stacks of their own.
struct Place {
    node: Namespace,
    inside: [Namespace; 3],
    indexes: [u32; 3],
}

impl Place {
    fn new() -> Self {
        let node = Namespace::new();
        node.ip("link add br0 type bridge mcast_snooping 0");
        node.ip("link set br0 up");
        let inside = [(); 3].map(|()| Namespace::new());
        for (place, namespace) in inside.iter().enumerate() {
            let [a, b, c, d, e, f] = mac(place);
            node.ip(&format!(
                "link add {} type veth peer name eth0 address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} netns {}",
                NAMES[place],
                namespace.tid()
            ));
            node.ip(&format!("link set {} master br0 up", NAMES[place]));
            namespace.ip("link set lo up");
            namespace.ip(&format!("addr add {}/24 dev eth0", address(place)));
            namespace.ip("link set eth0 up");
        }
        let indexes = NAMES.map(|name| node.ifindex(name));
        Self {
            node,
            inside,
            indexes,
        }
    }

    fn spec(&self, place: usize) -> EndpointSpec {
        EndpointSpec {
            ifindex: self.indexes[place],
            name: NAMES[place].into(),
            workload: Some(WorkloadId::try_new(NAMES[place]).unwrap()),
            mac: Some(nv_types::MacAddr(mac(place))),
            addresses: vec![address(place)],
            quarantine: false,
        }
    }

    fn serve(&self) {
        let listener = self.inside[2].run(|| TcpListener::bind((address(2), PORT)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut buffer = [0; 16];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }

    /// Connections from the client to the server that answer.
    fn connections(&self, count: usize) -> Vec<TcpStream> {
        self.inside[1].run(move || {
            let to = SocketAddr::new(address(2), PORT);
            let connect = || {
                let stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()?;
                stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                Some(stream)
            };
            let mut streams: Vec<_> = (0..count).filter_map(|_| connect()).collect();
            streams.retain_mut(answers);
            streams
        })
    }
}

fn answers(stream: &mut TcpStream) -> bool {
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut [0; 4]).is_ok()
}

/// Packets of new flows from the noisy workload, by kind.
fn flood(kind: &str, wire: &Wire) {
    const SYN: u8 = 2;
    let from = address(0);
    for n in 0..FLOOD {
        let to: IpAddr = NOBODY.parse().unwrap();
        let port = 20_000 + n;
        let (proto, body) = match kind {
            "SYN flood" => (wire::TCP, wire::tcp((from, port), (to, 80), SYN, [0; 8], b"")),
            "UDP spray" => (wire::UDP, wire::udp((from, 5000), (to, port), b"x")),
            _ => wire::icmp(
                from,
                to,
                8,
                0,
                [port.to_be_bytes(), [0, 1]].concat().try_into().unwrap(),
                b"12345678",
            ),
        };
        let (kind, packet) = wire::ip(from, to, proto, &body);
        wire.send(&wire::eth([2, 0, 0, 0, 0x78, 99], mac(0), kind, &packet));
    }
}

/// Entries of the others that the datapath still holds: opened by the client, and at the server.
fn held(datapath: &mut EbpfDatapath, indexes: [u32; 3]) -> usize {
    let mut count = 0;
    datapath
        .sweep(&mut |flow| {
            let port = if flow.key.ifindex == indexes[1] {
                flow.key.peer_port
            } else {
                flow.key.local_port
            };
            count += usize::from(indexes[1..].contains(&flow.key.ifindex) && port == PORT);
        })
        .unwrap();
    count
}

/// What a flood did: new connections of the others that were served, entries of theirs before and after, flows refused room, and whether
/// an event said so.
struct Outcome {
    served: usize,
    before: usize,
    after: usize,
    refused: u64,
    told: bool,
}

fn play(place: &Place, datapath: EbpfDatapath, kind: &'static str, mode: Mode) -> (Outcome, EbpfDatapath) {
    let switches = DatapathConfig {
        flow_share: SHARE,
        ..config()
    };
    let specs = [0, 1, 2].map(|at| place.spec(at));
    let indexes = place.indexes;
    let mut datapath = place.node.run(move || {
        let mut datapath = datapath;
        for spec in &specs {
            datapath.detach(spec.ifindex).unwrap();
        }
        datapath.sweep(&mut |_| {}).unwrap();
        datapath.apply(&policy(mode), &switches).unwrap();
        for spec in &specs {
            datapath.attach(spec).unwrap();
        }
        datapath.sweep(&mut |_| {}).unwrap();
        while !datapath.poll_events(100_000).unwrap().is_empty() {}
        datapath
    });
    let quiet = place.connections(OPEN);
    assert_eq!(quiet.len(), OPEN, "{kind}: before the flood");
    let before = held(&mut datapath, indexes);
    let noisy = place.inside[0].run(|| Wire::open("eth0"));
    let flooding = std::thread::spawn(move || flood(kind, &noisy));
    std::thread::sleep(Duration::from_millis(20));
    let served = place.connections(NEW);
    flooding.join().unwrap();
    let count = served.len();
    drop(served);
    let mut old = quiet;
    let after = held(&mut datapath, indexes);
    // Whatever has become of their entries, connections go on.
    assert!(old.iter_mut().all(answers), "{kind}: open connections go on");
    let counters = datapath.status().unwrap().endpoints[&indexes[0]].egress;
    let told = datapath.poll_events(1_000_000).unwrap().into_iter().any(|event| {
        matches!(
            event,
            DatapathEvent::Packet {
                reason: Reason::TableFull,
                ifindex,
                ..
            } if ifindex == indexes[0]
        )
    });
    let outcome = Outcome {
        served: count,
        before,
        after,
        refused: counters.by_reason[Reason::TableFull as usize],
        told,
    };
    (outcome, datapath)
}

#[test]
fn a_flood_of_one_workload_does_not_harm_the_others() {
    if !is_root("a_flood_of_one_workload_does_not_harm_the_others") {
        return;
    }
    let place = Place::new();
    place.serve();
    let dir = pin_dir();
    let _cleanup = Cleanup(dir.clone());
    let mut datapath = place.node.run(move || {
        let config = EbpfConfig {
            conntrack_entries: TABLE,
            events_bytes: 1 << 23,
            ..EbpfConfig::new(&dir)
        };
        EbpfDatapath::open(config).unwrap()
    });
    let start = Instant::now();
    let most = u64::from(TABLE) * u64::from(SHARE) / 100;
    for (kind, mode) in [
        ("SYN flood", Mode::Protect),
        ("UDP spray", Mode::Protect),
        ("ICMP flood", Mode::Protect),
        ("UDP spray", Mode::Monitor),
    ] {
        let (outcome, back) = play(&place, datapath, kind, mode);
        datapath = back;
        eprintln!(
            "{kind} of {FLOOD} new flows in {mode}, table {TABLE}, share {SHARE} %: {} of {NEW} new connections of the others served, {} entries of \
             theirs before, {} after; {} flows refused room",
            outcome.served, outcome.before, outcome.after, outcome.refused
        );
        assert_eq!(outcome.served, NEW, "{kind}");
        // In Monitor what finds no room passes, and may take the others' room at their own interfaces.
        assert!(
            mode == Mode::Monitor || outcome.after >= outcome.before,
            "{kind}: what they had open"
        );
        assert_eq!(
            outcome.refused,
            u64::from(FLOOD) - most,
            "{kind}: every attempt beyond the share is counted"
        );
        assert!(outcome.told, "{kind}: an event says so");
    }
    eprintln!("{:?}", start.elapsed());
    place.node.run(move || datapath.purge().unwrap());
}
