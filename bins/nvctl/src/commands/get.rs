//! Lists and single objects.

use std::collections::BTreeMap;
use std::time::Duration;

use nv_api::filter::FlowFilter;
use serde_json::Value;

use super::Context;
use crate::cli::{GetArgs, Kind};
use crate::client::{Client, segment};
use crate::error::{CtlError, EXIT_OK};
use crate::filter::{self, Selector};
use crate::output::note;
use crate::table::{self, Columns};

/// How often a list that is watched is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How a kind is asked for: path, name of the list, name of the object, columns, what tells objects apart, whether one can be asked for by
/// path.
struct Resource {
    path: &'static str,
    list: &'static str,
    one: &'static str,
    columns: &'static Columns,
    key: &'static [&'static str],
    by_path: bool,
}

impl Resource {
    fn key(&self, item: &Value) -> String {
        let parts = self.key.iter().map(|part| table::cell(item, part));
        parts.collect::<Vec<_>>().join(" -> ")
    }
}

const fn resource(kind: Kind) -> Resource {
    match kind {
        Kind::Workloads => Resource {
            path: "/v1/workload",
            list: "workloads",
            one: "workload",
            key: &["id"],
            columns: &table::WORKLOADS,
            by_path: false,
        },
        Kind::Groups => Resource {
            path: "/v1/group",
            list: "groups",
            one: "group",
            key: &["name"],
            columns: &table::GROUPS,
            by_path: true,
        },
        Kind::Rules => Resource {
            path: "/v1/policy/rule",
            list: "rules",
            one: "rule",
            key: &["id"],
            columns: &table::RULES,
            by_path: true,
        },
        Kind::Services => Resource {
            path: "/v1/service",
            list: "services",
            one: "service",
            key: &["name"],
            columns: &table::SERVICES,
            by_path: true,
        },
        Kind::Conversations => Resource {
            path: "/v1/conversation",
            list: "conversations",
            one: "conversation",
            key: &["from", "to"],
            columns: &table::CONVERSATIONS,
            by_path: false,
        },
        Kind::Violations => Resource {
            path: "/v1/log/violation",
            list: "violations",
            one: "violation",
            key: &["id"],
            columns: &table::VIOLATIONS,
            by_path: false,
        },
        Kind::Nodes => Resource {
            path: "/v1/node",
            list: "nodes",
            one: "node",
            key: &["id|name"],
            columns: &table::NODES,
            by_path: false,
        },
    }
}

pub(super) async fn run(context: &Context, args: &GetArgs) -> Result<u8, CtlError> {
    let resource = resource(args.kind);
    let wanted = Wanted::new(args, &resource)?;
    let client = context.client()?;
    if args.watch {
        return watch(context, &client, &resource, &wanted).await;
    }
    if let Some(name) = wanted.name.filter(|_| resource.by_path) {
        let answer = client
            .get(&format!("{}/{}", resource.path, segment(name)), &[])
            .await?;
        context.output.object(&answer, resource.one, resource.columns)?;
        return Ok(EXIT_OK);
    }
    let answer = wanted.cut(client.get(resource.path, &[]).await?, &resource)?;
    if let (Some(name), true) = (wanted.name, items(&answer, resource.list).is_empty()) {
        return Err(CtlError::Refused {
            status: 404,
            message: format!("no {} '{name}'", resource.one),
        });
    }
    context.output.list(&answer, resource.list, resource.columns)?;
    Ok(EXIT_OK)
}

fn items<'a>(answer: &'a Value, list: &str) -> &'a [Value] {
    answer
        .get(list)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Which objects of a list, and in which order.
struct Wanted<'a> {
    kind: Kind,
    name: Option<&'a str>,
    selector: Option<Selector>,
    filter: &'a FlowFilter,
    /// Path, and whether the highest come first.
    sort: Option<(String, bool)>,
}

impl<'a> Wanted<'a> {
    fn new(args: &'a GetArgs, resource: &Resource) -> Result<Self, CtlError> {
        let filter = args.filters.filter();
        if let Some(word) = filter.words().next()
            && !matches!(args.kind, Kind::Conversations | Kind::Violations)
        {
            return Err(CtlError::Usage(format!(
                "--{}: filter words are for conversations and violations, not for {}",
                word.name(),
                resource.list
            )));
        }
        if args.selector.is_some() && args.kind != Kind::Workloads {
            return Err(CtlError::Usage(format!(
                "--selector: {} have no labels; workloads have",
                resource.list
            )));
        }
        let sort = args.sort_by.as_deref().map(|text| {
            let (name, falling) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
            let path = table::column(resource.columns, name).unwrap_or(name);
            (path.to_owned(), falling)
        });
        Ok(Self {
            kind: args.kind,
            name: args.name.as_deref(),
            selector: args.selector.as_deref().map(Selector::parse).transpose()?,
            filter,
            sort,
        })
    }

    /// The answer with only what is wanted in its list.
    fn cut(&self, mut answer: Value, resource: &Resource) -> Result<Value, CtlError> {
        let mut list = match self.name {
            Some(name) => matching(&answer, resource.list, name),
            None => items(&answer, resource.list).to_vec(),
        };
        if let Some(selector) = &self.selector {
            list.retain(|item| selector.selects(item));
        }
        list = match self.kind {
            _ if self.filter.is_empty() => list,
            Kind::Conversations => filter::conversations(self.filter, &answer, list)?,
            _ => filter::violations(self.filter, list)?,
        };
        if let Some((path, falling)) = &self.sort {
            if !list.is_empty() && !list.iter().any(|item| table::has(item, path)) {
                let known: Vec<_> = resource.columns.list.iter().map(|column| column.title).collect();
                return Err(CtlError::Usage(format!(
                    "--sort-by: no column and no field of {} is called '{path}'; columns: {}",
                    resource.list,
                    known.join(", ").to_lowercase()
                )));
            }
            list.sort_by(|a, b| {
                let order = table::order(a, b, path);
                if *falling { order.reverse() } else { order }
            });
        }
        if let Some(place) = answer.get_mut(resource.list) {
            *place = Value::Array(list);
        }
        Ok(answer)
    }
}

/// Shows the list, and then what is new or changed in it.
async fn watch(
    context: &Context,
    client: &Client,
    resource: &Resource,
    wanted: &Wanted<'_>,
) -> Result<u8, CtlError> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut is_first = true;
    loop {
        match client.get(resource.path, &[]).await {
            Ok(answer) => {
                let answer = wanted.cut(answer, resource)?;
                let list = items(&answer, resource.list);
                // What the user sees of it is what can change.
                let seen: BTreeMap<_, _> = list
                    .iter()
                    .map(|item| {
                        (
                            resource.key(item),
                            context.output.fingerprint(item, resource.columns),
                        )
                    })
                    .collect();
                if is_first && context.output.is_table() {
                    context.output.list(&answer, resource.list, resource.columns)?;
                } else {
                    let changed = list.iter().filter(|item| {
                        let key = resource.key(item);
                        known.get(&key) != seen.get(&key)
                    });
                    for item in changed {
                        context.output.record(item, resource.columns)?;
                    }
                }
                for gone in known.keys().filter(|key| !seen.contains_key(*key)) {
                    note(&format!("{} {gone} is gone", resource.one));
                }
                known = seen;
                is_first = false;
            }
            Err(error @ CtlError::Unreachable { .. }) => note(&format!("{error}; trying again")),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
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
    let is = |item: &Value| {
        let text = |field: &str| item.get(field).and_then(Value::as_str);
        NAMES.iter().any(|field| text(field) == Some(name))
            || text("id").is_some_and(|id| id == name || (name.len() >= 4 && id.starts_with(name)))
    };
    items(answer, list)
        .iter()
        .filter(|item| is(item))
        .cloned()
        .collect()
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
    use serde_json::json;

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
