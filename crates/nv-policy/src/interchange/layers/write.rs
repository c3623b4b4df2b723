//! From rules to one-sided policies.
//!
//! Rules that an import made are turned back exactly. Any other list is read for what it allows; what the form has no words for is noted by rule,
//! and so is every group of pods that the form closes by naming it.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Action, Application, Direction, Mode, PortRange, PortSet, PortSpec, Rule, RuleId};
use serde_json::Value;

use super::groups::{Ends, Found};
use super::{Draft, Policies, Statement, common_ports};
use crate::input::PolicyInput;
use crate::interchange::Selection;
use crate::interchange::ends::{End, is_name};
use crate::interchange::note::{Note, Reason, Severity};
use crate::interchange::select::Sel;

/// What is said of one selector.
#[derive(Debug, Default)]
pub(crate) struct Object {
    pub(crate) subject: Sel,
    /// Name that nothing else has.
    pub(crate) name: String,
    /// Whether it is closed but for what is allowed: ingress, egress.
    pub(crate) isolated: [bool; 2],
    /// What is allowed: ingress, egress.
    pub(crate) allow: [Vec<Statement>; 2],
    /// What is denied: ingress, egress.
    pub(crate) deny: [Vec<Statement>; 2],
}

/// What a form has words for, and how it writes them.
pub(crate) trait Style {
    /// Denials.
    const DENIES: bool;
    /// Pods of several namespaces can be selected.
    const CLUSTERWIDE: bool;
    /// DNS names as servers.
    const NAMES: bool;

    /// Whether the application can be asked for on these ports, alone.
    fn application(application: Application, ports: &PortSet) -> bool;

    /// Writes one object.
    fn document(&self, object: &Object) -> Value;
}

pub(crate) fn write<S: Style>(
    input: &PolicyInput,
    rules: &[&Rule],
    what: &Selection,
    notes: &mut Vec<Note>,
    style: &S,
) -> Vec<Value> {
    let mut ends = Ends {
        input,
        known: BTreeMap::new(),
    };
    let policies = match exact(&mut ends, rules, style) {
        Some(policies) => policies,
        None => loose(&mut ends, rules, notes, style),
    };
    ends.note_groups(rules, what, notes);
    objects(&policies)
        .iter()
        .map(|object| style.document(object))
        .collect()
}

/// The policies, when the rules are what an import makes and the form has words for all of it.
fn exact<S: Style>(ends: &mut Ends<'_>, rules: &[&Rule], _: &S) -> Option<Policies> {
    let drafts: Vec<Draft> = rules
        .iter()
        .map(|rule| {
            let (from, to) = (ends.find(&rule.from).ok()?, ends.find(&rule.to).ok()?);
            let whole = from.lost.is_empty() && to.lost.is_empty();
            whole.then(|| Draft {
                from: from.end,
                to: to.end,
                ports: rule.ports.clone(),
                applications: rule.applications.iter().copied().collect(),
                action: rule.action,
            })
        })
        .collect::<Option<_>>()?;
    let policies = Policies::from_drafts(&drafts)?;
    let sayable = policies.sides().into_iter().all(|(direction, side)| {
        let subject = |sel: &Sel| S::CLUSTERWIDE || sel.domains().is_some_and(|domains| domains.len() == 1);
        let statement = |s: &Statement| {
            subject(&s.subject)
                && applications::<S>(&s.applications, &s.ports)
                && ports(&s.ports).1.is_empty()
                && names(&s.peer)
                    .is_none_or(|_| S::NAMES && direction == Direction::Egress && !is_mixed(&s.peer))
        };
        side.isolated
            .iter()
            .all(|sel| S::CLUSTERWIDE || sel.domains().is_some())
            && side.allow.iter().all(statement)
            && side
                .deny
                .iter()
                .all(|s| S::DENIES && names(&s.peer).is_none() && s.applications.is_empty() && statement(s))
    });
    // Without denials, a policy that isolates nobody says nothing.
    let isolated = |part: &Sel| {
        let mut sides = policies.sides().into_iter();
        sides.any(|(_, side)| side.isolated.iter().any(|sel| part.is_within(sel)))
    };
    let closed = |sel: &Sel| S::DENIES || sel.by_domain().iter().all(isolated);
    (sayable && policies.selected.iter().all(closed)).then_some(policies)
}

/// Whether the form can ask for these applications.
fn applications<S: Style>(all: &BTreeSet<Application>, ports: &PortSet) -> bool {
    let mut all = all.iter();
    match (all.next(), all.next()) {
        (None, _) => true,
        (Some(one), None) => S::application(*one, ports),
        (Some(_), Some(_)) => false,
    }
}

/// The DNS names of an end, if there are any.
fn names(end: &End) -> Option<&str> {
    match end {
        End::Addresses(all) => all.iter().find(|address| is_name(address)).map(String::as_str),
        End::Pods(_) | End::External | End::Nodes => None,
    }
}

/// Whether it has both addresses and names.
fn is_mixed(end: &End) -> bool {
    match end {
        End::Addresses(all) => all.iter().any(|one| is_name(one)) && !all.iter().all(|one| is_name(one)),
        End::Pods(_) | End::External | End::Nodes => false,
    }
}

/// What the forms can say of a port list, and what they cannot.
fn ports(all: &PortSet) -> (Vec<PortSpec>, Vec<String>) {
    let mut said = Vec::new();
    let mut lost = Vec::new();
    for spec in all.specs() {
        match *spec {
            PortSpec::Ports(proto, range @ PortRange { first: 0, last }) if range != PortRange::ALL => {
                lost.push(format!("{proto}/0"));
                if last > 0 {
                    said.push(PortSpec::Ports(proto, PortRange { first: 1, last }));
                }
            }
            PortSpec::Icmp => lost.push("icmp".to_owned()),
            spec => said.push(spec),
        }
    }
    (said, lost)
}

/// A statement of a rule, not yet on a side.
struct Wish {
    rule: RuleId,
    from: End,
    to: End,
    ports: PortSet,
    applications: BTreeSet<Application>,
    action: Action,
}

impl Wish {
    fn side(&self) -> Option<(Direction, &Sel, &End)> {
        match (&self.from, &self.to) {
            (peer, End::Pods(subject)) => Some((Direction::Ingress, subject, peer)),
            (End::Pods(subject), peer) => Some((Direction::Egress, subject, peer)),
            _ => None,
        }
    }

    /// Whether a flow could match both.
    fn meets(&self, other: &Self) -> bool {
        let meet = |a: &End, b: &End| match (a, b) {
            (End::Pods(a), End::Pods(b)) => a.and(b).is_some(),
            (End::Pods(_), _) | (_, End::Pods(_)) => false,
            // Who is outside can also be at an address of a list.
            _ => true,
        };
        meet(&self.from, &other.from)
            && meet(&self.to, &other.to)
            && common_ports(&self.ports, &other.ports).is_some()
    }
}

/// Reads a list for what it allows.
fn loose<S: Style>(ends: &mut Ends<'_>, rules: &[&Rule], notes: &mut Vec<Note>, _: &S) -> Policies {
    let mut wishes = Vec::new();
    for rule in rules {
        match wish::<S>(ends, rule, notes) {
            Ok(wish) => wishes.extend(wish),
            Err(problem) => {
                notes.push(Note::of_rule(
                    Severity::Lost,
                    rule.id,
                    Reason::RuleLeftOut(problem),
                ));
            }
        }
    }
    let mut policies = Policies::default();
    for wish in wishes.iter().filter(|wish| wish.action == Action::Allow) {
        policies.wish(wish, true);
    }
    for (index, wish) in wishes.iter().enumerate() {
        if wish.action == Action::Deny {
            let (before, after) = (wishes.get(..index), wishes.get(index..));
            let meets = |list: Option<&[Wish]>| {
                let mut list = list.into_iter().flatten();
                list.any(|other| other.action == Action::Allow && other.meets(wish))
            };
            let note = policies.deny::<S>(wish, meets(before), meets(after));
            notes.extend(note.map(|(severity, reason)| Note::of_rule(severity, wish.rule, reason)));
        }
    }
    // A pod that may only reach certain addresses must also be let to the pods that it reaches.
    let closed: Vec<Sel> = policies.egress.isolated.iter().cloned().collect();
    for wish in wishes.iter().filter(|wish| wish.action == Action::Allow) {
        let (Some(client), End::Pods(_)) = (wish.from.pods(), &wish.to) else {
            continue;
        };
        for subject in closed.iter().filter_map(|sel| sel.and(client)) {
            let mut statement = Statement::new(subject, wish.to.clone(), wish.ports.clone());
            statement.applications.clone_from(&wish.applications);
            policies.say(Direction::Egress, Action::Allow, statement);
        }
    }
    note_closed(ends, &policies, rules, notes);
    policies
}

impl Policies {
    fn wish(&mut self, wish: &Wish, isolate: bool) {
        let Some((direction, subject, peer)) = wish.side() else {
            return;
        };
        if isolate {
            self.isolate(direction, subject);
        } else {
            self.select(subject);
        }
        let mut statement = Statement::new(subject.clone(), peer.clone(), wish.ports.clone());
        statement.applications.clone_from(&wish.applications);
        self.say(direction, wish.action, statement);
    }

    /// A denial: said as such, or by closing the pods, or not at all.
    fn deny<S: Style>(&mut self, wish: &Wish, above: bool, below: bool) -> Option<(Severity, Reason)> {
        let (direction, subject, peer) = wish.side()?;
        let everyone = wish.ports.is_any() && (*peer == End::External || *peer == End::all());
        if S::DENIES && !above {
            self.wish(wish, false);
            return None;
        }
        if everyone && !below {
            self.isolate(direction, subject);
            let text = "it is said by closing the pods to everything that is not listed";
            return Some((Severity::Changed, Reason::Differs(text.to_owned())));
        }
        let problem = if S::DENIES {
            "the form puts denials before every allowance, and allow rules above this one meet it"
        } else {
            "the form has no denials"
        };
        Some((Severity::Lost, Reason::RuleLeftOut(problem.to_owned())))
    }
}

/// What the form can say of a rule; `None`: the form says so anyway.
fn wish<S: Style>(ends: &mut Ends<'_>, rule: &Rule, notes: &mut Vec<Note>) -> Result<Option<Wish>, String> {
    let (from, to) = (ends.find(&rule.from)?, ends.find(&rule.to)?);
    let (
        Found {
            end: from,
            lost: from_lost,
            ..
        },
        Found {
            end: mut to,
            lost: to_lost,
            ..
        },
    ) = (from, to);
    let mut changed = |text: String| {
        notes.push(Note::of_rule(Severity::Changed, rule.id, Reason::Differs(text)));
    };
    if rule.action == Action::Deny && !(from_lost.is_empty() && to_lost.is_empty()) {
        return Err("a denial of a part of the addresses would be another rule".to_owned());
    }
    for address in from_lost.iter().chain(&to_lost) {
        changed(format!(
            "the form cannot say the address '{address}'; it was left out"
        ));
    }
    if from == End::Nodes || to == End::Nodes {
        if rule.action == Action::Deny {
            return Err("the form lets nodes through anyway".to_owned());
        }
        changed("the form lets nodes through anyway; the rule was left out".to_owned());
        return Ok(None);
    }
    if names(&from).is_some() {
        return Err("the form has no names of clients".to_owned());
    }
    if let End::Addresses(all) = &mut to
        && !S::NAMES
    {
        let (names, addresses): (BTreeSet<_>, BTreeSet<_>) =
            all.iter().cloned().partition(|one| is_name(one));
        if addresses.is_empty() || (!names.is_empty() && rule.action == Action::Deny) {
            return Err("the form has no DNS names".to_owned());
        }
        for name in names {
            changed(format!("the form has no DNS names; '{name}' was left out"));
        }
        *all = addresses;
    }
    let subject = to
        .pods()
        .or_else(|| from.pods())
        .ok_or("no side is one of workloads")?;
    if !S::CLUSTERWIDE && subject.domains().is_none_or(|domains| domains.len() != 1) {
        return Err("the form selects pods of one namespace, and the group names no single one".to_owned());
    }
    let mut asked: BTreeSet<Application> = rule.applications.iter().copied().collect();
    if !asked.is_empty() && rule.action == Action::Deny {
        return Err("a denial of one application would become one of all".to_owned());
    }
    if !applications::<S>(&asked, &rule.ports) {
        changed("the form cannot ask for its applications: every one is let through on these ports, which is wider".to_owned());
        asked.clear();
    }
    let (said, lost) = ports(&rule.ports);
    if said.is_empty() {
        return Err(format!("the form cannot say its ports ({})", lost.join(", ")));
    }
    for port in lost {
        changed(format!("the form cannot say the port '{port}'; it was left out"));
    }
    Ok(Some(Wish {
        rule: rule.id,
        applications: asked,
        from,
        to,
        ports: PortSet::from_specs(said),
        action: rule.action,
    }))
}

/// Names the pods that are closed by being named.
fn note_closed(ends: &Ends<'_>, policies: &Policies, rules: &[&Rule], notes: &mut Vec<Note>) {
    let mut seen = BTreeSet::new();
    for name in rules.iter().flat_map(|rule| [&rule.from, &rule.to]) {
        let Some(Ok(found)) = ends.known.get(name) else {
            continue;
        };
        let Some(sel) = found.end.pods() else { continue };
        let closed: Vec<_> = policies
            .sides()
            .into_iter()
            .filter(|(_, side)| side.isolated.contains(sel))
            .map(|(direction, _)| direction.name())
            .collect();
        let protected = ends.input.modes.get(name) == Some(&Mode::Protect);
        if !closed.is_empty() && !protected && seen.insert(name) {
            let text = format!(
                "the form closes it to everything that it does not list ({}), whatever the mode is here",
                closed.join(" and ")
            );
            notes.push(Note::of_group(Severity::Changed, name, Reason::Differs(text)));
        }
    }
}

/// One object for each selector.
fn objects(policies: &Policies) -> Vec<Object> {
    let mut found: BTreeMap<Sel, Object> = BTreeMap::new();
    let sides = policies.sides();
    let isolated = sides.iter().flat_map(|(_, side)| &side.isolated);
    let closed = isolated.chain(&policies.selected).flat_map(Sel::by_domain);
    let statements = sides
        .iter()
        .flat_map(|(_, side)| side.allow.iter().chain(&side.deny));
    for subject in closed.chain(statements.map(|statement| statement.subject.clone())) {
        found.entry(subject).or_default();
    }
    for (subject, object) in &mut found {
        object.subject = subject.clone();
        object.name = End::Pods(subject.clone())
            .group()
            .map_or_else(String::new, |(name, _)| object_name(name.as_str()));
        for (index, (_, side)) in policies.sides().into_iter().enumerate() {
            let of = |list: &BTreeSet<Statement>| -> Vec<Statement> {
                list.iter()
                    .filter(|statement| statement.subject == *subject)
                    .cloned()
                    .collect()
            };
            let isolated = side.isolated.iter().any(|sel| subject.is_within(sel));
            let (allow, deny) = (of(&side.allow), of(&side.deny));
            let closes = side
                .isolated
                .iter()
                .flat_map(Sel::by_domain)
                .any(|sel| sel == *subject);
            let says = closes || !allow.is_empty() || !deny.is_empty();
            if let (Some(a), Some(b), Some(c)) = (
                object.isolated.get_mut(index),
                object.allow.get_mut(index),
                object.deny.get_mut(index),
            ) {
                (*a, *b, *c) = (isolated && says, allow, deny);
            }
        }
    }
    found.into_values().collect()
}

/// A name that Kubernetes takes.
fn object_name(group: &str) -> String {
    group
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect()
}
