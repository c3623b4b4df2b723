//! The story, step by step, each checked.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::plan::Role;
use super::rest::{Rest, RestError};
use super::stage::Stage;
use super::traffic::{Traffic, Tries, stray};
use super::view::Kind;
use super::world::World;

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long the allowed paths are watched once the stray is blocked.
const WATCHED: Duration = Duration::from_secs(3);

/// A step that did not go as it must.
#[derive(Debug, thiserror::Error)]
#[error("step '{step}' failed: {problem}")]
pub struct StoryError {
    /// Which step.
    pub step: &'static str,
    /// What is wrong.
    pub problem: String,
}

/// What the story is played with.
pub(super) struct Story<'a> {
    pub(super) rest: &'a Rest,
    pub(super) world: &'a World,
    pub(super) traffic: &'a Traffic,
    pub(super) stage: &'a Stage,
    /// Time for a reader after each step.
    pub(super) pause: Duration,
}

impl Story<'_> {
    pub(super) async fn play(&self) -> Result<(), StoryError> {
        self.step("workloads", "nv finds the workloads", self.workloads())
            .await?;
        self.step(
            "discover",
            "Discover: everything passes, and nv learns who talks to whom",
            self.discover(),
        )
        .await?;
        self.step(
            "conversations",
            "Who talks to whom, with application and bytes",
            self.conversations(),
        )
        .await?;
        self.step(
            "monitor",
            "Monitor: what no rule allows still passes, but is reported",
            self.monitor(),
        )
        .await?;
        self.step(
            "violation",
            "A stray connection appears: web opens db",
            self.violation(),
        )
        .await?;
        self.step(
            "protect",
            "Protect: only what a rule allows passes",
            self.protect(),
        )
        .await?;
        self.step("explain", "Why?", self.explain()).await
    }

    async fn step(
        &self,
        step: &'static str,
        title: &str,
        work: impl Future<Output = Result<(), String>>,
    ) -> Result<(), StoryError> {
        self.stage.say(Kind::Chapter, title);
        work.await.map_err(|problem| StoryError { step, problem })?;
        if let Err(error) = self.stage.refresh(self.rest).await {
            tracing::debug!(%error, "view not refreshed");
        }
        self.stage.finish_step();
        sleep(self.pause).await;
        Ok(())
    }

    fn good(&self, text: String) {
        self.stage.say(Kind::Good, &text);
    }

    async fn workloads(&self) -> Result<(), String> {
        wait(
            "the workloads web, app and db with their services in Discover",
            async || {
                let workloads = self.rest.workloads().await?;
                let services = self.rest.services().await?;
                Ok(Role::ALL.iter().all(|role| {
                    workloads
                        .iter()
                        .any(|w| w.name == role.name() && w.addresses.len() >= 2)
                        && services
                            .iter()
                            .any(|s| s.name == role.name() && s.mode == "Discover")
                }))
            },
        )
        .await?;
        self.good("web, app and db are there, each with an IPv4 and an IPv6 address, in Discover".to_owned());
        Ok(())
    }

    async fn discover(&self) -> Result<(), String> {
        wait("learned rules web -> app and app -> db", async || {
            Ok(self.learned(Role::Web, Role::App).await?.is_some()
                && self.learned(Role::App, Role::Db).await?.is_some())
        })
        .await?;
        for rule in words(self.rest.rules().await)?.iter().filter(|rule| rule.learned) {
            self.good(format!(
                "rule {} learned: {} -> {} {}",
                rule.id,
                rule.from,
                rule.to,
                rule.what()
            ));
        }
        if words(self.learned(Role::Web, Role::Db).await)?.is_some() {
            return Err("a rule web -> db was learned, which nobody used".to_owned());
        }
        Ok(())
    }

    async fn conversations(&self) -> Result<(), String> {
        for (from, to, application) in [(Role::Web, Role::App, "HTTP"), (Role::App, Role::Db, "Redis")] {
            let what = format!(
                "a conversation {} -> {} over {application}",
                from.name(),
                to.name()
            );
            wait(&what, async || {
                let all = self.rest.conversations().await?;
                Ok(all.iter().any(|item| {
                    item.from == from.name()
                        && item.to == to.name()
                        && item.bytes > 0
                        && item
                            .applications
                            .iter()
                            .any(|app| app.eq_ignore_ascii_case(application))
                }))
            })
            .await?;
            self.good(format!("{} -> {} is {application}", from.name(), to.name()));
        }
        Ok(())
    }

    async fn monitor(&self) -> Result<(), String> {
        self.set_modes("Monitor").await?;
        self.good("web, app and db are in Monitor: no more rules are learned".to_owned());
        Ok(())
    }

    async fn violation(&self) -> Result<(), String> {
        stray(self.world, Role::Web, false)
            .await
            .map_err(|error| format!("web does not reach db: {error}"))?;
        self.good("web -> db tcp/6379 passed".to_owned());
        self.reported("alert").await?;
        self.good("and is reported as a violation, verdict alert".to_owned());
        if words(self.learned(Role::Web, Role::Db).await)?.is_some() {
            return Err("a rule web -> db was learned from a violation".to_owned());
        }
        Ok(())
    }

    async fn protect(&self) -> Result<(), String> {
        self.set_modes("Protect").await?;
        self.good("web, app and db are in Protect".to_owned());
        for v6 in [false, true] {
            if stray(self.world, Role::Web, v6).await.is_ok() {
                return Err(format!("web still reaches db over IPv{}", if v6 { 6 } else { 4 }));
            }
        }
        self.good("web -> db is blocked, over IPv4 and IPv6".to_owned());
        self.reported("deny").await?;
        self.good("and is reported, verdict deny".to_owned());
        let before = (self.traffic.web_app.counts(), self.traffic.app_db.counts());
        sleep(WATCHED).await;
        flows("web -> app", &self.traffic.web_app, before.0)?;
        flows("app -> db", &self.traffic.app_db, before.1)?;
        self.good("web -> app and app -> db flow on without a failure".to_owned());
        Ok(())
    }

    async fn explain(&self) -> Result<(), String> {
        let denied = words(self.rest.explain("web", "db", "tcp/6379", "Redis").await)?;
        for line in denied.text.lines() {
            self.stage.say(Kind::Note, line);
        }
        if denied.verdict != "deny" || denied.rule != 0 {
            return Err(format!("web -> db is explained as {denied:?}"));
        }
        self.good("web -> db: deny, as no rule matches and the mode is Protect".to_owned());
        let rule = words(self.learned(Role::Web, Role::App).await)?;
        let allowed = words(self.rest.explain("web", "app", "tcp/8080", "HTTP").await)?;
        for line in allowed.text.lines() {
            self.stage.say(Kind::Note, line);
        }
        if allowed.verdict != "allow" || Some(allowed.rule) != rule {
            return Err(format!(
                "web -> app is explained as {allowed:?}, the learned rule is {rule:?}"
            ));
        }
        self.good(format!("web -> app: allow, by rule {}", allowed.rule));
        Ok(())
    }

    async fn set_modes(&self, mode: &str) -> Result<(), String> {
        let services = Role::ALL.map(Role::name);
        let revision = words(self.rest.set_mode(&services, mode).await)?;
        let wanted = match revision {
            Some(revision) => revision,
            None => words(self.rest.nodes().await)?.policy_revision,
        };
        wait(
            &format!("{mode} in force on the node (revision {wanted})"),
            async || {
                let nodes = self.rest.nodes().await?.nodes;
                Ok(!nodes.is_empty() && nodes.iter().all(|node| node.revision >= wanted))
            },
        )
        .await
    }

    async fn reported(&self, verdict: &str) -> Result<(), String> {
        wait(
            &format!("a violation web -> db with verdict {verdict}"),
            async || {
                let all = self.rest.violations().await?;
                Ok(all.iter().any(|item| {
                    item.client == Role::Web.name()
                        && item.server == Role::Db.name()
                        && item.port == Role::Db.port()
                        && item.verdict == verdict
                }))
            },
        )
        .await
    }

    async fn learned(&self, from: Role, to: Role) -> Result<Option<u32>, RestError> {
        let rules = self.rest.rules().await?;
        let found = rules.iter().find(|rule| {
            rule.learned && rule.action == "allow" && rule.from == from.name() && rule.to == to.name()
        });
        Ok(found.map(|rule| rule.id))
    }
}

fn flows(path: &str, tries: &Tries, before: (u64, u64)) -> Result<(), String> {
    let (ok, failed) = tries.counts();
    if ok <= before.0 {
        return Err(format!("{path} does not flow"));
    }
    if failed > before.1 {
        return Err(format!("{path} failed {} times", failed - before.1));
    }
    Ok(())
}

fn words<T>(result: Result<T, RestError>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// Asks until it is so.
async fn wait(what: &str, mut holds: impl AsyncFnMut() -> Result<bool, RestError>) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        if words(holds().await)? {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("{what}: not within {} s", PATIENCE.as_secs()));
        }
        sleep(LOOK_AGAIN).await;
    }
}
