//! Making, changing and deleting users. Every change is one transaction with its audit entry, as those of policy are.

use nv_controller_core::Plan;
use nv_policy::{decode, encode};
use nv_store::{Revision, StoreError};
use nv_types::keys;

use crate::auth::{Auth, Role, StoredUser};
use crate::engine::{Asker, Committed, Engine, EngineError};

/// Users at once.
const MOST: usize = 1000;
const SHORTEST_PASSWORD: usize = 8;
const LONGEST_PASSWORD: usize = 256;
/// Longest name, address for mail or language.
const LONGEST_TEXT: usize = 64;

/// Why users are not changed so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum UserError {
    /// A field's value.
    #[error("{field}: {problem}")]
    Field { field: &'static str, problem: String },
    /// Not there.
    #[error("there is no user '{0}'")]
    NotFound(String),
    /// There already.
    #[error("user '{0}' is there already")]
    Exists(String),
    /// The last one that may do everything.
    #[error("'{0}' is the last admin: make another one first")]
    LastAdmin(String),
    /// Too many.
    #[error("there are {MOST} users already, which is the limit")]
    TooMany,
    /// A password could not be hashed.
    #[error("no password can be set now: {0}")]
    Hash(String),
    /// It could not be written.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The users cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What changes of a user; `None` stays.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) password: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) email: Option<String>,
    pub(crate) locale: Option<String>,
}

type Listed = (String, Revision, StoredUser);

/// Users, by name.
pub(crate) async fn list(engine: &Engine) -> Result<Vec<StoredUser>, StoreError> {
    Ok(listed(engine).await?.into_iter().map(|(.., user)| user).collect())
}

async fn listed(engine: &Engine) -> Result<Vec<Listed>, StoreError> {
    let listing = engine.store().list(keys::USERS).await?;
    let users = listing.entries.into_iter().filter_map(|entry| {
        let user = decode(&entry.key, &entry.value)
            .inspect_err(|error| tracing::error!(%error, "a stored user cannot be used"));
        Some((entry.key, entry.mod_revision, user.ok()?))
    });
    Ok(users.collect())
}

fn field(field: &'static str, problem: impl Into<String>) -> UserError {
    UserError::Field {
        field,
        problem: problem.into(),
    }
}

fn role(text: &str) -> Result<Role, UserError> {
    Role::ALL
        .into_iter()
        .find(|role| role.name() == text)
        .ok_or_else(|| field("role", format!("'{text}' is none of admin, operator, reader")))
}

fn name(text: &str) -> Result<(), UserError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-', '@'].contains(&c);
    if text.is_empty() || text.len() > LONGEST_TEXT || !text.chars().all(fits) {
        return Err(field(
            "fullname",
            format!("1 to {LONGEST_TEXT} letters, digits and . _ - @ are a name"),
        ));
    }
    Ok(())
}

fn text(what: &'static str, value: &str) -> Result<(), UserError> {
    if value.len() > LONGEST_TEXT || value.chars().any(char::is_control) {
        return Err(field(
            what,
            format!("at most {LONGEST_TEXT} bytes, no control characters"),
        ));
    }
    Ok(())
}

async fn hash(auth: &Auth, password: &str) -> Result<String, UserError> {
    if !(SHORTEST_PASSWORD..=LONGEST_PASSWORD).contains(&password.len()) {
        return Err(field(
            "password",
            format!("{SHORTEST_PASSWORD} to {LONGEST_PASSWORD} bytes are needed"),
        ));
    }
    auth.hash(password)
        .await
        .map_err(|error| UserError::Hash(format!("{error:#}")))
}

fn value(key: &str, user: &StoredUser) -> Result<Vec<u8>, UserError> {
    encode(key, user).map_err(|error| UserError::Hash(error.to_string()))
}

/// Makes a user.
pub(crate) async fn create(
    engine: &Engine,
    auth: &Auth,
    asker: Asker<'_>,
    new: &str,
    change: Change,
) -> Result<Committed, UserError> {
    name(new)?;
    let role = role(change.role.as_deref().unwrap_or_default())?;
    let (email, locale) = (
        change.email.unwrap_or_default(),
        change.locale.unwrap_or_default(),
    );
    text("email", &email)?;
    text("locale", &locale)?;
    let users = listed(engine).await?;
    if users.iter().any(|(.., user)| user.name == new) {
        return Err(UserError::Exists(new.to_owned()));
    }
    if users.len() >= MOST {
        return Err(UserError::TooMany);
    }
    let user = StoredUser {
        name: new.to_owned(),
        role,
        hash: hash(auth, &change.password.unwrap_or_default()).await?,
        email,
        locale,
    };
    let key = keys_of(new);
    let plan = Plan {
        conditions: vec![(key.clone(), None)],
        puts: vec![(key.clone(), value(&key, &user)?)],
        summary: vec![format!("user '{new}' added: {}", role.name())],
        ..Plan::default()
    };
    write(engine, asker, &plan).await
}

/// Changes a user; `keep` is the token whose session goes on when others end.
pub(crate) async fn change(
    engine: &Engine,
    auth: &Auth,
    asker: Asker<'_>,
    who: &str,
    change: Change,
    keep: Option<&str>,
) -> Result<Committed, UserError> {
    let users = listed(engine).await?;
    let (key, revision, before) = find(&users, who)?;
    let mut user = before.clone();
    let mut summary = Vec::new();
    if let Some(wanted) = &change.role {
        user.role = role(wanted)?;
        if user.role != before.role {
            summary.push(format!(
                "user '{who}': {} instead of {}",
                user.role.name(),
                before.role.name()
            ));
        }
    }
    for (what, new, old) in [
        ("email", change.email, &mut user.email),
        ("locale", change.locale, &mut user.locale),
    ] {
        if let Some(new) = new.filter(|new| new != old) {
            text(what, &new)?;
            *old = new;
            summary.push(format!("user '{who}': {what} changed"));
        }
    }
    if let Some(password) = &change.password {
        user.hash = hash(auth, password).await?;
        summary.push(format!("user '{who}': password changed"));
    }
    if summary.is_empty() {
        let revision = engine.core().revision();
        return Ok(Committed { summary, revision });
    }
    let mut plan = Plan {
        conditions: vec![(key.clone(), Some(*revision))],
        puts: vec![(key.clone(), value(key, &user)?)],
        summary,
        ..Plan::default()
    };
    let demoted = user.role != before.role && before.role == Role::Admin;
    if demoted {
        plan.conditions.extend(other_admins(&users, who)?);
    }
    let made = write(engine, asker, &plan).await?;
    if user.role != before.role {
        auth.end_sessions(who, None).await;
    } else if change.password.is_some() {
        auth.end_sessions(who, keep).await;
    }
    Ok(made)
}

/// Deletes a user, and ends what sessions there are.
pub(crate) async fn delete(
    engine: &Engine,
    auth: &Auth,
    asker: Asker<'_>,
    who: &str,
) -> Result<Committed, UserError> {
    let users = listed(engine).await?;
    let (key, revision, user) = find(&users, who)?;
    let mut plan = Plan {
        conditions: vec![(key.clone(), Some(*revision))],
        deletes: vec![key.clone()],
        summary: vec![format!("user '{who}' deleted")],
        ..Plan::default()
    };
    if user.role == Role::Admin {
        plan.conditions.extend(other_admins(&users, who)?);
    }
    let made = write(engine, asker, &plan).await?;
    auth.end_sessions(who, None).await;
    Ok(made)
}

fn keys_of(name: &str) -> String {
    format!("{}{name}", keys::USERS)
}

fn find<'a>(users: &'a [Listed], who: &str) -> Result<&'a Listed, UserError> {
    users
        .iter()
        .find(|(.., user)| user.name == who)
        .ok_or_else(|| UserError::NotFound(who.to_owned()))
}

/// Conditions that another admin stays as it is: of two admins who delete each other at once, one is refused.
fn other_admins(users: &[Listed], who: &str) -> Result<Vec<(String, Option<Revision>)>, UserError> {
    let others: Vec<_> = users
        .iter()
        .filter(|(.., user)| user.role == Role::Admin && user.name != who)
        .map(|(key, revision, _)| (key.clone(), Some(*revision)))
        .collect();
    if others.is_empty() {
        return Err(UserError::LastAdmin(who.to_owned()));
    }
    Ok(others)
}

async fn write(engine: &Engine, asker: Asker<'_>, plan: &Plan) -> Result<Committed, UserError> {
    Ok(engine.commit(asker, |_, _| Ok(plan.clone())).await?)
}
