//! Three ways to one verdict: the naive walk over the rules (`nv_policy::reference`), the software datapath, and the kernel's programs
//! (`BPF_PROG_TEST_RUN` on the real ones, with the real tables), on random policies and generated packets.
//!
//! A case is a flow: its packets pass or not as the reference says, and at the end both datapaths hold it with the reference's verdict,
//! reason, rule and application. Then the policy changes, every flow's next packet is judged by the new one, and frames that were spoiled
//! on purpose get the same treatment of both datapaths, to the last counter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed"
)]
#![allow(unreachable_pub, reason = "the modules of one test")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

mod dice;
mod frames;
mod model;
mod policies;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use dice::Dice;
use frames::{ACK, LOCAL_MAC, Load, SYN, Shape, frames, spoiled};
use model::{Content, Model, Packet, spoofed};
use nv_dp::{
    Datapath, DatapathConfig, DirectionCounters, EbpfConfig, EbpfDatapath, EndpointSpec, FlowKey,
    SoftwareDatapath,
};
use nv_policy::{Book, PolicyInput, compile};
use nv_runtime::testing::is_root;
use nv_types::{Application, Decision, Direction, IpProto, MacAddr, Revision, Verdict, WorkloadId};

/// Flows in all.
const CASES: usize = 10_000;
/// Flows under one policy.
const FLOWS: usize = 60;
const SPOILED: usize = 60;

/// An address that nobody has.
const STRANGE: [&str; 2] = ["10.0.0.200", "fd00::200"];

type Verdicts = [u64; 3];

/// Both datapaths, fed alike.
struct Pair {
    kernel: EbpfDatapath,
    software: SoftwareDatapath,
    specs: Vec<EndpointSpec>,
    now_ns: u64,
}

/// Flows as a datapath holds them.
type Held = BTreeMap<FlowKey, (Decision, Option<Application>)>;

impl Pair {
    fn each(&mut self) -> [&mut dyn Datapath; 2] {
        [&mut self.kernel, &mut self.software]
    }

    fn apply(&mut self, input: &PolicyInput, revision: u64) {
        let image = compile(input, &policies::node(), Revision(revision))
            .unwrap()
            .image;
        let config = DatapathConfig {
            flow_share: 0,
            ..DatapathConfig::default()
        };
        for datapath in self.each() {
            datapath.apply(&image, &config).unwrap();
        }
    }

    /// Without flows, events and counts.
    fn start_anew(&mut self) {
        let specs = self.specs.clone();
        for datapath in self.each() {
            for spec in &specs {
                datapath.detach(spec.ifindex).unwrap();
            }
            datapath.sweep(&mut |_| {}).unwrap();
            while !datapath.poll_events(10_000).unwrap().is_empty() {}
            for spec in &specs {
                datapath.attach(spec).unwrap();
            }
        }
    }

    /// What both make of a frame.
    fn pass(&mut self, ifindex: u32, direction: Direction, frame: &[u8]) -> bool {
        self.now_ns += 1_000_000;
        let kernel = self.kernel.run_frame(ifindex, direction, frame).unwrap();
        let software = self.software.process(ifindex, direction, frame, self.now_ns) != Verdict::Deny;
        assert_eq!(
            kernel, software,
            "kernel and software differ on {direction} {frame:02x?}"
        );
        kernel
    }

    /// The flows of both, which must be the same.
    fn flows(&mut self) -> Held {
        let [kernel, software] = self.each().map(|datapath| {
            let mut held = Held::new();
            datapath
                .sweep(&mut |flow| {
                    held.insert(flow.key, (flow.decision, flow.application));
                })
                .unwrap();
            held
        });
        assert_same(&kernel, &software, "kernel and software");
        kernel
    }

    /// The counters of both, which must be the same: by interface and direction.
    fn counters(&mut self) -> BTreeMap<u32, [DirectionCounters; 2]> {
        let [kernel, software] = self.each().map(|datapath| {
            let endpoints = datapath.status().unwrap().endpoints.into_iter();
            endpoints
                .map(|(ifindex, status)| (ifindex, [status.ingress, status.egress]))
                .collect::<BTreeMap<_, _>>()
        });
        assert_eq!(kernel, software, "counters");
        kernel
    }
}

fn assert_same(one: &Held, other: &Held, who: &str) {
    for key in one.keys().chain(other.keys()) {
        assert_eq!(one.get(key), other.get(key), "{who}: {key:?}");
    }
}

/// A flow to be: between a workload of this node and a peer of the same family.
fn flow(dice: &mut Dice, specs: &[EndpointSpec], client_port: u16) -> (WorkloadId, FlowKey) {
    let place = dice.below(specs.len());
    let family = dice.below(2);
    let local = specs[place].addresses[family];
    let peers: Vec<_> = policies::peers()
        .into_iter()
        .filter(|peer| peer.is_ipv4() == local.is_ipv4() && *peer != local)
        .collect();
    let (proto, port) = dice.pick(&policies::ASKED);
    let proto = if proto == IpProto::ICMP && local.is_ipv6() {
        IpProto::ICMPV6
    } else {
        proto
    };
    let direction = dice.pick(&[Direction::Ingress, Direction::Egress]);
    let (local_port, peer_port) = match (proto, direction) {
        (IpProto::TCP | IpProto::UDP | IpProto::SCTP, Direction::Egress) => (client_port, port),
        (IpProto::TCP | IpProto::UDP | IpProto::SCTP, Direction::Ingress) => (port, client_port),
        (IpProto::ICMP | IpProto::ICMPV6, _) => (client_port, 0),
        _ => (0, 0),
    };
    let key = FlowKey {
        ifindex: specs[place].ifindex,
        direction,
        proto,
        local,
        local_port,
        peer: dice.pick(&peers),
        peer_port,
    };
    (policies::locals()[place].clone(), key)
}

/// The direction in which a side's packets go.
fn way(key: &FlowKey, from_client: bool) -> Direction {
    match (key.direction, from_client) {
        (Direction::Egress, true) | (Direction::Ingress, false) => Direction::Egress,
        (Direction::Egress, false) | (Direction::Ingress, true) => Direction::Ingress,
    }
}

struct Round {
    pair: Pair,
    dice: Dice,
    model: Model,
    /// What the reference says of packets by interface, direction and verdict.
    told: BTreeMap<(u32, usize), Verdicts>,
    /// Frames that went by, to be spoiled.
    seen: Vec<(u32, Direction, Vec<u8>)>,
    datagram: u32,
    packets: usize,
}

impl Round {
    fn check(
        &mut self,
        key: &FlowKey,
        direction: Direction,
        frame: Vec<u8>,
        wanted: Decision,
        what: &dyn std::fmt::Debug,
    ) {
        let passed = self.pair.pass(key.ifindex, direction, &frame);
        assert_eq!(
            passed,
            wanted.verdict != Verdict::Deny,
            "the reference says {wanted:?} of {key:?} {what:?} {frame:02x?}"
        );
        self.count(key.ifindex, direction, wanted.verdict);
        self.seen.push((key.ifindex, direction, frame));
    }

    fn count(&mut self, ifindex: u32, direction: Direction, verdict: Verdict) {
        self.told
            .entry((ifindex, usize::from(direction == Direction::Egress)))
            .or_default()[verdict as usize] += 1;
        self.packets += 1;
    }

    /// One packet of a flow, and the other two ways.
    fn play(
        &mut self,
        input: &PolicyInput,
        book: &Book<'_>,
        local: &WorkloadId,
        key: &FlowKey,
        tcp_flags: u8,
        packet: Packet,
    ) {
        let mut shape = Shape::random(&mut self.dice);
        // Only noise may be cut: half a request is another one.
        shape.cut &= packet.content == Content::Noise;
        let direction = way(key, packet.from_client);
        self.datagram += 1;
        let content = packet.content.bytes(packet.from_client);
        let load = Load {
            tcp_flags,
            content: &content,
            from_client: packet.from_client,
        };
        let pieces = frames(key, direction, load, shape, self.datagram);
        for (place, frame) in pieces.into_iter().enumerate() {
            let packet = Packet {
                is_rest: place == 1,
                ..packet
            };
            let wanted = self.model.judge(input, book, local, key, packet);
            self.check(key, direction, frame, wanted, &(packet, shape));
        }
    }

    fn converse(&mut self, input: &PolicyInput, book: &Book<'_>, client_port: u16) {
        let (local, key) = flow(&mut self.dice, &self.pair.specs, client_port);
        // Without ports there is one flow between two ends, whoever began it.
        let is_taken =
            |other: &FlowKey| (other.proto, other.local, other.peer) == (key.proto, key.local, key.peer);
        if !key.proto.has_ports()
            && key.proto.for_policy() != IpProto::ICMP
            && self.model.flows.keys().any(is_taken)
        {
            return;
        }
        let only_noise = !matches!(key.proto, IpProto::TCP | IpProto::UDP);
        for place in 0..1 + self.dice.below(6) {
            let mut packet = Packet {
                from_client: place == 0 || self.dice.one_in(2),
                content: if only_noise {
                    Content::Noise
                } else {
                    self.dice.pick(&Content::ALL)
                },
                is_rest: false,
            };
            let mut tcp_flags = ACK;
            if place == 0 && key.proto == IpProto::TCP {
                tcp_flags = SYN;
                if !self.dice.one_in(8) {
                    packet.content = Content::Nothing;
                }
            }
            self.play(input, book, &local, &key, tcp_flags, packet);
        }
        if self.dice.one_in(10) {
            self.spoof(input, &local, &key);
        }
    }

    fn spoof(&mut self, input: &PolicyInput, local: &WorkloadId, key: &FlowKey) {
        let lie = FlowKey {
            local: STRANGE[usize::from(key.local.is_ipv6())].parse().unwrap(),
            ..*key
        };
        let load = Load {
            tcp_flags: SYN,
            content: b"",
            from_client: true,
        };
        let shape = Shape {
            cut: false,
            ..Shape::random(&mut self.dice)
        };
        let verdict = spoofed(input, local);
        for frame in frames(&lie, Direction::Egress, load, shape, 0) {
            let wanted = Decision::implicit(verdict, nv_types::Reason::Spoofed);
            self.check(&lie, Direction::Egress, frame, wanted, &"spoofed");
        }
    }

    /// Both hold the flows as the reference has them, and have counted what it says.
    fn settle(&mut self, when: &str) {
        let flows = self.pair.flows();
        let wanted: Held = self
            .model
            .flows
            .iter()
            .map(|(key, flow)| (*key, (flow.decision, flow.app)))
            .collect();
        assert_same(&flows, &wanted, when);
        for (ifindex, counters) in self.pair.counters() {
            for (direction, counted) in counters.iter().enumerate() {
                let told = self.told.get(&(ifindex, direction)).copied().unwrap_or_default();
                assert_eq!(
                    [counted.allowed, counted.alerted, counted.denied],
                    told,
                    "{when}: counters of {ifindex}"
                );
            }
        }
    }

    /// The next packet of every flow, under another policy.
    fn judge_again(&mut self, input: &PolicyInput) {
        let book = Book::new(input);
        let keys: Vec<_> = self.model.flows.keys().copied().collect();
        for key in keys.into_iter().filter(|key| key.proto == IpProto::TCP) {
            let wanted = self.model.again(input, &book, &key);
            let load = Load {
                tcp_flags: ACK,
                content: b"",
                from_client: true,
            };
            let shape = Shape {
                cut: false,
                ..Shape::random(&mut self.dice)
            };
            for frame in frames(&key, way(&key, true), load, shape, 0) {
                self.check(&key, way(&key, true), frame, wanted, &"after the change");
            }
        }
    }

    fn spoil(&mut self) {
        for _ in 0..SPOILED {
            let place = self.dice.below(self.seen.len());
            let (ifindex, direction, frame) = self.seen[place].clone();
            let frame = spoiled(&mut self.dice, &frame);
            self.pair.pass(ifindex, direction, &frame);
        }
        self.pair.flows();
        self.pair.counters();
    }
}

/// Removes the pins however the test ends.
struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = EbpfDatapath::purge_pins(&self.0);
    }
}

/// Both datapaths in a network namespace of this thread's own, with an interface for each workload.
fn pair(pins: PathBuf) -> Pair {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let specs = policies::locals()
        .into_iter()
        .enumerate()
        .map(|(place, workload)| {
            let name = format!("nv{place}");
            let end = format!("end{place}");
            let words = ["link", "add", &name, "type", "veth", "peer", "name", &end];
            let made = Command::new("ip").args(words).status().unwrap();
            assert!(made.success());
            EndpointSpec {
                ifindex: nix::net::if_::if_nametoindex(name.as_str()).unwrap(),
                name,
                workload: Some(workload),
                mac: Some(MacAddr(LOCAL_MAC)),
                addresses: policies::addresses(place * 2).to_vec(),
                quarantine: false,
            }
        });
    let specs = specs.collect();
    Pair {
        kernel: EbpfDatapath::open(EbpfConfig::new(pins)).unwrap(),
        software: SoftwareDatapath::default(),
        specs,
        now_ns: 1_000_000_000,
    }
}

#[test]
fn reference_software_and_kernel_agree() {
    if !is_root("reference_software_and_kernel_agree") {
        return;
    }
    let played = std::thread::spawn(|| {
        let pins = PathBuf::from(format!("/sys/fs/bpf/nv/three-way-{}", std::process::id()));
        let _cleanup = Cleanup(pins.clone());
        let mut round = Round {
            pair: pair(pins),
            dice: Dice::new("reference_software_and_kernel_agree"),
            model: Model::default(),
            told: BTreeMap::new(),
            seen: Vec::new(),
            datagram: 0,
            packets: 0,
        };
        let start = Instant::now();
        let (mut cases, mut policies, mut judged) = (0, 0_u64, [0; 3]);
        while cases < CASES {
            let [input, next] = [(); 2].map(|()| policies::policy(&mut round.dice));
            let book = Book::new(&input);
            policies += 1;
            round.pair.apply(&input, policies * 2);
            round.pair.start_anew();
            round.model = Model::default();
            round.told.clear();
            round.seen.clear();
            for port in 0..u16::try_from(FLOWS).unwrap() {
                round.converse(&input, &book, 40_000 + port);
            }
            round.settle("before the change");
            cases += round.model.flows.len();
            for flow in round.model.flows.values() {
                judged[flow.decision.verdict as usize] += 1;
            }
            round.pair.apply(&next, policies * 2 + 1);
            round.judge_again(&next);
            round.settle("after the change");
            round.spoil();
        }
        let took = start.elapsed();
        eprintln!(
            "{cases} flows (allow, alert, deny: {judged:?}), {} packets judged three ways, {} judged twice, {} policies, {took:?}",
            round.packets,
            usize::try_from(policies).unwrap() * SPOILED,
            policies * 2,
        );
        assert!(
            judged.iter().all(|count| *count > CASES / 20),
            "one-sided: {judged:?}"
        );
        round.pair.kernel.purge().unwrap();
    });
    played.join().expect("see above");
}
