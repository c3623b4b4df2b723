//! A support bundle: what somebody who helps must see, in one archive, without secrets.

mod redact;
mod tar;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nv_dp::probe;
use serde_json::{Value, json};

use super::Context;
use crate::client::Client;
use crate::error::{CtlError, EXIT_OK};
use crate::output::note;
use redact::{redact, redact_text};
use tar::Archive;

/// What is asked of the controller: path, question, file. No users, no audit log, no store: secrets live there.
const ASKED: [(&str, &str, &str); 19] = [
    ("/v1/controller", "", "controllers.json"),
    ("/v1/enforcer", "", "enforcers.json"),
    ("/v1/node", "", "nodes.json"),
    ("/v1/endpoint", "", "endpoints.json"),
    ("/v1/workload", "", "workloads.json"),
    ("/v1/quarantine", "", "quarantines.json"),
    ("/v1/domain", "", "domains.json"),
    ("/v1/service", "", "services.json"),
    ("/v1/group", "", "groups.json"),
    ("/v1/policy/rule", "", "rules.json"),
    ("/v1/settings", "", "settings.json"),
    ("/v2/system/config", "", "system.json"),
    ("/v1/conversation", "5000", "conversations.json"),
    ("/v1/log/violation", "1000", "violations.json"),
    ("/v1/flow", "2000", "flows.json"),
    ("/v1/sniffer", "", "captures.json"),
    ("/healthz", "", "health.json"),
    ("/openapi.json", "", "openapi.json"),
    ("/metrics", "", "metrics.txt"),
];

/// Files of this host that say whether the datapath can work here.
const HOST: [&str; 8] = [
    "/proc/version",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/net/core/bpf_jit_enable",
    "/sys/kernel/security/lockdown",
    "/proc/self/status",
    "/proc/self/cgroup",
    "/etc/os-release",
    "/proc/meminfo",
];
/// Most that is taken of one of them.
const MOST: u64 = 64 << 10;

const README: &str = "A support bundle of nv: 'nvctl diag bundle' made it.\n\n\
    summary.json  when, by which version, of which controller, and what could not be had\n\
    config.json   nvctl's settings and where each comes from; no token\n\
    host/         this host: kernel, rights, what of eBPF the kernel has, what is pinned\n\
    api/          what the controller answers: nodes, workloads, policy, recent flows, metrics\n\n\
    Left out: users, passwords, tokens, keys, the audit log, captured packets, environment variables of workloads.\n\
    Text that looks like a secret (by the name that it stands under, or by its form) is replaced by [redacted].\n\
    Names, addresses, images and labels are in it: look before you pass it on.\n";

pub(super) async fn bundle(context: &Context, write: Option<&Path>) -> Result<u8, CtlError> {
    let now = jiff::Timestamp::now();
    let file = write.map_or_else(
        || PathBuf::from(format!("nv-bundle-{}.tar.gz", now.strftime("%Y%m%dT%H%M%SZ"))),
        Path::to_path_buf,
    );
    let shown = file.display().to_string();
    let io = |source| CtlError::Io {
        action: format!("cannot write {shown}"),
        source,
    };
    // First of all, so that nothing is asked in vain; only for its owner, and nothing is overwritten.
    let out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .map_err(io)?;
    let made = collect(context, now, out).await;
    let missing = match made {
        Ok(missing) => missing,
        Err(source) => {
            let _ = fs::remove_file(&file);
            return Err(io(source));
        }
    };
    for (what, why) in &missing {
        note(&format!("left out: {what}: {why}"));
    }
    note(
        "names, addresses, images and labels are in it, no secrets that could be told: look before you pass it on",
    );
    context.output.line(&shown)?;
    Ok(EXIT_OK)
}

/// Writes everything; gives what could not be had, and why.
async fn collect(
    context: &Context,
    now: jiff::Timestamp,
    out: fs::File,
) -> std::io::Result<Vec<(String, String)>> {
    let stem = format!("nv-bundle-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let packed = flate2::write::GzEncoder::new(std::io::BufWriter::new(out), flate2::Compression::default());
    let mut archive = Archive::new(packed, stem, now.as_second());
    let mut missing = Vec::new();
    archive.add("README.txt", README.as_bytes())?;
    let settings = context.config.settings();
    let settings: Vec<_> = settings
        .iter()
        .map(|(setting, value, origin)| json!({"setting": setting, "value": redact_text(value), "origin": origin}))
        .collect();
    archive.add("config.json", pretty(&Value::Array(settings)).as_bytes())?;
    host(&mut archive, &mut missing)?;
    match context.client() {
        Ok(client) => controller(&client, &mut archive, &mut missing).await?,
        Err(error) => missing.push(("api".into(), error.to_string())),
    }
    let summary = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "time": now.to_string(),
        "server": context.config.server.0,
        "missing": missing.iter().map(|(what, why)| json!({"what": what, "why": redact_text(why)})).collect::<Vec<_>>(),
    });
    archive.add("summary.json", pretty(&summary).as_bytes())?;
    let packed = archive.end()?.finish()?;
    let mut out = packed.into_inner()?;
    out.flush()?;
    Ok(missing)
}

async fn controller<W: std::io::Write>(
    client: &Client,
    archive: &mut Archive<W>,
    missing: &mut Vec<(String, String)>,
) -> std::io::Result<()> {
    for (path, limit, name) in ASKED {
        note(&format!("asking for {path}"));
        let query = [("limit", limit.to_owned())];
        let query = if limit.is_empty() { &[][..] } else { &query };
        let answer = match client.text(path, query).await {
            Ok(text) => serde_json::from_str(&text).map_or_else(
                |_not_json| text.lines().map(|line| redact_text(line) + "\n").collect(),
                |value| pretty(&redact(value)),
            ),
            Err(error) => {
                let gone = matches!(error, CtlError::Unreachable { .. });
                missing.push((format!("api/{name}"), error.to_string()));
                if gone {
                    missing.push(("api".into(), "the rest was not asked for".into()));
                    return Ok(());
                }
                continue;
            }
        };
        archive.add(&format!("api/{name}"), answer.as_bytes())?;
    }
    Ok(())
}

fn host<W: std::io::Write>(
    archive: &mut Archive<W>,
    missing: &mut Vec<(String, String)>,
) -> std::io::Result<()> {
    use std::io::Read as _;
    for path in HOST {
        let mut text = String::new();
        let read = fs::File::open(path).and_then(|file| file.take(MOST).read_to_string(&mut text));
        let name = path.trim_start_matches('/').replace('/', "-");
        match read {
            Ok(_) => {
                let text: String = text.lines().map(|line| redact_text(line) + "\n").collect();
                archive.add(&format!("host/{name}.txt"), text.as_bytes())?;
            }
            Err(error) => missing.push((path.to_owned(), error.to_string())),
        }
    }
    let kernel = probe::report(&probe::ThisKernel);
    let kernel = kernel.iter().map(|line| {
        json!({"needs": line.what, "since": format!("{}.{}", line.since.0, line.since.1), "found": format!("{:?}", line.answer)})
    });
    let verdict = match probe::check(&probe::ThisKernel) {
        Ok(()) => "the kernel datapath can work here, as far as this user can tell".to_owned(),
        Err(error) => error.to_string(),
    };
    let kernel = json!({"verdict": verdict, "features": kernel.collect::<Vec<_>>()});
    archive.add("host/kernel.json", pretty(&kernel).as_bytes())?;
    let mut pins = String::new();
    list(Path::new("/sys/fs/bpf/nv"), 0, &mut pins);
    archive.add("host/pins.txt", pins.as_bytes())
}

/// Names of what is pinned, three folders deep.
fn list(folder: &Path, depth: usize, out: &mut String) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().take(2000) {
        out.push_str(&format!("{}\n", path.display()));
        if depth < 2 {
            list(path, depth + 1, out);
        }
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
