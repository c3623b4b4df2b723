//! Looking up in an image, in user space: for simulation, tests and benches.

use std::net::IpAddr;

use nv_types::{
    Application, Chain, ChainStep, Decision, Direction, Identity, IpProto, Mode, PolicyImage, PortEntry,
    PortTableId, WorkloadId, v4_mapped, walk,
};

use crate::map::Map;

/// An image, indexed.
#[derive(Debug)]
pub struct Tables {
    /// Single addresses.
    hosts: Map<u128, Identity>,
    /// Prefixes by their length, longest first.
    prefixes: Vec<(u8, Map<u128, Identity>)>,
    locals: Map<WorkloadId, (Identity, Mode)>,
    /// Ingress, egress: port table by local class (upper half) and peer class; wildcards are in `rows`.
    pairs: [Map<u64, PortTableId>; 2],
    /// Ingress, egress: by local class, the port table for any peer of each kind.
    rows: [Map<Identity, [PortTableId; KINDS]>; 2],
    /// Where each port table's spans are.
    ports: Vec<(u32, u32)>,
    /// Spans of (protocol, port): where one begins, and its decision up to the next.
    spans: Vec<(u32, u32)>,
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

/// Kinds of identities.
const KINDS: usize = 8;

const fn pair(local: Identity, peer: Identity) -> u64 {
    (local.0 as u64) << 32 | peer.0 as u64
}

/// (protocol, port) as one number of 24 bits.
const fn key(proto: IpProto, port: u16) -> u32 {
    (proto.0 as u32) << 16 | port as u32
}

/// Nested prefixes as spans side by side, each with the decision of the longest prefix that holds it.
fn spread(entries: &mut [PortEntry], spans: &mut Vec<(u32, u32)>) {
    const END: u32 = 1 << 24;
    let first = spans.len();
    let mut begin = |at: u32, decision: u32| match spans.get_mut(first..).and_then(|own| own.last_mut()) {
        Some(last) if last.0 == at => last.1 = decision,
        Some(last) if last.1 == decision => {}
        _ => spans.push((at, decision)),
    };
    entries.sort_unstable_by_key(|entry| (key(entry.proto, entry.port), entry.prefix_len));
    let mut enclosing: Vec<(u32, u32)> = Vec::new();
    for entry in entries.iter() {
        let at = key(entry.proto, entry.port);
        while let Some((end, _)) = enclosing.pop_if(|(end, _)| *end <= at) {
            if let Some((_, decision)) = enclosing.last() {
                begin(end, *decision);
            }
        }
        begin(at, entry.decision.0);
        let size = END >> entry.prefix_len.min(24);
        enclosing.push((at + size, entry.decision.0));
    }
    while let Some((end, _)) = enclosing.pop() {
        if let Some((_, decision)) = enclosing.last()
            && end < END
        {
            begin(end, *decision);
        }
    }
}

impl Tables {
    /// Indexes an image.
    #[must_use]
    pub fn new(image: &PolicyImage) -> Self {
        let mut hosts = Map::default();
        let mut by_len: std::collections::BTreeMap<u8, Map<u128, Identity>> =
            std::collections::BTreeMap::new();
        for entry in &image.addresses {
            let addresses = if entry.prefix.len == 128 {
                &mut hosts
            } else {
                by_len.entry(entry.prefix.len).or_default()
            };
            addresses.insert(u128::from_be_bytes(entry.prefix.addr), entry.identity);
        }
        let mut pairs = [Map::default(), Map::default()];
        let mut rows = [Map::default(), Map::default()];
        for entry in image.pairs.iter().filter(|entry| entry.peer == Identity::ANY) {
            rows[entry.direction as usize].insert(entry.local, [entry.ports; KINDS]);
        }
        for entry in &image.pairs {
            if entry.peer.number() != 0 {
                pairs[entry.direction as usize].insert(pair(entry.local, entry.peer), entry.ports);
            } else if let Some(row) = rows[entry.direction as usize].get_mut(&entry.local) {
                row[entry.peer.kind()] = entry.ports;
            }
        }
        let mut entries = image.ports.clone();
        entries.sort_unstable_by_key(|entry| entry.table);
        let (mut ports, mut spans) = (Vec::new(), Vec::new());
        for table in entries.chunk_by_mut(|a, b| a.table == b.table) {
            let number = table.first().map_or(0, |entry| entry.table.0 as usize);
            let first = spans.len();
            spread(table, &mut spans);
            let place = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
            ports.resize(number, (0, 0));
            ports.push((place(first), place(spans.len())));
        }
        Self {
            hosts,
            prefixes: by_len.into_iter().rev().collect(),
            locals: image
                .locals
                .iter()
                .map(|local| (local.workload.clone(), (local.identity, local.mode)))
                .collect(),
            pairs,
            rows,
            ports,
            spans,
            decisions: image.decisions.clone(),
        }
    }

    /// Identity of an address.
    #[must_use]
    pub fn identity(&self, address: IpAddr) -> Identity {
        let address = u128::from_be_bytes(v4_mapped(address));
        if let Some(identity) = self.hosts.get(&address) {
            return *identity;
        }
        self.prefixes
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
        let pairs = &self.pairs[direction as usize];
        let table = match pairs.get(&pair(local, peer)) {
            Some(table) => table,
            None => &self.rows[direction as usize].get(&local)?[peer.kind()],
        };
        let (first, end) = *self.ports.get(table.0 as usize)?;
        let spans = self.spans.get(first as usize..end as usize)?;
        let asked = key(proto.for_policy(), port);
        let place = spans
            .partition_point(|(begin, _)| *begin <= asked)
            .checked_sub(1)?;
        let (_, decision) = *spans.get(place)?;
        let chain = self.decisions.get(decision as usize)?;
        Some(Judgement {
            chain,
            step: walk(chain.0.iter().copied(), app),
        })
    }
}
