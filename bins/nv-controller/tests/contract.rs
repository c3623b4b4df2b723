//! What we serve of NeuVector's REST is in its document.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::Bed;
use reqwest::Method;

/// Routes that NeuVector's document does not have.
const OURS: [&str; 8] = [
    "/v1/conversation",
    "/v1/node",
    "/v1/explain",
    "/v1/apply",
    "/v1/flow",
    "/v1/settings",
    "/healthz",
    "/metrics",
];

/// `method path` of each operation, by the indentation of the document.
fn operations(text: &str) -> BTreeSet<String> {
    let (mut found, mut inside, mut path) = (BTreeSet::new(), false, String::new());
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        let key = line.trim().trim_end_matches(':').trim_matches(['\'', '"']);
        match depth {
            0 if !key.is_empty() && !key.starts_with('#') => inside = key == "paths",
            2 if inside => key.clone_into(&mut path),
            4 if inside && ["get", "post", "patch", "delete", "put"].contains(&key) => {
                found.insert(format!("{key} {}", shape(&path)));
            }
            _ => {}
        }
    }
    found
}

/// A path with its parameters' names taken out.
fn shape(path: &str) -> String {
    let parts = path
        .split('/')
        .map(|part| if part.starts_with('{') { "{}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_in_the_reference() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/neuvector-openapi.yaml");
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("SKIPPED routes_are_in_the_reference: no {}", file.display());
        return;
    };
    let reference = operations(&text);
    assert!(reference.len() > 50, "only {} operations read", reference.len());
    let bed = Bed::start().await;
    let (_, document) = bed.call(Method::GET, "/openapi.json", None).await;
    let mut unknown = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let operation = format!("{method} {}", shape(path));
            if !OURS.contains(&path.as_str()) && !reference.contains(&operation) {
                unknown.push(operation);
            }
        }
    }
    assert!(unknown.is_empty(), "not in NeuVector's document: {unknown:?}");
}
