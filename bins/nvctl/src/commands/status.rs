//! One screen: is everything in force.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Context;
use crate::cli::Format;
use crate::client::Client;
use crate::error::{CtlError, EXIT_NO, EXIT_OK};
use crate::output::note;
use crate::table;

pub(super) async fn run(context: &Context, wait: bool, timeout: u64) -> Result<u8, CtlError> {
    let client = context.client()?;
    let deadline = Instant::now() + Duration::from_secs(timeout);
    loop {
        let state = State::fetch(&client).await?;
        let red = state.problems();
        if red.is_empty() || !wait || Instant::now() >= deadline {
            state.print(context, &red)?;
            return Ok(if red.is_empty() { EXIT_OK } else { EXIT_NO });
        }
        note(&format!("waiting: {}", red.join("; ")));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits until every node enforces at least this revision.
pub(super) async fn wait_in_force(client: &Client, revision: u64, timeout: Duration) -> Result<(), CtlError> {
    let deadline = Instant::now() + timeout;
    loop {
        let nodes = client.get("/v1/node", &[]).await?;
        let empty = Vec::new();
        let list = nodes.get("nodes").and_then(Value::as_array).unwrap_or(&empty);
        let behind: Vec<_> = list
            .iter()
            .filter(|node| node.get("revision").and_then(Value::as_u64).unwrap_or(0) < revision)
            .map(|node| table::cell(node, "id|name"))
            .collect();
        if behind.is_empty() && !list.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let who = if list.is_empty() {
                "there is no node".to_owned()
            } else {
                format!("behind: {}", behind.join(", "))
            };
            return Err(CtlError::Step {
                step: format!("revision {revision} in force"),
                detail: who,
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct State {
    nodes: Value,
    controllers: Value,
    workloads: Value,
}

impl State {
    async fn fetch(client: &Client) -> Result<Self, CtlError> {
        Ok(Self {
            nodes: client.get("/v1/node", &[]).await?,
            controllers: client.get("/v1/controller", &[]).await?,
            workloads: client.get("/v1/workload", &[]).await?,
        })
    }

    fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
        value
            .get(field)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// What is wrong, in words.
    fn problems(&self) -> Vec<String> {
        let mut red = Vec::new();
        let nodes = Self::list(&self.nodes, "nodes");
        if nodes.is_empty() {
            red.push("no node has reported".to_owned());
        }
        for node in nodes {
            let name = table::cell(node, "id|name");
            let (have, want) = (
                table::cell(node, "revision"),
                table::cell(node, "wanted_revision|wanted"),
            );
            if have.parse::<u64>().unwrap_or(0) < want.parse::<u64>().unwrap_or(0) {
                red.push(format!("{name} enforces revision {have}, wanted is {want}"));
            }
            let state = table::cell(node, "state");
            if !matches!(state.as_str(), "" | "connected") {
                red.push(format!("{name} is {state}"));
            }
            let degraded = table::cell(node, "degraded");
            if !degraded.is_empty() {
                red.push(format!("{name}: {degraded}"));
            }
        }
        red
    }

    fn print(&self, context: &Context, red: &[String]) -> Result<(), CtlError> {
        let out = &context.output;
        let merged = json!({
            "controllers": self.controllers.get("controllers"),
            "nodes": self.nodes.get("nodes"),
            "workloads": Self::list(&self.workloads, "workloads").len(),
            "problems": red,
        });
        if !matches!(out.format(), Format::Table | Format::Wide) {
            return out.object(&merged, "", &table::NODES);
        }
        let controllers = Self::list(&self.controllers, "controllers");
        out.line(&format!(
            "controllers: {}   nodes: {}   workloads: {}",
            controllers.len(),
            Self::list(&self.nodes, "nodes").len(),
            Self::list(&self.workloads, "workloads").len()
        ))?;
        out.list(&self.nodes, "nodes", &table::NODES)?;
        if red.is_empty() {
            out.line("all is well")
        } else {
            red.iter()
                .try_for_each(|line| out.line(&format!("! {}", crate::output::escape(line, false))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_behind_or_degraded_is_named() {
        let state = |nodes: Value| State {
            nodes: json!({ "nodes": nodes }),
            controllers: json!({}),
            workloads: json!({}),
        };
        assert_eq!(state(json!([])).problems().len(), 1);
        assert!(
            state(json!([{"id": "a", "revision": 5, "wanted_revision": 5, "degraded": []}]))
                .problems()
                .is_empty()
        );
        let red = state(json!([{"id": "a", "revision": 4, "wanted_revision": 5, "degraded": ["no BTF"]}]))
            .problems();
        assert_eq!(red, ["a enforces revision 4, wanted is 5", "a: no BTF"]);
    }
}
