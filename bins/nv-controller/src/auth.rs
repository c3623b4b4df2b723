//! Users, passwords and sessions.
//!
//! Tokens are 256 random bits and mean nothing by themselves: what they stand for is here, under their hash, until it ends or is taken
//! back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use nv_policy::{decode, encode};
use nv_store::{CommitOutcome, Expect, KvStore, LeaseId, Txn};
use nv_types::{Timestamp, keys};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::engine::now;

/// Longest life of a session, however much it is used.
pub(super) const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// Sessions at once.
const SESSIONS: usize = 1000;
/// Failures that are free; each after them doubles the wait.
const FREE_FAILURES: u32 = 5;
/// Longest wait after failures.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Sources of failures that are remembered.
const SOURCES: usize = 10_000;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Look.
    Reader,
    /// Look, and change policy and captures.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// All, the one that may do most first.
    pub(crate) const ALL: [Self; 3] = [Self::Admin, Self::Operator, Self::Reader];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Value of `user/<name>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredUser {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Argon2id, PHC form.
    pub(crate) hash: String,
    #[serde(default)]
    pub(crate) email: String,
    #[serde(default)]
    pub(crate) locale: String,
}

/// Who a call is from.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) user: String,
    pub(crate) role: Role,
    /// Cancelled when the session is ended before its time.
    pub(crate) ended: CancellationToken,
}

pub(super) struct Entry {
    pub(super) session: Session,
    begun: Instant,
    used: Instant,
    /// Lease of a session that is in the store: it says when the session has been idle for too long, wherever it was used.
    pub(super) lease: Option<LeaseId>,
    /// When the lease was last kept alive from here.
    pub(super) kept: Instant,
}

/// Why a login gives no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginError {
    /// Unknown user or wrong password: nobody is told which.
    Refused,
    /// Too many failures from there.
    Wait(Duration),
    /// The store cannot be read.
    Unavailable,
}

/// Users and sessions.
pub(crate) struct Auth {
    pub(super) store: Arc<dyn KvStore>,
    /// Whether sessions are in the store too, for other controllers.
    pub(super) shared: bool,
    idle: Duration,
    pub(super) sessions: Mutex<HashMap<[u8; 32], Entry>>,
    failures: Mutex<HashMap<(IpAddr, String), (u32, Instant)>>,
    /// Logins by user since the start, and the last one.
    logins: Mutex<HashMap<String, (u32, Timestamp)>>,
    /// Hashing takes a core and 19 MiB: two at once.
    hashing: Semaphore,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random text of 256 bits, in hexadecimal.
pub(crate) fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn hash_password(password: &str) -> anyhow::Result<String> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let salt = SaltString::encode_b64(&salt).map_err(|error| anyhow::anyhow!("salt: {error}"))?;
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
    Ok(hash
        .map_err(|error| anyhow::anyhow!("cannot hash a password: {error}"))?
        .to_string())
}

impl Auth {
    /// Opens the users; the first time, makes `admin` and gives its password.
    ///
    /// `shared`: other controllers are on the same store, so sessions must be there.
    pub(crate) async fn open(
        store: Arc<dyn KvStore>,
        idle: Duration,
        shared: bool,
    ) -> anyhow::Result<(Self, Option<String>)> {
        let key = format!("{}admin", keys::USERS);
        let mut first = None;
        // Only where there is nobody at all: an 'admin' who was deleted does not come back by a restart.
        if store.list(keys::USERS).await?.entries.is_empty() {
            let password: String = random_token()?.chars().take(24).collect();
            let for_hash = password.clone();
            let hash = tokio::task::spawn_blocking(move || hash_password(&for_hash))
                .await
                .context("hashing")??;
            let user = StoredUser {
                name: "admin".into(),
                role: Role::Admin,
                hash,
                email: String::new(),
                locale: String::new(),
            };
            let txn = Txn::new()
                .when(&key, Expect::Absent)
                .put(&key, encode(&key, &user)?);
            // Another controller on the same store may have been quicker: then its password counts.
            if let CommitOutcome::Committed(_) = store.commit(txn).await? {
                first = Some(password);
            }
        }
        let auth = Self {
            store,
            shared,
            idle,
            sessions: Mutex::default(),
            failures: Mutex::default(),
            logins: Mutex::default(),
            hashing: Semaphore::new(2),
        };
        Ok((auth, first))
    }

    pub(crate) const fn idle(&self) -> Duration {
        self.idle
    }

    /// The user whose password this is. Unknown users cost as much time as known ones.
    pub(crate) async fn prove(
        &self,
        user: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<StoredUser, LoginError> {
        let source = (from, user.chars().take(64).collect::<String>());
        if let Some(wait) = self.must_wait(&source) {
            return Err(LoginError::Wait(wait));
        }
        let stored = self.user(user).await?;
        let _permit = self
            .hashing
            .acquire()
            .await
            .map_err(|_closed| LoginError::Unavailable)?;
        let (hash, password) = (stored.as_ref().map(|user| user.hash.clone()), password.to_owned());
        let right = tokio::task::spawn_blocking(move || verify(hash.as_deref(), &password))
            .await
            .map_err(|_panicked| LoginError::Unavailable)?;
        let (true, Some(stored)) = (right, stored) else {
            self.count_failure(source);
            return Err(LoginError::Refused);
        };
        lock(&self.failures).remove(&source);
        Ok(stored)
    }

    /// A session for the right password.
    pub(crate) async fn login(
        &self,
        user: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<(String, Session), LoginError> {
        let stored = self.prove(user, password, from).await?;
        let session = Session {
            user: stored.name,
            role: stored.role,
            ended: CancellationToken::new(),
        };
        let token = random_token().map_err(|_none| LoginError::Unavailable)?;
        let Ok(lease) = self.share(&token, &session).await else {
            return Err(LoginError::Unavailable);
        };
        self.remember(digest(&token), &session, lease, Duration::ZERO);
        // Whoever changed the user meanwhile ended the sessions that were there then, perhaps just before this one.
        let again = self.user(user).await?;
        if again.is_none_or(|again| again.hash != stored.hash || again.role != stored.role) {
            self.logout(&token).await;
            return Err(LoginError::Refused);
        }
        let mut logins = lock(&self.logins);
        let entry = logins.entry(session.user.clone()).or_default();
        *entry = (entry.0.saturating_add(1), now());
        drop(logins);
        Ok((token, session))
    }

    /// Logins of a user since the start, and when the last one was.
    pub(crate) fn logins(&self, user: &str) -> (u32, Timestamp) {
        lock(&self.logins).get(user).copied().unwrap_or_default()
    }

    /// Hash of a new password.
    pub(crate) async fn hash(&self, password: &str) -> anyhow::Result<String> {
        let _permit = self.hashing.acquire().await?;
        let password = password.to_owned();
        tokio::task::spawn_blocking(move || hash_password(&password))
            .await
            .context("hashing")?
    }

    /// Ends the sessions of a user, except the one of this token.
    pub(crate) async fn end_sessions(&self, user: &str, keep: Option<&str>) {
        let keep = keep.map(digest);
        self.end_shared(user, keep.as_ref()).await;
        lock(&self.sessions).retain(|key, entry| {
            let stays = entry.session.user != user || Some(*key) == keep;
            if !stays {
                entry.session.ended.cancel();
            }
            stays
        });
    }

    async fn user(&self, name: &str) -> Result<Option<StoredUser>, LoginError> {
        if name.is_empty() || name.len() > 64 || name.contains('/') {
            return Ok(None);
        }
        let key = format!("{}{name}", keys::USERS);
        let (entry, _) = self
            .store
            .get(&key)
            .await
            .map_err(|_away| LoginError::Unavailable)?;
        Ok(entry.and_then(|entry| decode(&key, &entry.value).ok()))
    }

    fn must_wait(&self, source: &(IpAddr, String)) -> Option<Duration> {
        let (count, last) = *lock(&self.failures).get(source)?;
        let over = count.checked_sub(FREE_FAILURES)?;
        let wait = Duration::from_secs(1 << over.min(6)).min(LONGEST_WAIT);
        wait.checked_sub(last.elapsed()).filter(|left| !left.is_zero())
    }

    fn count_failure(&self, source: (IpAddr, String)) {
        let mut failures = lock(&self.failures);
        if failures.len() >= SOURCES {
            failures.retain(|_, (_, last)| last.elapsed() < LONGEST_WAIT);
        }
        let entry = failures.entry(source).or_insert_with(|| (0, Instant::now()));
        *entry = (entry.0.saturating_add(1), Instant::now());
    }

    /// `age`: of a session that began elsewhere.
    pub(super) fn remember(&self, key: [u8; 32], session: &Session, lease: Option<LeaseId>, age: Duration) {
        let now = Instant::now();
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= SESSIONS {
            sessions.retain(|_, entry| is_alive(entry, self.idle));
        }
        if sessions.len() >= SESSIONS
            && let Some(oldest) = sessions
                .iter()
                .min_by_key(|(_, entry)| entry.used)
                .map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(
            key,
            Entry {
                session: session.clone(),
                begun: now.checked_sub(age).unwrap_or(now),
                used: now,
                lease,
                kept: now,
            },
        );
    }

    /// Who this token stands for; using it keeps the session alive.
    pub(super) fn session(&self, token: &str) -> Option<Session> {
        let key = digest(token);
        let mut sessions = lock(&self.sessions);
        let entry = sessions.get_mut(&key)?;
        if !is_alive(entry, self.idle) {
            sessions.remove(&key);
            return None;
        }
        entry.used = Instant::now();
        Some(entry.session.clone())
    }

    pub(crate) async fn logout(&self, token: &str) {
        let key = digest(token);
        self.forget(&key);
        self.unshare(&key).await;
    }

    /// Ends a session here.
    pub(super) fn forget(&self, key: &[u8; 32]) {
        let gone = lock(&self.sessions).remove(key);
        if let Some(entry) = gone {
            entry.session.ended.cancel();
        }
    }
}

fn is_alive(entry: &Entry, idle: Duration) -> bool {
    (entry.lease.is_some() || entry.used.elapsed() < idle) && entry.begun.elapsed() < LONGEST
}

pub(super) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Compares with a stored hash, or with nothing at the same cost.
fn verify(hash: Option<&str>, password: &str) -> bool {
    match hash.and_then(|hash| PasswordHash::new(hash).ok()) {
        Some(hash) => Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok(),
        None => {
            let _ = hash_password(password);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nv_store::LocalStore;

    #[tokio::test]
    async fn sessions_begin_with_the_right_password_and_end() {
        let store: Arc<dyn KvStore> = Arc::new(LocalStore::memory().unwrap());
        let (auth, password) = Auth::open(Arc::clone(&store), Duration::from_millis(200), false)
            .await
            .unwrap();
        let password = password.unwrap();
        let from = "127.0.0.1".parse().unwrap();
        assert_eq!(
            auth.login("admin", "admin", from).await.err(),
            Some(LoginError::Refused)
        );
        assert_eq!(
            auth.login("nobody", &password, from).await.err(),
            Some(LoginError::Refused)
        );
        let (token, session) = auth.login("admin", &password, from).await.unwrap();
        assert_eq!(
            (session.role, auth.session(&token).unwrap().user.as_str()),
            (Role::Admin, "admin")
        );
        assert!(auth.session("0").is_none());
        auth.logout(&token).await;
        assert!(auth.session(&token).is_none());
        let (token, _) = auth.login("admin", &password, from).await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(auth.session(&token).is_none(), "idle for too long");
        // The second opening finds the user and makes no password.
        assert!(
            Auth::open(Arc::clone(&store), Duration::from_secs(9), false)
                .await
                .unwrap()
                .1
                .is_none()
        );
        let stored = store.get("user/admin").await.unwrap().0.unwrap().value;
        let text = String::from_utf8(stored).unwrap();
        assert!(text.contains("$argon2id$") && !text.contains(&password));
    }

    #[tokio::test]
    async fn guessing_is_slowed_down_by_source_and_name() {
        let (auth, password) = Auth::open(
            Arc::new(LocalStore::memory().unwrap()),
            Duration::from_secs(60),
            false,
        )
        .await
        .unwrap();
        let (bad, good) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..FREE_FAILURES {
            assert_eq!(
                auth.login("admin", "x", bad).await.err(),
                Some(LoginError::Refused)
            );
        }
        assert!(matches!(
            auth.login("admin", "x", bad).await,
            Err(LoginError::Wait(_))
        ));
        assert!(
            auth.login("admin", &password.unwrap(), good).await.is_ok(),
            "the real one gets in from elsewhere"
        );
    }
}
