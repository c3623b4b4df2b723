//! What a policy file would make of recorded flows.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use nv_api::rest::{AffectedFlow, ErrorBody, Judged, SimulateData, SimulateRequest};
use nv_types::{Decision, Mode};

use super::body::Body;
use super::error::ApiError;
use super::flow::Filter;
use super::{App, policy, view};
use crate::engine::now;

/// Judge the flows that are kept by a policy file that is not in force. Nothing is changed.
#[utoipa::path(post, path = "/v1/simulate", request_body = SimulateRequest, responses((status = 200, body = SimulateData), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn simulate(
    State(app): State<App>,
    Body(request): Body<SimulateRequest>,
) -> Result<Json<SimulateData>, ApiError> {
    let documents = policy::documents(request.documents)?;
    let filter = Filter::new(&request.clauses, request.since)?;
    let simulation = {
        let core = app.engine.core();
        core.simulation(&documents, |view| filter.lets_through(&core, view), now())?
    };
    let changes = simulation.summary.clone();
    // Many flows and many rules take their time: nobody else waits for it.
    let judged = tokio::task::spawn_blocking(move || simulation.run()).await;
    let outcome = judged.map_err(|error| {
        tracing::error!(%error, "a simulation ended early");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the simulation ended early")
    })?;
    let core = app.engine.core();
    let affected = outcome.affected.iter().map(|affected| AffectedFlow {
        flow: view::flow(&core, &affected.flows.flow),
        count: affected.flows.count as u64,
        before: say(affected.before),
        after: say(affected.after),
    });
    Ok(Json(SimulateData {
        changes,
        flows: outcome.flows as u64,
        affected: affected.collect(),
    }))
}

fn say((decision, mode): (Decision, Option<Mode>)) -> Judged {
    Judged {
        verdict: decision.verdict.to_string(),
        rule: decision.rule.0,
        reason: decision.reason.to_string(),
        mode: mode.map_or_else(String::new, |mode| mode.to_string()),
    }
}
