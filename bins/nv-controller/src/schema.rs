//! The version of what is stored, and how older ones are brought up to it.

use anyhow::{Context as _, bail};
use nv_controller_core::Controller;
use nv_store::archive::{Archive, UNFINISHED};
use nv_store::{CommitOutcome, Expect, KvStore, Txn};
use nv_types::Revision;
use serde_json::{Value, json};

/// Key of the version.
pub(crate) const SCHEMA: &str = "config/schema";
/// Key that says up to which revision agents may know a store that this one was filled from: none of those revisions is one of this
/// store.
pub(crate) const ORIGIN: &str = "config/origin";
/// Rewrites all that one version wrote into what the next one means.
type Step = fn(&mut Archive) -> anyhow::Result<()>;
/// What leads from version 1 to 2, from 2 to 3, and so on: the version that this controller writes is one more than there are steps. A
/// change of a value's meaning that old controllers would misread is a step; a new field with a default is none.
const STEPS: &[Step] = &[];

/// Refuses what a newer controller wrote and what was not filled to its end; notes the version where there is none yet.
pub(crate) async fn bring_up_to_date(store: &dyn KvStore) -> anyhow::Result<()> {
    migrate(store, STEPS).await
}

async fn migrate(store: &dyn KvStore, steps: &[Step]) -> anyhow::Result<()> {
    let version = 1 + u64::try_from(steps.len())?;
    loop {
        if store.get(UNFINISHED).await?.0.is_some() {
            bail!(
                "the store was being filled and this was cut short: run 'nv-controller store import' with the same file again"
            );
        }
        let (found, _) = store.get(SCHEMA).await?;
        let (expect, at) = match &found {
            None => (Expect::Absent, version),
            Some(found) => {
                let value: Value = serde_json::from_slice(&found.value).unwrap_or_default();
                let Some(at) = value["version"].as_u64().filter(|at| *at > 0) else {
                    bail!("'{SCHEMA}' says {value}, which no nv wrote: restore it from a backup");
                };
                (Expect::Revision(found.mod_revision), at)
            }
        };
        if at > version {
            bail!(
                "the store was written by a newer nv (schema {at}, this one knows {version}): update this controller"
            );
        }
        if at == version && found.is_some() {
            return Ok(());
        }
        let before = Archive::of(store).await?;
        let mut after = before.clone();
        for step in steps.get(usize::try_from(at - 1)?..).unwrap_or_default() {
            step(&mut after).with_context(|| format!("bringing the store from schema {at} to {version}"))?;
        }
        // Everything and the version in one transaction, on the condition that nobody else did it meanwhile.
        let mut txn = Txn::new()
            .when(SCHEMA, expect)
            .put(SCHEMA, json!({ "version": version }).to_string());
        for (key, value) in after.entries.iter().filter(|(key, _)| *key != SCHEMA) {
            if before.entries.get(key) != Some(value) {
                txn = txn.put(key, value.clone());
            }
        }
        for key in before
            .entries
            .keys()
            .filter(|key| !after.entries.contains_key(*key))
        {
            txn = txn.delete(key);
        }
        let committed = store.commit(txn).await.with_context(|| {
            format!(
                "the store cannot be brought from schema {at} to {version} in one transaction: with every controller stopped, \
                 'nv-controller store export', then 'store import' into an embedded store, start and stop it, and move it back the same way"
            )
        })?;
        // Where another controller was quicker: look at what it wrote.
        if let CommitOutcome::Committed(_) = committed {
            if found.is_some() {
                tracing::info!(from = at, to = version, "the store was brought up to date");
            }
            return Ok(());
        }
    }
}

/// The revision that an entry [`ORIGIN`] says.
pub(crate) fn origin(value: &[u8]) -> Option<Revision> {
    let value: Value = serde_json::from_slice(value).ok()?;
    value["until"].as_u64().map(Revision)
}

/// What of these entries a controller cannot use, with the reasons.
pub(crate) fn problems<'a>(entries: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<(String, String)> {
    let mut core = Controller::new();
    core.store_resync(entries.map(|(key, value)| (key, value, Revision(1))), Revision(1));
    let problems = core.problems().iter();
    problems
        .map(|(key, problem)| (key.clone(), problem.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use nv_store::LocalStore;

    use super::*;

    fn rename(archive: &mut Archive) -> anyhow::Result<()> {
        if let Some(value) = archive.entries.remove("old") {
            archive.entries.insert("new".into(), value);
        }
        Ok(())
    }

    fn double(archive: &mut Archive) -> anyhow::Result<()> {
        let value = archive.entries.get_mut("new").context("no 'new'")?;
        value.extend(value.clone());
        Ok(())
    }

    async fn value(store: &LocalStore, key: &str) -> Option<String> {
        let entry = store.get(key).await.unwrap().0?;
        Some(String::from_utf8(entry.value).unwrap())
    }

    #[tokio::test]
    async fn a_store_goes_through_every_step_that_it_lacks_once() {
        for from in 1..=3 {
            let store = LocalStore::memory().unwrap();
            let key = if from == 1 { "old" } else { "new" };
            let schema = json!({ "version": from }).to_string();
            store
                .commit(Txn::new().put(key, "x").put(SCHEMA, schema))
                .await
                .unwrap();
            for _ in 0..2 {
                migrate(&store, &[rename, double]).await.unwrap();
                let wanted = if from == 3 { "x" } else { "xx" };
                assert_eq!(value(&store, "new").await.as_deref(), Some(wanted), "from {from}");
                assert_eq!(value(&store, "old").await, None);
                assert_eq!(value(&store, SCHEMA).await.as_deref(), Some(r#"{"version":3}"#));
            }
            let error = migrate(&store, &[rename]).await.unwrap_err().to_string();
            assert!(error.contains("newer nv (schema 3, this one knows 2)"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_step_that_fails_changes_nothing_and_half_a_store_is_refused() {
        let store = LocalStore::memory().unwrap();
        let schema = json!({"version": 1}).to_string();
        store
            .commit(Txn::new().put("other", "x").put(SCHEMA, &*schema))
            .await
            .unwrap();
        let error = migrate(&store, &[rename, double]).await.unwrap_err();
        assert!(
            format!("{error:#}").contains("schema 1 to 3: no 'new'"),
            "{error:#}"
        );
        assert_eq!(value(&store, SCHEMA).await, Some(schema));
        store.commit(Txn::new().put(UNFINISHED, "x")).await.unwrap();
        let error = migrate(&store, &[]).await.unwrap_err().to_string();
        assert!(error.contains("cut short"), "{error}");
        // A new store is of today's version, and no step is taken.
        let fresh = LocalStore::memory().unwrap();
        migrate(&fresh, &[]).await.unwrap();
        assert_eq!(value(&fresh, SCHEMA).await.as_deref(), Some(r#"{"version":1}"#));
    }
}
