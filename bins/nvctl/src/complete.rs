//! Completion of names, asked of the controller while the user waits: bounded in time, and silent when there is no answer.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use clap_complete::CompletionCandidate;
use clap_complete::env::Shells;
use serde_json::Value;

use crate::cli::{Cli, Deletable, Describable, Global, Kind};
use crate::client::Client;
use crate::config::{Config, Given};
use crate::contexts::Contexts;
use crate::error::CtlError;
use crate::table;

/// Variable that asks for completion; the script of `nvctl completion SHELL` sets it.
pub(crate) const VARIABLE: &str = "NV_COMPLETE";
/// How long a user waits for names at most.
const PATIENCE: Duration = Duration::from_millis(800);
/// Most names that are offered.
const MOST: usize = 500;

/// The script that makes a shell ask.
pub(crate) fn script(shell: clap_complete::Shell) -> Result<String, CtlError> {
    let shell = shell.to_string();
    let failed = |problem: &str| CtlError::Usage(format!("no completion script for {shell}: {problem}"));
    let shells = Shells::builtins();
    let writer = shells
        .completer(&shell)
        .ok_or_else(|| failed("it is not known"))?;
    let mut text = Vec::new();
    writer
        .write_registration(VARIABLE, "nvctl", "nvctl", "nvctl", &mut text)
        .map_err(|error| failed(&error.to_string()))?;
    String::from_utf8(text).map_err(|error| failed(&error.to_string()))
}

/// Where names of a kind are: path, list, and the fields that name.
type Place = (&'static str, &'static str, &'static [&'static str]);

const WORKLOADS: Place = ("/v1/workload", "workloads", &["name"]);
const GROUPS: Place = ("/v1/group", "groups", &["name"]);
const SERVICES: Place = ("/v1/service", "services", &["name"]);
const RULES: Place = ("/v1/policy/rule", "rules", &["id"]);
const NODES: Place = ("/v1/node", "nodes", &["id|name"]);
const CAPTURES: Place = ("/v1/sniffer", "sniffers", &["id"]);
const CONVERSATIONS: Place = ("/v1/conversation", "conversations", &["from_name", "to_name"]);
const VIOLATIONS: Place = ("/v1/log/violation", "violations", &["client_name", "server_name"]);

pub(crate) fn workloads(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, &[WORKLOADS], &[])
}

pub(crate) fn groups(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, &[GROUPS], &[])
}

pub(crate) fn services(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, &[SERVICES], &["nodes"])
}

pub(crate) fn nodes(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, &[NODES], &[])
}

pub(crate) fn captures(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, &[CAPTURES], &[])
}

/// Ends of a flow.
pub(crate) fn ends(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, &[WORKLOADS, SERVICES], &["external"])
}

/// Names of the kind that was typed before: `get KIND`, `describe KIND`, `delete KIND`.
pub(crate) fn named(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(matches) = typed() else {
        return Vec::new();
    };
    let place = match matches.subcommand() {
        Some(("get", of)) => match of.get_one("kind") {
            Some(Kind::Workloads) => WORKLOADS,
            Some(Kind::Groups) => GROUPS,
            Some(Kind::Rules) => RULES,
            Some(Kind::Services) => SERVICES,
            Some(Kind::Nodes) => NODES,
            Some(Kind::Conversations) => CONVERSATIONS,
            Some(Kind::Violations) => VIOLATIONS,
            None => return Vec::new(),
        },
        Some(("describe", of)) => match of.get_one("kind") {
            Some(Describable::Workload) => WORKLOADS,
            Some(Describable::Group) => GROUPS,
            Some(Describable::Rule) => RULES,
            Some(Describable::Service) => SERVICES,
            Some(Describable::Node) => NODES,
            None => return Vec::new(),
        },
        Some(("delete", of)) => match of.get_one("kind") {
            Some(Deletable::Group) => GROUPS,
            Some(Deletable::Rule) => RULES,
            None => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    offer(current, &[place], &[])
}

/// Names of contexts, from the configuration file.
pub(crate) fn contexts(current: &OsStr) -> Vec<CompletionCandidate> {
    let read = || {
        let (file, _) = crate::config::file(&global()?, Given::default()).ok()?;
        Contexts::read(&file).ok()
    };
    candidates(current, read().unwrap_or_default().contexts.into_keys().collect())
}

fn offer(current: &OsStr, places: &[Place], more: &[&str]) -> Vec<CompletionCandidate> {
    let mut names: BTreeSet<String> = more.iter().map(|name| (*name).to_owned()).collect();
    for (answer, place) in ask(places).iter().zip(places) {
        let (_, list, fields) = place;
        let items = answer.get(list).and_then(Value::as_array);
        for item in items.into_iter().flatten() {
            names.extend(fields.iter().map(|field| table::cell(item, field)));
        }
    }
    candidates(current, names)
}

/// Those that begin so. What a shell would take apart or a terminal obey is not offered.
fn candidates(current: &OsStr, names: BTreeSet<String>) -> Vec<CompletionCandidate> {
    let begun = current.to_string_lossy();
    let is_fit =
        |name: &String| !name.is_empty() && !name.chars().any(|c| c.is_control() || c.is_whitespace());
    names
        .into_iter()
        .filter(|name| name.starts_with(begun.as_ref()) && is_fit(name))
        .take(MOST)
        .map(CompletionCandidate::new)
        .collect()
}

/// Asks the controller all of it; what is not answered in time is null.
fn ask(places: &[Place]) -> Vec<Value> {
    let fetch = || {
        let config = Config::new(&global()?, Given::default()).ok()?;
        let client = Client::silent(&config).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        let answers = runtime.block_on(async {
            let asked = places.iter().map(|(path, ..)| client.get(path, &[]));
            tokio::time::timeout(PATIENCE, futures::future::join_all(asked)).await
        });
        // A look-up of the server's name may still be under way.
        runtime.shutdown_background();
        Some(answers.ok()?.into_iter().map(Result::unwrap_or_default).collect())
    };
    fetch().unwrap_or_else(|| vec![Value::Null; places.len()])
}

/// What was typed so far, as far as it can be understood.
fn typed() -> Option<ArgMatches> {
    let words: Vec<OsString> = std::env::args_os()
        .skip_while(|word| word != "--")
        .skip(1)
        .collect();
    Cli::command()
        .ignore_errors(true)
        .try_get_matches_from(words)
        .ok()
}

/// Options that say which controller.
fn global() -> Option<Global> {
    Global::from_arg_matches(&typed()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_shell_can_take_are_offered() {
        let names = ["web", "wed\n", "w b", "\u{1b}[31m", "", "app"].map(str::to_owned);
        let offered = candidates(OsStr::new("w"), names.into());
        let offered: Vec<_> = offered.iter().map(CompletionCandidate::get_value).collect();
        assert_eq!(offered, ["web"]);
    }
}
