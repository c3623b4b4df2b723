//! The demo: a small network of its own, and the story of a stray connection on it.

mod lock;
mod plan;
mod traffic;
mod world;

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
            assert_eq!(traffic::stray(&world, Role::Web, v6).await, Ok(()));
        }
        let flowing = async {
            while traffic.web_app.counts().0 < 2 || traffic.app_db.counts().0 < 6 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), flowing)
            .await
            .expect("steady traffic");
        assert_eq!((traffic.web_app.counts().1, traffic.app_db.counts().1), (0, 0));
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
