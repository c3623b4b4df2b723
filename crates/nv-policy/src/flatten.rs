//! From an ordered list of rules to disjoint (protocol, port interval) -> chain, cut into prefixes.

use std::collections::{BTreeMap, BTreeSet};

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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) proto: IpProto,
    pub(crate) port: u16,
    pub(crate) prefix_len: u8,
    pub(crate) chain: Chain,
}

impl Cell {
    /// What two ends have between them of which neither is managed.
    pub(crate) fn open() -> Self {
        let chain = Chain(vec![ChainEntry {
            apps: AppMask::ANY,
            decision: Decision::implicit(Verdict::Allow, Reason::Unmanaged),
        }]);
        Self {
            proto: IpProto(0),
            port: 0,
            prefix_len: 0,
            chain,
        }
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
pub(crate) fn flatten(rules: &[&Rule], judge: Judge) -> Result<Vec<Cell>, ChainTooLong> {
    let everywhere: BTreeSet<usize> = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.ports.is_any())
        .map(|(at, _)| at)
        .collect();
    let default = chain(rules, &everywhere, judge, false)?;
    let mut cells = vec![Cell {
        proto: IpProto(0),
        port: 0,
        prefix_len: 0,
        chain: default.clone(),
    }];
    let icmp: BTreeSet<usize> = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.ports.matches(IpProto::ICMP, 0, judge.icmp_policy))
        .map(|(at, _)| at)
        .collect();
    let icmp = chain(rules, &icmp, judge, true)?;
    if icmp != default {
        cells.push(Cell {
            proto: IpProto::ICMP,
            port: 0,
            prefix_len: 8,
            chain: icmp,
        });
    }
    for proto in [IpProto::TCP, IpProto::UDP, IpProto::SCTP] {
        cells.extend(ports(rules, &everywhere, judge, proto, &default)?);
    }
    cells.sort();
    Ok(cells)
}

/// The cells of a protocol with ports.
fn ports(
    rules: &[&Rule],
    everywhere: &BTreeSet<usize>,
    judge: Judge,
    proto: IpProto,
    default: &Chain,
) -> Result<Vec<Cell>, ChainTooLong> {
    // Where a rule begins to hold, and where it ends: the boundaries of a sweep over the ports.
    let mut starts: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let mut ends: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, rule) in rules.iter().enumerate() {
        for (first, last) in intervals(rule, proto) {
            starts.entry(first).or_default().push(at);
            ends.entry(last + 1).or_default().push(at);
        }
    }
    if starts.is_empty() {
        return Ok(Vec::new());
    }
    let bounds: BTreeSet<u32> = starts.keys().chain(ends.keys()).copied().chain([0]).collect();
    let mut active = everywhere.clone();
    let mut pieces: Vec<(u32, Chain)> = Vec::new();
    for bound in bounds.into_iter().filter(|bound| *bound <= 0xffff) {
        for at in ends.get(&bound).into_iter().flatten() {
            active.remove(at);
        }
        active.extend(starts.get(&bound).into_iter().flatten().copied());
        let chain = chain(rules, &active, judge, false)?;
        if pieces.last().is_none_or(|(_, last)| *last != chain) {
            pieces.push((bound, chain));
        }
    }
    let base = widest(&pieces);
    let mut cells = Vec::new();
    if base != *default {
        cells.push(Cell {
            proto,
            port: 0,
            prefix_len: 8,
            chain: base.clone(),
        });
    }
    let ends = pieces.iter().skip(1).map(|(start, _)| *start).chain([0x1_0000]);
    for ((start, chain), end) in pieces.iter().zip(ends).filter(|((_, chain), _)| *chain != base) {
        cells.extend(prefixes(*start, end).map(|(port, bits)| Cell {
            proto,
            port,
            prefix_len: 8 + bits,
            chain: chain.clone(),
        }));
    }
    Ok(cells)
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

/// The chain that most ports have: it is stored once, for the whole protocol.
fn widest(pieces: &[(u32, Chain)]) -> Chain {
    let mut width: BTreeMap<&Chain, u32> = BTreeMap::new();
    let ends = pieces.iter().skip(1).map(|(start, _)| *start).chain([0x1_0000]);
    for ((start, chain), end) in pieces.iter().zip(ends) {
        *width.entry(chain).or_default() += end - start;
    }
    width
        .into_iter()
        .max_by_key(|(_, width)| *width)
        .map_or_else(|| Chain(Vec::new()), |(chain, _)| chain.clone())
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
fn chain(
    rules: &[&Rule],
    active: &BTreeSet<usize>,
    judge_by: Judge,
    icmp: bool,
) -> Result<Chain, ChainTooLong> {
    let mut seen = AppMask::NONE;
    let mut entries: Vec<ChainEntry> = Vec::new();
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
