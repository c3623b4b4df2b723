//! Compiling: input to the image of one node.

use std::collections::BTreeMap;

use nv_types::{
    AppMask, Chain, ChainEntry, Decision, DecisionId, Direction, GroupName, Identity, LocalEntry, Mode,
    NodeId, PairEntry, PolicyImage, PortEntry, PortTableId, Reason, Revision, Rule, RuleId, Verdict,
    effective_mode,
};

use crate::flatten::{Cell, Judge, flatten};
use crate::identity::{Class, Identities};
use crate::input::PolicyInput;
use crate::party::Book;

/// A policy that cannot be compiled. The one in force stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// More applications differ on one port than a chain holds.
    #[error(
        "rules {} meet on one port with more than 7 different answers by application: put applications of equal action into one rule",
        list(.rules)
    )]
    ChainTooLong {
        /// The rules, in order.
        rules: Vec<RuleId>,
    },
}

fn list(rules: &[RuleId]) -> String {
    let shown: Vec<_> = rules
        .iter()
        .filter(|rule| **rule != RuleId::IMPLICIT)
        .map(ToString::to_string)
        .collect();
    shown.join(", ")
}

/// Something that an administrator should know; the rest of the policy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Diagnostic {
    /// A group that cannot be read, or is not enforced in full.
    Group {
        /// Group.
        name: GroupName,
        /// What about it.
        problem: String,
    },
    /// A rule that names a group that does not exist: it matches nobody.
    UnknownGroup {
        /// Rule.
        rule: RuleId,
        /// Group.
        name: GroupName,
    },
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Group { name, problem } => write!(f, "group '{name}': {problem}"),
            Self::UnknownGroup { rule, name } => {
                write!(f, "rule {rule}: there is no group '{name}', so it matches nobody")
            }
        }
    }
}

/// What a compilation gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Tables for the datapath.
    pub image: PolicyImage,
    /// What an administrator should know.
    pub diagnostics: Vec<Diagnostic>,
    /// What each identity stands for: the groups that rules speak of, and the mode.
    pub identities: BTreeMap<Identity, (Vec<GroupName>, Option<Mode>)>,
}

/// Compiles the policy of a node at a revision. Equal input gives an equal image.
///
/// # Errors
/// [`CompileError`] when the policy cannot be expressed in tables.
pub fn compile(input: &PolicyInput, node: &NodeId, revision: Revision) -> Result<Compiled, CompileError> {
    let book = Book::new(input);
    let identities = Identities::new(&book, node);
    let mut tables = TableSet::new(input);
    let mut pairs = Vec::new();
    let classes: Vec<(&Class, Identity)> = identities
        .classes
        .iter()
        .map(|(class, identity)| (class, *identity))
        .collect();
    let mut local_ids: Vec<Identity> = identities
        .locals
        .values()
        .map(|(identity, _)| *identity)
        .collect();
    local_ids.sort_unstable();
    local_ids.dedup();
    for (local, identity) in classes
        .iter()
        .filter(|(_, identity)| local_ids.binary_search(identity).is_ok())
    {
        for direction in [Direction::Ingress, Direction::Egress] {
            let near = tables.near(local, direction);
            let mut row = Vec::with_capacity(classes.len());
            for (peer, peer_id) in &classes {
                row.push((*peer_id, tables.between(local, direction, peer, &near)?));
            }
            pairs.extend(compress(*identity, direction, &row));
        }
    }
    let mut diagnostics: Vec<_> = book
        .problems()
        .iter()
        .map(|(name, problem)| Diagnostic::Group {
            name: name.clone(),
            problem: problem.clone(),
        })
        .collect();
    diagnostics.extend(unknown_groups(input));
    let (ports, decisions) = tables.finish();
    let locals = identities
        .locals
        .iter()
        .map(|(workload, (identity, mode))| LocalEntry {
            workload: workload.clone(),
            identity: *identity,
            mode: *mode,
        })
        .collect();
    pairs.sort();
    let described = identities
        .classes
        .iter()
        .map(|(class, identity)| (*identity, (class.groups.iter().cloned().collect(), class.mode)))
        .collect();
    let image = PolicyImage {
        revision,
        addresses: identities.addresses,
        locals,
        pairs,
        ports,
        decisions,
    };
    Ok(Compiled {
        image,
        diagnostics,
        identities: described,
    })
}

fn unknown_groups(input: &PolicyInput) -> Vec<Diagnostic> {
    let known = |name: &GroupName| {
        input.groups.contains_key(name) || nv_types::reserved::ALL.contains(&name.as_str())
    };
    input
        .rules
        .iter()
        .flat_map(|rule| [(rule.id, &rule.from), (rule.id, &rule.to)])
        .filter(|(_, name)| !known(name))
        .map(|(rule, name)| Diagnostic::UnknownGroup {
            rule,
            name: name.clone(),
        })
        .collect()
}

/// A row of pairs without those that decide like the most common one, which becomes ANY.
fn compress(local: Identity, direction: Direction, row: &[(Identity, PortTableId)]) -> Vec<PairEntry> {
    let mut count: BTreeMap<PortTableId, usize> = BTreeMap::new();
    for (_, table) in row {
        *count.entry(*table).or_default() += 1;
    }
    let Some(any) = count
        .iter()
        .max_by_key(|(table, count)| (**count, std::cmp::Reverse(**table)))
        .map(|(table, _)| *table)
    else {
        return Vec::new();
    };
    let entry = |peer, ports| PairEntry {
        local,
        direction,
        peer,
        ports,
    };
    std::iter::once(entry(Identity::ANY, any))
        .chain(
            row.iter()
                .filter(|(_, table)| *table != any)
                .map(|(peer, table)| entry(*peer, *table)),
        )
        .collect()
}

/// Port tables, each stored once.
struct TableSet<'a> {
    input: &'a PolicyInput,
    /// Enabled rules in order.
    rules: Vec<&'a Rule>,
    /// Place of each rule by its client group and by its server group.
    by_from: BTreeMap<&'a GroupName, Vec<usize>>,
    by_to: BTreeMap<&'a GroupName, Vec<usize>>,
    /// Tables by the rules and the mode that make them, `None`: not policed.
    known: BTreeMap<Option<(Vec<usize>, Mode)>, PortTableId>,
    /// Tables by content.
    tables: BTreeMap<Vec<Cell>, PortTableId>,
}

impl<'a> TableSet<'a> {
    fn new(input: &'a PolicyInput) -> Self {
        let rules: Vec<_> = input.ordered_rules().filter(|rule| !rule.disable).collect();
        let mut by_from: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        let mut by_to: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (at, rule) in rules.iter().enumerate() {
            by_from.entry(&rule.from).or_default().push(at);
            by_to.entry(&rule.to).or_default().push(at);
        }
        Self {
            input,
            rules,
            by_from,
            by_to,
            known: BTreeMap::new(),
            tables: BTreeMap::new(),
        }
    }

    /// Rules that speak of the local class on its side of the direction, by the group that they name on the other.
    fn near(&self, local: &Class, direction: Direction) -> BTreeMap<&'a GroupName, Vec<usize>> {
        let index = match direction {
            Direction::Egress => &self.by_from,
            Direction::Ingress => &self.by_to,
        };
        let mut near: BTreeMap<&'a GroupName, Vec<usize>> = BTreeMap::new();
        for at in local.groups.iter().filter_map(|group| index.get(group)).flatten() {
            if let Some(rule) = self.rules.get(*at) {
                let far = match direction {
                    Direction::Egress => &rule.to,
                    Direction::Ingress => &rule.from,
                };
                near.entry(far).or_default().push(*at);
            }
        }
        near
    }

    /// The table between a local class and a peer's.
    fn between(
        &mut self,
        local: &Class,
        direction: Direction,
        peer: &Class,
        near: &BTreeMap<&'a GroupName, Vec<usize>>,
    ) -> Result<PortTableId, CompileError> {
        let (client, server) = match direction {
            Direction::Egress => (local.mode, peer.mode),
            Direction::Ingress => (peer.mode, local.mode),
        };
        let key = effective_mode(client, server, self.input.settings.contention).map(|mode| {
            let mut places: Vec<usize> = peer
                .groups
                .iter()
                .filter_map(|group| near.get(group))
                .flatten()
                .copied()
                .collect();
            places.sort_unstable();
            (places, mode)
        });
        if let Some(table) = self.known.get(&key) {
            return Ok(*table);
        }
        let cells = match &key {
            None => vec![open_table()],
            Some((places, mode)) => {
                let rules: Vec<_> = places
                    .iter()
                    .filter_map(|at| self.rules.get(*at))
                    .copied()
                    .collect();
                let judge = Judge {
                    mode: *mode,
                    icmp_policy: self.input.settings.icmp_policy,
                };
                flatten(&rules, judge).map_err(|error| CompileError::ChainTooLong { rules: error.rules })?
            }
        };
        let next = PortTableId(u32::try_from(self.tables.len()).unwrap_or(u32::MAX));
        let table = *self.tables.entry(cells).or_insert(next);
        self.known.insert(key, table);
        Ok(table)
    }

    /// Entries and chains, each chain stored once.
    fn finish(self) -> (Vec<PortEntry>, Vec<Chain>) {
        let mut chains: BTreeMap<Chain, DecisionId> = self
            .tables
            .keys()
            .flatten()
            .map(|cell| (cell.chain.clone(), DecisionId(0)))
            .collect();
        for (place, id) in chains.values_mut().zip(0..) {
            *place = DecisionId(id);
        }
        let mut ports: Vec<PortEntry> = self
            .tables
            .iter()
            .flat_map(|(cells, table)| cells.iter().map(move |cell| (cell, *table)))
            .filter_map(|(cell, table)| {
                let decision = *chains.get(&cell.chain)?;
                Some(PortEntry {
                    table,
                    proto: cell.proto,
                    port: cell.port,
                    prefix_len: cell.prefix_len,
                    decision,
                })
            })
            .collect();
        ports.sort();
        (ports, chains.into_keys().collect())
    }
}

/// What two ends have between them of which neither is managed.
fn open_table() -> Cell {
    let decision = Decision::implicit(Verdict::Allow, Reason::Unmanaged);
    let chain = Chain(vec![ChainEntry {
        apps: AppMask::ANY,
        decision,
    }]);
    Cell {
        proto: nv_types::IpProto(0),
        port: 0,
        prefix_len: 0,
        chain,
    }
}
