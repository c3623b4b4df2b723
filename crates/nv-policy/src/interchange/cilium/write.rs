//! To Cilium's policies.

use nv_types::{Application, IpProto, PortRange, PortSet, PortSpec};
use serde_json::{Map, Value, json};

use super::{APPLICATIONS, NAMESPACE, NAMESPACE_LABELS};
use crate::interchange::ends::{End, is_name};
use crate::interchange::layers::{Object, Statement, Style};
use crate::interchange::select::Sel;

/// Most ports of one entry that Cilium takes.
const PORTS: usize = 40;

/// Writes `CiliumNetworkPolicy`, and `CiliumClusterwideNetworkPolicy` for pods of no single namespace.
pub(crate) struct Writer;

impl Style for Writer {
    const DENIES: bool = true;
    const CLUSTERWIDE: bool = true;
    const NAMES: bool = true;

    fn application(application: Application, ports: &PortSet) -> bool {
        let only = |protocols: &[IpProto]| {
            let one =
                |spec: &PortSpec| matches!(spec, PortSpec::Ports(proto, _) if protocols.contains(proto));
            ports.specs().iter().all(one)
        };
        match application.name() {
            "HTTP" | "Kafka" => only(&[IpProto::TCP]),
            "DNS" => only(&[IpProto::TCP, IpProto::UDP]),
            _ => false,
        }
    }

    fn document(&self, object: &Object) -> Value {
        let namespace = object
            .subject
            .domains()
            .filter(|domains| domains.len() == 1)
            .and_then(|domains| domains.iter().next());
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(object.name));
        let kind = match namespace {
            Some(namespace) => {
                metadata.insert("namespace".to_owned(), json!(namespace));
                "CiliumNetworkPolicy"
            }
            None => "CiliumClusterwideNetworkPolicy",
        };
        let mut spec = Map::new();
        let subject = if namespace.is_some() {
            object.subject.without_domain()
        } else {
            object.subject.clone()
        };
        spec.insert("endpointSelector".to_owned(), labels(&subject));
        let mut closes = Map::new();
        let says_nothing = [&object.allow, &object.deny]
            .iter()
            .all(|lists| lists.iter().all(Vec::is_empty));
        let sides = object.isolated.iter().zip(object.allow.iter().zip(&object.deny));
        for ((isolated, (allow, deny)), (name, word)) in sides.zip([("ingress", "from"), ("egress", "to")]) {
            let namespace = namespace.map(String::as_str);
            let mut allow = items(allow, namespace, word);
            let deny = items(deny, namespace, word);
            let nothing = !object.isolated.contains(&true) && says_nothing && name == "ingress";
            if allow.is_empty() && deny.is_empty() && (*isolated || nothing) {
                allow.push(json!({}));
            }
            let says = !allow.is_empty() || !deny.is_empty();
            if says && !*isolated {
                closes.insert(name.to_owned(), json!(false));
            }
            if !allow.is_empty() {
                spec.insert(name.to_owned(), allow.into());
            }
            if !deny.is_empty() {
                spec.insert(format!("{name}Deny"), deny.into());
            }
        }
        if !closes.is_empty() {
            spec.insert("enableDefaultDeny".to_owned(), closes.into());
        }
        json!({
            "apiVersion": "cilium.io/v2",
            "kind": kind,
            "metadata": metadata,
            "spec": spec,
        })
    }
}

fn labels(sel: &Sel) -> Value {
    sel.to_labels(|key| {
        Some(match key.strip_prefix("ns:") {
            Some(label) => format!("k8s:{NAMESPACE_LABELS}{label}"),
            None if key == "domain" => format!("k8s:{NAMESPACE}"),
            None => key.to_owned(),
        })
    })
}

/// The selector of a peer: in a namespaced policy, one that does not speak of namespaces means the policy's own.
fn peer(sel: &Sel, namespace: Option<&str>) -> Value {
    let Some(namespace) = namespace else {
        return labels(sel);
    };
    let elsewhere = sel.keys().any(|key| key.starts_with("ns:"));
    let here = sel
        .domains()
        .is_some_and(|domains| domains.len() == 1 && domains.contains(namespace));
    if here && !elsewhere {
        return labels(&sel.without_domain());
    }
    let mut value = labels(sel);
    let speaks = elsewhere || sel.keys().any(|key| key == "domain");
    if let (false, Value::Object(map)) = (speaks, &mut value) {
        let exists = json!({"key": format!("k8s:{NAMESPACE}"), "operator": "Exists"});
        match map.get_mut("matchExpressions") {
            Some(Value::Array(list)) => list.push(exists),
            _ => {
                map.insert("matchExpressions".to_owned(), json!([exists]));
            }
        }
    }
    value
}

/// An item for each statement; addresses and names go separately.
fn items(statements: &[Statement], namespace: Option<&str>, word: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for statement in statements {
        let mut add = |field: &str, peers: Value| {
            let mut item = Map::new();
            item.insert(format!("{word}{field}"), peers);
            let ports: Vec<Value> = statement.ports.specs().iter().filter_map(port).collect();
            if !ports.is_empty() {
                let entry = |ports: &[Value]| match conditions(statement) {
                    Some(rules) => json!({"ports": ports, "rules": rules}),
                    None => json!({"ports": ports}),
                };
                let entries: Vec<Value> = ports.chunks(PORTS).map(entry).collect();
                item.insert("toPorts".to_owned(), entries.into());
            }
            found.push(item.into());
        };
        match &statement.peer {
            End::Pods(sel) => add("Endpoints", json!([peer(sel, namespace)])),
            End::External => add("Entities", json!(["world"])),
            End::Nodes => add("Entities", json!(["host", "remote-node"])),
            End::Addresses(all) => {
                let (names, blocks): (Vec<_>, Vec<_>) = all.iter().partition(|address| is_name(address));
                if !blocks.is_empty() {
                    add("CIDR", json!(blocks));
                }
                if !names.is_empty() {
                    let names: Vec<Value> = names.iter().map(|name| fqdn(name)).collect();
                    add("FQDNs", names.into());
                }
            }
        }
    }
    found
}

/// A condition that every request of the application meets.
fn conditions(statement: &Statement) -> Option<Value> {
    let application = statement.applications.first()?;
    let (key, _) = APPLICATIONS
        .iter()
        .find(|(_, name)| *name == application.name())?;
    Some(if *key == "dns" {
        json!({"dns": [{"matchPattern": "*"}]})
    } else {
        json!({*key: [{}]})
    })
}

fn fqdn(name: &str) -> Value {
    if name.starts_with("*.") {
        json!({"matchPattern": name})
    } else {
        json!({"matchName": name})
    }
}

fn port(spec: &PortSpec) -> Option<Value> {
    match *spec {
        PortSpec::Ports(proto, range) => {
            let mut port = Map::new();
            let first = if range == PortRange::ALL { 0 } else { range.first };
            port.insert("port".to_owned(), json!(first.to_string()));
            port.insert(
                "protocol".to_owned(),
                json!(proto.to_string().to_ascii_uppercase()),
            );
            if range != PortRange::ALL && range.last != range.first {
                port.insert("endPort".to_owned(), json!(range.last));
            }
            Some(port.into())
        }
        PortSpec::Any | PortSpec::Icmp => None,
    }
}
