//! Several controllers in one file: which one counts, what says so, and that no secret is shown or sent to a stranger.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use serde_json::Value;
use tempfile::TempDir;

const WORKLOADS: &str = r#"{"workloads":[]}"#;

/// A controller that tells which token each call brought.
fn stub() -> (String, mpsc::Receiver<Option<String>>) {
    let (sender, receiver) = mpsc::channel();
    let server = common::stub(move |head| {
        let token = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("x-auth-token")
                .then(|| value.trim().to_owned())
        });
        sender.send(token).unwrap();
        if common::path(head) == "/v1/auth" && head.starts_with("POST") {
            return ("200 OK", r#"{"token":{"token":"fresh-token"}}"#);
        }
        ("200 OK", WORKLOADS)
    });
    (server, receiver)
}

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("nv").join(name)
    }

    fn with(&self, args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvctl"));
        for name in [
            "NV_SERVER",
            "NV_CA",
            "NV_TOKEN_FILE",
            "NV_CONTEXT",
            "NV_CONFIG",
            "NV_PASSWORD",
        ] {
            command.env_remove(name);
        }
        let output = command
            .args(args)
            .env("XDG_CONFIG_HOME", self.0.path())
            .envs(env.iter().copied())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        self.with(args, &[])
    }

    /// What a shell is offered for the last of these words.
    fn offered(&self, words: &[&str]) -> Vec<String> {
        let (_, out, _) = self.with(&[&["--", "nvctl"], words].concat(), &[("NV_COMPLETE", "fish")]);
        out.lines()
            .map(|line| line.split('\t').next().unwrap().to_owned())
            .collect()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {out}{err}");
        out
    }

    /// Value and origin of a setting.
    #[track_caller]
    fn setting(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> (String, String) {
        let all = [args, &["config", "view", "--show-origin", "-o", "json"]].concat();
        let (code, out, err) = self.with(&all, env);
        assert_eq!(code, 0, "{err}");
        let answer: Value = serde_json::from_str(&out).unwrap();
        let list = answer["settings"].as_array().unwrap();
        let found = list.iter().find(|setting| setting["setting"] == name).unwrap();
        let text = |field: &str| found[field].as_str().unwrap().to_owned();
        (text("value"), text("origin"))
    }
}

fn write(file: &Path, text: &str) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

#[test]
fn a_setting_says_where_it_comes_from() {
    let home = Home::new();
    let (value, origin) = home.setting("server", &[], &[]);
    assert_eq!(
        (value.as_str(), origin.as_str()),
        ("https://127.0.0.1:10443", "default")
    );
    home.ok(&[
        "config",
        "set-context",
        "lab",
        "--server",
        "https://lab:1",
        "--ca",
        "lab.pem",
        "--use",
    ]);
    home.ok(&["config", "set-context", "prod", "--server", "https://prod:1"]);

    let env = [("NV_SERVER", "https://env:1")];
    let flag = ["--server", "https://flag:1"];
    for (args, env, value, says) in [
        (&[][..], &[][..], "https://lab:1", "context 'lab'"),
        (&["--context", "prod"], &[], "https://prod:1", "context 'prod'"),
        (&[], &[("NV_CONTEXT", "prod")], "https://prod:1", "context 'prod'"),
        (
            &["--context", "lab"],
            &[("NV_CONTEXT", "prod")],
            "https://lab:1",
            "context 'lab'",
        ),
        (&[], &env, "https://env:1", "environment NV_SERVER"),
        (&flag, &env, "https://flag:1", "option --server"),
    ] {
        let (found, origin) = home.setting("server", args, env);
        assert_eq!(found, value, "{args:?} {env:?}");
        assert!(origin.contains(says), "{origin}");
    }
    for (args, env, says) in [
        (&[][..], &[][..], "current-context of"),
        (&["--context", "prod"], &[], "option --context"),
        (&[], &[("NV_CONTEXT", "prod")], "environment NV_CONTEXT"),
    ] {
        assert!(home.setting("context", args, env).1.contains(says), "{says}");
    }
    // A file is named for every folder.
    let (ca, origin) = home.setting("ca", &[], &[]);
    assert!(Path::new(&ca).is_absolute() && ca.ends_with("lab.pem"), "{ca}");
    assert!(origin.contains("context 'lab'"), "{origin}");
    let table = home.ok(&["config", "view", "--show-origin"]);
    assert!(
        table.contains("ORIGIN") && table.contains("config.toml"),
        "{table}"
    );
    assert!(!home.ok(&["config", "view"]).contains("ORIGIN"));
}

#[test]
fn contexts_are_made_chosen_listed_and_deleted() {
    let home = Home::new();
    let (code, _, err) = home.run(&["config", "set-context", "lab"]);
    assert!(code == 2 && err.contains("--server"), "{code} {err}");
    home.ok(&[
        "config",
        "set-context",
        "lab",
        "--server",
        "https://lab:1",
        "--insecure",
    ]);
    home.ok(&["config", "set-context", "prod", "--server", "https://prod:1"]);
    assert_eq!(home.ok(&["config", "get-contexts", "-o", "name"]), "lab\nprod\n");
    let current = |home: &Home| {
        let answer: Value =
            serde_json::from_str(&home.ok(&["config", "get-contexts", "-o", "json"])).unwrap();
        let list = answer["contexts"].as_array().unwrap().clone();
        let found = list.iter().find(|context| context["current"] == true);
        found.map(|context| context["name"].as_str().unwrap().to_owned())
    };
    assert_eq!(current(&home), None);
    home.ok(&["config", "use-context", "prod"]);
    assert_eq!(current(&home).as_deref(), Some("prod"));
    assert!(home.ok(&["config", "get-contexts"]).contains('*'));
    // What is not named stays.
    home.ok(&["config", "set-context", "lab", "--server", "https://lab:2"]);
    assert_eq!(home.setting("insecure", &["--context", "lab"], &[]).0, "true");
    // A setting is taken away again, and only that one.
    home.ok(&[
        "config",
        "set-context",
        "lab",
        "--unset",
        "insecure",
        "--unset",
        "ca",
    ]);
    assert_eq!(home.setting("insecure", &["--context", "lab"], &[]).0, "false");
    assert_eq!(
        home.setting("server", &["--context", "lab"], &[]).0,
        "https://lab:2"
    );
    let (code, _, err) = home.run(&[
        "config",
        "set-context",
        "lab",
        "--unset",
        "insecure",
        "--insecure",
    ]);
    assert!(code == 2 && err.contains("contradict"), "{code} {err}");

    for args in [
        &["config", "use-context", "nowhere"][..],
        &["--context", "nowhere", "get", "workloads"],
        &["config", "delete-context", "nowhere"],
    ] {
        let (code, out, err) = home.run(args);
        assert!(code == 2 && out.is_empty(), "{args:?} {code} {out}");
        assert!(err.contains("'nowhere'") && err.contains("lab, prod"), "{err}");
    }
    let (code, _, err) = home.run(&["config", "set-context", "../x", "--server", "https://x:1"]);
    assert!(code == 2 && err.contains("'../x'"), "{err}");

    write(&home.file("tokens/prod"), "secret");
    home.ok(&["config", "delete-context", "prod"]);
    assert!(
        !home.file("tokens/prod").exists(),
        "its session is forgotten with it"
    );
    assert_eq!(current(&home), None);
    assert_eq!(home.ok(&["config", "get-contexts", "-o", "name"]), "lab\n");
    // A file that cannot be read is named, and completion works all the same.
    write(
        &home.file("config.toml"),
        "current-context = \"a\"\ntoken = \"hunter2\"\n",
    );
    let (code, _, err) = home.run(&["config", "view"]);
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("config.toml") && err.contains("line 2") && !err.contains("hunter2"),
        "{err}"
    );
    assert!(home.ok(&["completion", "bash"]).contains("NV_COMPLETE"));
    for (words, word) in [
        (&["config", "get"][..], "get-contexts"),
        (&["config", "view", "--show"], "--show-origin"),
        (&["desc"], "describe"),
        (&["--conte"], "--context"),
    ] {
        assert!(home.offered(words).iter().any(|found| found == word), "{word}");
    }
    write(
        &home.file("config.toml"),
        "[contexts.prod]\nserver = \"https://x\"\n",
    );
    for words in [&["config", "use-context", "p"][..], &["--context", "p"]] {
        assert_eq!(home.offered(words), ["prod"], "{words:?}");
    }
}

#[test]
fn every_context_has_its_own_session_and_no_token_goes_to_another_server() {
    let home = Home::new();
    let ((lab, lab_calls), (other, other_calls)) = (stub(), stub());
    home.ok(&["config", "set-context", "lab", "--server", &lab, "--use"]);
    home.ok(&["config", "set-context", "other", "--server", &other]);
    write(&home.file("password"), "long enough");
    let password = home.file("password");
    home.ok(&["login", "--password-file", password.to_str().unwrap()]);
    assert_eq!(lab_calls.recv().unwrap(), None);
    assert_eq!(
        std::fs::read_to_string(home.file("tokens/lab")).unwrap(),
        "fresh-token"
    );
    home.ok(&["get", "workloads"]);
    assert_eq!(lab_calls.recv().unwrap().as_deref(), Some("fresh-token"));

    let (code, _, err) = home.run(&["--context", "other", "get", "workloads"]);
    assert!(code == 1 && err.contains("nvctl login"), "{err}");
    // The address alone does not take the context's session along.
    let (code, _, err) = home.run(&["--server", &other, "get", "workloads"]);
    assert!(code == 1 && err.contains("nvctl login"), "{err}");
    let (code, _, err) = home.with(&["get", "workloads"], &[("NV_SERVER", &other)]);
    assert!(code == 1 && err.contains("nvctl login"), "{err}");
    assert!(other_calls.try_recv().is_err(), "nothing was sent there");
    // The same address, said twice, is the same server.
    home.ok(&["--server", &lab, "get", "workloads"]);
    assert_eq!(lab_calls.recv().unwrap().as_deref(), Some("fresh-token"));

    for args in [
        &["config", "view", "--show-origin"][..],
        &["config", "get-contexts", "-o", "yaml"],
    ] {
        assert!(!home.ok(args).contains("fresh-token"), "{args:?}");
    }
    assert_eq!(home.setting("logged-in", &[], &[]).0, "true");
    // A context that moves to another server leaves its session behind.
    home.ok(&["config", "set-context", "lab", "--server", &other]);
    assert!(!home.file("tokens/lab").exists());
    let (code, _, err) = home.run(&[
        "config",
        "set-context",
        "bad",
        "--server",
        "https://admin:hunter2@x",
    ]);
    assert!(code == 2 && !err.contains("hunter2"), "{err}");
}
