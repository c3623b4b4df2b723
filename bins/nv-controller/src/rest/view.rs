//! From the core's objects to REST's.

mod policy;

use std::collections::{BTreeMap, BTreeSet};

use nv_api::rest;
use nv_controller_core::{Controller, Conversation, Endpoint, FlowView, Violation};
use nv_types::{Application, Timestamp, Verdict, Workload, WorkloadState};

pub(crate) use policy::{group_detail, groups, rule, service};

/// RFC 3339; empty for no time.
pub(crate) fn time(at: Timestamp) -> String {
    if at.0 == 0 {
        return String::new();
    }
    jiff::Timestamp::from_nanosecond(i128::from(at.0))
        .map(|stamp| stamp.to_string())
        .unwrap_or_default()
}

pub(crate) fn seconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_secs()).unwrap_or(i64::MAX)
}

/// NeuVector's word for a verdict.
pub(crate) const fn action(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Alert => "violate",
        Verdict::Deny => "deny",
    }
}

fn app(application: Option<Application>) -> String {
    application
        .filter(|app| *app != Application::UNKNOWN)
        .map_or_else(String::new, |app| app.name().to_owned())
}

fn state(core: &Controller, workload: &Workload) -> String {
    if workload.state != WorkloadState::Running {
        return "exit".into();
    }
    if core.input().quarantines.contains_key(&workload.id) {
        return "quarantined".into();
    }
    core.input()
        .mode_of(workload)
        .map_or_else(|| "unmanaged".to_owned(), |mode| mode.name().to_lowercase())
}

/// Mode of its service, in NeuVector's spelling.
fn mode(core: &Controller, workload: &Workload) -> String {
    let mode = core.input().mode_of(workload);
    mode.map_or_else(String::new, |mode| mode.to_string())
}

fn can_sniff(workload: &Workload) -> bool {
    workload.state == WorkloadState::Running && !workload.host_network
}

/// Whether there is an interface that a quarantine can close.
pub(crate) const fn can_be_cut(workload: &Workload) -> bool {
    !workload.host_network
}

pub(crate) fn workload(
    core: &Controller,
    workload: &Workload,
    applications: &BTreeSet<String>,
) -> rest::Workload {
    let interfaces = workload.interfaces.iter().map(|interface| {
        let addresses = interface.addresses.iter().map(|(ip, len)| rest::WorkloadAddress {
            ip: ip.to_string(),
            ip_prefix: *len,
            gateway: String::new(),
        });
        (interface.name.clone(), addresses.collect())
    });
    rest::Workload {
        id: workload.id.to_string(),
        name: workload.name.clone(),
        display_name: workload.name.clone(),
        image: workload.image.clone(),
        domain: workload.domain.clone(),
        state: state(core, workload),
        service: workload.service.clone(),
        service_group: workload.service_group().map(String::from).unwrap_or_default(),
        policy_mode: mode(core, workload),
        cap_sniff: can_sniff(workload),
        cap_quarantine: can_be_cut(workload),
        quarantine_reason: core
            .input()
            .quarantines
            .get(&workload.id)
            .map(|quarantine| quarantine.reason.clone())
            .unwrap_or_default(),
        cap_change_mode: true,
        privileged: workload.privileged,
        host_name: workload.node.to_string(),
        host_id: workload.node.to_string(),
        enforcer_id: workload.node.to_string(),
        enforcer_name: workload.node.to_string(),
        network_mode: if workload.host_network { "host" } else { "default" }.into(),
        created_at: time(workload.created),
        started_at: time(workload.started),
        running: workload.state == WorkloadState::Running,
        interfaces: interfaces.collect(),
        ports: workload
            .published
            .iter()
            .map(|port| rest::WorkloadPort {
                ip_proto: port.proto.0,
                port: port.port,
                host_ip: port.host_ip.to_string(),
                host_port: port.host_port,
            })
            .collect(),
        labels: workload.labels.clone(),
        applications: applications.iter().cloned().collect(),
        runtime: workload.runtime.clone(),
    }
}

/// A workload with its groups and the ports that it was seen to serve on.
pub(crate) fn workload_detail(core: &Controller, found: &Workload) -> rest::WorkloadDetail {
    let mut names = BTreeSet::new();
    let mut app_ports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let conversations = core.conversations();
    let served = conversations
        .iter()
        .filter(|conversation| conversation.to.id == found.id.as_str())
        .flat_map(|conversation| &conversation.entries);
    for entry in served {
        let name = app(entry.application);
        if !name.is_empty() {
            names.insert(name.clone());
            app_ports
                .entry(port(entry.proto, entry.port))
                .or_default()
                .insert(name);
        }
    }
    rest::WorkloadDetail {
        workload: workload(core, found, &names),
        groups: core.groups_of(found).iter().map(ToString::to_string).collect(),
        app_ports: app_ports
            .into_iter()
            .map(|(port, names)| (port, names.into_iter().collect::<Vec<_>>().join(",")))
            .collect(),
    }
}

/// Applications that each workload was seen to serve.
pub(crate) fn served(core: &Controller) -> BTreeMap<String, BTreeSet<String>> {
    let mut served: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for conversation in core.conversations() {
        let names = conversation
            .entries
            .iter()
            .map(|entry| app(entry.application))
            .filter(|name| !name.is_empty());
        served
            .entry(conversation.to.id.clone())
            .or_default()
            .extend(names);
    }
    served
}

fn port(proto: nv_types::IpProto, port: u16) -> String {
    if proto.has_ports() {
        format!("{proto}/{port}")
    } else {
        proto.for_policy().to_string()
    }
}

fn unique(texts: impl Iterator<Item = String>) -> Vec<String> {
    texts
        .filter(|text| !text.is_empty())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

pub(crate) fn conversation(found: &Conversation) -> rest::Conversation {
    let entries = &found.entries;
    rest::Conversation {
        from: found.from.id.clone(),
        to: found.to.id.clone(),
        from_name: found.from.name.clone(),
        to_name: found.to.name.clone(),
        bytes: found.bytes(),
        sessions: found.sessions(),
        severity: String::new(),
        policy_action: action(found.verdict()).into(),
        protocols: unique(entries.iter().map(|entry| entry.proto.for_policy().to_string())),
        applications: unique(entries.iter().map(|entry| app(entry.application))),
        ports: unique(entries.iter().map(|entry| port(entry.proto, entry.port))),
        entries: entries
            .iter()
            .map(|entry| rest::ConversationEntry {
                bytes: entry.bytes,
                sessions: entry.sessions,
                port: port(entry.proto, entry.port),
                application: app(entry.application),
                policy_action: action(entry.verdict).into(),
                policy_id: entry.rule.0,
                client_ip: entry.client_ip.to_string(),
                server_ip: entry.server_ip.to_string(),
                last_seen_at: entry.last_seen.as_secs(),
            })
            .collect(),
    }
}

pub(crate) fn endpoint(core: &Controller, end: &Endpoint) -> rest::Endpoint {
    let workload = workload_of(core, end);
    rest::Endpoint {
        id: end.id.clone(),
        name: end.name.clone(),
        display_name: end.name.clone(),
        kind: end.kind.name().into(),
        service: service_of(core, end),
        policy_mode: workload.map(|found| mode(core, found)).unwrap_or_default(),
        domain: workload
            .map(|workload| workload.domain.clone())
            .unwrap_or_default(),
    }
}

pub(crate) fn violation(core: &Controller, found: &Violation) -> rest::Violation {
    let fact =
        |end: &Endpoint, fact: fn(&Workload) -> String| workload_of(core, end).map(fact).unwrap_or_default();
    rest::Violation {
        id: found.id.to_string(),
        name: "Network.Violation".into(),
        level: if found.decision.verdict == Verdict::Deny {
            "Critical"
        } else {
            "Warning"
        }
        .into(),
        reported_timestamp: found.reported.as_secs(),
        reported_at: time(found.reported),
        cluster_name: String::new(),
        host_id: found.node.to_string(),
        host_name: found.node.to_string(),
        enforcer_id: found.node.to_string(),
        enforcer_name: found.node.to_string(),
        client_id: found.client.id.clone(),
        client_name: found.client.name.clone(),
        client_domain: fact(&found.client, |workload| workload.domain.clone()),
        client_image: fact(&found.client, |workload| workload.image.clone()),
        client_service: service_of(core, &found.client),
        server_id: found.server.id.clone(),
        server_name: found.server.name.clone(),
        server_domain: fact(&found.server, |workload| workload.domain.clone()),
        server_image: fact(&found.server, |workload| workload.image.clone()),
        server_service: service_of(core, &found.server),
        server_port: found.port,
        ip_proto: found.proto.0,
        applications: unique(std::iter::once(app(found.application))),
        servers: Vec::new(),
        sessions: found.sessions,
        policy_action: action(found.decision.verdict).into(),
        policy_id: found.decision.rule.0,
        reason: found.decision.reason.to_string(),
        client_ip: found.client_ip.to_string(),
        server_ip: found.server_ip.to_string(),
        fqdn: String::new(),
    }
}

/// The workload that an end is, if it is still there.
pub(crate) fn workload_of<'a>(core: &'a Controller, end: &Endpoint) -> Option<&'a Workload> {
    end.workload
        .as_ref()
        .and_then(|id| core.input().workloads.get(id))
}

/// The group of an end's service; empty where it has none.
pub(crate) fn service_of(core: &Controller, end: &Endpoint) -> String {
    workload_of(core, end)
        .and_then(Workload::service_group)
        .map(String::from)
        .unwrap_or_default()
}

pub(crate) fn flow(core: &Controller, view: &FlowView) -> rest::Flow {
    let domain = |end| workload_of(core, end).map_or_else(String::new, |workload| workload.domain.clone());
    let labels = |end| workload_of(core, end).map_or_else(BTreeMap::new, |workload| workload.labels.clone());
    let record = &view.record;
    let tuple = record.tuple;
    rest::Flow {
        sequence: view.sequence,
        node: record.node.to_string(),
        workload: record.workload.to_string(),
        direction: record.direction.to_string(),
        client: view.client.id.clone(),
        client_name: view.client.name.clone(),
        client_ip: tuple.client.to_string(),
        client_port: tuple.client_port,
        client_service: service_of(core, &view.client),
        client_domain: domain(&view.client),
        client_labels: labels(&view.client),
        server: view.server.id.clone(),
        server_name: view.server.name.clone(),
        server_ip: tuple.server.to_string(),
        server_service: service_of(core, &view.server),
        server_domain: domain(&view.server),
        server_labels: labels(&view.server),
        port: port(tuple.proto, tuple.server_port),
        protocol: tuple.proto.to_string(),
        server_port: tuple.server_port,
        application: record
            .application
            .map_or_else(String::new, |app| app.name().to_owned()),
        verdict: record.decision.verdict.to_string(),
        rule: record.decision.rule.0,
        reason: record.decision.reason.to_string(),
        state: match record.state {
            nv_types::FlowState::New => "new",
            nv_types::FlowState::Active => "active",
            nv_types::FlowState::Closed => "closed",
        }
        .into(),
        bytes: record.bytes_to_client.saturating_add(record.bytes_to_server),
        packets: record.packets_to_client.saturating_add(record.packets_to_server),
        first_seen: record.first_seen.0,
        last_seen: record.last_seen.0,
    }
}
