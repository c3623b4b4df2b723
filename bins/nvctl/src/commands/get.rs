//! Lists and single objects.

use serde_json::{Value, json};

use super::Context;
use crate::cli::Kind;
use crate::client::{Client, segment};
use crate::error::{CtlError, EXIT_OK};
use crate::table::{self, Columns};

/// How a kind is asked for: path, name of the list, name of the object, columns, whether one can be asked for by path.
struct Resource {
    path: &'static str,
    list: &'static str,
    one: &'static str,
    columns: &'static Columns,
    by_path: bool,
}

const fn resource(kind: Kind) -> Resource {
    match kind {
        Kind::Workloads => Resource {
            path: "/v1/workload",
            list: "workloads",
            one: "workload",
            columns: &table::WORKLOADS,
            by_path: false,
        },
        Kind::Groups => Resource {
            path: "/v1/group",
            list: "groups",
            one: "group",
            columns: &table::GROUPS,
            by_path: true,
        },
        Kind::Rules => Resource {
            path: "/v1/policy/rule",
            list: "rules",
            one: "rule",
            columns: &table::RULES,
            by_path: true,
        },
        Kind::Services => Resource {
            path: "/v1/service",
            list: "services",
            one: "service",
            columns: &table::SERVICES,
            by_path: true,
        },
        Kind::Conversations => Resource {
            path: "/v1/conversation",
            list: "conversations",
            one: "conversation",
            columns: &table::CONVERSATIONS,
            by_path: false,
        },
        Kind::Violations => Resource {
            path: "/v1/log/violation",
            list: "violations",
            one: "violation",
            columns: &table::VIOLATIONS,
            by_path: false,
        },
        Kind::Nodes => Resource {
            path: "/v1/node",
            list: "nodes",
            one: "node",
            columns: &table::NODES,
            by_path: false,
        },
    }
}

pub(super) async fn run(context: &Context, kind: Kind, name: Option<&str>) -> Result<u8, CtlError> {
    let resource = resource(kind);
    let client = context.client()?;
    match name {
        None => {
            let answer = client.get(resource.path, &[]).await?;
            context.output.list(&answer, resource.list, resource.columns)?;
        }
        Some(name) if resource.by_path => {
            let answer = client
                .get(&format!("{}/{}", resource.path, segment(name)), &[])
                .await?;
            context.output.object(&answer, resource.one, resource.columns)?;
        }
        Some(name) => {
            let answer = client.get(resource.path, &[]).await?;
            let found = matching(&answer, resource.list, name);
            if found.is_empty() {
                return Err(CtlError::Refused {
                    status: 404,
                    message: format!("no {} '{name}'", resource.one),
                });
            }
            context
                .output
                .list(&json!({ resource.list: found }), resource.list, resource.columns)?;
        }
    }
    Ok(EXIT_OK)
}

/// Items that are called so: by name, by id, or by the start of an id; conversations and violations by either end.
fn matching(answer: &Value, list: &str, name: &str) -> Vec<Value> {
    const NAMES: [&str; 8] = [
        "name",
        "display_name",
        "from",
        "to",
        "client_name",
        "server_name",
        "client_id",
        "server_id",
    ];
    let empty = Vec::new();
    let items = answer.get(list).and_then(Value::as_array).unwrap_or(&empty);
    let is = |item: &Value| {
        let text = |field: &str| item.get(field).and_then(Value::as_str);
        NAMES.iter().any(|field| text(field) == Some(name))
            || text("id").is_some_and(|id| id == name || (name.len() >= 4 && id.starts_with(name)))
    };
    items.iter().filter(|item| is(item)).cloned().collect()
}

/// The id of the workload that is called so.
pub(super) async fn workload_id(client: &Client, name: &str) -> Result<String, CtlError> {
    let answer = client.get("/v1/workload", &[]).await?;
    let found = matching(&answer, "workloads", name);
    match found.as_slice() {
        [one] => one
            .get("id")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| client.garbled("a workload without an id")),
        [] => Err(CtlError::Refused {
            status: 404,
            message: format!("no workload '{name}'"),
        }),
        many => Err(CtlError::Usage(format!(
            "{} workloads are called '{name}': use an id",
            many.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_found_by_name_id_or_start_of_id() {
        let answer = json!({"workloads": [{"id": "abcdef123", "name": "web"}, {"id": "x", "name": "app"}]});
        assert_eq!(matching(&answer, "workloads", "web").len(), 1);
        assert_eq!(matching(&answer, "workloads", "abcd").len(), 1);
        assert_eq!(
            matching(&answer, "workloads", "abc").len(),
            0,
            "too short to be a prefix of an id"
        );
        assert_eq!(matching(&answer, "workloads", "x").len(), 1);
    }
}
