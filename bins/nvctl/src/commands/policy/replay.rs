//! `nvctl policy replay`: a capture judged by a policy, and by another one beside it.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use nv_capture::{PacketReader, ReadError};
use nv_dp::replay::{Replay, ReplayFlow, ReplayTotals};
use nv_dp::{DatapathConfig, EndpointSpec};
use nv_policy::{Compiler, PolicyInput};
use nv_types::{Decision, Interface, IpProto, NodeId, Reason, Revision, Verdict, Workload, WorkloadId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::cases::Who;
use super::file::Loaded;
use super::{Context, export};
use crate::documents;
use crate::error::{CtlError, EXIT_NO, EXIT_OK};
use crate::output::note;
use crate::table;

/// What ends the command with exit code 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A flow or packet that the policy denies.
    Deny,
    /// A flow or packet that it denies or reports.
    Alert,
    /// A flow whose verdict the other policy changes.
    Change,
}

/// What is to be replayed.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) file: &'a Path,
    pub(super) policy: &'a [PathBuf],
    pub(super) against: Option<&'a Path>,
    pub(super) workloads: Option<&'a Path>,
    pub(super) verdict: Option<Verdict>,
    pub(super) fail_on: &'a [FailOn],
}

/// A file with workloads; a file of cases is one, too.
#[derive(Debug, Deserialize)]
struct Roster {
    workloads: Vec<Who>,
}

/// A policy on the endpoints of the workloads.
struct Stage {
    replay: Replay,
    /// By interface number.
    names: BTreeMap<u32, String>,
}

pub(super) async fn run(context: &Context, order: &Order<'_>) -> Result<u8, CtlError> {
    let known = match order.workloads {
        Some(file) => PolicyInput {
            workloads: roster(file)?,
            ..PolicyInput::default()
        },
        None => from_controller(context).await?,
    };
    // Without a policy file it is the one in force.
    let ours = match order.policy {
        [] if order.workloads.is_some() => {
            return Err(CtlError::Usage(
                "a list of workloads is no policy: name one with --policy".into(),
            ));
        }
        [] => known.clone(),
        files => load(&known, files)?,
    };
    let other = order
        .against
        .map(|file| load(&known, &[file.to_owned()]))
        .transpose()?;
    let mut stage = Stage::new(&ours)?;
    let mut second = other.as_ref().map(Stage::new).transpose()?;
    let (first, broken) = play(order.file, &mut stage, second.as_mut())?;
    let others = match second {
        Some(stage) => Some(stage.replay.finish().map_err(datapath)?.0),
        None => None,
    };
    let (flows, totals) = stage.replay.finish().map_err(datapath)?;
    let names = stage.names;
    let code = show(
        context,
        order,
        &names,
        first,
        (&flows, &totals),
        others.as_deref(),
    )?;
    match broken {
        None => Ok(code),
        // What could be read is shown all the same.
        Some(error) => Err(unreadable(order.file, &error)),
    }
}

/// Gives every packet of the capture to both stages. Gives the time of the first one, and what ended the capture early.
fn play(
    file: &Path,
    stage: &mut Stage,
    mut second: Option<&mut Stage>,
) -> Result<(u64, Option<ReadError>), CtlError> {
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(|source| CtlError::Io {
            action: format!("cannot open {}", file.display()),
            source,
        })?)
    };
    let reader = PacketReader::new(input).map_err(|error| unreadable(file, &error))?;
    let mut first = None;
    for packet in reader {
        let packet = match packet {
            Ok(packet) => packet,
            Err(error) => return Ok((first.unwrap_or(0), Some(error))),
        };
        let at = packet.timestamp.0;
        first.get_or_insert(at);
        let link = packet.interface.as_ref().map_or(1, |interface| interface.link.0);
        for stage in [Some(&mut *stage), second.as_deref_mut()].into_iter().flatten() {
            stage
                .replay
                .packet(at, link, packet.original_len, &packet.data)
                .map_err(datapath)?;
        }
    }
    Ok((first.unwrap_or(0), None))
}

impl Stage {
    fn new(input: &PolicyInput) -> Result<Self, CtlError> {
        // Every workload is here, whatever node it runs on: both ends of a flow are judged.
        let node = NodeId::try_new("replay").map_err(|error| CtlError::Usage(error.to_string()))?;
        let mut input = input.clone();
        let (mut names, mut endpoints) = (BTreeMap::new(), Vec::new());
        for workload in input.workloads.values_mut() {
            workload.node = node.clone();
            for interface in &mut workload.interfaces {
                let ifindex = u32::try_from(endpoints.len() + 1).unwrap_or(u32::MAX);
                interface.host_index = Some(ifindex);
                names.insert(ifindex, workload.name.clone());
                endpoints.push(EndpointSpec {
                    ifindex,
                    name: format!("{}/{}", workload.name, interface.name),
                    workload: Some(workload.id.clone()),
                    mac: interface.mac,
                    addresses: interface.addresses.iter().map(|(address, _)| *address).collect(),
                    quarantine: false,
                });
            }
        }
        let compiler = Compiler::new(&input, &node, Revision(0));
        for diagnostic in compiler.diagnostics().iter().filter(|one| one.is_fault()) {
            note(&diagnostic.to_string());
        }
        let config = DatapathConfig {
            unknown: Verdict::Allow,
            failsafe_ports: Vec::new(),
            failsafe_addresses: Vec::new(),
            ..DatapathConfig::default()
        };
        let replay = Replay::new(&compiler.image(), &config, &endpoints).map_err(datapath)?;
        Ok(Self { replay, names })
    }
}

type Outcome<'a> = (&'a [ReplayFlow], &'a ReplayTotals);

fn show(
    context: &Context,
    order: &Order<'_>,
    names: &BTreeMap<u32, String>,
    first: u64,
    (flows, totals): Outcome<'_>,
    others: Option<&[ReplayFlow]>,
) -> Result<u8, CtlError> {
    let mut places: BTreeMap<Conversation, Vec<&ReplayFlow>> = BTreeMap::new();
    for flow in others.into_iter().flatten().rev() {
        places.entry(conversation(flow)).or_default().push(flow);
    }
    let (mut shown, mut changed, mut by_verdict) = (Vec::new(), 0_u64, [0_u64; 3]);
    for flow in flows {
        by_verdict[flow.decision.verdict as usize] += 1;
        // The capture is the same, so that a flow of the other policy is the one at the same place among those of its ports.
        let other = places.get_mut(&conversation(flow)).and_then(Vec::pop);
        let differs = other.is_some_and(|other| other.decision.verdict != flow.decision.verdict);
        changed += u64::from(differs);
        if order
            .verdict
            .is_some_and(|wanted| wanted != flow.decision.verdict)
        {
            continue;
        }
        let mut item = object(flow, names, first);
        if let Some(other) = other {
            item["against"] = decision(&other.decision);
            item["changed"] = json!(differs);
        }
        shown.push(item);
    }
    let [allow, alert, deny] = by_verdict;
    let mut answer = json!({"flows": shown, "totals": sums(totals)});
    answer["totals"]["flows"] = json!({"allow": allow, "alert": alert, "deny": deny});
    if others.is_some() {
        answer["totals"]["changed"] = json!(changed);
    }
    let columns = if others.is_some() {
        &table::REPLAY_AGAINST
    } else {
        &table::REPLAY
    };
    context.output.list(&answer, "flows", columns)?;
    note(&format!(
        "{} packets in {} flows: {allow} allow, {alert} alert, {deny} deny; packets: {} passed, {} reported, {} dropped, {} of no workload",
        totals.packets,
        flows.len(),
        totals.allowed,
        totals.alerted,
        totals.denied,
        totals.not_policed,
    ));
    if others.is_some() {
        note(&format!("{changed} flows would have another verdict"));
    }
    remarks(totals);
    let failed = order.fail_on.iter().any(|what| match what {
        FailOn::Deny => deny + totals.denied > 0,
        FailOn::Alert => deny + alert + totals.denied + totals.alerted > 0,
        FailOn::Change => changed > 0,
    });
    Ok(if failed { EXIT_NO } else { EXIT_OK })
}

/// What makes the answer less than the whole truth.
fn remarks(totals: &ReplayTotals) {
    if totals.packets > 0 && totals.not_policed == totals.packets {
        note("no packet belongs to a workload: does the list of workloads have their addresses?");
    }
    if totals.cut_short > 0 {
        note(&format!(
            "{} packets were captured in part: the rest was taken for zeros, so that an application may not be recognized",
            totals.cut_short
        ));
    }
    if totals.unreadable > 0 {
        note(&format!(
            "{} packets are of a link type that cannot be read",
            totals.unreadable
        ));
    }
}

/// Client, server and protocol.
type Conversation = ((IpAddr, u16), (IpAddr, u16), IpProto);

fn conversation(flow: &ReplayFlow) -> Conversation {
    (flow.client, flow.server, flow.proto)
}

fn object(flow: &ReplayFlow, names: &BTreeMap<u32, String>, first: u64) -> Value {
    let end = |(address, port): (IpAddr, u16), endpoint: Option<u32>| {
        let name = endpoint.and_then(|ifindex| names.get(&ifindex));
        json!({"address": address.to_string(), "port": port, "name": name.cloned().unwrap_or_else(|| address.to_string()),
            "workload": endpoint.is_some()})
    };
    let stamp = |ns: u64| first.saturating_add(ns);
    let port = if flow.proto.has_ports() {
        format!("{}/{}", flow.proto, flow.server.1)
    } else {
        flow.proto.to_string()
    };
    let mut item = json!({
        "client": end(flow.client, flow.client_endpoint),
        "server": end(flow.server, flow.server_endpoint),
        "proto": flow.proto.to_string(),
        "port": port,
        "application": flow.application.map(|app| app.to_string()),
        "decided_by": names.get(&flow.decided_by),
        "packets": flow.packets,
        "bytes": flow.bytes,
        "denied_packets": flow.denied_packets,
        "first_seen": stamp(flow.first_ns),
        "last_seen": stamp(flow.last_ns),
    });
    if let (Value::Object(item), Value::Object(more)) = (&mut item, decision(&flow.decision)) {
        item.extend(more);
    }
    item
}

fn decision(decision: &Decision) -> Value {
    json!({"verdict": decision.verdict.name(), "rule": decision.rule.0, "reason": decision.reason.name()})
}

fn sums(totals: &ReplayTotals) -> Value {
    let reasons: Vec<Value> = totals
        .by_reason
        .iter()
        .filter(|((_, reason), _)| *reason != Reason::Unmanaged)
        .map(|((direction, reason), packets)| {
            json!({"direction": direction.name(), "reason": reason.name(), "packets": packets})
        })
        .collect();
    json!({
        "packets": totals.packets, "bytes": totals.bytes, "allowed": totals.allowed, "alerted": totals.alerted,
        "denied": totals.denied, "not_policed": totals.not_policed, "cut_short": totals.cut_short,
        "unreadable": totals.unreadable, "by_reason": reasons,
    })
}

fn load(known: &PolicyInput, files: &[PathBuf]) -> Result<PolicyInput, CtlError> {
    // The file is the policy; of what the controller knows only the workloads count.
    let mut input = PolicyInput {
        workloads: known.workloads.clone(),
        ..PolicyInput::default()
    };
    for workload in known.workloads.values() {
        input.add_service_group(workload);
    }
    let mut loaded = Loaded::on(input);
    for file in files {
        loaded.add(file)?;
    }
    loaded.check();
    match loaded.refused() {
        Some(error) => Err(error),
        None => Ok(loaded.input),
    }
}

fn roster(file: &Path) -> Result<BTreeMap<WorkloadId, Workload>, CtlError> {
    let problem = |problem: String| CtlError::File {
        file: file.display().to_string(),
        problem,
    };
    let text = documents::text(file)?;
    let roster: Roster = serde_saphyr::from_str_with_options(&text, documents::options())
        .map_err(|error| problem(error.to_string()))?;
    let mut workloads = BTreeMap::new();
    for who in &roster.workloads {
        let workload = who.workload().map_err(&problem)?;
        if workloads.insert(workload.id.clone(), workload).is_some() {
            return Err(problem(format!("workloads: '{}' is there twice", who.name)));
        }
    }
    Ok(workloads)
}

/// The policy in force, and the workloads with their addresses.
async fn from_controller(context: &Context) -> Result<PolicyInput, CtlError> {
    let client = context.client()?;
    let mut input = export::policy_and_settings(&client).await?;
    for object in export::items(&client, "/v1/workload", "workloads").await? {
        let id = object.get("id").and_then(Value::as_str).unwrap_or_default();
        let Some(workload) = input.workloads.get_mut(id) else {
            continue;
        };
        workload.interfaces = interfaces(&object);
    }
    Ok(input)
}

/// NeuVector's form: `{eth0: [{ip, ip_prefix}]}`.
fn interfaces(object: &Value) -> Vec<Interface> {
    let ports = object.get("interfaces").and_then(Value::as_object);
    ports
        .into_iter()
        .flatten()
        .map(|(name, list)| {
            let address = |entry: &Value| {
                let address = entry.get("ip")?.as_str()?.parse().ok()?;
                let prefix = entry
                    .get("ip_prefix")
                    .and_then(Value::as_u64)
                    .and_then(|prefix| u8::try_from(prefix).ok());
                Some((address, prefix.unwrap_or(128)))
            };
            Interface {
                name: name.clone(),
                addresses: list
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(address)
                    .collect(),
                ..Interface::default()
            }
        })
        .collect()
}

fn datapath(error: nv_dp::DatapathError) -> CtlError {
    CtlError::File {
        file: "policy".into(),
        problem: error.to_string(),
    }
}

fn unreadable(file: &Path, error: &ReadError) -> CtlError {
    CtlError::File {
        file: file.display().to_string(),
        problem: error.to_string(),
    }
}
