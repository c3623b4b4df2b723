//! Colours: on a terminal that wants them, and nowhere else.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};

use nix::pty::openpty;

const FLOW: &str = r#"{"client_ip":"10.0.0.1","client_name":"web","server_name":"app","port":"tcp/80","protocol":"tcp","verdict":"deny"}"#;

/// What the program writes to both streams: on a terminal of its own, or into pipes.
fn written(terminal: bool, args: &[&str], env: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flows.jsonl");
    std::fs::write(&file, FLOW).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvctl"));
    command
        .args(args)
        .env("NV_CONFIG", folder.path().join("config.toml"))
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        // Where it is set, a dumb terminal is taken for one that shows colours.
        .env_remove("CI")
        .env_remove("CLICOLOR")
        .env_remove("CLICOLOR_FORCE")
        .current_dir(folder.path())
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    if !terminal {
        let output = command.output().unwrap();
        return String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    }
    let pty = openpty(None, None).unwrap();
    let mut master = File::from(pty.master);
    let slave = File::from(pty.slave);
    command.stdout(slave.try_clone().unwrap()).stderr(slave);
    let mut child = command.spawn().unwrap();
    // The command holds copies of the terminal's end: reading would not end before it does.
    drop(command);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A terminal whose other end is closed answers with an error.
        let _ = master.read_to_end(&mut bytes);
        bytes
    });
    child.wait().unwrap();
    String::from_utf8(reader.join().unwrap()).unwrap()
}

const DATA: [&str; 3] = ["flows", "--input", "flows.jsonl"];
const HELP: [&str; 2] = ["flows", "--help"];
const WRONG: [&str; 2] = ["flows", "--nonsense"];

fn is_colored(text: &str) -> bool {
    text.contains('\u{1b}')
}

#[test]
fn escapes_are_for_terminals_that_want_them() {
    for args in [&DATA[..], &HELP, &WRONG] {
        let shown = written(true, args, &[]);
        assert!(is_colored(&shown), "on a terminal: {shown:?}");
        for env in [&[("NO_COLOR", "1")][..], &[("TERM", "dumb")]] {
            let shown = written(true, args, env);
            assert!(!is_colored(&shown) && shown.len() > 20, "{env:?}: {shown:?}");
        }
        let piped = written(false, args, &[]);
        assert!(!is_colored(&piped) && piped.len() > 20, "into a pipe: {piped:?}");
    }
    // The option is stronger than both.
    let with = |color| [&DATA[..], &["--color", color]].concat();
    assert!(!is_colored(&written(true, &with("never"), &[])));
    let forced = written(false, &with("always"), &[("NO_COLOR", "1")]);
    assert!(is_colored(&forced) && forced.contains("deny"), "{forced:?}");
    // An empty NO_COLOR is none (no-color.org).
    assert!(is_colored(&written(true, &DATA, &[("NO_COLOR", "")])));
    // Data for programs has no colours in any case.
    for form in ["json", "jsonl", "yaml", "name"] {
        let args = [&with("always")[..], &["-o", form]].concat();
        assert!(!is_colored(&written(true, &args, &[])), "{form}");
    }
}
