//! From what people call an end to who it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nv_policy::{Book, Explanation, Party, PolicyInput, Query, Zone};
use nv_types::{Application, GroupName, IpProto, Workload, reserved};

/// A flow that somebody asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Client: a workload's name, id or start of its id, a service, a group, an address, `external`, `nodes`.
    pub from: String,
    /// Server.
    pub to: String,
    /// Protocol.
    pub proto: IpProto,
    /// Server port, 0 for protocols without.
    pub port: u16,
    /// Application.
    pub app: Option<Application>,
}

/// An end that is nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: '{text}' is no workload, service, group or address")]
pub struct UnknownEnd {
    /// `from` or `to`.
    pub field: &'static str,
    /// As it was asked.
    pub text: String,
}

pub(crate) fn explain(input: &PolicyInput, asked: &Asked) -> Result<Explanation, UnknownEnd> {
    let book = Book::new(input);
    let end = |field, text: &str| {
        party(&book, input, text).ok_or_else(|| UnknownEnd {
            field,
            text: text.to_owned(),
        })
    };
    let query = Query {
        client: (asked.from.clone(), end("from", &asked.from)?),
        server: (asked.to.clone(), end("to", &asked.to)?),
        proto: asked.proto,
        port: asked.port,
        app: asked.app,
    };
    Ok(nv_policy::explain(input, &query))
}

fn party(book: &Book<'_>, input: &PolicyInput, text: &str) -> Option<Party> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(book.address(address));
    }
    let workloads = || input.workloads.values();
    let named = |workload: &&Workload| workload.name == text || workload.id.as_str() == text;
    let of_service = |workload: &&Workload| {
        workload.service == text
            || workload
                .service_group()
                .is_some_and(|group| group.as_str() == text)
    };
    if let Some(workload) = workloads().find(named).or_else(|| workloads().find(of_service)) {
        return Some(book.workload(workload));
    }
    group(book, input, text).or_else(|| {
        // The start of an id, if it is long enough to mean one and means only one.
        let mut begun =
            workloads().filter(|workload| text.len() >= 4 && workload.id.as_str().starts_with(text));
        let workload = begun.next()?;
        begun.next().is_none().then(|| book.workload(workload))
    })
}

fn group(book: &Book<'_>, input: &PolicyInput, text: &str) -> Option<Party> {
    let group = GroupName::try_new(text).ok()?;
    if text == reserved::EXTERNAL || text == reserved::NODES {
        let mode = input
            .modes
            .get(&group)
            .copied()
            .filter(|_| text == reserved::NODES);
        return Some(Party {
            groups: BTreeSet::from([group]),
            mode,
            workload: None,
            node: None,
            names: BTreeMap::new(),
            zone: if text == reserved::NODES {
                Zone::Everywhere
            } else {
                Zone::Open
            },
        });
    }
    if !input.groups.contains_key(&group) && text != reserved::CONTAINERS {
        return None;
    }
    // A member stands for its group; a group without members for itself.
    let member = input
        .workloads
        .values()
        .map(|workload| book.workload(workload))
        .find(|party| party.groups.contains(&group));
    Some(member.unwrap_or_else(|| {
        Party {
            mode: input
                .modes
                .contains_key(&group)
                .then(|| input.service_mode(&group)),
            groups: BTreeSet::from([group]),
            workload: None,
            node: None,
            names: BTreeMap::new(),
            zone: Zone::Open,
        }
    }))
}
