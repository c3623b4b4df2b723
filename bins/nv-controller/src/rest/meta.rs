//! Health and metrics.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use nv_api::rest::Health;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::App;

/// Whether the controller serves.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Health)))]
pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok".into() })
}

type Labels = Vec<(&'static str, String)>;

/// Metrics in Prometheus' text form.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let mut registry = Registry::default();
    let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    {
        let core = app.engine.core();
        let input = core.input();
        for (name, help, value) in [
            ("nv_workloads", "Workloads known", whole(input.workloads.len())),
            ("nv_groups", "Groups", whole(input.groups.len())),
            ("nv_rules", "Rules", whole(input.rules.len())),
            ("nv_nodes", "Nodes known", whole(input.nodes.len())),
            (
                "nv_conversations",
                "Pairs of endpoints that have talked",
                whole(core.conversations().len()),
            ),
            (
                "nv_violations",
                "Violations in the log",
                whole(core.violations().count()),
            ),
            (
                "nv_bad_values",
                "Stored values that cannot be used",
                whole(core.problems().len()),
            ),
            (
                "nv_audit_breaks",
                "Places where the audit log's hash chain was found broken at the start",
                whole(app.engine.audit_breaks()),
            ),
        ] {
            let gauge = Gauge::<i64>::default();
            gauge.set(value);
            registry.register(name, help, gauge);
        }
        let revisions = Family::<Labels, Gauge>::default();
        let set = |node: &str, kind: &str, value: u64| {
            let labels = vec![("node", node.to_owned()), ("kind", kind.to_owned())];
            revisions
                .get_or_create(&labels)
                .set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        let lost = Family::<Labels, Gauge>::default();
        for node in input.nodes.values() {
            set(node.id.as_str(), "enforced", node.revision.0);
            set(node.id.as_str(), "wanted", core.policy_revision().0);
            for (stage, count) in &node.lost_events {
                let labels = vec![("node", node.id.to_string()), ("stage", stage.clone())];
                lost.get_or_create(&labels)
                    .set(i64::try_from(*count).unwrap_or(i64::MAX));
            }
        }
        for (stage, count) in core.lost() {
            let labels = vec![("node", String::new()), ("stage", stage)];
            lost.get_or_create(&labels)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        registry.register("nv_policy_revision", "Revision of the policy by node", revisions);
        registry.register("nv_events_lost", "Events lost since start, by stage", lost);
    }
    // Sums of each node: one line for each of its endpoints would grow without end as workloads come and go.
    let packets = Family::<Labels, Gauge>::default();
    let reasons = Family::<Labels, Gauge>::default();
    for endpoint in app.engine.endpoints() {
        for (direction, counters) in [("ingress", &endpoint.ingress), ("egress", &endpoint.egress)] {
            let labels = |kind: &'static str, value: &str| {
                vec![
                    ("node", endpoint.node.clone()),
                    ("direction", direction.to_owned()),
                    (kind, value.to_owned()),
                ]
            };
            let add = |family: &Family<Labels, Gauge>, labels: &Labels, count: u64| {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                family.get_or_create(labels).inc_by(count);
            };
            for (verdict, count) in [
                ("allow", counters.allowed),
                ("alert", counters.alerted),
                ("deny", counters.denied),
            ] {
                add(&packets, &labels("verdict", verdict), count);
            }
            for (reason, count) in &counters.by_reason {
                add(&reasons, &labels("reason", reason), *count);
            }
        }
    }
    registry.register(
        "nv_dp_packets",
        "Packets at the endpoints of a node that are under guard now, by direction and verdict",
        packets,
    );
    registry.register(
        "nv_dp_reasons",
        "Of these, packets that were dropped or reported or that policy does not speak of, by reason",
        reasons,
    );
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        return axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    (
        [(
            "content-type",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
        .into_response()
}
