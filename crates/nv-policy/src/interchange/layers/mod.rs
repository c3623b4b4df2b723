//! One-sided policies (Kubernetes, Cilium) as ordered rules, and back.
//!
//! There, a flow passes when its client's egress and its server's ingress both let it; a pod that no policy selects in a direction lets
//! everything. The same in rules of which the first match decides:
//!
//! 0. explicit denials;
//! 1. between an isolated client and an isolated server: what an egress and an ingress allowance both let, intersected;
//! 2. deny everything else between the two;
//! 3. ingress allowances, nodes, egress allowances: who gets here is isolated on one side at most;
//! 4. deny everything else to and from isolated pods;
//! 5. allow the selected pods what is left: neither side is isolated.
//!
//! Given the isolated pods, layers 1, 2, 4 and 5 follow from 3, so that the way back exists: [`Policies::from_drafts`].

mod back;
mod groups;
mod write;

pub(super) use write::{Object, Style, write};

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{
    Action, Application, Direction, Group, GroupName, IpProto, Mode, PortRange, PortSet, PortSpec, Rule,
};

use super::ends::End;
use super::note::{Note, Reason, Severity};
use super::select::{Need, Sel};
use super::{ImportOptions, plain_rule};
use crate::party::is_present;

/// Most rules that layers may become.
const MAX_RULES: usize = 10_000;

/// Most selectors, and most allowances of one side, that are looked at.
const MAX_SUBJECTS: usize = 5_000;

/// Most domains of one group.
const MAX_DOMAINS: usize = 200;

/// One thing that a policy says of the pods that it selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Statement {
    pub(super) subject: Sel,
    pub(super) peer: End,
    pub(super) ports: PortSet,
    pub(super) applications: BTreeSet<Application>,
}

impl Statement {
    pub(super) fn new(subject: Sel, peer: End, ports: PortSet) -> Self {
        Self {
            subject,
            peer,
            ports,
            applications: BTreeSet::new(),
        }
    }

    fn draft(&self, direction: Direction, action: Action) -> Draft {
        let (subject, peer) = (End::Pods(self.subject.clone()), self.peer.clone());
        let (from, to) = match direction {
            Direction::Ingress => (peer, subject),
            Direction::Egress => (subject, peer),
        };
        Draft {
            from,
            to,
            ports: self.ports.clone(),
            applications: self.applications.clone(),
            action,
        }
    }
}

/// A rule whose ends are not groups yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Draft {
    from: End,
    to: End,
    ports: PortSet,
    applications: BTreeSet<Application>,
    action: Action,
}

impl Draft {
    fn any(from: End, to: End, action: Action) -> Self {
        Self {
            from,
            to,
            ports: PortSet::any(),
            applications: BTreeSet::new(),
            action,
        }
    }
}

/// What is said in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Side {
    /// Pods that are closed but for what is allowed.
    isolated: BTreeSet<Sel>,
    allow: BTreeSet<Statement>,
    deny: BTreeSet<Statement>,
}

/// All policies of a text together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policies {
    ingress: Side,
    egress: Side,
    /// Pods that some policy selects.
    selected: BTreeSet<Sel>,
}

impl Policies {
    pub(super) const fn side(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }

    pub(super) fn isolate(&mut self, direction: Direction, subject: &Sel) {
        self.select(subject);
        self.side(direction).isolated.insert(subject.clone());
    }

    pub(super) fn select(&mut self, subject: &Sel) {
        self.selected.insert(subject.clone());
    }

    pub(super) fn say(&mut self, direction: Direction, action: Action, statement: Statement) {
        let side = self.side(direction);
        let list = match action {
            Action::Allow => &mut side.allow,
            Action::Deny => &mut side.deny,
        };
        list.insert(statement);
    }

    /// Takes over what another one says.
    pub(super) fn extend(&mut self, other: Self) {
        for (side, more) in [
            (&mut self.ingress, other.ingress),
            (&mut self.egress, other.egress),
        ] {
            side.isolated.extend(more.isolated);
            side.allow.extend(more.allow);
            side.deny.extend(more.deny);
        }
        self.selected.extend(other.selected);
    }

    /// Whether a policy selects all of these pods.
    fn selects(&self, subject: &Sel) -> bool {
        self.selected.iter().any(|sel| subject.is_within(sel))
    }

    /// Without what says nothing: subjects that lie within others, allowances of pods that are not isolated.
    ///
    /// `None`: more than is looked at.
    fn normal(&self) -> Option<Self> {
        let side = |side: &Side| {
            let isolated = widest(&side.isolated);
            if isolated.len().max(side.allow.len()) > MAX_SUBJECTS {
                return None;
            }
            let mut allow = BTreeSet::new();
            for statement in &side.allow {
                if isolated.iter().any(|sel| statement.subject.is_within(sel)) {
                    allow.insert(statement.clone());
                    continue;
                }
                for subject in isolated.iter().filter_map(|sel| statement.subject.and(sel)) {
                    allow.insert(Statement {
                        subject,
                        ..statement.clone()
                    });
                }
            }
            // Nodes always reach pods, and pods nodes.
            allow.retain(|statement| statement.peer != End::Nodes);
            Some(Side {
                isolated,
                allow,
                deny: side.deny.clone(),
            })
        };
        let mut policies = Self {
            ingress: side(&self.ingress)?,
            egress: side(&self.egress)?,
            selected: widest(&self.selected),
        };
        let denials = std::mem::take(&mut policies.egress.deny);
        let (moved, kept): (BTreeSet<_>, BTreeSet<_>) = denials
            .into_iter()
            .partition(|deny| deny.peer.pods().is_some_and(|peer| policies.selects(peer)));
        policies.egress.deny = kept;
        for Statement {
            subject,
            peer,
            ports,
            applications,
        } in moved
        {
            if let End::Pods(server) = peer {
                policies.ingress.deny.insert(Statement {
                    subject: server,
                    peer: End::Pods(subject),
                    ports,
                    applications,
                });
            }
        }
        Some(policies)
    }

    /// The rules, in their order. `None`: more than [`MAX_RULES`].
    fn drafts(&self) -> Option<Vec<Draft>> {
        let policies = self.normal()?;
        let mut drafts = Vec::new();
        for (direction, side) in policies.sides() {
            drafts.extend(side.deny.iter().map(|s| s.draft(direction, Action::Deny)));
        }
        policies.both_isolated(&mut drafts)?;
        policies.allowances(&mut drafts);
        policies.rest(&mut drafts);
        (drafts.len() <= MAX_RULES).then_some(drafts)
    }

    const fn sides(&self) -> [(Direction, &Side); 2] {
        [
            (Direction::Ingress, &self.ingress),
            (Direction::Egress, &self.egress),
        ]
    }

    /// Layers 1 and 2.
    fn both_isolated(&self, drafts: &mut Vec<Draft>) -> Option<()> {
        let mut products = BTreeSet::new();
        for ingress in &self.ingress.allow {
            let Some(clients) = ingress.peer.pods() else {
                continue;
            };
            for egress in &self.egress.allow {
                let Some(servers) = egress.peer.pods() else {
                    continue;
                };
                if !egress.subject.may_meet(clients) || !servers.may_meet(&ingress.subject) {
                    continue;
                }
                let (Some(from), Some(to), Some(ports), Some(applications)) = (
                    egress.subject.and(clients),
                    servers.and(&ingress.subject),
                    common_ports(&ingress.ports, &egress.ports),
                    common_applications(&ingress.applications, &egress.applications),
                ) else {
                    continue;
                };
                products.insert(Draft {
                    from: End::Pods(from),
                    to: End::Pods(to),
                    ports,
                    applications,
                    action: Action::Allow,
                });
                if products.len() > MAX_RULES {
                    return None;
                }
            }
        }
        drafts.extend(products);
        for client in &self.egress.isolated {
            for server in &self.ingress.isolated {
                drafts.push(Draft::any(
                    End::Pods(client.clone()),
                    End::Pods(server.clone()),
                    Action::Deny,
                ));
                if drafts.len() > MAX_RULES {
                    return None;
                }
            }
        }
        Some(())
    }

    /// Layer 3.
    fn allowances(&self, drafts: &mut Vec<Draft>) {
        let say = |drafts: &mut Vec<Draft>, direction, side: &Side| {
            drafts.extend(side.allow.iter().map(|s| s.draft(direction, Action::Allow)));
        };
        say(drafts, Direction::Ingress, &self.ingress);
        for subject in &self.selected {
            drafts.push(Draft::any(End::Nodes, End::Pods(subject.clone()), Action::Allow));
            drafts.push(Draft::any(End::Pods(subject.clone()), End::Nodes, Action::Allow));
        }
        say(drafts, Direction::Egress, &self.egress);
    }

    /// Layers 4 and 5.
    fn rest(&self, drafts: &mut Vec<Draft>) {
        let everything = |direction, subject: &Sel, action| {
            [End::External, End::all()].map(|peer| {
                let statement = Statement::new(subject.clone(), peer, PortSet::any());
                statement.draft(direction, action)
            })
        };
        for (direction, side) in self.sides() {
            for subject in &side.isolated {
                drafts.extend(everything(direction, subject, Action::Deny));
            }
        }
        for (direction, side) in self.sides() {
            for subject in &self.selected {
                if !side.isolated.iter().any(|sel| subject.is_within(sel)) {
                    drafts.extend(everything(direction, subject, Action::Allow));
                }
            }
        }
    }

    /// Appends groups, rules and modes.
    pub(super) fn finish(
        self,
        options: &ImportOptions<'_>,
        groups: &mut BTreeMap<GroupName, Group>,
        rules: &mut Vec<Rule>,
        modes: &mut BTreeMap<GroupName, Mode>,
        notes: &mut Vec<Note>,
    ) {
        if self.selected.is_empty() {
            return;
        }
        let Some(drafts) = self.drafts() else {
            let text = format!(
                "the Kubernetes and Cilium policies together need more than {MAX_RULES} rules; none of them was imported"
            );
            notes.push(Note::general(Severity::Refused, Reason::Limit(text)));
            return;
        };
        for draft in drafts {
            let (Some((from, from_group)), Some((to, to_group))) = (draft.from.group(), draft.to.group())
            else {
                continue;
            };
            for group in [from_group, to_group].into_iter().flatten() {
                groups.insert(group.name.clone(), group);
            }
            let mut rule = plain_rule(from, to, draft.ports, draft.action);
            rule.applications = draft.applications.into_iter().collect();
            rules.push(rule);
        }
        self.modes(options, modes, notes);
    }

    /// Services of selected pods are in Protect, where the workloads are known.
    fn modes(
        &self,
        options: &ImportOptions<'_>,
        modes: &mut BTreeMap<GroupName, Mode>,
        notes: &mut Vec<Note>,
    ) {
        let Some(workloads) = options.workloads else {
            let text = "denials are enforced only where the service of the selected pods is in Protect; the services are not known here";
            notes.push(Note::general(Severity::Changed, Reason::Differs(text.to_owned())));
            return;
        };
        let mut services: BTreeMap<GroupName, (bool, bool)> = BTreeMap::new();
        for workload in workloads.values().filter(|workload| is_present(workload)) {
            if let Some(service) = workload.service_group() {
                let place = services.entry(service).or_default();
                if self.selected.iter().any(|sel| sel.matches(workload)) {
                    place.0 = true;
                } else {
                    place.1 = true;
                }
            }
        }
        for (service, (selected, others)) in services {
            if selected && others {
                let text =
                    "only some workloads of the service are selected; Protect holds for the others as well";
                notes.push(Note::of_group(
                    Severity::Changed,
                    &service,
                    Reason::Differs(text.to_owned()),
                ));
            }
            if selected {
                modes.insert(service, Mode::Protect);
            }
        }
    }
}

/// Few selectors that together select the same: those that lie within others are left out, and those that differ only in the domain
/// are one.
fn widest(all: &BTreeSet<Sel>) -> BTreeSet<Sel> {
    let mut alike: BTreeMap<Sel, BTreeSet<String>> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for sel in outermost(all) {
        match sel.domains() {
            Some(domains) => alike
                .entry(sel.without_domain())
                .or_default()
                .extend(domains.iter().cloned()),
            None => {
                found.insert(sel);
            }
        }
    }
    for (sel, domains) in alike {
        let domains: Vec<_> = domains.into_iter().collect();
        for part in domains.chunks(MAX_DOMAINS) {
            let need = Need::any_of(part.iter().map(String::as_str));
            found.extend(sel.clone().with("domain", need));
        }
    }
    outermost(&found)
}

/// Those that do not lie within others; all of them, where that is too much to look at.
fn outermost(all: &BTreeSet<Sel>) -> BTreeSet<Sel> {
    let within = |sel: &Sel| all.iter().any(|other| other != sel && sel.is_within(other));
    if all.len() > MAX_SUBJECTS {
        return all.clone();
    }
    all.iter().filter(|sel| !within(sel)).cloned().collect()
}

/// Ports that are in both; `None` when there are none.
fn common_ports(a: &PortSet, b: &PortSet) -> Option<PortSet> {
    if a.is_any() || b.is_any() {
        return Some(if a.is_any() { b.clone() } else { a.clone() });
    }
    let mut found = Vec::new();
    for one in a.specs() {
        for other in b.specs() {
            match (*one, *other) {
                (PortSpec::Ports(p, x), PortSpec::Ports(q, y)) if p == q => {
                    let (first, last) = (x.first.max(y.first), x.last.min(y.last));
                    if first <= last {
                        found.push(PortSpec::Ports(p, PortRange { first, last }));
                    }
                }
                (PortSpec::Icmp, PortSpec::Icmp) => found.push(PortSpec::Icmp),
                _ => {}
            }
        }
    }
    (!found.is_empty()).then(|| PortSet::from_specs(found))
}

/// Applications that are in both, empty for any; `None` when there are none.
fn common_applications(
    a: &BTreeSet<Application>,
    b: &BTreeSet<Application>,
) -> Option<BTreeSet<Application>> {
    if a.is_empty() || b.is_empty() {
        return Some(a.union(b).copied().collect());
    }
    let both: BTreeSet<_> = a.intersection(b).copied().collect();
    (!both.is_empty()).then_some(both)
}

/// The protocol of a port, as Kubernetes and Cilium write it.
pub(super) fn protocol(text: &str) -> Option<IpProto> {
    match text.to_ascii_uppercase().as_str() {
        "TCP" => Some(IpProto::TCP),
        "UDP" => Some(IpProto::UDP),
        "SCTP" => Some(IpProto::SCTP),
        _ => None,
    }
}
