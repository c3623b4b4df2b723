//! From an ordered list of rules to disjoint (protocol, port interval) -> chain, cut into prefixes.

use nv_types::{
    AppMask, Chain, ChainEntry, Decision, IpProto, MAX_CHAIN, Mode, PortSpec, Reason, Rule, RuleId, Verdict,
    judge,
};

use crate::reference::beyond;

/// More applications differ on one port than a chain can tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainTooLong {
    /// Rules that meet there, in order.
    pub(crate) rules: Vec<RuleId>,
}

/// A chain for a prefix of (protocol, port): 0 bits the whole table, 8 the protocol, 9 to 24 a port prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) proto: IpProto,
    pub(crate) port: u16,
    pub(crate) prefix_len: u8,
    /// Its place in [`Flat::chains`].
    pub(crate) chain: usize,
}

/// A port table: the first chain is that of the whole table; one chain may be there more than once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flat {
    /// Sorted.
    pub(crate) cells: Vec<Cell>,
    pub(crate) chains: Vec<Chain>,
}

impl Flat {
    fn of(chain: Chain) -> Self {
        let whole = Cell {
            proto: IpProto(0),
            port: 0,
            prefix_len: 0,
            chain: 0,
        };
        Self {
            cells: vec![whole],
            chains: vec![chain],
        }
    }

    /// What two ends have between them of which neither is managed.
    pub(crate) fn open() -> Self {
        Self::of(Chain(vec![ChainEntry {
            apps: AppMask::ANY,
            decision: Decision::implicit(Verdict::Allow, Reason::Unmanaged),
        }]))
    }

    fn is_default(&self, chain: &Chain) -> bool {
        self.chains.first() == Some(chain)
    }

    /// Keeps a chain; the place that it has.
    fn keep(&mut self, chain: Chain) -> usize {
        self.chains.push(chain);
        self.chains.len() - 1
    }

    /// A protocol as a whole.
    fn put(&mut self, proto: IpProto, chain: usize) {
        self.cells.push(Cell {
            proto,
            port: 0,
            prefix_len: 8,
            chain,
        });
    }
}

/// What a mode and the settings make of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Judge {
    pub(crate) mode: Mode,
    pub(crate) icmp_policy: bool,
    /// Between two that the boundary of a domain lies between; the rules are without learned ones then.
    pub(crate) is_apart: bool,
}

/// The table of rules that apply between two classes, in order.
pub(crate) fn flatten(rules: &[&Rule], judge: Judge) -> Result<Flat, ChainTooLong> {
    let places = |holds: &dyn Fn(&Rule) -> bool| -> Vec<usize> {
        let places = rules.iter().enumerate().filter(|(_, rule)| holds(rule));
        places.map(|(at, _)| at).collect()
    };
    let everywhere = places(&|rule| rule.ports.is_any());
    let mut flat = Flat::of(chain(rules, &everywhere, judge, false)?);
    let icmp = places(&|rule| rule.ports.matches(IpProto::ICMP, 0, judge.icmp_policy));
    let icmp = chain(rules, &icmp, judge, true)?;
    if !flat.is_default(&icmp) {
        let icmp = flat.keep(icmp);
        flat.put(IpProto::ICMP, icmp);
    }
    for proto in [IpProto::TCP, IpProto::UDP, IpProto::SCTP] {
        ports(rules, &everywhere, judge, proto, &mut flat)?;
    }
    flat.cells.sort_unstable();
    Ok(flat)
}

/// The cells of a protocol with ports.
fn ports(
    rules: &[&Rule],
    everywhere: &[usize],
    judge: Judge,
    proto: IpProto,
    flat: &mut Flat,
) -> Result<(), ChainTooLong> {
    // Where a rule begins to hold, and where it ends: the boundaries of a sweep over the ports.
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for (at, rule) in rules.iter().enumerate() {
        for (first, last) in intervals(rule, proto) {
            starts.push((first, at));
            ends.push((last + 1, at));
        }
    }
    if starts.is_empty() {
        return Ok(());
    }
    starts.sort_unstable();
    ends.sort_unstable();
    let (mut starts, mut ends) = (starts.into_iter().peekable(), ends.into_iter().peekable());
    let mut active = everywhere.to_vec();
    let mut pieces: Vec<(u32, Chain)> = Vec::new();
    let mut bound = 0;
    loop {
        while let Some((_, at)) = ends.next_if(|(end, _)| *end <= bound) {
            if let Ok(place) = active.binary_search(&at) {
                active.remove(place);
            }
        }
        while let Some((_, at)) = starts.next_if(|(start, _)| *start <= bound) {
            if let Err(place) = active.binary_search(&at) {
                active.insert(place, at);
            }
        }
        let chain = chain(rules, &active, judge, false)?;
        if pieces.last().is_none_or(|(_, last)| *last != chain) {
            pieces.push((bound, chain));
        }
        let next = [starts.peek(), ends.peek()];
        match next.into_iter().flatten().map(|(bound, _)| *bound).min() {
            Some(next) if next <= 0xffff => bound = next,
            _ => break,
        }
    }
    let Some((_, base_chain)) = pieces.get(widest(&pieces)).cloned() else {
        return Ok(());
    };
    if !flat.is_default(&base_chain) {
        let chain = flat.keep(base_chain.clone());
        flat.put(proto, chain);
    }
    let ends: Vec<u32> = pieces
        .iter()
        .skip(1)
        .map(|(start, _)| *start)
        .chain([0x1_0000])
        .collect();
    for ((start, chain), end) in pieces.into_iter().zip(ends) {
        if chain == base_chain {
            continue;
        }
        let chain = flat.keep(chain);
        flat.cells.extend(prefixes(start, end).map(|(port, bits)| Cell {
            proto,
            port,
            prefix_len: 8 + bits,
            chain,
        }));
    }
    Ok(())
}

/// A rule's ports of one protocol, overlaps and neighbours joined, as (first, last).
fn intervals(rule: &Rule, proto: IpProto) -> Vec<(u32, u32)> {
    let mut list: Vec<(u32, u32)> = rule
        .ports
        .specs()
        .iter()
        .filter_map(|spec| match *spec {
            PortSpec::Ports(wanted, range) if wanted == proto => {
                Some((u32::from(range.first), u32::from(range.last)))
            }
            _ => None,
        })
        .collect();
    list.sort_unstable();
    let mut joined: Vec<(u32, u32)> = Vec::with_capacity(list.len());
    for (first, last) in list {
        match joined.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// Where the chain is that most ports have: it is stored once, for the whole protocol. Of several the greatest.
fn widest(pieces: &[(u32, Chain)]) -> usize {
    let ends = pieces.iter().skip(1).map(|(start, _)| *start).chain([0x1_0000]);
    let mut widths: Vec<(&Chain, u32, usize)> = pieces
        .iter()
        .zip(ends)
        .enumerate()
        .map(|(at, ((start, chain), end))| (chain, end - start, at))
        .collect();
    widths.sort_unstable();
    let runs = widths.chunk_by(|a, b| a.0 == b.0);
    let sums = runs.filter_map(|run| {
        let width: u32 = run.iter().map(|(_, width, _)| width).sum();
        Some((width, run.first()?.2))
    });
    sums.max_by_key(|(width, _)| *width).map_or(0, |(_, at)| at)
}

/// `start..end` as (port, bits) prefixes; 0 bits never occur, as a protocol-wide cell is stored as such.
fn prefixes(start: u32, end: u32) -> impl Iterator<Item = (u16, u8)> {
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        // At most 15 bits, so that at least one bit of the port counts.
        let mut size = at.trailing_zeros().min(15);
        while at + (1 << size) > end {
            size -= 1;
        }
        let port = u16::try_from(at).ok()?;
        let bits = u8::try_from(16 - size).ok()?;
        at += 1 << size;
        Some((port, bits))
    })
}

/// The chain of the rules that hold somewhere, in order, up to the first for any application.
fn chain(rules: &[&Rule], active: &[usize], judge_by: Judge, icmp: bool) -> Result<Chain, ChainTooLong> {
    let mut seen = AppMask::NONE;
    let mut entries: Vec<ChainEntry> = Vec::with_capacity(active.len().min(MAX_CHAIN - 1) + 1);
    for rule in active.iter().filter_map(|at| rules.get(*at)) {
        let verdict = judge(Some(rule.action), judge_by.mode);
        let decision = Decision {
            verdict,
            reason: Reason::Rule,
            rule: rule.id,
        };
        if rule.applications.is_empty() {
            entries.push(ChainEntry {
                apps: AppMask::ANY,
                decision,
            });
            break;
        }
        let apps: AppMask = rule.applications.iter().copied().collect();
        let fresh = AppMask(apps.0 & !seen.0);
        if fresh != AppMask::NONE {
            seen = AppMask(seen.0 | apps.0);
            entries.push(ChainEntry {
                apps: fresh,
                decision,
            });
        }
    }
    if !entries.last().is_some_and(|entry| entry.apps.is_any()) {
        let decision = if icmp && !judge_by.icmp_policy {
            Decision::implicit(Verdict::Allow, Reason::NotPoliced)
        } else if judge_by.is_apart {
            Decision::implicit(beyond(judge_by.mode), Reason::Boundary)
        } else {
            Decision::implicit(judge(None, judge_by.mode), Reason::Default)
        };
        entries.push(ChainEntry {
            apps: AppMask::ANY,
            decision,
        });
    }
    if entries.len() > MAX_CHAIN {
        return Err(ChainTooLong {
            rules: entries.iter().map(|entry| entry.decision.rule).collect(),
        });
    }
    Ok(Chain(entries))
}
