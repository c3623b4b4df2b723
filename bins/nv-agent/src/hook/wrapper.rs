//! Stands before an OCI runtime: `start` is held, everything else goes through as it is.
//!
//! Docker has no place for hooks in its configuration, but for a runtime. When it says `start` the container's network is there, whichever way
//! its version makes it, and its process waits.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::client::{HookOptions, hook};

/// Options of runc, before its command, that have a value.
const WITH_VALUE: [&str; 5] = ["--root", "--log", "--log-format", "--criu", "--rootless"];

/// The parts of a runtime's command line.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    before: &'a [OsString],
    command: Option<&'a OsStr>,
    after: &'a [OsString],
}

fn parse(arguments: &[OsString]) -> Line<'_> {
    let mut at = 0;
    while let Some(argument) = arguments.get(at) {
        let text = argument.to_string_lossy();
        if !text.starts_with('-') {
            break;
        }
        at += if WITH_VALUE.contains(&&*text) { 2 } else { 1 };
    }
    let at = at.min(arguments.len());
    let (before, rest) = arguments.split_at(at);
    Line {
        before,
        command: rest.first().map(OsString::as_os_str),
        after: rest.get(1..).unwrap_or_default(),
    }
}

/// Runs the real runtime with these arguments in place of this process, after it held the container if they say `start`.
///
/// # Errors
/// When the container must not start, or the runtime cannot be run.
pub fn run(runtime: &Path, arguments: &[OsString], options: &HookOptions) -> anyhow::Result<()> {
    let line = parse(arguments);
    if line.command == Some(OsStr::new("start"))
        && let Some(id) = line
            .after
            .iter()
            .rfind(|argument| !argument.as_encoded_bytes().starts_with(b"-"))
    {
        let held = hold(runtime, line.before, id, options);
        if let Err(error) = &held {
            log(line.before, &format!("{error:#}"));
        }
        held?;
    }
    let error = command(runtime).args(arguments).exec();
    Err(error).with_context(|| format!("{} cannot be run", runtime.display()))
}

fn hold(runtime: &Path, before: &[OsString], id: &OsStr, options: &HookOptions) -> anyhow::Result<()> {
    let state = command(runtime)
        .args(before)
        .arg("state")
        .arg(id)
        .output()
        .with_context(|| format!("{} cannot be run", runtime.display()))?;
    anyhow::ensure!(
        state.status.success(),
        "{} does not know the container: {}",
        runtime.display(),
        String::from_utf8_lossy(&state.stderr).trim()
    );
    let worker = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    worker.block_on(hook(state.stdout.as_slice(), options))?;
    Ok(())
}

/// To run the runtime is what this program is for; nothing else of nv runs another program.
fn command(runtime: &Path) -> Command {
    Command::new(runtime)
}

/// Says it where whoever runs the runtime reads it: in the file that `--log` names, in runc's form.
fn log(before: &[OsString], words: &str) {
    let file = before
        .iter()
        .zip(before.iter().skip(1))
        .find(|(option, _)| *option == "--log")
        .map(|(_, file)| file);
    let Some(file) = file else { return };
    let entry = serde_json::json!({"level": "error", "msg": words});
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(file);
    let _ = opened.and_then(|mut log| writeln!(log, "{entry}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ')
            .filter(|word| !word.is_empty())
            .map(OsString::from)
            .collect()
    }

    #[test]
    fn the_command_is_found_behind_options() {
        for (text, before, command) in [
            (
                "--root /r --log /l --log-format json --systemd-cgroup start abc",
                7,
                Some("start"),
            ),
            ("start abc", 0, Some("start")),
            ("--root start create --bundle /b abc", 2, Some("create")),
            ("--root=/r --debug delete abc", 2, Some("delete")),
            ("--version", 1, None),
            ("--root", 1, None),
            ("", 0, None),
        ] {
            let arguments = words(text);
            let line = parse(&arguments);
            assert_eq!(line.before.len(), before, "{text}");
            assert_eq!(line.command, command.map(OsStr::new), "{text}");
        }
    }
}
