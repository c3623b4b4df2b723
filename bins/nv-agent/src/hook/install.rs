//! What a runtime must be told so that it asks nv before a container runs.

use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use serde_json::{Value, json};

/// Who is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// Docker: `daemon.json`, a runtime that stands before runc.
    Docker,
    /// CRI-O (and Podman): a file for `hooks.d`.
    Crio,
    /// containerd: a base runtime spec with hooks, made of the one that is read from standard input (`ctr oci spec`).
    Containerd,
}

/// The stages at which nv is asked.
const STAGES: [&str; 2] = ["createRuntime", "poststop"];

/// Writes the file that a target needs to `out`, and where it belongs to `say`. `spec` is the base spec for containerd.
///
/// # Errors
/// When the spec is none, or something cannot be written.
pub fn print_instructions(
    target: Target,
    program: &Path,
    config: Option<&Path>,
    spec: impl io::Read,
    out: &mut impl Write,
    say: &mut impl Write,
) -> io::Result<()> {
    let (file, words) = match target {
        Target::Docker => (
            docker(program, config),
            "merge this into /etc/docker/daemon.json and restart dockerd; 'docker run --runtime nv' tries it for one container first",
        ),
        Target::Crio => (
            json!({
                "version": "1.0.0",
                "hook": {"path": program, "args": arguments(program, config), "timeout": 30},
                "when": {"always": true},
                "stages": STAGES,
            }),
            "write this to /etc/containers/oci/hooks.d/nv.json (CRI-O's hooks_dir); it counts from the next container on",
        ),
        Target::Containerd => (
            with_hooks(serde_json::from_reader(spec)?, program, config)?,
            "write this to /etc/containerd/nv-base-spec.json, name it as base_runtime_spec of the runtime in /etc/containerd/config.toml \
             ([plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]), and restart containerd",
        ),
    };
    writeln!(out, "{file:#}")?;
    writeln!(say, "{words}")
}

fn arguments(program: &Path, config: Option<&Path>) -> Vec<Value> {
    let mut arguments = vec![json!(program)];
    if let Some(config) = config {
        arguments.extend([json!("--config"), json!(config)]);
    }
    arguments.push(json!("hook"));
    arguments
}

fn docker(program: &Path, config: Option<&Path>) -> Value {
    let mut arguments = Vec::new();
    if let Some(config) = config {
        arguments.extend([json!("--config"), json!(config)]);
    }
    arguments.push(json!("runtime"));
    json!({
        "runtimes": {"nv": {"path": program, "runtimeArgs": arguments}},
        "default-runtime": "nv",
    })
}

/// A runtime spec with our hooks behind those that it has.
fn with_hooks(mut spec: Value, program: &Path, config: Option<&Path>) -> io::Result<Value> {
    let wrong = |words: &str| io::Error::new(io::ErrorKind::InvalidData, words.to_owned());
    if !spec.get("ociVersion").is_some_and(Value::is_string) {
        return Err(wrong(
            "standard input has no runtime spec (it comes of 'ctr oci spec')",
        ));
    }
    let hook = json!({"path": program, "args": arguments(program, config), "timeout": 30});
    for stage in STAGES {
        let stages = spec
            .as_object_mut()
            .and_then(|spec| spec.entry("hooks").or_insert_with(|| json!({})).as_object_mut())
            .ok_or_else(|| wrong("the spec's hooks are no object"))?;
        let hooks = stages
            .entry(stage)
            .or_insert_with(|| json!([]))
            .as_array_mut()
            .ok_or_else(|| wrong("a stage of the spec's hooks is no list"))?;
        if !hooks.contains(&hook) {
            hooks.push(hook.clone());
        }
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(target: Target, spec: &str) -> io::Result<Value> {
        let (mut out, mut say) = (Vec::new(), Vec::new());
        let config = Path::new("/etc/nv/agent.toml");
        print_instructions(
            target,
            Path::new("/usr/bin/nv-agent"),
            Some(config),
            spec.as_bytes(),
            &mut out,
            &mut say,
        )?;
        assert!(!say.is_empty());
        Ok(serde_json::from_slice(&out)?)
    }

    #[test]
    fn each_runtime_gets_its_own_form() {
        let docker = text(Target::Docker, "").unwrap();
        assert_eq!(
            docker["runtimes"]["nv"]["runtimeArgs"],
            json!(["--config", "/etc/nv/agent.toml", "runtime"])
        );
        let crio = text(Target::Crio, "").unwrap();
        assert_eq!(crio["stages"], json!(["createRuntime", "poststop"]));
        assert_eq!(
            crio["hook"]["args"].as_array().unwrap().last(),
            Some(&json!("hook"))
        );
        let spec =
            json!({"ociVersion": "1.0.2", "hooks": {"createRuntime": [{"path": "/bin/first"}]}, "root": {}});
        let with = text(Target::Containerd, &spec.to_string()).unwrap();
        assert_eq!(
            with["hooks"]["createRuntime"][0]["path"], "/bin/first",
            "others stay, and come first"
        );
        assert_eq!(with["hooks"]["createRuntime"][1]["path"], "/usr/bin/nv-agent");
        assert_eq!(with["hooks"]["poststop"].as_array().unwrap().len(), 1);
        assert_eq!(
            text(Target::Containerd, &with.to_string()).unwrap(),
            with,
            "once is enough"
        );
        for bad in ["", "{}", "[]", "{\"ociVersion\": \"1\", \"hooks\": 7}"] {
            assert!(text(Target::Containerd, bad).is_err(), "{bad}");
        }
    }
}
