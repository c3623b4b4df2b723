//! Why a flow is decided as it is.

use axum::Json;
use axum::extract::State;
use nv_api::rest::{Alternative, ErrorBody, Explain, ExplainData, ExplainSide, NearMiss};
use nv_controller_core::{Asked, Controller};
use nv_policy::{Explanation, Side, Zone};
use nv_types::{Application, IpProto, PortRange, PortSpec};
use serde::Deserialize;
use utoipa::IntoParams;

use super::body::Query;
use super::error::ApiError;
use super::{App, view};

/// A flow to explain.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Client: a workload's name or id, a service, a group, an address, `external`.
    from: String,
    /// Server.
    to: String,
    /// `tcp/80`, `udp/53`, `icmp`.
    port: String,
    /// Application.
    app: Option<String>,
}

fn port(text: &str) -> Result<(IpProto, u16), ApiError> {
    let spec: PortSpec = text
        .parse()
        .map_err(|error: nv_types::InvalidPorts| ApiError::invalid(format!("port: {error}")))?;
    match spec {
        PortSpec::Icmp => Ok((IpProto::ICMP, 0)),
        PortSpec::Ports(proto, PortRange { first, last }) if first == last => Ok((proto, first)),
        PortSpec::Any | PortSpec::Ports(..) => {
            Err(ApiError::invalid(format!("port: '{text}' is not one port")))
        }
    }
}

/// Explain what becomes of a flow: rule, groups, modes, and the rules that nearly matched.
#[utoipa::path(get, path = "/v1/explain", params(Question), responses((status = 200, body = ExplainData), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn explain(
    State(app): State<App>,
    Query(question): Query<Question>,
) -> Result<Json<ExplainData>, ApiError> {
    let (proto, port) = port(&question.port)?;
    let application = question
        .app
        .as_deref()
        .filter(|name| !name.is_empty())
        .map(|name| {
            name.parse::<Application>()
                .map_err(|_error| ApiError::invalid(format!("app: unknown application '{name}'")))
        })
        .transpose()?;
    let asked = Asked {
        from: question.from,
        to: question.to,
        proto,
        port,
        app: application,
    };
    let core = app.engine.core();
    let found = core
        .explain(&asked)
        .map_err(|error| ApiError::not_found(error.to_string()))?;
    Ok(Json(ExplainData {
        explain: answer(&core, found),
    }))
}

fn answer(core: &Controller, found: Explanation) -> Explain {
    let side = |side: Side| ExplainSide {
        name: side.label,
        groups: side.groups.iter().map(ToString::to_string).collect(),
        mode: side.mode.map(|mode| mode.to_string()),
        names: side
            .names
            .iter()
            .flat_map(|(group, names)| names.iter().map(move |name| format!("{group}: {name}")))
            .collect(),
        bounded_domain: match side.zone {
            Zone::Within(domain) => Some(domain),
            Zone::Open | Zone::Everywhere => None,
        },
    };
    Explain {
        verdict: found.decision.verdict.to_string(),
        reason: found.decision.reason.to_string(),
        rule: found.decision.rule.0,
        rule_detail: found.rule.as_ref().map(|rule| view::rule(core, rule)),
        mode: found.mode.map_or_else(String::new, |mode| mode.to_string()),
        from: side(found.client),
        to: side(found.server),
        alternatives: found
            .alternatives
            .iter()
            .map(|other| Alternative {
                applications: other
                    .applications
                    .iter()
                    .map(|app| app.name().to_owned())
                    .collect(),
                verdict: other.decision.verdict.to_string(),
                rule: other.decision.rule.0,
            })
            .collect(),
        near_misses: found
            .near_misses
            .iter()
            .map(|near| NearMiss {
                rule: view::rule(core, &near.rule),
                field: near.field.name().into(),
            })
            .collect(),
        text: found.text,
    }
}
