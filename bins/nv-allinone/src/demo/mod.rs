//! The demo: a small network of its own, and the story of a stray connection on it.
//!
//! Everything that it makes has a name that `Plan` knows, so that a later start, or the guardian process, can
//! remove what a crash has left: interfaces, namespaces, pinned programs and maps, files.

mod lock;
pub(crate) mod plan;
mod rest;
mod rows;
mod stage;
mod story;
mod traffic;
mod view;
mod world;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::stack::Stack;
use lock::Lock;
use plan::Plan;
use rest::Rest;
pub use rest::RestError;
use stage::Stage;
use story::Story;
pub use story::StoryError;
use view::Kind;
use world::World;

/// Time for a reader after each step, when someone watches.
const READING: Duration = Duration::from_secs(5);
/// When someone watches, the stray is tried again this often once the story is told.
const STRAY_AGAIN: Duration = Duration::from_secs(3);

/// How the demo is played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Play the story once, without pauses, and end.
    pub once: bool,
    /// Its name, in the names of everything it makes: at most 8 of `a-z` and `0-9`. Demos of different names can run
    /// beside each other.
    pub instance: String,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            once: false,
            instance: "demo".to_owned(),
        }
    }
}

/// Plays the demo until `shutdown`, or to the end of the story with [`DemoOptions::once`]. Removes everything that it
/// made, also when it fails.
///
/// # Errors
/// What could not be made, or the step of the story that failed.
pub async fn run(options: &DemoOptions, shutdown: CancellationToken) -> Result<(), DemoError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(DemoError::NotRoot);
    }
    let plan = plan_of(&options.instance)?;
    let lock = Lock::take(&plan)?;
    let stage = Stage::stdout();
    for what in remove_all(&plan).await? {
        stage.say(Kind::Note, &format!("removed what an earlier demo left: {what}"));
    }
    let played = play(options, &plan, &stage, &shutdown).await;
    let removed = remove_all(&plan).await;
    lock.release();
    stage.close();
    // What went wrong first says more.
    played?;
    removed.map(|_| ())
}

/// Removes whatever a demo of this name has left, unless one runs; the names of what was there.
///
/// # Errors
/// [`DemoError::Running`], or what could not be removed.
pub async fn clean(instance: &str) -> Result<Vec<String>, DemoError> {
    let plan = plan_of(instance)?;
    let lock = Lock::take(&plan)?;
    let removed = remove_all(&plan).await;
    lock.release();
    removed
}

fn plan_of(instance: &str) -> Result<Plan, DemoError> {
    Plan::new(instance).ok_or_else(|| DemoError::Name(instance.to_owned()))
}

async fn play(
    options: &DemoOptions,
    plan: &Plan,
    stage: &Stage,
    shutdown: &CancellationToken,
) -> Result<(), DemoError> {
    let world = World::make(plan).await?;
    let ended = match traffic::start(&world).await {
        Ok(traffic) => on_stage(options, plan, stage, shutdown, &world, &traffic).await,
        Err(source) => Err(DemoError::Io {
            what: "starting servers".to_owned(),
            source,
        }),
    };
    let removed = world.end().await;
    ended.and(removed)
}

async fn on_stage(
    options: &DemoOptions,
    plan: &Plan,
    stage: &Stage,
    shutdown: &CancellationToken,
    world: &World,
    traffic: &traffic::Traffic,
) -> Result<(), DemoError> {
    let stack = tokio::select! {
        started = Stack::for_demo(plan) => started.map_err(DemoError::Stack)?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let story = async {
        let rest = Rest::login(
            &stack.server(),
            stack.ca(),
            stack.user(),
            stack.password().unwrap_or_default(),
        )
        .await?;
        let pause = if options.once { Duration::ZERO } else { READING };
        let story = Story {
            rest: &rest,
            world,
            traffic,
            stage,
            pause,
        };
        tokio::select! {
            () = stage.run(&rest) => Ok(()),
            told = tell(options, &story) => told,
        }
    };
    let ended = tokio::select! {
        ended = story => ended,
        () = shutdown.cancelled() => Ok(()),
    };
    let stopped = stack.stop().await.map_err(DemoError::Stack);
    ended.and(stopped)
}

async fn tell(options: &DemoOptions, story: &Story<'_>) -> Result<(), DemoError> {
    story.play().await?;
    if options.once {
        return Ok(());
    }
    story.stage.say(
        Kind::Chapter,
        "The end. web goes on trying db, in vain. Ctrl-C ends the demo.",
    );
    loop {
        tokio::time::sleep(STRAY_AGAIN).await;
        let _ = traffic::stray(story.world, plan::Role::Web, false).await;
    }
}

/// Network, pinned programs and maps, files.
async fn remove_all(plan: &Plan) -> Result<Vec<String>, DemoError> {
    let mut removed = world::remove(plan).await?;
    removed.extend(crate::stack::purge(plan.instance()).map_err(DemoError::Stack)?);
    let folder = plan.folder();
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|source| DemoError::Io {
            what: format!("removing {}", folder.display()),
            source,
        })?;
        removed.push(format!("files in {}", folder.display()));
    }
    Ok(removed)
}

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// Not root.
    #[error(
        "the demo makes network namespaces and loads kernel programs, which needs root: run it with sudo"
    )]
    NotRoot,
    /// A name that cannot be used.
    #[error("demo name '{0}' cannot be used: at most 8 of a-z and 0-9")]
    Name(String),
    /// Another one runs.
    #[error("a demo runs already (process {owner}); stop it with Ctrl-C there, then start this one")]
    Running {
        /// Its process.
        owner: String,
    },
    /// A file, thread or socket.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Controller or agent could not start, or pins not be removed.
    #[error("{0:#}")]
    Stack(anyhow::Error),
    /// The controller's REST interface failed.
    #[error(transparent)]
    Rest(#[from] RestError),
    /// The story went wrong.
    #[error(transparent)]
    Story(#[from] StoryError),
    /// The kernel refused a change of the network.
    #[error("{what} {name}: {detail}")]
    Network {
        /// What was tried.
        what: &'static str,
        /// On what.
        name: String,
        /// What the kernel said.
        detail: String,
    },
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::plan::{Plan, Role};
    use super::world::{World, remove};
    use super::*;

    #[tokio::test]
    async fn the_network_works_and_leaves_nothing_behind() {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("SKIPPED the_network_works_and_leaves_nothing_behind: needs root");
            return;
        }
        let plan = Plan::new(&format!("w{}", std::process::id() % 1_000_000)).unwrap();
        let world = World::make(&plan).await.unwrap();
        let traffic = traffic::start(&world).await.unwrap();
        for v6 in [false, true] {
            // Its second of patience may be too short on a machine that does other things too.
            let begun = std::time::Instant::now();
            while let Err(problem) = traffic::stray(&world, Role::Web, v6).await {
                assert!(begun.elapsed() < Duration::from_secs(20), "{problem}");
            }
        }
        let flowing = async {
            while traffic.web_app.counts().0 < 2 || traffic.app_db.counts().0 < 6 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), flowing)
            .await
            .expect("steady traffic");
        let failed = (traffic.web_app.counts().1, traffic.app_db.counts().1);
        assert!(failed.0 <= 1 && failed.1 <= 2, "{failed:?} of a handful fail");
        assert!(plan.namespace_file(Role::Db).exists());
        world.end().await.unwrap();
        assert_eq!(remove(&plan).await.unwrap(), Vec::<String>::new());
        let links = std::fs::read_dir("/sys/class/net").unwrap();
        let left: Vec<_> = links
            .flatten()
            .filter(|link| link.file_name().to_string_lossy().starts_with(&plan.bridge()))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
