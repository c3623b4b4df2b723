//! What is in a capture file: `nvctl capture flows` and `summary`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Read};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use nv_capture::{Conversation, FlowTable, FlowTotals, Packet, PacketReader};
use nv_dp_common::app::{Payload, identify};
use nv_dp_common::{SlicePacket, WINDOW};
use nv_types::{Application, IpProto};
use serde_json::{Value, json};

use super::super::Context;
use super::parse_filter;
use crate::error::CtlError;
use crate::output::note;
use crate::table;

/// Packets between two looks at the progress bar.
const STEP: u64 = 16_384;

/// A file that was read to its end, or to where it breaks off.
struct Story {
    conversations: Vec<Conversation>,
    totals: FlowTotals,
    dropped: u64,
    interfaces: BTreeSet<String>,
    broken: Option<String>,
}

/// The datapath's own recognizers.
fn classify(proto: IpProto, bytes: &[u8], from_client: bool) -> Option<Application> {
    let mut window = [0; WINDOW];
    let length = bytes.len().min(WINDOW);
    window.get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
    let mut payload = Payload {
        bytes: window,
        len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        from_client,
    };
    identify(proto, &mut payload, &SlicePacket(bytes), 0)
}

fn read(file: &Path, filter: Option<&str>) -> Result<Story, CtlError> {
    let filter = filter.map(parse_filter).transpose()?;
    let wrong = |problem: String| CtlError::File {
        file: file.display().to_string(),
        problem,
    };
    let (input, length): (Box<dyn Read + Send>, _) = if file == Path::new("-") {
        (Box::new(std::io::stdin()), None)
    } else {
        let open = std::fs::File::open(file).map_err(|source| CtlError::Io {
            action: format!("cannot open {}", file.display()),
            source,
        })?;
        let length = open.metadata().ok().map(|metadata| metadata.len());
        (Box::new(open), length)
    };
    let bar = if std::io::stderr().is_terminal() {
        length.map_or_else(ProgressBar::new_spinner, ProgressBar::new)
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("{bytes} {bar:40} {bytes_per_sec}") {
        bar.set_style(style);
    }
    let input = nv_capture::decompressed(input).map_err(|error| wrong(error.to_string()))?;
    let mut reader = PacketReader::new(input).map_err(|error| wrong(error.to_string()))?;
    let mut table = FlowTable::default();
    let mut interfaces = BTreeSet::new();
    let mut last = String::new();
    let mut count = 0_u64;
    let broken = loop {
        let view = match reader.next_view() {
            Ok(Some(view)) => view,
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        };
        count += 1;
        if let Some(filter) = &filter {
            let packet = Packet {
                direction: view.direction,
                original_len: view.original_len,
                data: view.data,
                ..Packet::default()
            };
            if !filter.judge(&packet, view.interface.link, None) {
                continue;
            }
        }
        if view.interface.name != last {
            last.clone_from(&view.interface.name);
            if interfaces.len() < 256 {
                interfaces.insert(last.clone());
            }
        }
        table.add(&view, &mut classify);
        if count.is_multiple_of(STEP) {
            bar.set_position(reader.offset());
        }
    };
    bar.finish_and_clear();
    let totals = *table.totals();
    Ok(Story {
        conversations: table.finish(),
        totals,
        dropped: reader.dropped(),
        interfaces,
        broken,
    })
}

/// What could be read is shown; that it is not all is the last word.
fn end(file: &Path, story: &Story) -> Result<(), CtlError> {
    if story.totals.beyond > 0 {
        note(&format!(
            "{} packets belong to conversations beyond the {} that are told apart",
            story.totals.beyond,
            nv_capture::MAX_CONVERSATIONS
        ));
    }
    match &story.broken {
        None => Ok(()),
        Some(problem) => Err(CtlError::File {
            file: file.display().to_string(),
            problem: problem.clone(),
        }),
    }
}

fn seconds(from: u64, to: u64) -> f64 {
    std::time::Duration::from_nanos(to.saturating_sub(from)).as_secs_f64()
}

fn row(one: &Conversation) -> Value {
    let tuple = &one.tuple;
    let end = |address: std::net::IpAddr, port| std::net::SocketAddr::new(address, port).to_string();
    let state = match (one.finished, one.resets > 0) {
        (_, true) => "reset",
        (true, false) => "closed",
        (false, false) if tuple.proto == IpProto::TCP => "open",
        (false, false) => "",
    };
    json!({
        "client": end(tuple.client, tuple.client_port),
        "server": end(tuple.server, tuple.server_port),
        "proto": tuple.proto.to_string(),
        "application": one.application.map_or("", Application::name),
        "packets": one.packets_to_server + one.packets_to_client,
        "packets_to_server": one.packets_to_server,
        "packets_to_client": one.packets_to_client,
        "bytes": one.bytes(),
        "bytes_to_server": one.bytes_to_server,
        "bytes_to_client": one.bytes_to_client,
        "first": one.first.0,
        "seconds": seconds(one.first.0, one.last.0),
        "rtt_ms": one.rtt.map(|ns| std::time::Duration::from_nanos(ns).as_secs_f64() * 1000.0),
        "resets": one.resets,
        "denied": one.denied,
        "state": state,
    })
}

pub(super) fn flows(context: &Context, file: &Path, filter: Option<&str>) -> Result<(), CtlError> {
    let story = read(file, filter)?;
    let rows: Vec<_> = story.conversations.iter().map(row).collect();
    context
        .output
        .list(&json!({"flows": rows}), "flows", &table::FILE_FLOWS)?;
    end(file, &story)
}

pub(super) fn summary(context: &Context, file: &Path, filter: Option<&str>) -> Result<(), CtlError> {
    let story = read(file, filter)?;
    let mut protocols: BTreeMap<String, u64> = BTreeMap::new();
    let mut applications: BTreeMap<&str, u64> = BTreeMap::new();
    for one in &story.conversations {
        *protocols.entry(one.tuple.proto.to_string()).or_default() += one.bytes();
        if let Some(application) = one.application {
            *applications.entry(application.name()).or_default() += one.bytes();
        }
    }
    let FlowTotals {
        packets,
        bytes,
        not_ip,
        first,
        last,
        ..
    } = story.totals;
    let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
    let sum = |part: fn(&Conversation) -> u64| story.conversations.iter().map(part).sum::<u64>();
    let told = json!({
        "file": file.display().to_string(),
        "packets": packets,
        "bytes": bytes,
        "seconds": seconds(first.0, last.0),
        "first": first.as_secs(),
        "dropped": story.dropped,
        "conversations": story.conversations.len(),
        "not_ip": not_ip,
        "denied": sum(|one| one.denied),
        "resets": sum(|one| one.resets),
        "interfaces": story.interfaces,
        "protocols": protocols,
        "applications": applications,
    });
    context.output.record(&told, &table::FILE_SUMMARY)?;
    end(file, &story)
}
