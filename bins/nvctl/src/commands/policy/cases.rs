//! `nvctl policy test`: what a policy must decide, written down.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nv_policy::{Book, Party, PolicyInput, Query, explain};
use nv_types::{
    Application, Group, Interface, IpProto, MacAddr, NodeId, PortSpec, Verdict, Workload, WorkloadId,
};
use serde::Deserialize;

use super::Context;
use super::file::Loaded;
use crate::documents;
use crate::error::{CtlError, EXIT_NO, EXIT_OK};
use crate::output::{escape, note};

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Suite {
    /// Policy files, relative to this one.
    policy: Vec<PathBuf>,
    #[serde(default)]
    workloads: Vec<Who>,
    cases: Vec<Case>,
}

/// A workload as a file tells of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Who {
    pub(super) name: String,
    /// Its service; the name if it is left out.
    service: Option<String>,
    #[serde(default)]
    domain: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    address: Option<IpAddr>,
    /// More of them.
    #[serde(default)]
    addresses: Vec<IpAddr>,
    /// Its Ethernet address.
    mac: Option<MacAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: Option<String>,
    from: String,
    to: String,
    port: Text,
    app: Option<String>,
    expect: String,
    rule: Option<u32>,
}

/// A port may be written as a number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Text {
    Number(u16),
    Text(String),
}

struct Outcome {
    name: String,
    /// What was wrong, with the explanation.
    failure: Option<(String, String)>,
}

pub(super) fn run(context: &Context, file: &Path, junit: Option<&Path>) -> Result<u8, CtlError> {
    let problem = |problem: String| CtlError::File {
        file: file.display().to_string(),
        problem,
    };
    let text = documents::text(file)?;
    let suite: Suite = serde_saphyr::from_str_with_options(&text, documents::options())
        .map_err(|error| problem(error.to_string()))?;
    let mut input = PolicyInput::default();
    for who in &suite.workloads {
        let workload = who.workload().map_err(&problem)?;
        input.add_service_group(&workload);
        if input.workloads.insert(workload.id.clone(), workload).is_some() {
            return Err(problem(format!("workloads: '{}' is there twice", who.name)));
        }
    }
    let mut loaded = Loaded::on(input);
    let folder = file.parent().unwrap_or_else(|| Path::new("."));
    for policy in &suite.policy {
        loaded.add(&folder.join(policy))?;
    }
    loaded.check();
    if let Some(error) = loaded.refused() {
        return Err(error);
    }
    let book = Book::new(&loaded.input);
    let outcomes = suite
        .cases
        .iter()
        .enumerate()
        .map(|(at, case)| case.run(at + 1, &loaded.input, &book))
        .collect::<Result<Vec<_>, _>>()
        .map_err(problem)?;
    let mut failed = 0;
    for outcome in &outcomes {
        match &outcome.failure {
            None => context
                .output
                .line(&escape(&format!("ok      {}", outcome.name), false))?,
            Some((what, why)) => {
                failed += 1;
                context
                    .output
                    .line(&escape(&format!("FAILED  {}: {what}", outcome.name), false))?;
                why.lines()
                    .try_for_each(|line| context.output.line(&escape(&format!("        {line}"), false)))?;
            }
        }
    }
    if let Some(path) = junit {
        std::fs::write(path, report(file, &outcomes)).map_err(|source| CtlError::Io {
            action: format!("cannot write {}", path.display()),
            source,
        })?;
    }
    note(&format!("{} cases, {failed} failed", outcomes.len()));
    Ok(if failed == 0 { EXIT_OK } else { EXIT_NO })
}

impl Who {
    pub(super) fn workload(&self) -> Result<Workload, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("workloads: '{}': {error}", self.name);
        let id = WorkloadId::try_new(&self.name).map_err(|error| wrong(&error))?;
        let node = NodeId::try_new("test").map_err(|error| wrong(&error))?;
        let service = self.service.clone().unwrap_or_else(|| self.name.clone());
        let prefixed = |address: &IpAddr| (*address, if address.is_ipv4() { 32 } else { 128 });
        let workload = Workload {
            name: self.name.clone(),
            domain: self.domain.clone(),
            image: self.image.clone(),
            labels: self.labels.clone(),
            interfaces: vec![Interface {
                name: "eth0".into(),
                addresses: self.address.iter().chain(&self.addresses).map(prefixed).collect(),
                mac: self.mac,
                ..Interface::default()
            }],
            ..Workload::new(id, node, service)
        };
        match workload.service_group() {
            Some(_) => Ok(workload),
            None => Err(wrong(&"its service and domain make no name of a group")),
        }
    }
}

impl Case {
    fn run(&self, number: usize, input: &PolicyInput, book: &Book<'_>) -> Result<Outcome, String> {
        let port = match &self.port {
            Text::Number(port) => format!("tcp/{port}"),
            Text::Text(text) => text.clone(),
        };
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| format!("{} -> {} {port}", self.from, self.to));
        let wrong = |field: &str, problem: &str| format!("case {number} ({name}): {field}: {problem}");
        let (proto, number_of_port) = match port.parse::<PortSpec>() {
            Ok(PortSpec::Icmp) => (IpProto::ICMP, 0),
            Ok(PortSpec::Ports(proto, range)) if range.first == range.last => (proto, range.first),
            Ok(_) => return Err(wrong("port", "one port is needed, such as tcp/80, or icmp")),
            Err(error) => return Err(wrong("port", &error.to_string())),
        };
        let app = match &self.app {
            None => None,
            Some(text) => {
                let app = text.parse::<Application>();
                Some(app.map_err(|_unknown| wrong("app", &format!("unknown application '{text}'")))?)
            }
        };
        let expected = [Verdict::Allow, Verdict::Alert, Verdict::Deny]
            .into_iter()
            .find(|verdict| verdict.to_string() == self.expect)
            .ok_or_else(|| wrong("expect", "use allow, alert or deny"))?;
        let end = |field: &str, text: &str| {
            party(input, book, text)
                .ok_or_else(|| wrong(field, &format!("'{text}' is neither a workload nor an address")))
        };
        let explanation = explain(
            input,
            &Query {
                client: (self.from.clone(), end("from", &self.from)?),
                server: (self.to.clone(), end("to", &self.to)?),
                proto,
                port: number_of_port,
                app,
            },
        );
        let decision = explanation.decision;
        let failure = if decision.verdict != expected {
            Some(format!("expected {expected}, it is {}", decision.verdict))
        } else if self.rule.is_some_and(|rule| rule != decision.rule.0) {
            let rule = self.rule.unwrap_or_default();
            Some(format!("expected rule {rule}, it is {}", decision.rule))
        } else {
            None
        };
        Ok(Outcome {
            name,
            failure: failure.map(|what| (what, explanation.text)),
        })
    }
}

fn party(input: &PolicyInput, book: &Book<'_>, text: &str) -> Option<Party> {
    if let Some(workload) = input.workloads.get(text) {
        return Some(book.workload(workload));
    }
    text.parse().ok().map(|address| book.address(address))
}

/// One workload for each service that either policy knows and has none of.
pub(super) fn stand_ins(old: &mut PolicyInput, new: &mut PolicyInput) {
    let services: Vec<Group> = old
        .groups
        .values()
        .chain(new.groups.values())
        .filter(|group| group.is_service())
        .cloned()
        .collect();
    for group in services {
        let service = group.name.as_str().trim_start_matches("nv.").to_owned();
        let (Ok(id), Ok(node)) = (WorkloadId::try_new(&service), NodeId::try_new("any")) else {
            continue;
        };
        let workload = Workload::new(id, node, service);
        for input in [&mut *old, &mut *new] {
            input
                .groups
                .entry(group.name.clone())
                .or_insert_with(|| group.clone());
            input
                .workloads
                .entry(workload.id.clone())
                .or_insert_with(|| workload.clone());
        }
    }
}

/// JUnit's XML as CI systems read it.
fn report(file: &Path, outcomes: &[Outcome]) -> String {
    let failed = outcomes
        .iter()
        .filter(|outcome| outcome.failure.is_some())
        .count();
    let suite = xml(&file.display().to_string());
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{suite}\" tests=\"{}\" failures=\"{failed}\">\n",
        outcomes.len()
    );
    for outcome in outcomes {
        // Writing to a string cannot fail.
        let _ = match &outcome.failure {
            None => writeln!(
                text,
                "  <testcase classname=\"{suite}\" name=\"{}\"/>",
                xml(&outcome.name)
            ),
            Some((what, why)) => writeln!(
                text,
                "  <testcase classname=\"{suite}\" name=\"{}\">\n    <failure message=\"{}\">{}</failure>\n  </testcase>",
                xml(&outcome.name),
                xml(what),
                xml(why)
            ),
        };
    }
    text.push_str("</testsuite>\n");
    text
}

fn xml(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
