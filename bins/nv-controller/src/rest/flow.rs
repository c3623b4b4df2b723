//! Conversations, violations, flows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures::{Stream, StreamExt as _};
use nv_api::rest::{ConversationsData, ErrorBody, FlowsData, ViolationsData};
use nv_controller_core::FlowFilter;
use nv_types::{Timestamp, Verdict};
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
    /// Client: a workload's name or id, a service or its group, an address, `external`. Several with commas between them mean any of
    /// them, here and below.
    from: Option<String>,
    /// Server.
    to: Option<String>,
    /// `allow`, `alert` or `deny`.
    verdict: Option<String>,
    /// Server port.
    port: Option<String>,
    /// Protocol by name or number.
    protocol: Option<String>,
    /// Seen in the last so many seconds.
    since: Option<u64>,
    /// Most flows.
    limit: Option<usize>,
    /// Stream flows as server-sent events.
    follow: Option<bool>,
    /// With `follow`: begin after this number; without: with what comes from now on.
    after: Option<u64>,
}

impl Which {
    fn filter(&self) -> Result<FlowFilter, ApiError> {
        let verdict = |text: &str| {
            [Verdict::Allow, Verdict::Alert, Verdict::Deny]
                .into_iter()
                .find(|verdict| verdict.name() == text)
                .ok_or_else(|| ApiError::invalid(format!("verdict: '{text}' is none of allow, alert, deny")))
        };
        let port = |text: &str| {
            text.parse()
                .map_err(|_error| ApiError::invalid(format!("port: '{text}' is no port")))
        };
        let since = self
            .since
            .map(|age| Timestamp(now().0.saturating_sub(age.saturating_mul(1_000_000_000))));
        let texts = |list| parts(list).map(str::to_owned).collect();
        Ok(FlowFilter {
            from: texts(self.from.as_deref()),
            to: texts(self.to.as_deref()),
            verdicts: parts(self.verdict.as_deref())
                .map(verdict)
                .collect::<Result<_, _>>()?,
            ports: parts(self.port.as_deref()).map(port).collect::<Result<_, _>>()?,
            protocols: texts(self.protocol.as_deref()),
            since,
        })
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
    let flows = core.flows(&filter, limit).iter().map(view::flow).collect();
    let answer = FlowsData {
        flows,
        sequence: core.flow_sequence(),
        lost_by_stage: core.lost(),
    };
    Ok(Json(answer).into_response())
}

/// Each flow that the filter lets through, once; what was overwritten before it could be sent is told as a gap. The ring is the buffer: a
/// slow reader costs nothing.
fn follow(app: App, filter: FlowFilter, after: u64) -> impl Stream<Item = Result<Event, Infallible>> {
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
                let followed = app.engine.core().flows_after(after, &filter);
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
                        .json_data(view::flow(flow));
                    waiting.extend(event.ok());
                }
                after = followed.sequence;
                if waiting.is_empty() && ticks.changed().await.is_err() {
                    return None;
                }
            }
        },
    )
}
