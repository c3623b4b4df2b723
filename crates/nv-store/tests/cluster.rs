//! Consul and etcd as they are: conformance on one server and on three, and what watchers see while servers die, stop, forget and are restored.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nv_lab::{HostSpec, Lab};
use nv_store::history::{Acknowledged, Seen};
use nv_store::testing::{Kind, Place, Security, Servers, until};
use nv_store::{
    Change, CommitOutcome, ConsulOptions, ConsulStore, EtcdOptions, EtcdStore, Expect, KvStore, StoreError,
    TlsOptions, Txn, WatchEvent, conformance, history,
};
use nv_types::Revision;

/// Longest wait for servers that start or elect.
const PATIENCE: Duration = Duration::from_secs(30);

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// Servers, or a word about the test that is skipped without them. Consul is not in every system's packages, so that its absence is no
/// failure; etcd's is one in CI.
fn servers(test: &str, kind: Kind, count: usize, security: Option<&Security>) -> Option<Servers> {
    let servers = Servers::start(kind, count, security).unwrap();
    if servers.is_none() {
        assert!(
            kind == Kind::Consul || std::env::var_os("CI").is_none(),
            "{test} needs {kind:?}"
        );
        eprintln!("SKIPPED {test}: {kind:?} is not installed");
    }
    servers
}

fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

async fn connect(kind: Kind, urls: &[String], prefix: &str, security: Option<&Security>) -> Arc<dyn KvStore> {
    let tls = security.map_or_else(TlsOptions::default, |security| TlsOptions {
        ca_pem: Some(read(&security.ca)),
        identity_pem: Some((read(&security.certificate), read(&security.key))),
    });
    match kind {
        Kind::Consul => {
            let mut options = ConsulOptions::new(urls);
            options.prefix = prefix.into();
            options.tls = tls;
            options.token = security.map(|security| security.token.clone());
            let store = until(PATIENCE, || ConsulStore::connect(options.clone())).await;
            Arc::new(store.unwrap())
        }
        Kind::Etcd => {
            let mut options = EtcdOptions::new(urls);
            options.prefix = prefix.into();
            options.tls = tls;
            let store = until(PATIENCE, || EtcdStore::connect(options.clone())).await;
            Arc::new(store.unwrap())
        }
    }
}

fn conforms(test: &str, kind: Kind, count: usize, security: Option<&Security>) {
    let Some(servers) = servers(test, kind, count, security) else {
        return;
    };
    let urls = servers.urls();
    let number = AtomicUsize::new(0);
    let made = block_on(conformance::run(|| {
        let prefix = format!("nv/case{}", number.fetch_add(1, Ordering::Relaxed));
        let urls = urls.clone();
        async move { connect(kind, &urls, &prefix, security).await }
    }));
    assert!(made.is_ok(), "{}\n{}", made.unwrap_err(), servers.logs());
}

#[test]
fn consul_conforms() {
    conforms("consul_conforms", Kind::Consul, 1, None);
}

#[test]
fn etcd_conforms() {
    conforms("etcd_conforms", Kind::Etcd, 1, None);
}

fn security(folder: &std::path::Path) -> Security {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let names = ["localhost", "127.0.0.1", "server.dc1.consul"].map(str::to_owned);
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    Security {
        ca: write("ca.pem", ca.pem()),
        certificate: write("leaf.pem", leaf.pem()),
        key: write("leaf.key", leaf_key.serialize_pem()),
        token: "3f1c7d0e-6a55-4a43-9d8b-0c9ad1f0a001".into(),
    }
}

#[test]
fn consul_conforms_on_three_servers_with_tls_and_acl() {
    let folder = tempfile::tempdir().unwrap();
    let security = security(folder.path());
    conforms(
        "consul_conforms_on_three_servers_with_tls_and_acl",
        Kind::Consul,
        3,
        Some(&security),
    );
}

#[test]
fn etcd_conforms_on_three_members_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let security = security(folder.path());
    conforms(
        "etcd_conforms_on_three_members_with_tls",
        Kind::Etcd,
        3,
        Some(&security),
    );
}

#[test]
fn a_wrong_token_and_a_missing_certificate_are_told() {
    let test = "a_wrong_token_and_a_missing_certificate_are_told";
    let folder = tempfile::tempdir().unwrap();
    let mut security = security(folder.path());
    let Some(servers) = servers(test, Kind::Consul, 1, Some(&security)) else {
        return;
    };
    let urls = servers.urls();
    block_on(async {
        connect(Kind::Consul, &urls, "nv", Some(&security)).await;
        security.token = "00000000-0000-0000-0000-000000000bad".into();
        let mut options = ConsulOptions::new(&urls);
        options.tls = TlsOptions {
            ca_pem: Some(read(&security.ca)),
            identity_pem: Some((read(&security.certificate), read(&security.key))),
        };
        options.token = Some(security.token.clone());
        let error = ConsulStore::connect(options.clone()).await.unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        options.tls.identity_pem = None;
        let error = ConsulStore::connect(options.clone()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        options.tls.ca_pem = None;
        let error = ConsulStore::connect(options).await.unwrap_err();
        assert!(error.to_string().contains("needs the CA"), "{error}");
    });
}

/// Writers and watchers of one store while something happens to it.
struct Run {
    store: Arc<dyn KvStore>,
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    writers: Vec<tokio::task::JoinHandle<Vec<Acknowledged>>>,
    watchers: Vec<tokio::task::JoinHandle<Vec<Seen>>>,
}

impl Run {
    fn start(store: &Arc<dyn KvStore>, others: &[Arc<dyn KvStore>]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let refused = Arc::new(AtomicU64::new(0));
        let writers = (0..3u8)
            .map(|writer| {
                tokio::spawn(write(
                    Arc::clone(store),
                    writer,
                    Arc::clone(&stop),
                    Arc::clone(&refused),
                ))
            })
            .collect();
        let mut watchers = Vec::new();
        for store in std::iter::once(store).chain(others) {
            watchers.push(tokio::spawn(watch(Arc::clone(store), "", 0, Arc::clone(&stop))));
            watchers.push(tokio::spawn(watch(Arc::clone(store), "k1", 0, Arc::clone(&stop))));
            // These break off and go on from their bookmark.
            watchers.push(tokio::spawn(watch(Arc::clone(store), "", 7, Arc::clone(&stop))));
            watchers.push(tokio::spawn(watch(Arc::clone(store), "k", 40, Arc::clone(&stop))));
        }
        Self {
            store: Arc::clone(store),
            stop,
            refused,
            writers,
            watchers,
        }
    }

    /// Ends the run and checks its history. Gives the report and how many writes were refused.
    async fn end(self) -> (history::Report, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for writer in self.writers {
            acknowledged.extend(writer.await.unwrap());
        }
        // The last word, after which every watcher ends.
        let last = until(PATIENCE, || self.store.commit(Txn::new().put("k1/end", *b"end")))
            .await
            .unwrap();
        let CommitOutcome::Committed(revision) = last else {
            panic!("{last:?}")
        };
        acknowledged.push(Acknowledged {
            revision,
            keys: vec![("k1/end".into(), Some(b"end".to_vec()))],
        });
        let mut seen = Vec::new();
        for watcher in self.watchers {
            let watched = tokio::time::timeout(PATIENCE, watcher).await;
            seen.extend(watched.expect("a watcher that never saw the end").unwrap());
        }
        let report = history::check(&seen, &acknowledged).unwrap();
        assert_eq!(report.acknowledged, acknowledged.len());
        (report, self.refused.load(Ordering::Relaxed))
    }
}

/// Writes one to three keys at a time, sometimes deletes, sometimes on a condition.
async fn write(
    store: Arc<dyn KvStore>,
    writer: u8,
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    for number in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut txn = Txn::new();
        let mut keys = Vec::new();
        for part in 0..=number % 3 {
            let key = format!("k{}", (number * 7 + part * 3 + u64::from(writer)) % 12);
            if keys.iter().any(|(known, _)| *known == key) {
                continue;
            }
            if (number + part) % 5 == 4 {
                txn = txn.delete(&key);
                keys.push((key, None));
            } else {
                // Large values take other ways on some backends.
                let size = if number % 50 == 49 { 20_000 } else { 8 };
                let mut value = format!("{writer}-{number}-{part}").into_bytes();
                value.resize(value.len().max(size), b'.');
                txn = txn.put(&key, value.clone());
                keys.push((key, Some(value)));
            }
        }
        if number % 4 == 3 {
            txn = txn.when("never", Expect::Absent);
        }
        match store.commit(txn).await {
            Ok(CommitOutcome::Committed(revision)) => acknowledged.push(Acknowledged { revision, keys }),
            Ok(other) => panic!("{other:?}"),
            Err(StoreError::Unavailable { .. }) => {
                refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    acknowledged
}

/// Watches until the end of the run; breaks off after each `burst` events (0: never) and goes on from the revision after the last one.
async fn watch(store: Arc<dyn KvStore>, prefix: &str, burst: usize, stop: Arc<AtomicBool>) -> Vec<Seen> {
    let mut all = Vec::new();
    let mut from = Revision(0);
    loop {
        let Ok(mut stream) = until(PATIENCE, || store.watch(prefix, from)).await else {
            panic!("no watch within {PATIENCE:?}");
        };
        let mut events = Vec::new();
        let mut over = false;
        while burst == 0 || events.len() < burst {
            let event = tokio::time::timeout(PATIENCE, stream.recv()).await;
            let Ok(Some(event)) = event else {
                assert!(!stop.load(Ordering::Relaxed), "the end never came");
                panic!("nothing for {PATIENCE:?}");
            };
            let end = |key: &str| key == "k1/end";
            over = match &event {
                WatchEvent::Changes { changes, .. } => changes
                    .iter()
                    .any(|change| matches!(change, Change::Put(entry) if end(&entry.key))),
                WatchEvent::Resync(listing) => listing.entries.iter().any(|entry| end(&entry.key)),
            };
            events.push(event);
            if over {
                break;
            }
        }
        let next = events.iter().map(|event| match event {
            WatchEvent::Changes { revision, .. } => *revision,
            WatchEvent::Resync(listing) => listing.revision,
        });
        let next = next.max().unwrap_or_default();
        all.push(Seen {
            prefix: prefix.into(),
            from,
            events,
        });
        from = Revision(next.0 + 1);
        if over {
            return all;
        }
    }
}

fn leader_lost(test: &str, kind: Kind) {
    let Some(mut servers) = servers(test, kind, 3, None) else {
        return;
    };
    block_on(async {
        let urls = servers.urls();
        // Stores that ask different servers first.
        let store = connect(kind, &urls, "nv", None).await;
        let other = connect(
            kind,
            &[urls[1].clone(), urls[2].clone(), urls[0].clone()],
            "nv",
            None,
        )
        .await;
        let run = Run::start(&store, &[other]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Killed, and started again.
        let leader = until(PATIENCE, || async { servers.leader().ok_or(()) })
            .await
            .unwrap();
        servers.kill(leader).unwrap();
        let begun = Instant::now();
        until(PATIENCE, || {
            store.commit(Txn::new().put("k0", *b"after the kill"))
        })
        .await
        .unwrap();
        let back = begun.elapsed();
        servers.start_again(leader).unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        // Stopped for longer than an election takes, and let go on.
        let leader = until(PATIENCE, || async { servers.leader().ok_or(()) })
            .await
            .unwrap();
        servers.signal(leader, "STOP").unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        servers.signal(leader, "CONT").unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (report, refused) = run.end().await;
        println!("{test}: {report:?}, {refused} refused, writable {back:?} after the kill");
        assert!(report.acknowledged > 100, "{report:?}");
        assert!(
            back < Duration::from_secs(10),
            "{back:?} until it could be written again"
        );
    });
}

#[test]
fn consul_loses_its_leader_and_no_watcher_misses_anything() {
    leader_lost(
        "consul_loses_its_leader_and_no_watcher_misses_anything",
        Kind::Consul,
    );
}

#[test]
fn etcd_loses_its_leader_and_no_watcher_misses_anything() {
    leader_lost("etcd_loses_its_leader_and_no_watcher_misses_anything", Kind::Etcd);
}

/// The leader's host is cut off from the network, and from those who write: the others elect, and it comes back with what it never knew.
fn cut_apart(test: &str, kind: Kind) {
    if !nix::unistd::geteuid().is_root() || nv_store::testing::program(kind).is_none() {
        assert!(
            kind == Kind::Consul || std::env::var_os("CI").is_none(),
            "{test} needs root and {kind:?}"
        );
        eprintln!("SKIPPED {test}: it needs root and {kind:?}");
        return;
    }
    let tag = format!("nvs{}", std::process::id() % 100_000);
    let net = if kind == Kind::Etcd { 231 } else { 232 };
    let hosts: Vec<_> = (0..4)
        .map(|number| HostSpec::new(format!("{tag}-{number}"), net, number + 2))
        .collect();
    let lab = Lab::create(&tag, &hosts).unwrap();
    let places: Vec<_> = hosts[..3]
        .iter()
        .map(|host| Place {
            netns: Some(host.name.clone()),
            address: host.v4.into(),
        })
        .collect();
    let name = test.to_owned();
    // Whoever writes and watches is on a host of its own.
    let run = move || {
        let servers = Servers::start_at(kind, &places, None).unwrap().unwrap();
        let link = |host: usize, state: &str| {
            let netns = places[host].netns.clone().unwrap();
            let set = ["netns", "exec", &netns, "ip", "link", "set", "eth0", state];
            let done = std::process::Command::new("ip").args(set).status().unwrap();
            assert!(done.success());
        };
        block_on(async {
            let mut urls = servers.urls();
            let leader = until(PATIENCE, || async { servers.leader().ok_or(()) })
                .await
                .unwrap();
            // One store is with the leader when it is cut off. The other one is with those that go on, and sees every revision, also of
            // writes whose answer was lost.
            urls.swap(0, leader);
            let store = connect(kind, &urls, "nv", None).await;
            let other = connect(kind, &urls[1..], "nv", None).await;
            let run = Run::start(&store, &[other]);
            tokio::time::sleep(Duration::from_secs(1)).await;
            link(leader, "down");
            let begun = Instant::now();
            until(PATIENCE, || store.commit(Txn::new().put("k0", *b"after the cut")))
                .await
                .unwrap();
            let back = begun.elapsed();
            tokio::time::sleep(Duration::from_secs(2)).await;
            link(leader, "up");
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (report, refused) = run.end().await;
            println!("{name}: {report:?}, {refused} refused, writable {back:?} after the cut");
            assert!(report.acknowledged > 100, "{report:?}");
            assert!(
                back < Duration::from_secs(15),
                "{back:?} until it could be written again"
            );
        });
    };
    lab.host(&hosts[3].name).unwrap().run(run).unwrap();
}

#[test]
fn etcd_is_cut_apart_and_no_watcher_misses_anything() {
    cut_apart("etcd_is_cut_apart_and_no_watcher_misses_anything", Kind::Etcd);
}

#[test]
fn consul_is_cut_apart_and_no_watcher_misses_anything() {
    cut_apart("consul_is_cut_apart_and_no_watcher_misses_anything", Kind::Consul);
}

/// A store whose connection to etcd is stopped while etcd forgets what it would ask for.
#[test]
fn etcd_forgets_what_a_watcher_needs_and_it_is_told() {
    let test = "etcd_forgets_what_a_watcher_needs_and_it_is_told";
    let Some(mut servers) = servers(test, Kind::Etcd, 1, None) else {
        return;
    };
    block_on(async {
        let options = EtcdOptions::new(servers.urls());
        let store = until(PATIENCE, || EtcdStore::connect(options.clone()))
            .await
            .unwrap();
        let mut watch = store.watch("k", Revision(0)).await.unwrap();
        assert!(matches!(watch.recv().await, Some(WatchEvent::Resync(_))));
        let put = |value: u8| store.commit(Txn::new().put("k", [value]));
        put(1).await.unwrap();
        assert!(matches!(watch.recv().await, Some(WatchEvent::Changes { .. })));
        // The member goes away; when it is back, another store writes and compacts at once, before the first one's follower is there again.
        servers.kill(0).unwrap();
        servers.start_again(0).unwrap();
        let other = until(PATIENCE, || EtcdStore::connect(options.clone()))
            .await
            .unwrap();
        for value in 2..10 {
            other.commit(Txn::new().put("k", [value])).await.unwrap();
        }
        let (_, now) = other.get("k").await.unwrap();
        other.compact(now).await.unwrap();
        // Either the changes came before they were forgotten, or a snapshot says what they came to: never a gap.
        let mut last = 1;
        while last != 9 {
            match tokio::time::timeout(PATIENCE, watch.recv())
                .await
                .unwrap()
                .unwrap()
            {
                WatchEvent::Resync(listing) => last = listing.entries[0].value[0],
                WatchEvent::Changes { changes, .. } => {
                    let [Change::Put(entry)] = changes.as_slice() else {
                        panic!("{changes:?}")
                    };
                    assert_eq!(entry.value[0], last + 1, "a gap");
                    last = entry.value[0];
                }
            }
        }
        // One who asks for what is forgotten everywhere begins with a snapshot.
        let mut late = other.watch("k", Revision(2)).await.unwrap();
        let first = tokio::time::timeout(PATIENCE, late.recv()).await.unwrap();
        assert!(
            matches!(first, Some(WatchEvent::Resync(_) | WatchEvent::Changes { .. })),
            "{first:?}"
        );
    });
}

/// Revision numbers begin anew, or are those of another past: everybody must be told, and resumed watches too.
async fn restored(store: Arc<dyn KvStore>, restore: impl AsyncFnOnce()) {
    let put = |value: u8| store.commit(Txn::new().put("k", [value]));
    until(PATIENCE, || put(1)).await.unwrap();
    let mut watch = store.watch("k", Revision(0)).await.unwrap();
    for value in 2..30 {
        put(value).await.unwrap();
    }
    let mut last = Vec::new();
    while last != [29] {
        match tokio::time::timeout(PATIENCE, watch.recv())
            .await
            .unwrap()
            .unwrap()
        {
            WatchEvent::Resync(listing) => last = listing.entries[0].value.clone(),
            WatchEvent::Changes { changes, .. } => {
                let [Change::Put(entry)] = changes.as_slice() else {
                    panic!("{changes:?}")
                };
                last = entry.value.clone();
            }
        }
    }
    let (_, before) = store.get("k").await.unwrap();
    restore().await;
    // What is told first is the whole state of the restored store, in which the key has an older value.
    let told = tokio::time::timeout(PATIENCE, watch.recv())
        .await
        .unwrap()
        .unwrap();
    let WatchEvent::Resync(listing) = told else {
        panic!("{told:?}")
    };
    assert_eq!(listing.entries[0].value, [7]);
    until(PATIENCE, || put(100)).await.unwrap();
    let told = tokio::time::timeout(PATIENCE, watch.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(&told, WatchEvent::Changes { changes, .. } if matches!(&changes[..], [Change::Put(entry)] if entry.value == [100])),
        "{told:?}"
    );
    // One that was away and resumes with a number of the past that was undone.
    let mut resumed = store.watch("k", Revision(before.0 + 1)).await.unwrap();
    let told = tokio::time::timeout(PATIENCE, resumed.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(told, WatchEvent::Resync(_)), "{told:?}");
}

#[test]
fn an_older_backup_of_consul_is_told_to_all() {
    let Some(servers) = servers("an_older_backup_of_consul_is_told_to_all", Kind::Consul, 1, None) else {
        return;
    };
    block_on(async {
        let store = connect(Kind::Consul, &servers.urls(), "nv", None).await;
        store.commit(Txn::new().put("k", [7])).await.unwrap();
        let backup = servers.http(0, "GET", "/v1/snapshot", b"").unwrap();
        restored(store, async || {
            servers.http(0, "PUT", "/v1/snapshot", &backup).unwrap();
        })
        .await;
    });
}

#[test]
fn an_older_backup_of_etcd_is_told_to_all() {
    let Some(mut servers) = servers("an_older_backup_of_etcd_is_told_to_all", Kind::Etcd, 1, None) else {
        return;
    };
    block_on(async {
        let store = connect(Kind::Etcd, &servers.urls(), "nv", None).await;
        store.commit(Txn::new().put("k", [7])).await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        let cp = |from: &std::path::Path, to: &std::path::Path| {
            let done = std::process::Command::new("cp")
                .arg("-a")
                .arg(from)
                .arg(to)
                .status()
                .unwrap();
            assert!(done.success());
        };
        servers.kill(0).unwrap();
        let data = servers.data(0);
        cp(&data, &copy.path().join("data"));
        servers.start_again(0).unwrap();
        restored(store, async || {
            servers.kill(0).unwrap();
            std::fs::remove_dir_all(&data).unwrap();
            cp(&copy.path().join("data"), &data);
            servers.start_again(0).unwrap();
        })
        .await;
    });
}

#[test]
fn what_a_stranger_writes_into_consul_is_told() {
    let Some(servers) = servers(
        "what_a_stranger_writes_into_consul_is_told",
        Kind::Consul,
        1,
        None,
    ) else {
        return;
    };
    block_on(async {
        let store = connect(Kind::Consul, &servers.urls(), "nv", None).await;
        store.commit(Txn::new().put("k", [1])).await.unwrap();
        let mut watch = store.watch("", Revision(0)).await.unwrap();
        watch.recv().await.unwrap();
        servers.http(0, "PUT", "/v1/kv/nv/data/k", b"by hand").unwrap();
        let told = tokio::time::timeout(PATIENCE, watch.recv())
            .await
            .unwrap()
            .unwrap();
        assert!(
            matches!(&told, WatchEvent::Resync(listing) if listing.entries[0].value == b"by hand"),
            "{told:?}"
        );
        // Writing goes on from there.
        store.commit(Txn::new().put("k", [2])).await.unwrap();
        let told = tokio::time::timeout(PATIENCE, watch.recv())
            .await
            .unwrap()
            .unwrap();
        assert!(matches!(told, WatchEvent::Changes { .. }), "{told:?}");
    });
}
