//! Compiling: a policy to the image of one node, and from then on every change to the difference that it makes.
//!
//! Groups know their members and workloads their groups, so that a workload that comes asks only the groups that may hold it.
//! Workloads and prefixes that no rule can tell apart are a class; a class's number is its identity. For every class of
//! the node's own workloads, and each direction, there is a row: a port table for any peer, and those peer classes for which
//! another one holds. A change makes anew the rows that it can have touched and no others. Numbers of identities, port
//! tables and chains stay what they are while what they stand for is in use.

mod change;
mod claim;
mod classes;
mod domains;
mod journal;
mod links;
mod listing;
mod members;
mod outside;
mod roster;
mod rows;
mod rules;
mod sets;
mod settle;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{
    AddressEntry, Contention, GroupName, Identity, IpPrefix, LocalEntry, Mode, NodeId, PairEntry,
    PolicyImage, PolicySettings, PortTableId, Revision, RuleId, TablesDelta, Workload, WorkloadId, reserved,
};

pub use change::Change;

use classes::{Classes, ZoneKey};
use journal::Journal;
use members::{Gx, Members, Wx};
use outside::Outside;
use rows::{Room, Row, RowKey, Single};
use rules::Rules;
use store::Store;

use crate::compile::Diagnostic;
use crate::input::PolicyInput;
use crate::map::Map;
use crate::party::Zone;

/// Rules that are taken one by one when they change together; more are taken at once.
const FEW_RULES: usize = 8;

/// Workloads that are fetched from memory together.
const AT_A_TIME: usize = 32;

/// Reads a byte of each text that decides where these workloads belong. They lie all over memory; read one after the other, without work
/// between them, they are fetched at the same time instead of one at a time.
fn touch(workloads: &[(&WorkloadId, &Workload)]) {
    let first = |text: &str| usize::from(text.as_bytes().first().copied().unwrap_or_default());
    let mut sum = 0;
    for (id, workload) in workloads {
        sum += first(id.as_str()) + first(&workload.service) + first(&workload.domain);
        sum += workload.interfaces.first().map_or(0, |own| own.addresses.len());
    }
    for (_, workload) in workloads {
        let labels = workload.labels.iter();
        sum += labels
            .map(|(key, value)| first(key) + first(value))
            .sum::<usize>();
        let addresses = workload.interfaces.iter().flat_map(|own| &own.addresses);
        sum += addresses.map(|(_, length)| usize::from(*length)).sum::<usize>();
    }
    std::hint::black_box(sum);
}

/// The compiler of one node: holds what it made, and takes changes.
///
/// ```
/// use nv_policy::{Change, Compiler, PolicyInput, rule};
/// use nv_types::{Action, Revision};
///
/// let mut input = PolicyInput::default();
/// let mut compiler = Compiler::new(&input, &"n1".parse().unwrap(), Revision(1));
/// let mut image = compiler.image();
///
/// input.rules.push(rule(1, "containers", "external", "tcp/443", Action::Allow).unwrap());
/// let delta = compiler.update(&input, &[Change::Rule(nv_types::RuleId(1))], Revision(2));
/// image.apply(&delta);
/// assert_eq!(image, compiler.image());
/// ```
#[derive(Debug)]
pub struct Compiler {
    node: NodeId,
    revision: Revision,
    switches: Switches,
    members: Members,
    rules: Rules,
    outside: Outside,
    classes: Classes,
    rows: BTreeMap<RowKey, Row>,
    store: Store,
    /// Tables by the rules (their stamps) and the mode that make them; a table may be gone since.
    made: Map<Recipe, (PortTableId, u32)>,
    /// Tables of one rule alone, by the rule's number.
    singles: Vec<Single>,
    /// Room for the recipe of the table that is asked for.
    recipe: Vec<u32>,
    room: Room,
    addresses: BTreeMap<IpPrefix, Identity>,
    refused: BTreeMap<RuleId, Vec<RuleId>>,
    journal: Journal,
    todo: Todo,
}

/// What a datapath is told of a workload of its node; nothing where nobody manages it.
fn local_entry(slot: &members::WorkloadSlot) -> Option<LocalEntry> {
    let (identity, mode) = classes::local(slot.class?)?;
    let workload = slot.id.clone();
    Some(LocalEntry {
        workload,
        identity,
        mode,
    })
}

/// Settings of which a change means to compile anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Switches {
    contention: Contention,
    icmp_policy: bool,
    new_service_mode: Mode,
    network_mode: Option<Mode>,
    internal_names: BTreeSet<String>,
}

impl Switches {
    fn of(settings: &PolicySettings) -> Self {
        Self {
            contention: settings.contention,
            icmp_policy: settings.icmp_policy,
            new_service_mode: settings.new_service_mode,
            network_mode: settings.network_mode,
            internal_names: settings.internal_names.clone(),
        }
    }
}

/// What a port table is made of: first the mode (0: not policed) and whether a boundary lies between the two, then the stamps of
/// rules in order.
type Recipe = Box<[u32]>;

/// What a change has touched and is not settled yet.
#[derive(Debug, Default)]
struct Todo {
    workloads: Vec<Wx>,
    /// Groups that a rule began or ceased to speak of.
    groups: Vec<Gx>,
    outside: bool,
    addresses: Vec<[u8; 16]>,
    /// From and to groups of rules that came, changed, moved or went.
    rules: Vec<(Gx, Gx)>,
    rows: BTreeSet<RowKey>,
}

impl Compiler {
    /// Compiles the whole input for a node.
    #[must_use]
    pub fn new(input: &PolicyInput, node: &NodeId, revision: Revision) -> Self {
        let mut compiler = Self {
            node: node.clone(),
            revision,
            switches: Switches::of(&input.settings),
            members: Members::new(),
            rules: Rules::default(),
            outside: Outside::default(),
            classes: Classes::default(),
            rows: BTreeMap::new(),
            store: Store::default(),
            made: Map::default(),
            singles: Vec::new(),
            recipe: Vec::new(),
            room: Room::default(),
            addresses: BTreeMap::new(),
            refused: BTreeMap::new(),
            journal: Journal::default(),
            todo: Todo::default(),
        };
        compiler
            .members
            .reserve(input.workloads.len(), input.groups.len());
        compiler.rules.reserve(input.rules.len());
        compiler.store.reserve(input.rules.len());
        compiler.members.domains.list(&input.settings.bounded_domains);
        for name in input.groups.keys() {
            compiler.members.put_group(input, name);
        }
        compiler.add_rules(input, |_| true);
        // Nobody is there yet, so nobody has to be told; and all rows will be made anyway.
        compiler.note_spoken();
        compiler.todo.rules.clear();
        for id in input.nodes.keys() {
            compiler.outside.put_node(input, id);
        }
        let workloads: Vec<_> = input.workloads.iter().collect();
        for some in workloads.chunks(AT_A_TIME) {
            touch(some);
            for (id, workload) in some {
                compiler.put_workload(input, id, Some(workload));
            }
        }
        compiler.outside.mode = input.modes.get(reserved::NODES).copied();
        compiler.todo.outside = true;
        compiler.settle();
        compiler.begin_recording();
        compiler
    }

    /// Takes changes: `input` is what holds now, `changes` name what may differ from the last time. One that names nothing
    /// that differs costs little; one that is missing leaves what it stands for as it was.
    pub fn update(&mut self, input: &PolicyInput, changes: &[Change], revision: Revision) -> TablesDelta {
        if changes.contains(&Change::All) || self.switches != Switches::of(&input.settings) {
            let before = self.image();
            *self = Self::new(input, &self.node.clone(), revision);
            return journal::difference(&before, &self.image());
        }
        self.revision = revision;
        self.admit_refused();
        let moved = self.members.domains.list(&input.settings.bounded_domains);
        self.todo.workloads.extend(moved);
        let rules: BTreeSet<RuleId> = changes.iter().filter_map(Change::rule).collect();
        let many = rules.len() > FEW_RULES;
        if many {
            self.take_rules(input, &rules);
        }
        for change in changes.iter().filter(|change| !many || change.rule().is_none()) {
            self.take(input, change);
        }
        self.settle();
        self.delta()
    }

    fn take(&mut self, input: &PolicyInput, change: &Change) {
        match change {
            Change::All | Change::Settings => {}
            Change::Node(id) => self.todo.outside |= self.outside.put_node(input, id),
            Change::Group(name) => self.put_group(input, name),
            Change::Mode(name) => {
                if name.as_str() == reserved::NODES {
                    self.outside.mode = input.modes.get(name).copied();
                    self.todo.outside = true;
                }
                let mode = input.service_mode(name);
                for number in self.members.domains.services_of(name).to_vec() {
                    let service = self.members.domains.service_mut(number);
                    service.mode = Some(mode);
                    self.todo.workloads.extend(&service.members);
                }
            }
            Change::Workload(id) => self.put_workload(input, id, input.workloads.get(id)),
            Change::Name(name) => {
                for group in self.members.naming(name) {
                    self.put_group(input, &group);
                }
            }
            Change::Rule(id) => {
                self.remove_rule(*id);
                if let Some(at) = input.rules.iter().position(|rule| rule.id == *id) {
                    self.put_rule_at(input, at);
                }
            }
            Change::Order => {
                let moved = self.rules.reorder(&input.rules);
                self.touch_rules(&moved);
            }
        }
    }

    fn put_group(&mut self, input: &PolicyInput, name: &GroupName) {
        let (workloads, addresses) = self.members.put_group(input, name);
        self.todo.workloads.extend(workloads);
        self.todo.outside |= addresses;
    }

    fn put_workload(&mut self, input: &PolicyInput, id: &WorkloadId, now: Option<&Workload>) {
        let (before, number) = self.members.put_workload(input, &self.node, id, now);
        let domain = number.and_then(|number| {
            let slot = self.members.workload(number)?;
            Some(self.members.service(slot).domain)
        });
        let left = before.as_ref().map(|(_, domain)| *domain);
        for domain in left.into_iter().chain(domain) {
            let moved = self.members.domains.look(domain);
            self.todo.workloads.extend(moved);
        }
        if let Some((before, _)) = before {
            self.todo.addresses.extend(before.addresses.all());
            if before.local {
                self.note_local(id, before.class);
            }
            if let Some(class) = before.class {
                self.classes.leave(class, before.local);
            }
        }
        self.todo.workloads.extend(number);
    }

    /// Takes many rules at once: looking for the place of each by itself would walk the list for each.
    fn take_rules(&mut self, input: &PolicyInput, ids: &BTreeSet<RuleId>) {
        for id in ids {
            self.remove_rule(*id);
        }
        self.add_rules(input, |id| ids.contains(&id));
    }

    /// Puts rules that are not there.
    fn add_rules(&mut self, input: &PolicyInput, wanted: impl Fn(RuleId) -> bool) {
        let members = &mut self.members;
        let (fresh, moved) = self
            .rules
            .insert_many(&input.rules, wanted, |name| members.group(name));
        self.touch_rules(&moved);
        for number in fresh {
            let Some(slot) = self.rules.get(number) else {
                continue;
            };
            let (from, to, in_force) = (slot.from, slot.to, slot.in_force());
            for group in [from, to] {
                self.members.groups[group as usize].named += 1;
            }
            if in_force {
                self.enforce(number, from, to);
            }
        }
    }

    fn put_rule_at(&mut self, input: &PolicyInput, at: usize) {
        let Some(rule) = input.rules.get(at) else { return };
        let (from, to) = (self.members.group(&rule.from), self.members.group(&rule.to));
        for group in [from, to] {
            self.members.groups[group as usize].named += 1;
        }
        let Some((number, moved)) = self.rules.insert(&input.rules, at, from, to) else {
            return;
        };
        self.touch_rules(&moved);
        if !rule.disable {
            self.enforce(number, from, to);
        }
    }

    fn touch_rules(&mut self, rules: &[members::Rx]) {
        for rule in rules.iter().filter_map(|rule| self.rules.get(*rule)) {
            self.todo.rules.push((rule.from, rule.to));
        }
    }

    fn enforce(&mut self, number: members::Rx, from: Gx, to: Gx) {
        self.members.links[from as usize].from.push(number);
        self.members.links[to as usize].to.push(number);
        self.todo.groups.extend([from, to]);
        self.todo.rules.push((from, to));
    }

    fn release(&mut self, number: members::Rx, from: Gx, to: Gx) {
        self.members.links[from as usize]
            .from
            .retain(|rule| *rule != number);
        self.members.links[to as usize].to.retain(|rule| *rule != number);
        self.todo.groups.extend([from, to]);
        self.todo.rules.push((from, to));
    }

    fn remove_rule(&mut self, id: RuleId) {
        let Some(number) = self.rules.number(id) else {
            return;
        };
        if let Some(slot) = self.rules.remove(id) {
            if slot.in_force() {
                self.release(number, slot.from, slot.to);
            }
            for group in [slot.from, slot.to] {
                self.members.groups[group as usize].named -= 1;
                self.todo.groups.push(group);
            }
        }
    }

    /// The image as it is now. Lists are sorted; numbers have gaps where something went.
    #[must_use]
    pub fn image(&self) -> PolicyImage {
        let address = |(prefix, identity): (&IpPrefix, &Identity)| AddressEntry {
            prefix: *prefix,
            identity: *identity,
        };
        let mut locals: Vec<_> = self.members.locals().filter_map(local_entry).collect();
        locals.sort_unstable_by(|a, b| a.workload.cmp(&b.workload));
        let count = self.rows.values().map(|row| 1 + row.entries.len()).sum();
        let mut pairs = Vec::with_capacity(count);
        for ((local, direction), row) in &self.rows {
            pairs.extend(row.pairs().map(|(peer, ports)| PairEntry {
                local: *local,
                direction: *direction,
                peer,
                ports,
            }));
        }
        PolicyImage {
            revision: self.revision,
            addresses: self.addresses.iter().map(address).collect(),
            locals,
            pairs,
            ports: self.store.ports(),
            decisions: self.store.decisions(),
        }
    }

    /// What each identity stands for: the groups that rules speak of, and the mode.
    #[must_use]
    pub fn identities(&self) -> BTreeMap<Identity, (Vec<GroupName>, Option<Mode>)> {
        self.classes
            .iter()
            .map(|(identity, class)| {
                let names = class.key.groups.iter();
                let mut names: Vec<_> = names
                    .map(|group| self.members.groups[*group as usize].name.clone())
                    .collect();
                names.sort_unstable();
                (identity, (names, class.key.mode))
            })
            .collect()
    }

    /// The zone of every identity that is not in the open one.
    #[must_use]
    pub fn zones(&self) -> BTreeMap<Identity, Zone> {
        let zones = self.classes.iter().filter_map(|(identity, class)| {
            let zone = match class.key.zone {
                ZoneKey::Open => return None,
                ZoneKey::Within(domain) => Zone::Within(self.members.domains.name(domain).to_owned()),
                ZoneKey::Everywhere => Zone::Everywhere,
            };
            Some((identity, zone))
        });
        zones.collect()
    }

    /// Rules that are not in force because a chain has no room for them, each with those that it met, in order.
    #[must_use]
    pub const fn refused(&self) -> &BTreeMap<RuleId, Vec<RuleId>> {
        &self.refused
    }

    /// What an administrator should know; the rest of the policy holds.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut found: Vec<_> = self
            .members
            .problems()
            .map(|(name, problem)| Diagnostic::Group {
                name: name.clone(),
                problem: problem.clone(),
            })
            .collect();
        let mut rules: Vec<_> = self.rules.iter().map(|(_, slot)| slot).collect();
        rules.sort_unstable_by_key(|slot| slot.rank);
        for slot in rules {
            for group in [slot.from, slot.to] {
                if !self.members.is_defined(group) {
                    found.push(Diagnostic::UnknownGroup {
                        rule: slot.rule.id,
                        name: self.members.groups[group as usize].name.clone(),
                    });
                }
            }
        }
        found.extend(self.refused.iter().map(|(rule, meeting)| Diagnostic::Refused {
            rule: *rule,
            meeting: meeting.clone(),
        }));
        found
    }
}
