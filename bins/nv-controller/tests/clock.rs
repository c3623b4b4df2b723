//! A wall clock that jumps under the stock program: by an hour, by a day, back to the beginning of time.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

/// The library that stands between a program and its clock.
fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let files = folders.filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketimeMT.so.1")));
    files.into_iter().find(|path| path.exists())
}

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(data: &Path, rest: u16, clock: &Path, library: &Path) -> Program {
    let child = Command::new(env!("CARGO_BIN_EXE_nv-controller"))
        .args(["--rest", &format!("127.0.0.1:{rest}"), "--grpc", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(data)
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", clock)
        .env("FAKETIME_NO_CACHE", "1")
        // The wall clock jumps, the steady one does not.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Program(child)
}

struct Rest {
    client: Client,
    base: String,
    token: String,
}

impl Rest {
    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = self
            .client
            .request(method.parse().unwrap(), format!("{}{path}", self.base))
            .header("X-Auth-Token", &self.token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap_or(Value::Null))
    }

    async fn login(&self, password: &str) -> String {
        let body = json!({"password": {"username": "admin", "password": password}});
        let (status, answer) = self.call("POST", "/v1/auth", Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["token"]["token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_ends_no_session_and_stops_no_change() {
    let Some(library) = faketime() else {
        assert!(std::env::var_os("CI").is_none(), "libfaketime is not installed");
        eprintln!("SKIPPED a_clock_that_jumps: libfaketime is not installed");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (data, clock) = (folder.path().join("data"), folder.path().join("clock"));
    std::fs::write(&clock, "+0\n").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut program = start(&data, port, &clock, &library);
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let password = line
        .split("is ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(&std::fs::read(data.join("ca.pem")).unwrap()).unwrap();
    let mut rest = Rest {
        client: Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap(),
        base: format!("https://127.0.0.1:{port}"),
        token: String::new(),
    };
    rest.token = rest.login(&password).await;
    for (number, jump) in ["+1h", "-1h", "+1d", "-1d", "@1970-06-01 00:00:00", "+0"]
        .iter()
        .enumerate()
    {
        std::fs::write(&clock, format!("{jump}\n")).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        // The session that began at another time is neither over nor forgotten, changes are made, and new sessions begin.
        let config =
            json!({"name": format!("g{number}"), "criteria": [{"key": "app", "op": "=", "value": "x"}]});
        let (status, answer) = rest
            .call("POST", "/v1/group", Some(json!({"config": config})))
            .await;
        assert_eq!(status, StatusCode::OK, "clock {jump}: {answer}");
        let (status, answer) = rest.call("GET", "/v1/group", None).await;
        assert_eq!(status, StatusCode::OK, "clock {jump}: {answer}");
        for group in answer["groups"].as_array().unwrap() {
            assert!(!group.to_string().contains(":-"), "a negative time: {group}");
        }
        let other = rest.login(&password).await;
        assert_ne!(other, rest.token);
    }
    // A session that was ended stays ended, whatever the clock says.
    let ended = rest.login(&password).await;
    let kept = std::mem::replace(&mut rest.token, ended);
    assert_eq!(rest.call("DELETE", "/v1/auth", None).await.0, StatusCode::OK);
    std::fs::write(&clock, "-1h\n").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        rest.call("GET", "/v1/group", None).await.0,
        StatusCode::UNAUTHORIZED
    );
    rest.token = kept;
    assert_eq!(rest.call("GET", "/v1/group", None).await.0, StatusCode::OK);
    let mut said = String::new();
    let mut stderr = program.0.stderr.take().unwrap();
    drop(program);
    stderr.read_to_string(&mut said).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    // The clock did jump: the program's own words say so.
    assert!(said.contains("1970-0"), "the clock did not jump:\n{said}");
}
