//! How an agent joins: a one-time token for a node's name, then a certificate for that name only.
//!
//! Tokens lie as files in the data folder, so that `nv-controller --join-token` can make one while the controller runs. A file's name is the hash of
//! its token, its content the node.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nv_api::grpc::{JoinReply, JoinRequest, enroll_server::Enroll};
use nv_policy::{decode, encode};
use nv_store::{CommitOutcome, Expect, KvStore, Txn};
use nv_types::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};

use crate::auth::random_token;
use crate::ca::{Ca, check_node};
use crate::engine::now;

/// How long a token is good for.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// Prefix of join tokens in a store that several controllers share; no agent may read it.
const SHARED: &str = "join/";

/// Join tokens that wait to be used.
#[derive(Clone)]
pub(crate) struct Tokens {
    folder: PathBuf,
    /// Where they are instead of in the folder, so that an agent may join any of several controllers.
    store: Option<Arc<dyn KvStore>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Value of `join/<hash of the token>`.
#[derive(Serialize, Deserialize)]
struct Waiting {
    node: NodeId,
    made: Timestamp,
}

impl Tokens {
    pub(crate) fn open(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join("join"),
            store: None,
        }
    }

    /// Tokens of a store that several controllers share.
    pub(crate) fn shared(data_dir: &Path, store: Arc<dyn KvStore>) -> Self {
        Self {
            store: Some(store),
            ..Self::open(data_dir)
        }
    }

    /// Makes a token for a node, where it is looked for.
    pub(crate) async fn make(&self, node: &NodeId) -> anyhow::Result<String> {
        let Some(store) = &self.store else {
            return self.create(node);
        };
        check_node(node)?;
        let token = random_token()?;
        let key = shared_key(&token);
        let waiting = Waiting {
            node: node.clone(),
            made: now(),
        };
        store
            .commit(Txn::new().put(&key, encode(&key, &waiting)?))
            .await
            .context("the store did not take the token")?;
        Ok(token)
    }

    async fn use_up(&self, token: &str, node: &NodeId) -> bool {
        let Some(store) = &self.store else {
            return self.redeem(token, node);
        };
        let key = shared_key(token);
        let Ok((Some(entry), _)) = store.get(&key).await else {
            return false;
        };
        let fresh = decode::<Waiting>(&key, &entry.value).is_ok_and(|waiting| {
            waiting.node == *node && Duration::from_nanos(now().since(waiting.made)) < LIFE
        });
        // Whoever deletes it has used the token: two at once cannot both.
        let txn = Txn::new()
            .when(&key, Expect::Revision(entry.mod_revision))
            .delete(&key);
        fresh && matches!(store.commit(txn).await, Ok(CommitOutcome::Committed(_)))
    }

    fn file(&self, token: &str) -> PathBuf {
        self.folder.join(hash(token))
    }

    /// Makes a token for a node.
    pub(crate) fn create(&self, node: &NodeId) -> anyhow::Result<String> {
        check_node(node)?;
        if self.store.is_some() {
            bail!("the tokens of this controller are in the store that it shares, not in its folder");
        }
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot make {}", self.folder.display()))?;
        let token = random_token()?;
        let path = self.file(&token);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        file.write_all(node.as_str().as_bytes())
            .context("cannot write the token")?;
        Ok(token)
    }

    /// Uses a token up. Whether it was good for this node.
    fn redeem(&self, token: &str, node: &NodeId) -> bool {
        let path = self.file(token);
        let Ok(found) = fs::read_to_string(&path) else {
            return false;
        };
        let fresh = fs::metadata(&path)
            .and_then(|data| data.modified())
            .is_ok_and(|made| made.elapsed().is_ok_and(|age| age < LIFE));
        // Whoever removes the file has used the token: two at once cannot both.
        fresh && found == node.as_str() && fs::remove_file(&path).is_ok()
    }
}

fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn shared_key(token: &str) -> String {
    format!("{SHARED}{}", hash(token))
}

/// Serves [`Enroll`].
#[derive(Debug, Clone)]
pub(crate) struct EnrollService {
    pub(crate) ca: Arc<Ca>,
    pub(crate) tokens: Tokens,
}

#[tonic::async_trait]
impl Enroll for EnrollService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        let node =
            NodeId::try_new(request.node).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if !self.tokens.use_up(&request.token, &node).await {
            tracing::warn!(target: "audit", %node, "a join was refused");
            return Err(Status::permission_denied(
                "the join token is unknown, used, too old, or for another node",
            ));
        }
        let certificate_pem = self
            .ca
            .sign_request(&node, &request.csr_pem)
            .map_err(|error| Status::invalid_argument(format!("csr_pem: {error:#}")))?;
        tracing::info!(target: "audit", %node, "joined");
        Ok(Response::new(JoinReply {
            certificate_pem,
            ca_pem: self.ca.pem().to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shared_token_is_good_once_at_any_controller() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn KvStore> = Arc::new(nv_store::LocalStore::memory().unwrap());
        let at = || Tokens::shared(folder.path(), Arc::clone(&store));
        let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
        let token = at().make(&one).await.unwrap();
        assert!(!at().use_up("guess", &one).await);
        assert!(!at().use_up(&token, &two).await);
        assert!(at().use_up(&token, &one).await);
        assert!(!at().use_up(&token, &one).await);
    }

    #[test]
    fn a_token_is_good_once_and_for_its_node() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(folder.path());
        let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
        let token = tokens.create(&one).unwrap();
        assert!(!tokens.redeem("guess", &one));
        assert!(!tokens.redeem(&token, &two));
        assert!(tokens.redeem(&token, &one));
        assert!(!tokens.redeem(&token, &one));
    }
}
