//! The file of an embedded store: damaged at random places, on a disk that is full, killed in the middle of writes; and a whole store as
//! one document.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nv_store::archive::{Archive, ArchiveError, ImportError, UNFINISHED};
use nv_store::testing::{Kind, Servers, until};
use nv_store::{
    CommitOutcome, ConsulOptions, ConsulStore, EtcdOptions, EtcdStore, KvStore, LocalStore, StoreError, Txn,
    WatchEvent, repair,
};
use nv_types::Revision;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// SplitMix64: the places of a run follow from one printed number.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

type Truth = BTreeMap<String, Vec<u8>>;

async fn filled(path: &Path) -> Truth {
    let store = LocalStore::open(path).unwrap();
    for round in 0..60u8 {
        let mut txn = Txn::new();
        for number in 0..8 {
            txn = txn.put(
                format!("k/{:03}", (usize::from(round) * 5 + number) % 200),
                vec![round; 300 + number],
            );
        }
        store.commit(txn).await.unwrap();
    }
    truth(&store).await
}

async fn truth(store: &dyn KvStore) -> Truth {
    let entries = store.list("").await.unwrap().entries.into_iter();
    entries.map(|entry| (entry.key, entry.value)).collect()
}

/// A file whose process was killed: redb looks at it with other eyes than at one that was closed.
fn killed(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    let head = |path: &Path| format!("{}.head", path.display());
    fs::copy(head(from), head(to)).unwrap();
}

#[test]
fn a_file_with_flipped_bits_or_a_cut_tail_is_refused_by_name_or_whole() {
    std::panic::set_hook(Box::new(|_| {})); // redb says some things by panicking; they come back as errors
    let rounds = std::env::var("NV_STORE_ROUNDS").map_or(250, |text| text.parse().unwrap());
    let seed = std::env::var("NV_STORE_SEED").map_or(7, |text| text.parse().unwrap());
    eprintln!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let (closed, open) = (folder.path().join("closed"), folder.path().join("open"));
    let truth = block_on(async {
        let truth = filled(&closed).await;
        let store = LocalStore::open(&closed).unwrap();
        store.commit(Txn::new().put("k/000", "last")).await.unwrap();
        killed(&closed, &open);
        let mut truth = truth;
        truth.insert("k/000".into(), b"last".to_vec());
        truth
    });
    let (mut refused, mut whole, mut saved) = (0, 0, 0usize);
    for round in 0..rounds {
        let source = if round % 2 == 0 { &closed } else { &open };
        let path = folder.path().join("store.redb");
        killed(source, &path);
        let mut bytes = fs::read(&path).unwrap();
        let what = match random.below(4) {
            0 => {
                let length = random.below(bytes.len());
                bytes.truncate(length);
                format!("cut to {length} bytes")
            }
            1 => {
                let (at, length) = (random.below(bytes.len()), 1 + random.below(4096));
                let end = (at + length).min(bytes.len());
                bytes[at..end].fill(0);
                format!("zeros from {at} to {end}")
            }
            _ => {
                let (at, bit) = (random.below(bytes.len()), random.below(8));
                bytes[at] ^= 1 << bit;
                format!("bit {bit} of byte {at} flipped")
            }
        };
        fs::write(&path, &bytes).unwrap();
        match LocalStore::open(&path) {
            Ok(store) => {
                whole += 1;
                let found = block_on(self::truth(&store));
                assert_eq!(found, truth, "{what}: taken, and not what was acknowledged");
            }
            Err(error) => {
                refused += 1;
                let said = error.to_string();
                assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {said}");
                assert!(
                    said.contains("store.redb") && said.contains("store repair"),
                    "{what}: {said}"
                );
                // Opening may have written to it: the damaged state itself is examined.
                fs::write(&path, &bytes).unwrap();
                let found = repair::examine(&path).unwrap();
                assert!(!found.is_good(), "{what}: {said}");
                assert!(fs::read(&path).unwrap() == bytes, "{what}: evidence was touched");
                for entry in &found.entries {
                    // Salvaged rows were written at some time; a rollback may give the one before.
                    assert!(
                        truth.contains_key(&entry.key),
                        "{what}: {} was never written",
                        entry.key
                    );
                }
                saved += found.entries.len();
            }
        }
    }
    let _ = std::panic::take_hook();
    eprintln!(
        "{refused} refused, {whole} whole, {saved} entries salvaged of {}",
        refused * truth.len()
    );
    assert!(
        refused > rounds / 10,
        "{refused} of {rounds} were refused: too little is damaged"
    );
    assert!(saved > 0, "nothing was ever salvaged");
}

#[test]
fn an_older_file_in_the_place_of_a_newer_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    block_on(filled(&path));
    let old = fs::read(&path).unwrap();
    let store = LocalStore::open(&path).unwrap();
    block_on(store.commit(Txn::new().put("k/000", "newer"))).unwrap();
    assert!(repair::examine(&path).is_err(), "it is open");
    drop(store);
    fs::write(&path, &old).unwrap();
    let error = LocalStore::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("revision 60") && error.contains("61 was acknowledged"),
        "{error}"
    );
    let found = repair::examine(&path).unwrap();
    assert_eq!(
        (found.revision, found.acknowledged),
        (Some(Revision(60)), Some(Revision(61)))
    );
    assert_eq!(found.entries.len(), 200);
    // Out of the way it goes, not away; a new one begins.
    let there = fs::read(&path).unwrap();
    let aside = repair::set_aside(&path).unwrap();
    assert!(fs::read(aside).unwrap() == there);
    assert!(repair::open_existing(&path).is_err());
    assert!(block_on(truth(&LocalStore::open(&path).unwrap())).is_empty());
}

#[test]
fn a_file_of_format_1_is_brought_up_to_date() {
    use redb::{Database, ReadableDatabase as _, TableDefinition};
    const ENTRIES: TableDefinition<'_, &str, (u64, u64, u64, &[u8])> = TableDefinition::new("entries");
    const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let make = |format: u64| {
        let database = Database::create(&path).unwrap();
        let write = database.begin_write().unwrap();
        {
            let mut entries = write.open_table(ENTRIES).unwrap();
            entries.insert("a", (3, 7, 0, b"one".as_slice())).unwrap();
            entries.insert("b", (5, 5, 2, b"two".as_slice())).unwrap();
            write.open_table(LEASES).unwrap().insert(2, 60_000).unwrap();
            let mut meta = write.open_table(META).unwrap();
            for (name, value) in [("revision", 9), ("last lease", 4), ("format", format)] {
                meta.insert(name, value).unwrap();
            }
        }
        write.commit().unwrap();
    };
    make(1);
    for _ in 0..2 {
        let store = LocalStore::open(&path).unwrap();
        let listing = block_on(store.list("")).unwrap();
        assert_eq!(listing.revision, Revision(9));
        let [a, b] = listing.entries.as_slice() else {
            panic!("{listing:?}")
        };
        assert_eq!(
            (a.create_revision.0, a.mod_revision.0, a.value.as_slice()),
            (3, 7, b"one".as_slice())
        );
        assert_eq!(
            (b.value.as_slice(), b.lease.map(|id| id.0)),
            (b"two".as_slice(), Some(2))
        );
    }
    let lease = block_on(
        LocalStore::open(&path)
            .unwrap()
            .lease_grant(std::time::Duration::from_secs(60)),
    )
    .unwrap();
    assert_eq!(lease.id.0, 5);
    let database = Database::open(&path).unwrap();
    assert!(
        database.begin_read().unwrap().open_table(ENTRIES).is_err(),
        "the old table is gone"
    );
    drop(database);
    // One of the future is left alone.
    fs::remove_file(&path).unwrap();
    make(3);
    let error = LocalStore::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("format has 3") && error.contains("newer"),
        "{error}"
    );
}

/// Mounts, and takes away at the end.
struct Tmpfs(std::path::PathBuf);

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_loses_nothing_and_is_forgotten_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m", "nv-full"])
        .arg(folder.path())
        .output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "a tmpfs cannot be mounted");
        eprintln!("SKIPPED a_full_disk: needs root");
        return;
    }
    let disk = Tmpfs(folder.path().to_owned());
    let path = folder.path().join("store.redb");
    let filler = folder.path().join("filler");
    block_on(async {
        let store = LocalStore::open(&path).unwrap();
        let mut watch = store.watch("", Revision(0)).await.unwrap();
        let mut acknowledged = Truth::new();
        let mut number = 0;
        for round in 0..3 {
            let _as_much_as_fits = fs::write(&filler, vec![1; 1 << 20]);
            let error = loop {
                let (key, value) = (format!("k/{number:05}"), vec![7; 20_000]);
                number += 1;
                match store.commit(Txn::new().put(&key, value.clone())).await {
                    Ok(_) => drop(acknowledged.insert(key, value)),
                    Err(error) => break error,
                }
                assert!(number < 2000, "the disk is never full");
            };
            let said = error.to_string();
            assert!(
                said.contains("store.redb") && said.contains("disk is full"),
                "round {round}: {said}"
            );
            // Reading goes on, writing is refused in the same words, watchers and leases are not harmed.
            assert_eq!(truth(&store).await, acknowledged, "round {round}");
            let again = store.commit(Txn::new().put("more", vec![0; 200_000])).await;
            assert!(again.is_err(), "round {round}: {again:?}");
            // Room again: it goes on by itself, with what was acknowledged.
            fs::remove_file(&filler).unwrap();
            store.commit(Txn::new().put("room", [round])).await.unwrap();
            acknowledged.insert("room".into(), vec![round]);
            assert_eq!(truth(&store).await, acknowledged, "round {round}");
            let gone: Vec<_> = acknowledged
                .keys()
                .filter(|key| *key != "room")
                .cloned()
                .collect();
            for key in gone.iter().take(gone.len() / 2) {
                store.commit(Txn::new().delete(key)).await.unwrap();
                acknowledged.remove(key);
            }
        }
        let mut seen = Truth::new();
        // What did not wait for it comes as a snapshot when it has read what did.
        while seen != acknowledged {
            let event = tokio::time::timeout(std::time::Duration::from_secs(5), watch.recv()).await;
            let Ok(Some(event)) = event else { break };
            match event {
                WatchEvent::Resync(all) => {
                    seen = all
                        .entries
                        .into_iter()
                        .map(|entry| (entry.key, entry.value))
                        .collect();
                }
                WatchEvent::Changes { changes, .. } => {
                    for change in changes {
                        match change {
                            nv_store::Change::Put(entry) => drop(seen.insert(entry.key, entry.value)),
                            nv_store::Change::Delete { key, .. } => drop(seen.remove(&key)),
                        }
                    }
                }
            }
        }
        assert_eq!(seen, acknowledged, "a watcher saw something else");
        drop(store);
        assert_eq!(truth(&LocalStore::open(&path).unwrap()).await, acknowledged);
    });
    drop(disk);
}

#[test]
fn an_export_comes_back_byte_for_byte_and_every_change_of_it_is_found() {
    block_on(async {
        let store = LocalStore::memory().unwrap();
        let lease = store
            .lease_grant(std::time::Duration::from_secs(60))
            .await
            .unwrap();
        let txn = Txn::new()
            .put("text", "a \"b\" \u{1F980}\n")
            .put("bytes", [0xff, 0, 1])
            .put("empty", "")
            .put_leased("passing", "x", lease.id);
        store.commit(txn).await.unwrap();
        let archive = Archive::of(&store).await.unwrap();
        assert_eq!(
            archive.entries.keys().collect::<Vec<_>>(),
            ["bytes", "empty", "text"]
        );
        let json = archive.to_json().unwrap();
        assert_eq!(Archive::from_json(json.as_bytes()).unwrap(), archive);
        let compact: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            Archive::from_json(compact.to_string().as_bytes()).unwrap(),
            archive,
            "white space does not matter"
        );
        for at in 0..json.len() {
            let mut bytes = json.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(found) = Archive::from_json(&bytes) {
                assert_eq!(found, archive, "byte {at} of {json}");
            }
            let cut = json.as_bytes()[..at].trim_ascii_end();
            assert!(
                cut.ends_with(b"]\n}") || Archive::from_json(cut).is_err(),
                "cut at {at}"
            );
        }
        let other = json.replace("nv-store/1", "nv-store/9");
        assert!(
            matches!(Archive::from_json(other.as_bytes()), Err(ArchiveError::Form(form)) if form == "nv-store/9")
        );

        let empty = LocalStore::memory().unwrap();
        let filled = archive.fill(&empty, false).await.unwrap();
        assert_eq!((filled.written, filled.deleted, filled.transactions), (3, 0, 1));
        assert_eq!(Archive::of(&empty).await.unwrap().entries, archive.entries);
        empty
            .commit(Txn::new().put("more", "x").put("text", "other"))
            .await
            .unwrap();
        assert!(matches!(
            archive.fill(&empty, false).await,
            Err(ImportError::NotEmpty(4, _))
        ));
        let filled = archive.fill(&empty, true).await.unwrap();
        assert_eq!((filled.written, filled.deleted), (1, 1));
        assert_eq!(Archive::of(&empty).await.unwrap().entries, archive.entries);
    });
}

/// From the embedded store to Consul and etcd and back: 700 entries, more than Consul takes at once.
#[test]
fn a_store_moves_from_backend_to_backend() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let embedded = LocalStore::open(&folder.path().join("store.redb")).unwrap();
        let mut txn = Txn::new();
        for number in 0..700 {
            txn = txn.put(
                format!("policy/rule/{number:05}"),
                format!("rule {number} {}", "x".repeat(700)),
            );
        }
        embedded.commit(txn).await.unwrap();
        let archive = Archive::of(&embedded).await.unwrap();
        for kind in [Kind::Etcd, Kind::Consul] {
            let Some(servers) = Servers::start(kind, 1, None).unwrap() else {
                assert!(
                    kind == Kind::Consul || std::env::var_os("CI").is_none(),
                    "needs {kind:?}"
                );
                eprintln!("SKIPPED moving to {kind:?}: it is not installed");
                continue;
            };
            let patience = std::time::Duration::from_secs(30);
            let store: Arc<dyn KvStore> = match kind {
                Kind::Etcd => {
                    let options = EtcdOptions::new(servers.urls());
                    Arc::new(
                        until(patience, || EtcdStore::connect(options.clone()))
                            .await
                            .unwrap(),
                    )
                }
                Kind::Consul => {
                    let options = ConsulOptions::new(servers.urls());
                    Arc::new(
                        until(patience, || ConsulStore::connect(options.clone()))
                            .await
                            .unwrap(),
                    )
                }
            };
            let filled = archive.fill(&*store, false).await.unwrap();
            assert_eq!(filled.written, 700, "{kind:?}");
            assert_eq!(
                filled.transactions > 1,
                kind == Kind::Consul,
                "{kind:?}: {filled:?}"
            );
            assert_eq!(
                Archive::of(&*store).await.unwrap().entries,
                archive.entries,
                "{kind:?}"
            );

            // One that was cut short is known by its marker, and the same import finishes it without being told to replace.
            let cut = Txn::new()
                .put(UNFINISHED, "x")
                .delete("policy/rule/00007")
                .put("policy/rule/99999", "old");
            assert!(matches!(
                store.commit(cut).await.unwrap(),
                CommitOutcome::Committed(_)
            ));
            archive.fill(&*store, false).await.unwrap();
            let back = Archive::of(&*store).await.unwrap();
            assert_eq!(back.entries, archive.entries, "{kind:?}");

            let fresh = LocalStore::memory().unwrap();
            back.fill(&fresh, false).await.unwrap();
            assert_eq!(truth(&fresh).await, truth(&embedded).await, "{kind:?}");
        }
    });
}
