//! A leader that is stopped for longer than its lease, and goes on: nothing that it then writes as leader may be accepted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nv_store::testing::{Kind, Servers, until};
use nv_store::{
    Change, CommitOutcome, ConsulOptions, ConsulStore, EtcdOptions, EtcdStore, KvStore, Revision, Txn,
    WatchEvent, election,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// etcd has no shorter ones.
const TTL: Duration = Duration::from_secs(2);

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

async fn connect(kind: Kind, urls: &[String]) -> Arc<dyn KvStore> {
    match kind {
        Kind::Consul => Arc::new(
            until(PATIENCE, || ConsulStore::connect(ConsulOptions::new(urls)))
                .await
                .unwrap(),
        ),
        Kind::Etcd => Arc::new(
            until(PATIENCE, || EtcdStore::connect(EtcdOptions::new(urls)))
                .await
                .unwrap(),
        ),
    }
}

/// The child of the tests below: leads whenever it can, and writes as leader without a look at whether it still is: what a leader believes
/// is no guard. `NV_STORE_CANDIDATE` is its name, kind of store, servers, and whether its writes carry the fence.
#[test]
fn candidate_child() {
    let Ok(told) = std::env::var("NV_STORE_CANDIDATE") else {
        return;
    };
    let [name, kind, urls, fenced] = told.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let kind = if kind == "etcd" { Kind::Etcd } else { Kind::Consul };
    let urls: Vec<_> = urls.split(',').map(str::to_owned).collect();
    block_on(async {
        let store = connect(kind, &urls).await;
        loop {
            let Ok(leadership) = election::campaign(Arc::clone(&store), "leader", name, TTL).await else {
                continue;
            };
            let fence = leadership.fence();
            println!("begins {name}");
            for number in 0u64.. {
                let mut txn = Txn::new().put("as-leader", format!("{name} {number}"));
                if fenced == "fenced" {
                    txn.conditions.push(fence.clone());
                }
                match store.commit(txn).await {
                    Ok(CommitOutcome::Committed(_)) => println!("accepted {name}"),
                    Ok(CommitOutcome::Conflict { .. }) => {
                        println!("refused {name}");
                        break;
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
}

struct Candidate {
    child: Child,
    said: Receiver<String>,
}

impl Candidate {
    fn start(name: &str, kind: Kind, urls: &[String], fenced: bool) -> Self {
        let kind = if kind == Kind::Etcd { "etcd" } else { "consul" };
        let fenced = if fenced { "fenced" } else { "open" };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "candidate_child", "--nocapture"])
            .env(
                "NV_STORE_CANDIDATE",
                format!("{name} {kind} {} {fenced}", urls.join(",")),
            )
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, said) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, said }
    }

    fn says(&self, word: &str) {
        while !self
            .said
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("never '{word}'"))
            .contains(word)
        {}
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many writes of the first leader were accepted after the first one of the second, in the order of the store.
fn late_writes(kind: Kind, servers: &Servers, fenced: bool) -> usize {
    let urls = servers.urls();
    block_on(async {
        let store = connect(kind, &urls).await;
        let mut watch = store.watch("as-leader", Revision(0)).await.unwrap();
        let one = Candidate::start("one", kind, &urls, fenced);
        one.says("accepted");
        let two = Candidate::start("two", kind, &urls, fenced);
        // Another one waits while the first leads.
        std::thread::sleep(TTL / 2);
        assert!(two.said.try_iter().all(|line| !line.contains("begins")));
        one.signal(Signal::SIGSTOP);
        two.says("accepted");
        std::thread::sleep(Duration::from_millis(200));
        one.signal(Signal::SIGCONT);
        if fenced {
            one.says("refused");
        }
        std::thread::sleep(Duration::from_millis(500));
        drop((one, two));
        let last = Txn::new().put("as-leader", "end 0");
        store.commit(last).await.unwrap();
        let (mut of_two, mut late, mut of_one) = (0, 0, 0);
        loop {
            let event = tokio::time::timeout(PATIENCE, watch.recv())
                .await
                .unwrap()
                .unwrap();
            let WatchEvent::Changes { changes, .. } = event else {
                continue;
            };
            let [Change::Put(entry)] = changes.as_slice() else {
                panic!("{changes:?}")
            };
            match entry.value.split(|byte| *byte == b' ').next().unwrap() {
                b"one" if of_two > 0 => late += 1,
                b"one" => of_one += 1,
                b"two" => of_two += 1,
                _ => break,
            }
        }
        assert!(of_one > 10 && of_two > 10, "{of_one} and {of_two} writes");
        println!("{kind:?}: {of_one} writes of the first leader, {of_two} of the second, {late} late ones");
        late
    })
}

fn stopped(test: &str, kind: Kind, guards: &[bool]) {
    for &fenced in guards {
        let Some(servers) = Servers::start(kind, 1, None).unwrap() else {
            assert!(
                kind == Kind::Consul || std::env::var_os("CI").is_none(),
                "{test} needs {kind:?}"
            );
            eprintln!("SKIPPED {test}: {kind:?} is not installed");
            return;
        };
        let late = late_writes(kind, &servers, fenced);
        // Without the guard the same scene must show what the guard is for.
        assert_eq!(late > 0, !fenced, "{late} late writes");
    }
}

#[test]
fn a_leader_stopped_past_its_lease_writes_nothing_on_etcd() {
    stopped(
        "a_leader_stopped_past_its_lease_writes_nothing_on_etcd",
        Kind::Etcd,
        &[true, false],
    );
}

#[test]
fn a_leader_stopped_past_its_lease_writes_nothing_on_consul() {
    stopped(
        "a_leader_stopped_past_its_lease_writes_nothing_on_consul",
        Kind::Consul,
        &[true],
    );
}
