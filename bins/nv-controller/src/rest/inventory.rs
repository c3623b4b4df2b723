//! Workloads, nodes, controllers.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use nv_api::rest::{
    Controller, ControllerData, ControllersData, EndpointsData, Enforcer, EnforcerData, EnforcersData,
    ErrorBody, Node, NodesData, Quarantine, QuarantinesData, WorkloadConfigData, WorkloadData, WorkloadsData,
};
use nv_controller_core::Controller as Core;

use super::body::Body;
use super::error::ApiError;
use super::list::Page;
use super::{App, User, done, view};
use crate::engine::now;

/// All workloads.
#[utoipa::path(get, path = "/v1/workload", params(Page), responses((status = 200, body = WorkloadsData), (status = 400, body = ErrorBody)))]
pub(super) async fn workloads(State(app): State<App>, page: Page) -> Result<Json<WorkloadsData>, ApiError> {
    let core = app.engine.core();
    let served = view::served(&core);
    let none = std::collections::BTreeSet::new();
    let found = core
        .input()
        .workloads
        .values()
        .map(|workload| view::workload(&core, workload, served.get(workload.id.as_str()).unwrap_or(&none)))
        .collect();
    Ok(Json(WorkloadsData {
        workloads: page.cut(found)?,
    }))
}

/// One workload.
#[utoipa::path(get, path = "/v1/workload/{id}", responses((status = 200, body = WorkloadData), (status = 404, body = ErrorBody)))]
pub(super) async fn workload(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<WorkloadData>, ApiError> {
    let core = app.engine.core();
    let found = core.input().workloads.get(id.as_str());
    let found = found.ok_or_else(|| ApiError::not_found(format!("there is no workload '{id}'")))?;
    Ok(Json(WorkloadData {
        workload: view::workload_detail(&core, found),
    }))
}

/// Cut a workload off whatever the policy says, or let it back. It holds for the workload's id until it is lifted.
#[utoipa::path(patch, path = "/v1/workload/{id}", request_body = WorkloadConfigData, responses((status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn change(
    State(app): State<App>,
    user: User,
    Path(id): Path<String>,
    Body(body): Body<WorkloadConfigData>,
) -> Result<Response, ApiError> {
    let config = body.config;
    if let Some(wire) = config.wire.filter(|wire| wire != "default" && !wire.is_empty()) {
        return Err(ApiError::invalid(format!(
            "config.wire: there is no wiring '{wire}': packets are always judged in the kernel; leave it out"
        )));
    }
    let reason = config.quarantine_reason.as_deref();
    let made = app
        .engine
        .commit(user.asker(), |core, now| {
            core.set_quarantine(&id, config.quarantine, reason, now)
        })
        .await?;
    Ok(done(&made))
}

/// All workloads in quarantine, those that are not there now as well.
#[utoipa::path(get, path = "/v1/quarantine", params(Page), responses((status = 200, body = QuarantinesData), (status = 400, body = ErrorBody)))]
pub(super) async fn quarantines(
    State(app): State<App>,
    page: Page,
) -> Result<Json<QuarantinesData>, ApiError> {
    let core = app.engine.core();
    let input = core.input();
    let found = input.quarantines.iter().map(|(id, quarantine)| Quarantine {
        id: id.to_string(),
        name: input
            .workloads
            .get(id)
            .map(|workload| workload.name.clone())
            .unwrap_or_default(),
        reason: quarantine.reason.clone(),
        since: view::time(quarantine.since),
    });
    Ok(Json(QuarantinesData {
        quarantines: page.cut(found.collect())?,
    }))
}

fn state(core: &Core, node: &nv_types::NodeId) -> &'static str {
    if core.is_connected(node, now()) {
        "connected"
    } else {
        "disconnected"
    }
}

fn all_enforcers(app: &App) -> Vec<Enforcer> {
    let core = app.engine.core();
    let nodes = core.input().nodes.values();
    nodes
        .map(|node| {
            let connected = core.is_connected(&node.id, now());
            Enforcer {
                id: node.id.to_string(),
                name: node.id.to_string(),
                display_name: node.id.to_string(),
                host_name: node.id.to_string(),
                host_id: node.id.to_string(),
                version: node.version.clone(),
                started_at: view::time(node.started),
                joined_at: view::time(node.started),
                cluster_ip: node.agent_endpoint.clone(),
                connection_state: state(&core, &node.id).into(),
                disconnected_at: if connected {
                    String::new()
                } else {
                    view::time(node.seen)
                },
            }
        })
        .collect()
}

/// All agents.
#[utoipa::path(get, path = "/v1/enforcer", params(Page), responses((status = 200, body = EnforcersData), (status = 400, body = ErrorBody)))]
pub(super) async fn enforcers(State(app): State<App>, page: Page) -> Result<Json<EnforcersData>, ApiError> {
    Ok(Json(EnforcersData {
        enforcers: page.cut(all_enforcers(&app))?,
    }))
}

/// One agent.
#[utoipa::path(get, path = "/v1/enforcer/{id}", responses((status = 200, body = EnforcerData), (status = 404, body = ErrorBody)))]
pub(super) async fn enforcer(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<EnforcerData>, ApiError> {
    let found = all_enforcers(&app).into_iter().find(|enforcer| enforcer.id == id);
    found
        .map(|enforcer| Json(EnforcerData { enforcer }))
        .ok_or_else(|| ApiError::not_found(format!("there is no enforcer '{id}'")))
}

fn this(app: &App) -> Controller {
    let started = view::time(app.engine.started());
    Controller {
        id: app.name.to_string(),
        name: app.name.to_string(),
        display_name: app.name.to_string(),
        host_name: app.name.to_string(),
        host_id: app.name.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: started.clone(),
        joined_at: started,
        cluster_ip: String::new(),
        leader: true,
        connection_state: "connected".into(),
        disconnected_at: String::new(),
    }
}

/// All controllers.
#[utoipa::path(get, path = "/v1/controller", params(Page), responses((status = 200, body = ControllersData), (status = 400, body = ErrorBody)))]
pub(super) async fn controllers(
    State(app): State<App>,
    page: Page,
) -> Result<Json<ControllersData>, ApiError> {
    Ok(Json(ControllersData {
        controllers: page.cut(vec![this(&app)])?,
    }))
}

/// One controller.
#[utoipa::path(get, path = "/v1/controller/{id}", responses((status = 200, body = ControllerData), (status = 404, body = ErrorBody)))]
pub(super) async fn controller(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ControllerData>, ApiError> {
    let controller = this(&app);
    if controller.id != id {
        return Err(ApiError::not_found(format!("there is no controller '{id}'")));
    }
    Ok(Json(ControllerData { controller }))
}

/// Name and version, and whether it is away.
fn runtime(runtime: &nv_types::NodeRuntime) -> String {
    let away = if runtime.connected {
        ""
    } else {
        " (does not answer)"
    };
    let name = format!("{} {}", runtime.name, runtime.version);
    format!("{}{away}", name.trim_end())
}

/// Interfaces under guard on all nodes, with what the datapath has counted at each, a few seconds old.
#[utoipa::path(get, path = "/v1/endpoint", responses((status = 200, body = EndpointsData)))]
pub(super) async fn endpoints(State(app): State<App>) -> Json<EndpointsData> {
    Json(EndpointsData {
        endpoints: app.engine.endpoints(),
    })
}

/// All nodes, with the revision that each enforces.
#[utoipa::path(get, path = "/v1/node", responses((status = 200, body = NodesData)))]
pub(super) async fn nodes(State(app): State<App>) -> Json<NodesData> {
    let core = app.engine.core();
    let wanted = core.policy_revision().0;
    let bad_values = core
        .problems()
        .iter()
        .map(|(key, problem)| format!("stored value of '{key}': {problem}"));
    let bad_values: Vec<_> = bad_values.collect();
    let nodes: Vec<_> = core
        .input()
        .nodes
        .values()
        .map(|node| Node {
            id: node.id.to_string(),
            state: state(&core, &node.id).into(),
            addresses: node.addresses.iter().map(ToString::to_string).collect(),
            agent_endpoint: node.agent_endpoint.clone(),
            version: node.version.clone(),
            kernel: node.kernel.clone(),
            hook: node.hook.clone(),
            runtimes: node.runtimes.iter().map(runtime).collect(),
            revision: node.revision.0,
            wanted_revision: wanted,
            endpoints: node.endpoints,
            degraded: node.degraded.iter().chain(&bad_values).cloned().collect(),
            lost_events: node.lost_events.clone(),
            seen: node.seen.0,
        })
        .collect();
    let in_force = nodes.iter().filter(|node| node.revision >= wanted).count();
    Json(NodesData {
        nodes,
        policy_revision: wanted,
        in_force,
    })
}
