//! What a capture tells beside the bytes: numbers, verdicts, names.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use nv_types::{FiveTuple, Reason, Verdict};

use crate::headers::Headers;
use crate::{Annotator, Filter, FlowNote, LinkType, Packet};

/// Addresses whose names are told, and flows that were commented, at most: beyond that only verdicts are told.
const MAX_NAMES: usize = 4096;
const MAX_FLOWS: usize = 16_384;

/// Which packets a capture keeps, and who knows more about them than their bytes say.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Packets that are kept.
    pub filter: Filter,
    /// Names and verdicts; words of nv in the filter match nothing without.
    pub annotator: Option<Arc<dyn Annotator>>,
}

impl Selection {
    /// Every packet, by its bytes alone.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            filter: Filter::all(),
            annotator: None,
        }
    }
}

/// What is told of one packet.
#[derive(Debug, Default)]
pub(crate) struct Note {
    pub(crate) id: u64,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) comment: Option<String>,
    /// Addresses that are seen for the first time, with their names.
    pub(crate) names: Vec<(IpAddr, String)>,
}

/// Makes the notes of a capture, each name and each flow's story once.
#[derive(Debug)]
pub(crate) struct Notes {
    annotator: Arc<dyn Annotator>,
    next: u64,
    seen: BTreeSet<IpAddr>,
    told: BTreeSet<(FiveTuple, u32, u8)>,
}

impl Notes {
    pub(crate) const fn new(annotator: Arc<dyn Annotator>) -> Self {
        Self {
            annotator,
            next: 1,
            seen: BTreeSet::new(),
            told: BTreeSet::new(),
        }
    }

    pub(crate) fn of(&mut self, packet: &Packet<'_>, link: LinkType) -> Note {
        let mut note = Note {
            id: self.next,
            ..Note::default()
        };
        self.next += 1;
        let Some(headers) = Headers::parse(link, packet.data) else {
            return note;
        };
        for address in [headers.source, headers.destination] {
            if self.seen.len() < MAX_NAMES
                && self.seen.insert(address)
                && let Some(party) = self.annotator.party(address)
                && !party.workload.is_empty()
            {
                note.names.push((address, party.workload.clone()));
            }
        }
        if let Some(flow) = self.annotator.flow(&headers) {
            note.verdict = Some(flow.decision.verdict);
            let application = flow.application.map_or(0, |app| app.index() + 1);
            let story = (headers.from_sender(), flow.decision.rule.0, application);
            if self.told.len() < MAX_FLOWS && self.told.insert(story) {
                note.comment = Some(self.story(&headers, flow));
            }
        }
        note
    }

    /// `web -> db, HTTP: deny by rule 10002`.
    fn story(&self, headers: &Headers, flow: FlowNote) -> String {
        let name = |address: IpAddr| match self.annotator.party(address) {
            Some(party) if !party.workload.is_empty() => party.workload.clone(),
            _ => address.to_string(),
        };
        let application = flow
            .application
            .map(|app| format!(", {}", app.name()))
            .unwrap_or_default();
        let by = match flow.decision.reason {
            Reason::Rule => format!("rule {}", flow.decision.rule.0),
            reason => reason.name().to_owned(),
        };
        format!(
            "{} -> {}{application}: {} by {by}",
            name(headers.source),
            name(headers.destination),
            flow.decision.verdict.name()
        )
    }
}
