//! Random conversations against a naive model of the policy's meaning, on both backends.
//!
//! The model knows no tables, slots or bytes: it walks rules in order for every packet, and keeps what it needs to know
//! of a flow in a map.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed"
)]

mod common;

use std::collections::BTreeMap;

use common::bench::{Bench, on_kernel, on_remote, on_software};
use common::frames::{ACK, FIN, Path, RST, SYN, tcp_at, udp};
use common::image::{Builder, EXTERNAL, FRIEND, default_for, only, rule};
use nv_types::{
    AppMask, Application, Decision, Direction, Identity, IpProto, Mode, PolicyImage, Reason, Verdict,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};

const OWN: [&str; 2] = ["10.9.0.2", "fd09::2"];
const FRIENDS: [&str; 2] = ["10.9.0.9", "fd09::9"];
const STRANGERS: [&str; 2] = ["10.9.0.77", "fd09::77"];

/// What a rule of the model says: friends, this direction, this protocol and port.
#[derive(Clone, Debug)]
struct Rule {
    direction: Direction,
    proto: IpProto,
    port: u16,
    app: Option<Application>,
    decision: Decision,
}

#[derive(Clone, Debug)]
struct Policy {
    mode: Mode,
    rules: Vec<Rule>,
}

impl Policy {
    /// The image, by hand: rules of one port become one chain.
    fn image(&self) -> PolicyImage {
        let mut builder = Builder::new(self.mode);
        for friend in FRIENDS {
            builder = builder.friend(friend);
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let mut chains: BTreeMap<(IpProto, u16), Vec<(AppMask, Decision)>> = BTreeMap::new();
            for rule in self.rules.iter().filter(|rule| rule.direction == direction) {
                let chain = chains.entry((rule.proto, rule.port)).or_default();
                let closed = chain.last().is_some_and(|(apps, _)| apps.is_any());
                if !closed {
                    chain.push((rule.app.map_or(AppMask::ANY, only), rule.decision));
                }
            }
            for chain in chains.values_mut() {
                if !chain.last().is_some_and(|(apps, _)| apps.is_any()) {
                    chain.push((AppMask::ANY, default_for(self.mode)));
                }
            }
            let rules: Vec<_> = chains
                .iter()
                .map(|((proto, port), chain)| (*proto, Some(*port), chain.as_slice()))
                .collect();
            builder = builder.rules(direction, &rules);
        }
        builder.build()
    }

    /// First match wins; a rule that asks for an application that is not known yet leaves it open.
    fn walk(
        &self,
        direction: Direction,
        peer: Identity,
        proto: IpProto,
        port: u16,
        app: Option<Application>,
    ) -> Option<Decision> {
        for rule in &self.rules {
            if rule.direction != direction || rule.proto != proto || rule.port != port || peer != FRIEND {
                continue;
            }
            match (rule.app, app) {
                (None, _) => return Some(rule.decision),
                (Some(_), None) => return None,
                (Some(wanted), Some(found)) if wanted == found => return Some(rule.decision),
                (Some(_), Some(_)) => {}
            }
        }
        Some(default_for(self.mode))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    Http,
    Ssh,
    Noise,
}

impl Content {
    const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Nothing => b"",
            Self::Http => b"GET / HTTP/1.1\r\n\r\n",
            Self::Ssh => b"SSH-2.0-x\r\n",
            // Too short for an answer that is its request to be Echo.
            Self::Noise => b"\xfe\xed\xbe",
        }
    }

    fn app(self, proto: IpProto, from_client: bool) -> Option<Application> {
        match self {
            Self::Http if proto == IpProto::TCP && from_client => Some(Application::HTTP),
            Self::Ssh if proto == IpProto::TCP => Some(Application::SSH),
            _ => None,
        }
    }
}

/// One step of a conversation.
#[derive(Clone, Debug)]
enum Step {
    Packet {
        direction: Direction,
        family: usize,
        friend: bool,
        spoofed: bool,
        proto: IpProto,
        local_port: u16,
        peer_port: u16,
        flags: u8,
        seq: u32,
        ack: u32,
        content: Content,
    },
    Apply(Policy),
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    opened: Direction,
    app: Option<Application>,
    tries: [u8; 2],
    /// TCP flags and next sequence number of either direction.
    flags: [u8; 2],
    next: [u32; 2],
    /// Whose FIN has been acknowledged.
    closed: [bool; 2],
}

type Key = (usize, bool, IpProto, u16, u16);

/// The meaning, straightforwardly.
struct Model {
    policy: Policy,
    flows: BTreeMap<Key, Flow>,
}

impl Model {
    /// What happens to a packet, and why.
    fn judge(&mut self, step: &Step) -> (Verdict, Reason) {
        let Step::Packet {
            direction,
            family,
            friend,
            spoofed,
            proto,
            local_port,
            peer_port,
            flags,
            seq,
            ack,
            content,
        } = step.clone()
        else {
            panic!("not a packet");
        };
        if spoofed {
            let verdict = if self.policy.mode == Mode::Protect {
                Verdict::Deny
            } else {
                Verdict::Alert
            };
            return (verdict, Reason::Spoofed);
        }
        let key = (family, friend, proto, local_port, peer_port);
        let reopens = proto == IpProto::TCP
            && flags & (SYN | ACK) == SYN
            && self
                .flows
                .get(&key)
                .is_some_and(|flow| (flow.flags[0] | flow.flags[1]) & (ACK | FIN | RST) != 0);
        if reopens {
            self.flows.remove(&key);
        }
        let fresh = Flow {
            opened: opener(direction, proto, local_port, peer_port, flags),
            app: None,
            tries: [0; 2],
            flags: [0; 2],
            next: [0; 2],
            closed: [false; 2],
        };
        let payload = content != Content::Nothing;
        let known = self.flows.contains_key(&key);
        let mut kept = true;
        let flow = self.flows.entry(key).or_insert(fresh);
        if proto == IpProto::TCP {
            let side = direction as usize;
            let other = 1 - side;
            let reset = flags & RST != 0;
            let taken = reset && flow.flags[side] & !RST != 0 && flow.next[side] == seq;
            let length = u32::try_from(content.bytes().len()).unwrap();
            let end = seq + length + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            if !known || (!reset && (flow.flags[side] == 0 || end >= flow.next[side])) {
                flow.next[side] = end;
            }
            flow.flags[side] |= flags;
            if known && flags & ACK != 0 && flow.flags[other] & FIN != 0 && ack == flow.next[other] {
                flow.closed[other] = true;
            }
            kept = if known {
                !taken && flow.closed != [true, true]
            } else {
                payload || flags & SYN != 0
            };
        }
        if payload && flow.app.is_none() {
            flow.app = content.app(proto, direction == flow.opened);
            if flow.app.is_none() {
                let tries = &mut flow.tries[direction as usize];
                *tries += 1;
                if *tries == 3 {
                    flow.app = Some(Application::UNKNOWN);
                }
            }
        }
        let flow = *flow;
        if !kept {
            self.flows.remove(&key);
        }
        let peer = if friend { FRIEND } else { EXTERNAL };
        let port = if flow.opened == Direction::Ingress {
            local_port
        } else {
            peer_port
        };
        let walk = |app| self.policy.walk(flow.opened, peer, proto, port, app);
        match walk(flow.app) {
            Some(decision) => (decision.verdict, decision.reason),
            None => {
                let unknown_may = walk(Some(Application::UNKNOWN)).unwrap().verdict != Verdict::Deny;
                (
                    if payload && !unknown_may {
                        Verdict::Deny
                    } else {
                        Verdict::Allow
                    },
                    Reason::Pending,
                )
            }
        }
    }
}

fn opener(direction: Direction, proto: IpProto, local: u16, peer: u16, flags: u8) -> Direction {
    let other = if direction == Direction::Ingress {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    let (sender, receiver) = if direction == Direction::Egress {
        (local, peer)
    } else {
        (peer, local)
    };
    if proto != IpProto::TCP {
        direction
    } else if flags & SYN != 0 {
        if flags & ACK != 0 { other } else { direction }
    } else if sender < 32_768 && receiver >= 32_768 {
        other
    } else {
        direction
    }
}

fn frame(step: &Step) -> (Direction, Vec<u8>) {
    let Step::Packet {
        direction,
        family,
        friend,
        spoofed,
        proto,
        local_port,
        peer_port,
        flags,
        seq,
        ack,
        content,
    } = step.clone()
    else {
        panic!("not a packet");
    };
    let own = if spoofed {
        ["10.9.0.3", "fd09::3"][family]
    } else {
        OWN[family]
    };
    let peer = if friend {
        FRIENDS[family]
    } else {
        STRANGERS[family]
    };
    let out = Path::new(own, local_port, peer, peer_port);
    let path = if direction == Direction::Egress {
        out
    } else {
        out.back()
    };
    let frame = if proto == IpProto::TCP {
        tcp_at(path, (seq, ack), flags, content.bytes())
    } else {
        // The same bytes both ways would be Echo.
        let mut bytes = content.bytes().to_vec();
        if !bytes.is_empty() {
            bytes.push(direction as u8);
        }
        udp(path, &bytes)
    };
    (direction, frame)
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Ingress), Just(Direction::Egress)]
}

fn proto() -> impl Strategy<Value = IpProto> {
    prop_oneof![3 => Just(IpProto::TCP), 1 => Just(IpProto::UDP)]
}

fn policy() -> impl Strategy<Value = Policy> {
    let app = prop_oneof![
        Just(None),
        Just(Some(Application::HTTP)),
        Just(Some(Application::SSH))
    ];
    let verdict = prop_oneof![Just(Verdict::Allow), Just(Verdict::Alert), Just(Verdict::Deny)];
    let rule = (direction(), proto(), 80_u16..82, app, verdict, 1_u32..9).prop_map(
        |(direction, proto, port, app, verdict, id)| Rule {
            direction,
            proto,
            port,
            app,
            decision: rule(verdict, id),
        },
    );
    let mode = prop_oneof![1 => Just(Mode::Discover), 1 => Just(Mode::Monitor), 3 => Just(Mode::Protect)];
    (mode, proptest::collection::vec(rule, 0..6)).prop_map(|(mode, rules)| Policy { mode, rules })
}

fn step() -> impl Strategy<Value = Step> {
    let port = prop_oneof![4 => 80_u16..82, 4 => 40_000_u16..40_002];
    let flags = prop_oneof![
        2 => Just(SYN), 1 => Just(SYN | ACK), 4 => Just(ACK), 1 => Just(RST | ACK), 1 => Just(FIN | ACK)
    ];
    let content = prop_oneof![
        2 => Just(Content::Nothing), 1 => Just(Content::Http), 1 => Just(Content::Ssh), 1 => Just(Content::Noise)
    ];
    let packet = (
        direction(),
        0_usize..2,
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.05),
        proto(),
        (port.clone(), port),
        (flags, 1000_u32..1003, 1000_u32..1004),
        content,
    )
        .prop_map(
            |(
                direction,
                family,
                friend,
                spoofed,
                proto,
                (local_port, peer_port),
                (flags, seq, ack),
                content,
            )| {
                Step::Packet {
                    direction,
                    family,
                    friend,
                    spoofed: spoofed && direction == Direction::Egress,
                    proto,
                    local_port,
                    peer_port,
                    flags,
                    seq,
                    ack,
                    content,
                }
            },
        );
    prop_oneof![30 => packet, 1 => policy().prop_map(Step::Apply)]
}

/// Plays one conversation on a fresh model; the bench goes on from conversation to conversation.
fn play(bench: &mut Bench, policy: Policy, steps: &[Step]) {
    let spec = bench.spec.clone();
    bench.datapath().detach(spec.ifindex).unwrap();
    bench.flows(); // those of the last conversation go with their endpoint
    bench.start(&policy.image());
    let mut model = Model {
        policy,
        flows: BTreeMap::new(),
    };
    for (place, step) in steps.iter().enumerate() {
        if let Step::Apply(policy) = step {
            bench.apply(&policy.image());
            model.policy = policy.clone();
            continue;
        }
        let (direction, frame) = frame(step);
        let before = bench.counters(direction);
        let passed = bench.pass(direction, &frame);
        let after = bench.counters(direction);
        let (verdict, reason) = model.judge(step);
        assert_eq!(
            passed,
            verdict != Verdict::Deny,
            "step {place} {step:?}, {verdict:?} for {reason:?}"
        );
        let counted = [
            after.allowed - before.allowed,
            after.alerted - before.alerted,
            after.denied - before.denied,
        ];
        let mut wanted = [0; 3];
        wanted[verdict as usize] = 1;
        assert_eq!(counted, wanted, "step {place} {step:?}");
        if verdict != Verdict::Allow {
            let place = reason as usize;
            assert_eq!(
                after.by_reason[place] - before.by_reason[place],
                1,
                "{step:?}: {reason:?}"
            );
        }
    }
    assert_eq!(bench.flows().len(), model.flows.len());
}

fn conversations(bench: &mut Bench, count: u32) {
    let mut runner = TestRunner::new(Config::default());
    for _ in 0..count {
        let policy = policy().new_tree(&mut runner).unwrap().current();
        let steps = proptest::collection::vec(step(), 40..120)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        play(bench, policy, &steps);
    }
}

#[test]
fn software_agrees_with_the_model() {
    on_software(|bench| conversations(bench, 400));
}

#[test]
fn software_behind_a_socket_agrees_with_the_model() {
    on_remote(|bench| conversations(bench, 40));
}

#[test]
fn kernel_agrees_with_the_model() {
    on_kernel("kernel_agrees_with_the_model", |bench| conversations(bench, 60));
}
