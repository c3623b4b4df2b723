//! Domains: namespaces of workloads, and which have a boundary.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use nv_api::rest::{Domain, DomainsData, ErrorBody};
use nv_policy::PolicyInput;
use nv_types::WorkloadState;

use super::App;
use super::error::ApiError;
use super::list::Page;

fn domains(input: &PolicyInput) -> Vec<Domain> {
    let bounded = input.bounded_domains();
    let named = |name: &str| Domain {
        name: name.to_owned(),
        workloads: 0,
        running_workloads: 0,
        running_pods: 0,
        services: 0,
        tags: Vec::new(),
        labels: BTreeMap::new(),
        boundary: bounded.contains(name),
    };
    // What the setting names is shown before somebody is in it.
    let mut found: BTreeMap<&str, Domain> = bounded.iter().map(|name| (*name, named(name))).collect();
    let mut services: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for workload in input.workloads.values() {
        let name = workload.domain.as_str();
        let domain = found.entry(name).or_insert_with(|| named(name));
        domain.workloads += 1;
        services.entry(name).or_default().insert(&workload.service);
        if workload.state == WorkloadState::Running {
            domain.running_workloads += 1;
            domain.running_pods += usize::from(!workload.containers.is_empty());
            let labels = workload.namespace_labels.clone();
            domain.labels.extend(labels);
        }
    }
    for (name, services) in services {
        if let Some(domain) = found.get_mut(name) {
            domain.services = services.len();
        }
    }
    // Workloads without a domain are in none.
    found.remove("");
    found.into_values().collect()
}

/// All domains that somebody is in or that a setting names.
#[utoipa::path(get, path = "/v1/domain", params(Page), responses((status = 200, body = DomainsData), (status = 400, body = ErrorBody)))]
pub(super) async fn list(State(app): State<App>, page: Page) -> Result<Json<DomainsData>, ApiError> {
    let found = domains(app.engine.core().input());
    Ok(Json(DomainsData {
        domains: page.cut(found)?,
        tag_per_domain: false,
    }))
}
