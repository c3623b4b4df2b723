//! Looking up in an image, in user space: for simulation, tests and benches.

use std::collections::HashMap;
use std::net::IpAddr;

use nv_types::{
    Application, Chain, ChainStep, Decision, Direction, Identity, IpProto, Mode, PolicyImage, PortTableId,
    WorkloadId, v4_mapped, walk,
};

/// An image, indexed.
#[derive(Debug)]
pub struct Tables {
    /// By prefix length, longest first.
    addresses: Vec<(u8, HashMap<u128, Identity>)>,
    locals: HashMap<WorkloadId, (Identity, Mode)>,
    pairs: HashMap<(Identity, Direction, Identity), PortTableId>,
    ports: HashMap<(PortTableId, u8, u32), u32>,
    /// Which prefix lengths a table has, as bits.
    lengths: HashMap<PortTableId, u32>,
    decisions: Vec<Chain>,
}

/// What tables say of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement<'a> {
    /// The chain that decides.
    pub chain: &'a Chain,
    /// What it says of the application asked about.
    pub step: ChainStep,
}

impl Judgement<'_> {
    /// The decision, unless the application must be known first.
    #[must_use]
    pub const fn decision(&self) -> Option<Decision> {
        match self.step {
            ChainStep::Decided(decision) => Some(decision),
            ChainStep::Pending | ChainStep::Broken => None,
        }
    }
}

const fn mask(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - len) }
}

/// The bits of (protocol, port) that a prefix length keeps.
const fn key(proto: IpProto, port: u16, len: u8) -> u32 {
    let bits = (proto.0 as u32) << 16 | port as u32;
    if len == 0 {
        0
    } else {
        bits & (u32::MAX << (24 - len))
    }
}

impl Tables {
    /// Indexes an image.
    #[must_use]
    pub fn new(image: &PolicyImage) -> Self {
        let mut by_len: HashMap<u8, HashMap<u128, Identity>> = HashMap::new();
        for entry in &image.addresses {
            by_len
                .entry(entry.prefix.len)
                .or_default()
                .insert(u128::from_be_bytes(entry.prefix.addr), entry.identity);
        }
        let mut addresses: Vec<_> = by_len.into_iter().collect();
        addresses.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        let mut ports = HashMap::with_capacity(image.ports.len());
        let mut lengths: HashMap<_, u32> = HashMap::new();
        for entry in &image.ports {
            let place = (
                entry.table,
                entry.prefix_len,
                key(entry.proto, entry.port, entry.prefix_len),
            );
            ports.insert(place, entry.decision.0);
            *lengths.entry(entry.table).or_default() |= 1 << entry.prefix_len;
        }
        Self {
            addresses,
            locals: image
                .locals
                .iter()
                .map(|local| (local.workload.clone(), (local.identity, local.mode)))
                .collect(),
            pairs: image
                .pairs
                .iter()
                .map(|pair| ((pair.local, pair.direction, pair.peer), pair.ports))
                .collect(),
            ports,
            lengths,
            decisions: image.decisions.clone(),
        }
    }

    /// Identity of an address.
    #[must_use]
    pub fn identity(&self, address: IpAddr) -> Identity {
        let address = u128::from_be_bytes(v4_mapped(address));
        self.addresses
            .iter()
            .find_map(|(len, map)| map.get(&(address & mask(*len))).copied())
            .unwrap_or(Identity::ANY)
    }

    /// Identity and mode of a workload of the image's node.
    #[must_use]
    pub fn local(&self, workload: &WorkloadId) -> Option<(Identity, Mode)> {
        self.locals.get(workload).copied()
    }

    /// What becomes of a flow between a workload of the node and a peer; `port` is the server's. `None` for a workload that the image
    /// does not know.
    #[must_use]
    pub fn lookup(
        &self,
        local: &WorkloadId,
        direction: Direction,
        peer: IpAddr,
        proto: IpProto,
        port: u16,
        app: Option<Application>,
    ) -> Option<Judgement<'_>> {
        let (identity, _) = self.local(local)?;
        self.decide(identity, direction, self.identity(peer), proto, port, app)
    }

    /// The same between identities.
    #[must_use]
    pub fn decide(
        &self,
        local: Identity,
        direction: Direction,
        peer: Identity,
        proto: IpProto,
        port: u16,
        app: Option<Application>,
    ) -> Option<Judgement<'_>> {
        let table = *self
            .pairs
            .get(&(local, direction, peer))
            .or_else(|| self.pairs.get(&(local, direction, Identity::ANY)))?;
        let proto = proto.for_policy();
        let mut lengths = *self.lengths.get(&table)?;
        while lengths != 0 {
            let len = u8::try_from(31 - lengths.leading_zeros()).unwrap_or(0);
            if let Some(id) = self.ports.get(&(table, len, key(proto, port, len))) {
                let chain = self.decisions.get(usize::try_from(*id).ok()?)?;
                return Some(Judgement {
                    chain,
                    step: walk(chain.0.iter().copied(), app),
                });
            }
            lengths &= !(1 << len);
        }
        None
    }
}
