//! Kubernetes `NetworkPolicy`.

use std::collections::BTreeSet;

use nv_types::{Action, Application, Direction, PortRange, PortSet, PortSpec};
use serde_json::{Map, Value, json};

use super::Meta;
use super::cursor::{At, Fields, Notes, Problem};
use super::ends::{End, MAX_CRITERIA, WORLD, cidr_except};
use super::layers::{Object, Policies, Statement, Style, protocol};
use super::note::Reason;
use super::select::{Sel, is_reserved, read_selector};

/// The label that every namespace has: its name.
pub(super) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

pub(super) fn read(
    fields: &mut Fields<'_>,
    meta: &Meta,
    notes: &mut Notes<'_>,
    policies: &mut Policies,
) -> Result<(), Problem> {
    let spec = fields.need("spec")?;
    let namespace = match &meta.namespace {
        Some(namespace) => namespace.as_str(),
        None => {
            notes.changed(&fields.here, "no namespace: 'default' was taken");
            "default"
        }
    };
    let mut body = spec.fields()?;
    let selector = body.need_any("podSelector")?;
    let subject =
        read_selector(&selector, notes, label_key)?.and_then(|sel| sel.and(&Sel::in_domain(namespace)));
    let ingress = body.take("ingress");
    let egress = body.take("egress");
    let types = match body.take("policyTypes") {
        Some(at) => policy_types(&at)?,
        None if egress.is_some() => vec![Direction::Ingress, Direction::Egress],
        None => vec![Direction::Ingress],
    };
    let Some(subject) = subject else {
        notes.lost(&selector, Reason::Nobody("the selector contradicts itself"));
        return Ok(());
    };
    let mut found = Policies::default();
    for (direction, rules, word) in [
        (Direction::Ingress, ingress, "from"),
        (Direction::Egress, egress, "to"),
    ] {
        if !types.contains(&direction) {
            if let Some(at) = rules.filter(|at| !at.node.is_empty()) {
                notes.lost(&at, Reason::NotCarried("policyTypes does not name the direction"));
            }
            continue;
        }
        found.isolate(direction, &subject);
        for item in rules.map(|at| at.items()).transpose()?.unwrap_or_default() {
            let Some(rule) = rule(&item, namespace, word, notes)? else {
                continue;
            };
            for peer in rule.0 {
                let statement = Statement::new(subject.clone(), peer, rule.1.clone());
                found.say(direction, Action::Allow, statement);
            }
        }
    }
    body.finish(notes);
    policies.extend(found);
    Ok(())
}

fn policy_types(at: &At<'_>) -> Result<Vec<Direction>, Problem> {
    at.items()?
        .iter()
        .map(|item| match item.text()? {
            "Ingress" => Ok(Direction::Ingress),
            "Egress" => Ok(Direction::Egress),
            other => Err(item.invalid(format!("'{other}' is no policy type"))),
        })
        .collect()
}

/// A pod's label as a criterion's key.
fn label_key(label: &str) -> Result<String, String> {
    if is_reserved(label) || label == "domain" {
        return Err(format!(
            "'{label}' as the key of a criterion is not a label; a pod's label of that name cannot be asked for"
        ));
    }
    Ok(label.to_owned())
}

/// A namespace's label as a criterion's key.
pub(super) fn namespace_key(label: &str) -> Result<String, String> {
    Ok(if label == NAMESPACE_NAME {
        "domain".to_owned()
    } else {
        format!("ns:{label}")
    })
}

/// Peers and ports of a rule; `None` when it was left out.
fn rule(
    at: &At<'_>,
    namespace: &str,
    word: &'static str,
    notes: &mut Notes<'_>,
) -> Result<Option<(Vec<End>, PortSet)>, Problem> {
    let mut fields = at.fields()?;
    let peers_at = fields.take(word);
    let ports_at = fields.take("ports");
    if fields.finish(notes) {
        notes.lost(
            at,
            Reason::RuleLeftOut("it has a field that is not known".to_owned()),
        );
        return Ok(None);
    }
    let ports = match ports_at.filter(|at| !at.node.is_empty()) {
        None => PortSet::any(),
        Some(at) => {
            let mut specs = Vec::new();
            for item in at.items()? {
                specs.extend(port(&item, notes)?);
            }
            if specs.is_empty() {
                notes.lost(
                    &at,
                    Reason::RuleLeftOut("none of its ports could be carried over".to_owned()),
                );
                return Ok(None);
            }
            PortSet::from_specs(specs)
        }
    };
    let Some(at) = peers_at.filter(|at| !at.node.is_empty()) else {
        return Ok(Some((vec![End::all(), End::External], ports)));
    };
    let mut peers = Vec::new();
    let mut blocks = BTreeSet::new();
    for item in at.items()? {
        match peer(&item, namespace, notes) {
            Ok(Peer::Pods(sel)) => peers.push(End::Pods(sel)),
            Ok(Peer::Blocks(more)) => blocks.extend(more),
            Ok(Peer::Nobody(why)) => notes.lost(&item, Reason::Nobody(why)),
            Ok(Peer::Unknown) => {
                let text = "it has a field that is not known";
                notes.lost(&item, Reason::PeerLeftOut(text.to_owned()));
            }
            // What is wrong is wrong for Kubernetes too, unless it is only that we have no word for it.
            Err(problem) => {
                let reason = Reason::PeerLeftOut(problem.reason.to_string());
                notes.at(super::Severity::Lost, problem.path, problem.place, reason);
            }
        }
    }
    if WORLD.iter().all(|block| blocks.contains(*block)) {
        peers.push(End::External);
    } else if !blocks.is_empty() {
        if blocks.len() > MAX_CRITERIA {
            let text = format!("more than {} CIDRs in one rule", MAX_CRITERIA);
            notes.lost(&at, Reason::PeerLeftOut(text));
        } else {
            peers.push(End::Addresses(blocks));
        }
    }
    Ok(Some((peers, ports)))
}

fn port(at: &At<'_>, notes: &mut Notes<'_>) -> Result<Option<PortSpec>, Problem> {
    let mut fields = at.fields()?;
    let proto = match fields.take("protocol") {
        Some(at) => match at.text()? {
            text @ ("TCP" | "UDP" | "SCTP") => protocol(text),
            other => return Err(at.invalid(format!("'{other}' is no protocol: TCP, UDP or SCTP"))),
        },
        None => protocol("TCP"),
    };
    let port = fields.take("port");
    let end = fields.take("endPort");
    if fields.finish(notes) {
        notes.lost(
            at,
            Reason::PortLeftOut("it has a field that is not known".to_owned()),
        );
        return Ok(None);
    }
    let (Some(proto), Some(port_at)) = (proto, port) else {
        if let Some(at) = end {
            return Err(at.invalid("'endPort' needs 'port'"));
        }
        return Ok(proto.map(|proto| PortSpec::Ports(proto, PortRange::ALL)));
    };
    let text = port_at.text()?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        let text = format!("the name '{text}' stands for a port that only the pods know");
        notes.lost(&port_at, Reason::PortLeftOut(text));
        return Ok(None);
    }
    let first = port_number(&port_at)?;
    let last = match &end {
        Some(at) => port_number(at)?,
        None => first,
    };
    if last < first {
        return Err(at.invalid("'endPort' is below 'port'"));
    }
    Ok(Some(PortSpec::Ports(proto, PortRange { first, last })))
}

fn port_number(at: &At<'_>) -> Result<u16, Problem> {
    let wanted = "a port from 1 to 65535";
    match u16::try_from(at.number(wanted)?) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(at.invalid(format!("{wanted} is needed"))),
    }
}

enum Peer {
    Pods(Sel),
    Blocks(BTreeSet<String>),
    Nobody(&'static str),
    Unknown,
}

fn peer(at: &At<'_>, namespace: &str, notes: &mut Notes<'_>) -> Result<Peer, Problem> {
    let mut fields = at.fields()?;
    // A selector that is there and empty selects everything; one that is not there says nothing.
    let pods = fields.take_any("podSelector");
    let namespaces = fields.take_any("namespaceSelector");
    let block = fields.take("ipBlock");
    if fields.finish(notes) {
        return Ok(Peer::Unknown);
    }
    if let Some(at) = block {
        if pods.is_some() || namespaces.is_some() {
            return Err(at.invalid("'ipBlock' stands alone"));
        }
        return ip_block(&at, notes);
    }
    if pods.is_none() && namespaces.is_none() {
        return Err(at.invalid("a peer needs podSelector, namespaceSelector or ipBlock"));
    }
    let mut sel = match &namespaces {
        Some(at) => read_selector(at, notes, namespace_key)?,
        None => Some(Sel::in_domain(namespace)),
    };
    if let Some(at) = &pods {
        let more = read_selector(at, notes, label_key)?;
        sel = sel.and_then(|sel| sel.and(&more?));
    }
    Ok(sel.map_or(Peer::Nobody("its selectors contradict each other"), Peer::Pods))
}

fn ip_block(at: &At<'_>, notes: &mut Notes<'_>) -> Result<Peer, Problem> {
    let mut fields = at.fields()?;
    let cidr = fields.need("cidr")?;
    let except = fields.take("except");
    if fields.finish(notes) {
        return Ok(Peer::Unknown);
    }
    let items = except.map(|at| at.items()).transpose()?.unwrap_or_default();
    let except: Vec<&str> = items.iter().map(At::text).collect::<Result<_, _>>()?;
    let left = cidr_except(cidr.text()?, &except).map_err(|problem| at.invalid(problem))?;
    Ok(if left.is_empty() {
        Peer::Nobody("its exceptions leave nothing")
    } else {
        Peer::Blocks(left)
    })
}

/// Writes `NetworkPolicy`.
pub(super) struct Writer;

impl Style for Writer {
    const DENIES: bool = false;
    const CLUSTERWIDE: bool = false;
    const NAMES: bool = false;

    fn application(_: Application, _: &PortSet) -> bool {
        false
    }

    fn document(&self, object: &Object) -> Value {
        let namespace = object.subject.domains().and_then(|domains| domains.iter().next());
        let namespace = namespace.map_or("", String::as_str);
        let mut spec = Map::new();
        spec.insert("podSelector".to_owned(), pod_labels(&object.subject));
        let mut types = Vec::new();
        let sides = object.isolated.iter().zip(&object.allow);
        for ((isolated, allow), (name, word, kind)) in
            sides.zip([("ingress", "from", "Ingress"), ("egress", "to", "Egress")])
        {
            if *isolated {
                types.push(kind);
                spec.insert(name.to_owned(), items(allow, namespace, word).into());
            }
        }
        spec.insert("policyTypes".to_owned(), json!(types));
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": object.name, "namespace": namespace},
            "spec": spec,
        })
    }
}

fn pod_labels(sel: &Sel) -> Value {
    sel.to_labels(|key| (key != "domain" && !key.starts_with("ns:")).then(|| key.to_owned()))
}

/// A rule for each peer; all pods and the outside together are a rule without peers.
fn items(statements: &[Statement], namespace: &str, word: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for statement in statements {
        let other = |peer: End| {
            statements.contains(&Statement {
                peer,
                ..statement.clone()
            })
        };
        let peers = match &statement.peer {
            End::External if other(End::all()) => continue,
            End::Pods(sel) if sel.is_all() && other(End::External) => Vec::new(),
            End::Pods(sel) => vec![pods(sel, namespace)],
            End::External => WORLD.map(block).to_vec(),
            End::Addresses(all) => all.iter().map(|address| block(address)).collect(),
            End::Nodes => continue,
        };
        let mut item = Map::new();
        if !peers.is_empty() {
            item.insert(word.to_owned(), peers.into());
        }
        let ports: Vec<Value> = statement.ports.specs().iter().filter_map(port_item).collect();
        if !ports.is_empty() {
            item.insert("ports".to_owned(), ports.into());
        }
        found.push(item.into());
    }
    found
}

fn block(cidr: &str) -> Value {
    json!({"ipBlock": {"cidr": cidr}})
}

fn pods(sel: &Sel, namespace: &str) -> Value {
    let here = sel
        .domains()
        .is_some_and(|domains| domains.len() == 1 && domains.contains(namespace));
    let own = here && !sel.keys().any(|key| key.starts_with("ns:"));
    let mut peer = Map::new();
    let labels = pod_labels(sel);
    if !own {
        let names = sel.to_labels(|key| match key.strip_prefix("ns:") {
            Some(label) => Some(label.to_owned()),
            None => (key == "domain").then(|| NAMESPACE_NAME.to_owned()),
        });
        peer.insert("namespaceSelector".to_owned(), names);
    }
    if own || labels.as_object().is_some_and(|map| !map.is_empty()) {
        peer.insert("podSelector".to_owned(), labels);
    }
    peer.into()
}

fn port_item(spec: &PortSpec) -> Option<Value> {
    match *spec {
        PortSpec::Ports(proto, range) => {
            let mut port = Map::new();
            port.insert(
                "protocol".to_owned(),
                json!(proto.to_string().to_ascii_uppercase()),
            );
            if range != PortRange::ALL {
                port.insert("port".to_owned(), json!(range.first));
                if range.last != range.first {
                    port.insert("endPort".to_owned(), json!(range.last));
                }
            }
            Some(port.into())
        }
        PortSpec::Any | PortSpec::Icmp => None,
    }
}
