//! Conversations, violations, flows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures::{Stream, StreamExt as _};
use nv_api::filter::{Clause, End, Facts, FlowFilter, Of, Side, Word};
use nv_api::rest::{ConversationsData, ErrorBody, FlowsData, ViolationsData};
use nv_controller_core::{Controller, Endpoint, FlowView};
use nv_types::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::body::Query;
use super::error::ApiError;
use super::list::Page;
use super::{App, view};
use crate::auth::Session;
use crate::engine::now;

/// Most flows that one call gives.
const MAX_FLOWS: usize = 20_000;

/// Who talks to whom.
#[utoipa::path(get, path = "/v1/conversation", params(Page), responses((status = 200, body = ConversationsData), (status = 400, body = ErrorBody)))]
pub(super) async fn conversations(
    State(app): State<App>,
    page: Page,
) -> Result<Json<ConversationsData>, ApiError> {
    let core = app.engine.core();
    let all = core.conversations();
    let conversations = page.cut(all.iter().map(view::conversation).collect())?;
    let named: BTreeSet<_> = conversations
        .iter()
        .flat_map(|pair| [&pair.from, &pair.to])
        .collect();
    let ends: BTreeMap<_, _> = all
        .iter()
        .flat_map(|pair| [&pair.from, &pair.to])
        .filter(|end| named.contains(&end.id))
        .map(|end| (&end.id, end))
        .collect();
    Ok(Json(ConversationsData {
        endpoints: ends.values().map(|end| view::endpoint(&core, end)).collect(),
        conversations,
    }))
}

/// What no rule allows, newest first.
#[utoipa::path(get, path = "/v1/log/violation", params(Page), responses((status = 200, body = ViolationsData), (status = 400, body = ErrorBody)))]
pub(super) async fn violations(State(app): State<App>, page: Page) -> Result<Json<ViolationsData>, ApiError> {
    let core = app.engine.core();
    let found = core
        .violations()
        .rev()
        .map(|found| view::violation(&core, found))
        .collect();
    Ok(Json(ViolationsData {
        violations: page.cut(found)?,
    }))
}

/// Which flows.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Which {
    /// Client: a workload's name or id, a service or its group, an address or CIDR, `external`. Several with commas between them mean
    /// any of them, here and below.
    from: Option<String>,
    /// Server.
    to: Option<String>,
    /// `allow`, `alert` or `deny`.
    verdict: Option<String>,
    /// Server port.
    port: Option<String>,
    /// Protocol by name or number.
    protocol: Option<String>,
    /// Clauses with `;` between them that must all hold, each `[not ]WORD VALUE[,VALUE…]`: `not from-ip 10.0.0.0/8;label app=web`. Words
    /// of an end begin with `from` (client), `to` (server) or neither (any of the two; `either` where nothing follows): `from`,
    /// `from-namespace`, `from-workload` (start of name or id), `from-label`, `from-ip`, `from-port`, `from-service`. Others: `verdict`,
    /// `protocol`, `application`, `family` (4 or 6), `node`.
    #[serde(rename = "where")]
    clauses: Option<String>,
    /// Seen in the last so many seconds.
    since: Option<u64>,
    /// Not seen in the last so many seconds.
    until: Option<u64>,
    /// Most flows.
    limit: Option<usize>,
    /// Stream flows as server-sent events.
    follow: Option<bool>,
    /// With `follow`: begin after this number; without: with what comes from now on.
    after: Option<u64>,
}

/// Which flows, read.
#[derive(Debug)]
pub(super) struct Filter {
    words: FlowFilter,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Which {
    fn filter(&self) -> Result<Filter, ApiError> {
        let mut filter = Filter::new(self.clauses.as_deref().unwrap_or_default(), self.since)?;
        for (word, list) in [
            (Word::End(Side::From, Of::Name), &self.from),
            (Word::End(Side::To, Of::Name), &self.to),
            (Word::Verdict, &self.verdict),
            (Word::End(Side::To, Of::Port), &self.port),
            (Word::Protocol, &self.protocol),
        ] {
            let values: Vec<_> = parts(list.as_deref()).map(str::to_owned).collect();
            if !values.is_empty() {
                Clause::new(false, word, &values)
                    .and_then(|clause| filter.words.push(clause))
                    .map_err(|error| ApiError::invalid(error.to_string()))?;
            }
        }
        filter.until = self.until.map(ago);
        Ok(filter)
    }
}

fn ago(seconds: u64) -> Timestamp {
    Timestamp(now().0.saturating_sub(seconds.saturating_mul(1_000_000_000)))
}

impl Filter {
    /// Clauses, and the age of the oldest flow that is meant.
    pub(super) fn new(clauses: &str, since: Option<u64>) -> Result<Self, ApiError> {
        let words =
            FlowFilter::parse(clauses).map_err(|error| ApiError::invalid(format!("where: {error}")))?;
        Ok(Self {
            words,
            since: since.map(ago),
            until: None,
        })
    }

    pub(super) fn lets_through(&self, core: &Controller, view: &FlowView) -> bool {
        let record = &view.record;
        if self.since.is_some_and(|since| record.last_seen < since)
            || self.until.is_some_and(|until| record.last_seen > until)
        {
            return false;
        }
        if self.words.is_empty() {
            return true;
        }
        let groups = [&view.client, &view.server].map(|end| view::service_of(core, end));
        let [client, server] = &groups;
        self.words.lets_through(&Facts {
            client: facts(
                core,
                &view.client,
                client,
                record.tuple.client,
                record.tuple.client_port,
            ),
            server: facts(
                core,
                &view.server,
                server,
                record.tuple.server,
                record.tuple.server_port,
            ),
            proto: record.tuple.proto,
            verdict: Some(record.decision.verdict),
            application: record.application.map_or("", |app| app.name()),
            node: record.node.as_str(),
        })
    }
}

fn facts<'a>(core: &'a Controller, end: &'a Endpoint, group: &'a str, address: IpAddr, port: u16) -> End<'a> {
    let workload = view::workload_of(core, end);
    End {
        id: &end.id,
        name: &end.name,
        group,
        domain: workload.map_or("", |workload| &workload.domain),
        labels: workload.map(|workload| &workload.labels),
        address: Some(address),
        port,
    }
}

/// The parts of a list with commas.
fn parts(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.into_iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

/// Recent flows, or a stream of them.
#[utoipa::path(get, path = "/v1/flow", params(Which), responses((status = 200, body = FlowsData), (status = 400, body = ErrorBody)))]
pub(super) async fn flows(
    State(app): State<App>,
    Extension(session): Extension<Session>,
    Query(which): Query<Which>,
) -> Result<Response, ApiError> {
    let filter = which.filter()?;
    if which.follow == Some(true) {
        let after = which.after.unwrap_or_else(|| app.engine.core().flow_sequence());
        // Who may no longer look sees no more.
        let events = follow(app, filter, after).take_until(session.ended.cancelled_owned());
        return Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response());
    }
    let limit = which.limit.unwrap_or(100).min(MAX_FLOWS);
    let core = app.engine.core();
    let found = core.flows(|view| filter.lets_through(&core, view), limit);
    let flows = found.iter().map(|found| view::flow(&core, found)).collect();
    let answer = FlowsData {
        flows,
        sequence: core.flow_sequence(),
        lost_by_stage: core.lost(),
    };
    Ok(Json(answer).into_response())
}

/// Each flow that the filter lets through, once; what was overwritten before it could be sent is told as a gap. The ring is the buffer: a
/// slow reader costs nothing.
fn follow(app: App, filter: Filter, after: u64) -> impl Stream<Item = Result<Event, Infallible>> {
    let ticks = app.engine.follow_flows();
    let state = (app, filter, after, ticks, VecDeque::<Event>::new());
    futures::stream::unfold(
        state,
        |(app, filter, mut after, mut ticks, mut waiting)| async move {
            loop {
                if let Some(event) = waiting.pop_front() {
                    return Some((Ok(event), (app, filter, after, ticks, waiting)));
                }
                ticks.mark_unchanged();
                after = app.gather(&filter, after, &mut waiting);
                if waiting.is_empty() && ticks.changed().await.is_err() {
                    return None;
                }
            }
        },
    )
}

impl App {
    /// Events of the flows after this number; gives the number to go on from.
    fn gather(&self, filter: &Filter, after: u64, waiting: &mut VecDeque<Event>) -> u64 {
        let core = self.engine.core();
        let followed = core.flows_after(after, |view| filter.lets_through(&core, view));
        if followed.missed > 0 {
            waiting.push_back(
                Event::default()
                    .event("gap")
                    .data(format!("{} flows were missed", followed.missed)),
            );
        }
        for flow in &followed.flows {
            let event = Event::default()
                .id(flow.sequence.to_string())
                .json_data(view::flow(&core, flow));
            waiting.extend(event.ok());
        }
        followed.sequence
    }
}
