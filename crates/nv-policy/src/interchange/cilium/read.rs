//! From Cilium's policies.
//!
//! A part of an allowance that cannot be carried over takes the allowance with it. A denial that cannot be carried over whole makes the object
//! refused: half a denial would let through what it denies.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Action, Application, Direction, PortSet, PortSpec};

use super::ports::read_ports;
use super::{NAMESPACE, NAMESPACE_LABELS};
use crate::address::AddressSet;
use crate::interchange::Meta;
use crate::interchange::cursor::{At, Fields, Notes, Problem};
use crate::interchange::ends::{End, MAX_CRITERIA, WORLD, cidr_except};
use crate::interchange::kubernetes::namespace_key;
use crate::interchange::layers::{Policies, Statement};
use crate::interchange::note::{Note, Reason, Severity};
use crate::interchange::select::{Sel, is_reserved, read_selector};

pub(crate) fn read(
    fields: &mut Fields<'_>,
    meta: &Meta,
    notes: &mut Notes<'_>,
    policies: &mut Policies,
) -> Result<(), Problem> {
    let namespace = match (&meta.namespace, meta.kind.as_str()) {
        (_, "CiliumClusterwideNetworkPolicy") => None,
        (Some(namespace), _) => Some(namespace.as_str()),
        (None, _) => {
            notes.changed(&fields.here, "no namespace: 'default' was taken");
            Some("default")
        }
    };
    let mut specs: Vec<At<'_>> = fields.take("spec").into_iter().collect();
    if let Some(list) = fields.take("specs") {
        specs.extend(list.items()?);
    }
    if specs.is_empty() {
        return Err(fields.here.problem(Reason::Missing("spec")));
    }
    let mut found = Policies::default();
    for spec in specs {
        read_spec(&spec, namespace, notes, &mut found)?;
    }
    policies.extend(found);
    Ok(())
}

fn read_spec(
    at: &At<'_>,
    namespace: Option<&str>,
    notes: &mut Notes<'_>,
    policies: &mut Policies,
) -> Result<(), Problem> {
    let mut body = at.fields()?;
    body.ignore(&["description", "labels", "log"]);
    if let Some(at) = body.take_any("nodeSelector") {
        return Err(at.problem(Reason::NotCarried("policies of nodes themselves are not there")));
    }
    let selector = body.need_any("endpointSelector")?;
    let subject = read_selector(&selector, notes, label_key)?.and_then(|sel| match namespace {
        Some(namespace) => sel.and(&Sel::in_domain(namespace)),
        None => Some(sel),
    });
    let Some(subject) = subject else {
        notes.lost(&selector, Reason::Nobody("the selector contradicts itself"));
        return Ok(());
    };
    policies.select(&subject);
    let (mut closed_in, mut closed_out) = (None, None);
    if let Some(at) = body.take("enableDefaultDeny") {
        let mut fields = at.fields()?;
        closed_in = fields.take("ingress").map(|at| at.bool()).transpose()?;
        closed_out = fields.take("egress").map(|at| at.bool()).transpose()?;
        fields.finish(notes);
    }
    for (direction, closed, allow, deny) in [
        (Direction::Ingress, closed_in, "ingress", "ingressDeny"),
        (Direction::Egress, closed_out, "egress", "egressDeny"),
    ] {
        let mut any = false;
        for (field, action) in [(allow, Action::Allow), (deny, Action::Deny)] {
            let items = body
                .take(field)
                .map(|at| at.items())
                .transpose()?
                .unwrap_or_default();
            any |= !items.is_empty();
            for item in items {
                let Some(rule) = read_rule(&item, namespace, (direction, action), notes)? else {
                    continue;
                };
                for peer in rule.peers {
                    for (ports, application) in &rule.ports {
                        let mut statement = Statement::new(subject.clone(), peer.clone(), ports.clone());
                        statement.applications.extend(*application);
                        policies.say(direction, action, statement);
                    }
                }
            }
        }
        if closed.unwrap_or(any) {
            policies.isolate(direction, &subject);
        }
    }
    body.finish(notes);
    Ok(())
}

/// A pod's label, perhaps with its source in front, as a criterion's key.
fn label_key(label: &str) -> Result<String, String> {
    let bare = label
        .strip_prefix("k8s:")
        .or_else(|| label.strip_prefix("any:"))
        .unwrap_or(label);
    if bare.contains(':') {
        return Err(format!("'{label}' is a label of another source than Kubernetes"));
    }
    if bare == NAMESPACE {
        return Ok("domain".to_owned());
    }
    if let Some(label) = bare.strip_prefix(NAMESPACE_LABELS) {
        return namespace_key(label);
    }
    if bare.starts_with("io.cilium.") {
        return Err(format!("'{label}' is no label of a pod"));
    }
    if is_reserved(bare) || bare == "domain" {
        return Err(format!(
            "'{bare}' as the key of a criterion is not a label; a pod's label of that name cannot be asked for"
        ));
    }
    Ok(bare.to_owned())
}

/// An item of a rule list.
struct Rule {
    peers: Vec<End>,
    ports: Vec<(PortSet, Option<Application>)>,
}

/// Reads an item; `None` when it was left out or says nothing but that the pods are closed.
fn read_rule(
    at: &At<'_>,
    namespace: Option<&str>,
    (direction, action): (Direction, Action),
    notes: &mut Notes<'_>,
) -> Result<Option<Rule>, Problem> {
    let before = notes.all.len();
    let rule = try_rule(at, namespace, direction, notes)?;
    let lost = notes
        .all
        .get(before..)
        .and_then(|new| new.iter().find(|note| is_loss(note)));
    match (action, lost, rule) {
        (Action::Allow, _, rule) => Ok(rule),
        (Action::Deny, Some(note), _) => Err(Problem {
            path: note.path.clone(),
            place: note.place.unwrap_or_default(),
            reason: Reason::Value(format!(
                "a denial cannot be carried over in part: {}",
                note.reason
            )),
        }),
        (Action::Deny, None, Some(rule)) => Ok(Some(rule)),
        (Action::Deny, None, None) => Err(at.invalid("a denial without peers and ports")),
    }
}

/// Whether less is denied than was meant.
fn is_loss(note: &Note) -> bool {
    note.severity == Severity::Lost && !matches!(note.reason, Reason::Nobody(_))
}

fn try_rule(
    at: &At<'_>,
    namespace: Option<&str>,
    direction: Direction,
    notes: &mut Notes<'_>,
) -> Result<Option<Rule>, Problem> {
    let mut fields = at.fields()?;
    let word = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let mut peers = Peers::default();
    peers.read(&mut fields, word, namespace, notes)?;
    let ports_at = fields.take("toPorts");
    let icmps = fields.take("icmps");
    let mut hindrance = None;
    if let Some(at) = fields.take("authentication") {
        let mut inner = at.fields()?;
        let mode = inner.take("mode").map(|at| at.text()).transpose()?;
        inner.finish(notes);
        if mode != Some("disabled") {
            hindrance = Some("mutual authentication cannot be asked for");
        }
    }
    if fields.take(&format!("{word}Requires")).is_some() {
        hindrance = Some("requirements of peers are not there");
    }
    if fields.finish(notes) {
        hindrance = Some("it has a field that is not known");
    }
    if let Some(at) = &icmps {
        let text = "types of ICMP cannot be told apart";
        notes.lost(at, Reason::PortLeftOut(text.to_owned()));
    }
    if let Some(text) = hindrance {
        notes.lost(at, Reason::RuleLeftOut(text.to_owned()));
        return Ok(None);
    }
    let ports = match &ports_at {
        Some(at) if !at.node.is_empty() => {
            let mut found: BTreeMap<Option<Application>, Vec<PortSpec>> = BTreeMap::new();
            for item in at.items()? {
                if let Some((ports, application)) = read_ports(&item, notes)? {
                    found.entry(application).or_default().extend(ports);
                }
            }
            found
                .into_iter()
                .map(|(application, ports)| (PortSet::from_specs(ports), application))
                .collect()
        }
        _ if icmps.is_some() => Vec::new(),
        _ if !peers.asked => return Ok(None),
        _ => vec![(PortSet::any(), None)],
    };
    if ports.is_empty() {
        notes.lost(
            at,
            Reason::RuleLeftOut("none of its ports could be carried over".to_owned()),
        );
        return Ok(None);
    }
    let peers = if peers.asked {
        peers.ends
    } else {
        vec![End::all(), End::External, End::Nodes]
    };
    Ok(Some(Rule { peers, ports }))
}

#[derive(Default)]
struct Peers {
    ends: Vec<End>,
    /// Whether there was a field for peers at all.
    asked: bool,
}

impl Peers {
    fn read(
        &mut self,
        fields: &mut Fields<'_>,
        word: &str,
        namespace: Option<&str>,
        notes: &mut Notes<'_>,
    ) -> Result<(), Problem> {
        let mut blocks = BTreeSet::new();
        let mut names = BTreeSet::new();
        if let Some(at) = fields.take(&format!("{word}Endpoints")) {
            self.asked = true;
            for item in at.items()? {
                match endpoints(&item, namespace, notes) {
                    Ok(Some(sel)) => self.ends.push(End::Pods(sel)),
                    Ok(None) => notes.lost(&item, Reason::Nobody("the selector contradicts itself")),
                    Err(problem) => left_out_at(problem, notes),
                }
            }
        }
        if let Some(at) = fields.take(&format!("{word}Entities")) {
            self.asked = true;
            for item in at.items()? {
                self.entity(&item, notes)?;
            }
        }
        if let Some(at) = fields.take(&format!("{word}CIDR")) {
            self.asked = true;
            for item in at.items()? {
                blocks.extend(cidr(&item, &[])?);
            }
        }
        if let Some(at) = fields.take(&format!("{word}CIDRSet")) {
            self.asked = true;
            for item in at.items()? {
                match cidr_set(&item, notes) {
                    Ok(more) => blocks.extend(more),
                    Err(problem) => left_out_at(problem, notes),
                }
            }
        }
        if let Some(at) = fields.take(&format!("{word}FQDNs")) {
            self.asked = true;
            for item in at.items()? {
                names.extend(fqdn(&item, notes)?);
            }
        }
        for (name, why) in [
            ("Groups", "groups of a cloud provider are not there"),
            ("Nodes", "single nodes cannot be told apart"),
            ("Services", "services of Kubernetes are not there"),
        ] {
            if let Some(at) = fields.take(&format!("{word}{name}")) {
                self.asked = true;
                left_out(&at, why, notes);
            }
        }
        if WORLD.iter().all(|block| blocks.contains(*block)) {
            self.ends.push(End::External);
        } else {
            self.addresses(blocks, &fields.here, notes);
        }
        self.addresses(names, &fields.here, notes);
        Ok(())
    }

    fn addresses(&mut self, all: BTreeSet<String>, at: &At<'_>, notes: &mut Notes<'_>) {
        if all.len() > MAX_CRITERIA {
            let text = format!("more than {MAX_CRITERIA} addresses in one rule");
            notes.lost(at, Reason::PeerLeftOut(text));
        } else if !all.is_empty() {
            self.ends.push(End::Addresses(all));
        }
    }

    fn entity(&mut self, at: &At<'_>, notes: &mut Notes<'_>) -> Result<(), Problem> {
        let family = |cidr: &str| End::Addresses(BTreeSet::from([cidr.to_owned()]));
        match at.text()? {
            "all" => self.ends.extend([End::all(), End::External, End::Nodes]),
            "world" => self.ends.push(End::External),
            "world-ipv4" => self.ends.push(family("0.0.0.0/0")),
            "world-ipv6" => self.ends.push(family("::/0")),
            "cluster" => self.ends.extend([End::all(), End::Nodes]),
            "host" | "remote-node" => self.ends.push(End::Nodes),
            "none" => {}
            other => left_out(at, &format!("there is nothing like the entity '{other}'"), notes),
        }
        Ok(())
    }
}

fn left_out(at: &At<'_>, why: &str, notes: &mut Notes<'_>) {
    notes.lost(at, Reason::PeerLeftOut(why.to_owned()));
}

fn left_out_at(problem: Problem, notes: &mut Notes<'_>) {
    let reason = Reason::PeerLeftOut(problem.reason.to_string());
    notes.at(Severity::Lost, problem.path, problem.place, reason);
}

/// Pods of the policy's own namespace, unless the selector speaks of namespaces.
fn endpoints(at: &At<'_>, namespace: Option<&str>, notes: &mut Notes<'_>) -> Result<Option<Sel>, Problem> {
    let speaks = Cell::new(false);
    let sel = read_selector(at, notes, |label| {
        let key = label_key(label)?;
        if key == "domain" || key.starts_with("ns:") {
            speaks.set(true);
        }
        Ok(key)
    })?;
    Ok(match namespace {
        Some(namespace) if !speaks.get() => sel.and_then(|sel| sel.and(&Sel::in_domain(namespace))),
        _ => sel,
    })
}

fn cidr(at: &At<'_>, except: &[&str]) -> Result<BTreeSet<String>, Problem> {
    let text = at.text()?;
    let whole = match text.parse::<std::net::IpAddr>() {
        Ok(addr) if addr.is_ipv4() => format!("{addr}/32"),
        Ok(addr) => format!("{addr}/128"),
        Err(_) => text.to_owned(),
    };
    cidr_except(&whole, except).map_err(|problem| at.invalid(problem))
}

fn cidr_set(at: &At<'_>, notes: &mut Notes<'_>) -> Result<BTreeSet<String>, Problem> {
    let mut fields = at.fields()?;
    let block = fields.take("cidr");
    let except = fields.take("except");
    let unknown = fields.finish(notes);
    let Some(block) = block.filter(|_| !unknown) else {
        return Err(at.invalid("only 'cidr' and 'except' are read"));
    };
    let items = except.map(|at| at.items()).transpose()?.unwrap_or_default();
    let except: Vec<&str> = items.iter().map(At::text).collect::<Result<_, _>>()?;
    let left = cidr(&block, &except)?;
    if left.is_empty() {
        return Err(at.invalid("its exceptions leave nothing"));
    }
    Ok(left)
}

fn fqdn(at: &At<'_>, notes: &mut Notes<'_>) -> Result<Option<String>, Problem> {
    let mut fields = at.fields()?;
    let name = fields.take("matchName");
    let pattern = fields.take("matchPattern");
    fields.finish(notes);
    let is_pattern = pattern.is_some();
    let (Some(place), false) = (
        name.clone().or_else(|| pattern.clone()),
        name.is_some() && is_pattern,
    ) else {
        return Err(at.invalid("one of 'matchName' and 'matchPattern' is needed"));
    };
    let text = place.text()?.trim_end_matches('.').to_ascii_lowercase();
    let is_name = !text.starts_with("vh:") && matches!(AddressSet::parse(&text), Ok(AddressSet::Name(_)));
    if !is_name || (text.starts_with("*.") && !is_pattern) {
        left_out(
            &place,
            &format!("'{text}' is no name, nor '*.' before one"),
            notes,
        );
        return Ok(None);
    }
    if text.starts_with("*.") {
        notes.changed(
            &place,
            format!("'{text}' also matches names with more labels before it"),
        );
    }
    Ok(Some(text))
}
