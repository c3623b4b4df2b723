//! What a change of policy changes: between whom, on which ports, for which applications.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use nv_types::{
    Application, Decision, GroupName, IpPrefix, Mode, NodeId, Reason, Rule, Tier, Workload, WorkloadId,
    v4_mapped,
};

use crate::input::PolicyInput;
use crate::party::{Book, Party, Zone, is_present};
use crate::reference::evaluate;
use crate::space::{PortSpace, point};

/// Most pairs of classes that are compared.
const MAX_PAIRS: usize = 4_000_000;

/// Those on one end of a [`Difference`]: workloads that neither policy tells apart, or addresses that are no workload's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peers {
    /// For people: a service, a group of addresses, `nodes`, `external`.
    pub label: String,
    /// The workloads; empty for addresses.
    pub workloads: Vec<WorkloadId>,
    /// One of the addresses.
    pub address: Option<IpAddr>,
}

/// Some of all applications; one that was not recognized is one of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Applications {
    /// These.
    Only(Vec<Application>),
    /// All but these, of which there may be none.
    AllBut(Vec<Application>),
}

impl Applications {
    /// Whether the application is one of them.
    #[must_use]
    pub fn contains(&self, app: Application) -> bool {
        match self {
            Self::Only(list) => list.contains(&app),
            Self::AllBut(list) => !list.contains(&app),
        }
    }
}

/// Flows whose verdict changes, all in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Clients.
    pub from: Peers,
    /// Servers.
    pub to: Peers,
    /// Protocols and ports.
    pub ports: PortSpace,
    /// Applications.
    pub applications: Applications,
    /// What the old policy says.
    pub before: Decision,
    /// What the new one says.
    pub after: Decision,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {}", self.from.label, self.to.label, self.ports)?;
        let names = |list: &[Application]| {
            let names: Vec<_> = list.iter().map(|app| app.name()).collect();
            names.join(", ")
        };
        match &self.applications {
            Applications::Only(list) => write!(f, " as {}", names(list))?,
            Applications::AllBut(list) if list.is_empty() => {}
            Applications::AllBut(list) => write!(f, " as anything but {}", names(list))?,
        }
        let why = |decision: Decision| match decision.reason {
            Reason::Rule => format!("{} by rule {}", decision.verdict, decision.rule),
            Reason::Default => format!("{} (no rule matches)", decision.verdict),
            reason => format!("{} ({reason})", decision.verdict),
        };
        write!(f, ": {} -> {}", why(self.before), why(self.after))
    }
}

/// What [`diff`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// In the order of clients, servers and ports.
    pub list: Vec<Difference>,
    /// How many more there are than were asked for.
    pub omitted: usize,
    /// Pairs that were not compared because there are too many.
    pub not_compared: usize,
}

/// Those that neither policy tells apart.
struct Class {
    old: Party,
    new: Party,
    peers: Peers,
}

/// Everything whose verdict changes from one policy to the other, at most `max` of them: between the workloads that run in either
/// (one that only one of them knows is judged by both), nodes, and addresses outside. Verdicts count, not which rule gives them.
#[must_use]
pub fn diff(old: &PolicyInput, new: &PolicyInput, max: usize) -> Differences {
    let classes = classes(old, new);
    let (old_rules, new_rules) = (Index::new(old), Index::new(new));
    let mut found = Differences::default();
    let mut left = MAX_PAIRS;
    for from in &classes {
        let (old_from, new_from) = (old_rules.of(&from.old), new_rules.of(&from.new));
        for to in &classes {
            if left == 0 {
                found.not_compared += 1;
                continue;
            }
            left -= 1;
            let lists = (to_rules(&old_from, &to.old), to_rules(&new_from, &to.new));
            compare(old, new, (from, to), &lists, |difference| {
                if found.list.len() < max {
                    found.list.push(difference);
                } else {
                    found.omitted += 1;
                }
            });
        }
    }
    found
}

/// Rules that are enabled, by their from group.
struct Index<'a> {
    rules: Vec<&'a Rule>,
    by_from: BTreeMap<&'a GroupName, Vec<usize>>,
}

impl<'a> Index<'a> {
    fn new(input: &'a PolicyInput) -> Self {
        let rules: Vec<_> = input.ordered_rules().filter(|rule| !rule.disable).collect();
        let mut by_from: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (at, rule) in rules.iter().enumerate() {
            by_from.entry(&rule.from).or_default().push(at);
        }
        Self { rules, by_from }
    }

    /// Rules that the party is a client of, in order.
    fn of(&self, party: &Party) -> Vec<&'a Rule> {
        let places: BTreeSet<_> = party
            .groups
            .iter()
            .filter_map(|group| self.by_from.get(group))
            .flatten()
            .collect();
        places
            .into_iter()
            .filter_map(|at| self.rules.get(*at).copied())
            .collect()
    }
}

fn to_rules<'a>(rules: &[&'a Rule], server: &Party) -> Vec<&'a Rule> {
    rules
        .iter()
        .filter(|rule| server.groups.contains(&rule.to))
        .copied()
        .collect()
}

type Lists<'a> = (Vec<&'a Rule>, Vec<&'a Rule>);

fn compare(
    old: &PolicyInput,
    new: &PolicyInput,
    (from, to): (&Class, &Class),
    (old_rules, new_rules): &Lists<'_>,
    mut each: impl FnMut(Difference),
) {
    let was_apart = from.old.zone.is_apart(&to.old.zone);
    let is_apart = from.new.zone.is_apart(&to.new.zone);
    let learned = |rule: &Rule, is_apart| is_apart && rule.tier() == Tier::Learned;
    let same_rules = old_rules.len() == new_rules.len()
        && old_rules.iter().zip(new_rules).all(|(a, b)| {
            (&a.ports, &a.applications, a.action, learned(a, was_apart))
                == (&b.ports, &b.applications, b.action, learned(b, is_apart))
        });
    let same_modes = (from.old.mode, to.old.mode, was_apart) == (from.new.mode, to.new.mode, is_apart);
    let same_settings = (old.settings.contention, old.settings.icmp_policy)
        == (new.settings.contention, new.settings.icmp_policy);
    // The only workload of its class talks to itself, which every policy allows.
    let itself = std::ptr::eq(from, to) && from.peers.workloads.len() == 1;
    if itself || same_rules && same_modes && same_settings {
        return;
    }
    let (before, after) = (small(old, old_rules), small(new, new_rules));
    let apps: BTreeSet<Application> = old_rules
        .iter()
        .chain(new_rules)
        .flat_map(|rule| rule.applications.iter().copied())
        .chain([Application::UNKNOWN])
        .collect();
    // Two workloads of one class are two.
    let other = |party: &Party| Party {
        workload: None,
        ..party.clone()
    };
    let (old_server, new_server) = (other(&to.old), other(&to.new));
    let mut changed: BTreeMap<(Decision, Decision, Applications), PortSpace> = BTreeMap::new();
    for (first, last) in cells(old_rules.iter().chain(new_rules)) {
        let at = point(first);
        let mut here: BTreeMap<(Decision, Decision), Vec<Application>> = BTreeMap::new();
        for app in &apps {
            let (was, _) = evaluate(&before, &from.old, &old_server, at, *app);
            let (is, _) = evaluate(&after, &from.new, &new_server, at, *app);
            if was.verdict != is.verdict {
                here.entry((was, is)).or_default().push(*app);
            }
        }
        for ((was, is), list) in here {
            let list = if list.contains(&Application::UNKNOWN) {
                Applications::AllBut(apps.iter().filter(|app| !list.contains(app)).copied().collect())
            } else {
                Applications::Only(list)
            };
            changed.entry((was, is, list)).or_default().add((first, last));
        }
    }
    for ((before, after, applications), space) in changed {
        each(Difference {
            from: from.peers.clone(),
            to: to.peers.clone(),
            ports: space,
            applications,
            before,
            after,
        });
    }
}

/// The policy of a pair: what the reference needs and no more.
fn small(input: &PolicyInput, rules: &[&Rule]) -> PolicyInput {
    PolicyInput {
        settings: input.settings.clone(),
        rules: rules.iter().map(|rule| (*rule).clone()).collect(),
        ..PolicyInput::default()
    }
}

/// Stretches of ports in which no rule begins or ends.
fn cells<'a>(rules: impl Iterator<Item = &'a &'a Rule>) -> Vec<(u32, u32)> {
    const END: u32 = 0x4_0000;
    let mut cuts = BTreeSet::from([0, 1, 0x1_0000, 0x2_0000, 0x3_0000, END]);
    for rule in rules {
        for (first, last) in PortSpace::of(&rule.ports, true).spans() {
            cuts.extend([*first, last + 1]);
        }
    }
    let cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut <= END).collect();
    cuts.windows(2).map(|pair| (pair[0], pair[1] - 1)).collect()
}

fn classes(old: &PolicyInput, new: &PolicyInput) -> Vec<Class> {
    type Side = (BTreeSet<GroupName>, Option<Mode>, Zone);
    type Key = (Side, Side, bool);
    let (old_book, new_book) = (Book::new(old), Book::new(new));
    let mut found: BTreeMap<Key, Class> = BTreeMap::new();
    let mut put = |old: Party, new: Party, label: &dyn Fn(&Party) -> String, address: Option<IpAddr>| {
        let id = new.workload.clone();
        let side = |party: &Party| (party.groups.clone(), party.mode, party.zone.clone());
        let key = (side(&old), side(&new), id.is_some());
        let class = found.entry(key).or_insert_with(|| Class {
            peers: Peers {
                label: label(&new),
                workloads: Vec::new(),
                address,
            },
            old,
            new,
        });
        class.peers.workloads.extend(id);
    };
    let workloads: BTreeMap<&WorkloadId, &Workload> = old
        .workloads
        .iter()
        .chain(&new.workloads)
        .filter(|(_, workload)| is_present(workload))
        .collect();
    for (id, workload) in workloads {
        let judged = |input: &'_ PolicyInput, book: &Book<'_>| {
            book.workload(
                input
                    .workloads
                    .get(id)
                    .filter(|workload| is_present(workload))
                    .unwrap_or(workload),
            )
        };
        let label = |_: &Party| {
            workload
                .service_group()
                .map_or_else(|| workload.name.clone(), |group| group.to_string())
        };
        put(judged(old, &old_book), judged(new, &new_book), &label, None);
    }
    let nodes: BTreeMap<&IpAddr, &NodeId> = old
        .nodes
        .values()
        .chain(new.nodes.values())
        .flat_map(|node| node.addresses.iter().map(move |address| (address, &node.id)))
        .filter(|(address, _)| !address.is_loopback())
        .collect();
    for (address, node) in nodes {
        let mapped = v4_mapped(*address);
        let at = |book: &Book<'_>| book.outsider(mapped, Some(node));
        put(at(&old_book), at(&new_book), &outside, Some(*address));
    }
    for mapped in places(old_book.prefixes().chain(new_book.prefixes())) {
        let at = |book: &Book<'_>| book.outsider(mapped, None);
        let address = Ipv6Addr::from(mapped).to_canonical();
        put(at(&old_book), at(&new_book), &outside, Some(address));
    }
    found.into_values().collect()
}

/// What addresses are called: by their groups, else `external` or `nodes`.
fn outside(party: &Party) -> String {
    let names: Vec<_> = party.groups.iter().map(GroupName::as_str).collect();
    let named: Vec<_> = names
        .iter()
        .filter(|name| !nv_types::reserved::ALL.contains(name))
        .copied()
        .collect();
    if named.is_empty() {
        names.join("+")
    } else {
        named.join("+")
    }
}

/// An address of every stretch in which no prefix begins or ends.
fn places(prefixes: impl Iterator<Item = IpPrefix>) -> BTreeSet<[u8; 16]> {
    let v4 = v4_mapped(IpAddr::from([0, 0, 0, 0]));
    let mut places = BTreeSet::from([[0; 16], v4]);
    for prefix in prefixes {
        let size = 128 - u32::from(prefix.len);
        let mask = u128::MAX.checked_shl(size).unwrap_or(0);
        let first = u128::from_be_bytes(prefix.addr) & mask;
        places.insert(first.to_be_bytes());
        places.extend((first | !mask).checked_add(1).map(u128::to_be_bytes));
    }
    places
}
