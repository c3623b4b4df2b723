//! The meaning, straightforwardly: for every packet the rules are walked in order by `nv_policy::reference`; of a flow only what the
//! normative text speaks of is remembered.

use std::collections::BTreeMap;

use nv_dp::FlowKey;
use nv_policy::reference::evaluate;
use nv_policy::{Book, PolicyInput};
use nv_types::{Application, Decision, Direction, IpProto, Mode, Reason, Verdict, WorkloadId};

use crate::policies::APPS;

/// Payloads of one side after which an application is `unknown`.
const BUDGET: u8 = 3;

/// Contents, with what they show whom they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Nothing,
    Http,
    Ssh,
    Redis,
    Dns,
    Noise,
}

impl Content {
    pub const ALL: [Self; 6] = [
        Self::Nothing,
        Self::Http,
        Self::Ssh,
        Self::Redis,
        Self::Dns,
        Self::Noise,
    ];

    /// The bytes. They differ by side: an answer that is its request would be Echo.
    pub fn bytes(self, from_client: bool) -> Vec<u8> {
        let content: &[u8] = match self {
            Self::Nothing => return Vec::new(),
            Self::Http => b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n",
            Self::Ssh => b"SSH-2.0-x\r\n",
            Self::Redis => b"*1\r\n$4\r\nPING\r\n",
            Self::Dns => b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x02nv\0\0\x01\0\x01",
            Self::Noise => b"\xed\xbe that is of no protocol",
        };
        let side = if from_client { b'c' } else { b's' };
        // In front where it may be cut off at the end.
        match self {
            Self::Noise => [&[0xfe, side], content].concat(),
            _ => [content, &[side]].concat(),
        }
    }

    fn app(self, proto: IpProto, from_client: bool) -> Option<Application> {
        match self {
            Self::Http if proto == IpProto::TCP && from_client => Some(Application::HTTP),
            Self::Ssh if proto == IpProto::TCP => Some(Application::SSH),
            Self::Redis if proto == IpProto::TCP && from_client => Some(Application::REDIS),
            Self::Dns if proto == IpProto::UDP && from_client => Some(Application::DNS),
            _ => None,
        }
    }
}

/// A flow as the model remembers it.
#[derive(Clone, Debug)]
pub struct Flow {
    pub local: WorkloadId,
    pub app: Option<Application>,
    tries: [u8; 2],
    pub decision: Decision,
}

/// What a packet is, to the model.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub from_client: bool,
    pub content: Content,
    /// The second fragment of one: it carries payload, but nothing that could be named.
    pub is_rest: bool,
}

#[derive(Default)]
pub struct Model {
    pub flows: BTreeMap<FlowKey, Flow>,
}

impl Model {
    /// What becomes of a packet of this flow.
    pub fn judge(
        &mut self,
        input: &PolicyInput,
        book: &Book<'_>,
        local: &WorkloadId,
        key: &FlowKey,
        packet: Packet,
    ) -> Decision {
        let fresh = Flow {
            local: local.clone(),
            app: None,
            tries: [0; 2],
            decision: Decision::implicit(Verdict::Allow, Reason::Pending),
        };
        let flow = self.flows.entry(*key).or_insert(fresh);
        let has_payload = packet.is_rest || packet.content != Content::Nothing;
        if has_payload && !packet.is_rest && flow.app.is_none() {
            flow.app = packet.content.app(key.proto, packet.from_client);
            if flow.app.is_none() {
                let tries = &mut flow.tries[usize::from(packet.from_client)];
                *tries += 1;
                if *tries == BUDGET {
                    flow.app = Some(Application::UNKNOWN);
                }
            }
        }
        flow.decision = decide(input, book, local, key, flow.app, has_payload);
        flow.decision
    }

    /// What the flow's next packet without payload finds, under another policy.
    pub fn again(&mut self, input: &PolicyInput, book: &Book<'_>, key: &FlowKey) -> Decision {
        let flow = self.flows.get_mut(key).unwrap();
        flow.decision = decide(input, book, &flow.local, key, flow.app, false);
        flow.decision
    }
}

fn decide(
    input: &PolicyInput,
    book: &Book<'_>,
    local: &WorkloadId,
    key: &FlowKey,
    app: Option<Application>,
    has_payload: bool,
) -> Decision {
    let (own, other) = (book.workload(&input.workloads[local]), book.address(key.peer));
    let (client, server, port) = match key.direction {
        Direction::Egress => (&own, &other, key.peer_port),
        Direction::Ingress => (&other, &own, key.local_port),
    };
    let port = if matches!(key.proto, IpProto::TCP | IpProto::UDP | IpProto::SCTP) {
        port
    } else {
        0
    };
    let walk = |app| evaluate(input, client, server, (key.proto, port), app).0;
    if let Some(app) = app {
        return walk(app);
    }
    // Pending: what is decided depends on what it will turn out to be; one application stands for all that no rule names.
    let unknown = walk(Application::UNKNOWN);
    let mut others = APPS.iter().chain([&Application::MYSQL]);
    if others.all(|app| walk(*app) == unknown) {
        return unknown;
    }
    let held = has_payload && unknown.verdict == Verdict::Deny;
    Decision::implicit(if held { Verdict::Deny } else { Verdict::Allow }, Reason::Pending)
}

/// What becomes of a packet under an address that is not the workload's.
pub fn spoofed(input: &PolicyInput, local: &WorkloadId) -> Verdict {
    match input.mode_of(&input.workloads[local]) {
        Some(Mode::Protect) => Verdict::Deny,
        _ => Verdict::Alert,
    }
}
