//! The product's own binaries, started for a bench, and their REST.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// A binary of the same build as the bench.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where this bench is")?;
    let path = own.parent().context("where this bench is")?.join(name);
    if !path.exists() {
        bail!(
            "{} is not there: build it first with cargo build --release --bins",
            path.display()
        );
    }
    Ok(path)
}

/// A running binary, killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Lines that it printed until it was ready.
    pub lines: Vec<String>,
}

impl Process {
    /// Starts a binary and reads its standard output until a line holds `ready`; none: at once.
    ///
    /// # Errors
    /// When it cannot be started or ends before it is ready.
    pub fn start(command: &mut Command, ready: Option<&str>) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .env("RUST_LOG", "warn")
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let mut lines = Vec::new();
        if let (Some(ready), Some(stdout)) = (ready, child.stdout.take()) {
            for line in BufReader::new(stdout).lines() {
                lines.push(line?);
                if lines.last().is_some_and(|line| line.contains(ready)) {
                    return Ok(Self { child, lines });
                }
            }
            bail!(
                "{} ended: {}",
                command.get_program().to_string_lossy(),
                child.wait()?
            );
        }
        Ok(Self { child, lines })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// REST of a controller.
#[derive(Debug)]
pub struct Rest {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    server: String,
    token: String,
}

impl Rest {
    /// Logs in as `admin`.
    ///
    /// # Errors
    /// When the controller does not answer or refuses.
    pub fn login(server: &str, ca: &Path, password: &str) -> anyhow::Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let pem = std::fs::read(ca).with_context(|| format!("cannot read {}", ca.display()))?;
        let http = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?)
            .no_proxy()
            .build()?;
        let mut rest = Self {
            runtime,
            http,
            server: server.to_owned(),
            token: String::new(),
        };
        let body = json!({"password": {"username": "admin", "password": password}});
        let answer = rest.call("POST", "/v1/auth", Some(&body))?;
        rest.token = answer["token"]["token"].as_str().context("no token")?.to_owned();
        Ok(rest)
    }

    /// One call; its answer.
    ///
    /// # Errors
    /// When it is refused.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.runtime.block_on(async {
            let mut request = self
                .http
                .request(method.parse()?, format!("{}{path}", self.server));
            request = request.header("X-Auth-Token", &self.token);
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = request.send().await?;
            let status = response.status();
            let text = response.text().await?;
            if !status.is_success() {
                bail!("{method} {path}: {status} {text}");
            }
            Ok(serde_json::from_str(&text)?)
        })
    }
}

/// What follows `after` in the lines, up to a blank or comma.
#[must_use]
pub fn word_after(lines: &[String], after: &str) -> Option<String> {
    let (_, rest) = lines.iter().find_map(|line| line.split_once(after))?;
    rest.split([' ', ',']).next().map(str::to_owned)
}

/// Waits until something holds, for at most `seconds`.
///
/// # Errors
/// When it does not.
pub fn wait_for(
    what: &str,
    seconds: u64,
    mut holds: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    while !holds()? {
        if begun.elapsed().as_secs() >= seconds {
            bail!("not within {seconds} s: {what}");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

/// Memory of a process in MiB: `VmRSS`, resident now, or `VmHWM`, the most that it ever was (proc(5)).
///
/// # Errors
/// When the process has ended.
pub fn memory(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("no such field")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
