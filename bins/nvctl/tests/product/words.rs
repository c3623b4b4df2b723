//! Filter words, sorting, watching, completion, simulation and the support bundle.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, Product, Running, Server, is_root, reaches, wait_for};

fn sequences(answer: &Value) -> BTreeSet<u64> {
    let flows = answer["flows"].as_array().unwrap();
    flows
        .iter()
        .map(|flow| flow["sequence"].as_u64().unwrap())
        .collect()
}

#[test]
fn words_ask_the_same_of_the_controller_and_of_a_file() {
    if !is_root("words_ask_the_same_of_the_controller_and_of_a_file") {
        return;
    }
    let product = Product::start('w');
    product.login();
    let lab = product.lab(207);
    let [web, app, db] = ["web", "app", "db"].map(|name| product.host(&lab, name));
    let _servers = [
        Server::start(app, 8080),
        Server::start(app, 9090),
        Server::start(db, 5432),
    ];
    for (from, to, port) in [
        (web, app, 8080),
        (db, app, 8080),
        (web, db, 5432),
        (web, app, 9090),
    ] {
        assert!(reaches(from, to, port));
    }
    product.ok(&["set-mode", "nv.app", "Monitor"]);
    wait_for("four flows that are known", || {
        let found = product.json(&["flows", "--all", "--protocol", "tcp"]);
        let ports: BTreeSet<_> = found["flows"]
            .as_array()?
            .iter()
            .map(|flow| (flow["client_name"].to_string(), flow["port"].to_string()))
            .collect();
        (ports.len() >= 4).then_some(())
    });

    // Written in both forms that can be read again.
    let folder = product.folder.path();
    let [lines, whole] =
        ["flows.jsonl", "flows.json"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    std::fs::write(&whole, product.ok(&["flows", "--all", "-o", "json"])).unwrap();
    std::fs::write(&lines, product.ok(&["flows", "--all", "-o", "jsonl"])).unwrap();
    let all: Value = serde_json::from_str(&std::fs::read_to_string(&whole).unwrap()).unwrap();
    let newest = sequences(&all).into_iter().max().unwrap();
    let (v4, v6) = (format!("{}/32", app.spec().v4), format!("{}/128", app.spec().v6));
    for (words, some) in [
        (&["--from", "web"][..], true),
        (&["web", "--protocol", "tcp"], true),
        (&["nv.app"], true),
        (&[&v4], true),
        (&["--to-ip", &v4, "-4"], true),
        (&["--to-ip", &v4, "-6"], false),
        (&["--from-ip", &v6], false),
        (
            &["--to", "app", "--not", "--from", "web", "--protocol", "tcp"],
            true,
        ),
        (&["--not", "--ip", "0.0.0.0/0", "--not", "-6"], false),
        (&["--to-port", "8080,5432", "--not", "db"], true),
        (
            &["--port", "5432", "--to-service", "db", "--from-workload", "w"],
            true,
        ),
        (&["--verdict", "deny"], false),
        (&["--node", "here", "--to-namespace", "nowhere"], false),
        (&["--label", "app=web"], false),
        (
            &["--from", "web", "--application", "unknown", "--until", "1h"],
            false,
        ),
        (
            &[
                "--from",
                "web",
                "--since",
                "1h",
                "--until",
                "2100-01-01T00:00:00Z",
            ],
            true,
        ),
    ] {
        let ask = |more: &[&str]| {
            let args = [&["flows", "--all"], words, more].concat();
            let mut found = sequences(&product.json(&args));
            found.retain(|sequence| *sequence <= newest);
            found
        };
        let asked = ask(&[]);
        assert!(!some || !asked.is_empty(), "{words:?} finds nothing");
        assert!(some || asked.is_empty(), "{words:?} finds {asked:?}");
        assert_eq!(asked, ask(&["--input", &lines]), "{words:?} of lines");
        assert_eq!(asked, ask(&["--input", &whole]), "{words:?} of the whole answer");
    }
    let count = |args: &[&str]| sequences(&product.json(args)).len();
    assert_eq!(count(&["flows", "--first", "2"]), 2);
    assert_eq!(count(&["flows", "--input", &lines, "--last", "1"]), 1);
    let first = sequences(&product.json(&["flows", "--input", &lines, "--first", "1"]));
    assert_eq!(first.iter().min(), sequences(&all).iter().min());
    for (args, says) in [
        (&["flows", "--first", "1", "--last", "2"][..], "--first"),
        (&["flows", "--follow", "--input", &lines], "--input"),
        (&["flows", "--from-ip", "10.0.0.0/33"], "10.0.0.0/33"),
        (&["flows", "--since", "yesterday"], "--since"),
        (&["flows", "--not"], "--not"),
        (&["get", "groups", "--from", "web"], "--from"),
        (&["get", "groups", "-l", "app=web"], "--selector"),
        (&["get", "violations", "--label", "app"], "--label"),
        (&["get", "workloads", "--sort-by", "colour"], "colour"),
    ] {
        let (code, out, err) = product.run(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.contains(says), "{args:?}: {err}");
    }

    // Lists of who talked to whom know the same words; others are sorted and watched.
    let names = |args: &[&str]| -> Vec<String> {
        let out = product.ok(&[args, &["--no-headers"]].concat());
        out.lines()
            .map(|line| line.split_whitespace().next().unwrap().to_owned())
            .collect()
    };
    wait_for("the conversations", || {
        let found = names(&[
            "get",
            "conversations",
            "--to",
            "app",
            "--port",
            "8080",
            "--protocol",
            "tcp",
        ]);
        (found.len() == 2).then_some(())
    });
    assert_eq!(
        names(&[
            "get",
            "conversations",
            "--to",
            "app",
            "--not",
            "--from",
            "db",
            "--to-port",
            "9090"
        ])
        .len(),
        1
    );
    let sorted = names(&["get", "workloads", "--sort-by", "name"]);
    assert!(sorted.is_sorted() && sorted.len() == 3, "{sorted:?}");
    let mut falling = names(&["get", "workloads", "--sort-by", "-name"]);
    falling.reverse();
    assert_eq!(sorted, falling);
    assert_eq!(names(&["get", "workloads", "-l", "!nosuch"]).len(), 3);
    assert_eq!(
        product.json(&["get", "workloads", "-l", "nosuch"])["workloads"],
        Value::Array(Vec::new())
    );

    let watch = ["get", "services", "-w", "-o", "jsonl"];
    let mut watcher = Running::start(product.command(&watch).stdout(Stdio::piped()));
    let lines = BufReader::new(watcher.0.stdout.take().unwrap()).lines();
    let (sender, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let next = || -> Value { serde_json::from_str(&seen.recv_timeout(PATIENCE).unwrap()).unwrap() };
    let first: BTreeSet<_> = (0..3).map(|_| next()["name"].to_string()).collect();
    assert_eq!(first.len(), 3, "{first:?}");
    product.ok(&["set-mode", "nv.db", "Monitor"]);
    let changed = next();
    assert_eq!(
        (changed["name"].as_str(), changed["policy_mode"].as_str()),
        (Some("nv.db"), Some("Monitor"))
    );

    completes(&product);
    simulates(&product);
    bundles(&product);
}

/// What the shell is offered for the last of these words.
fn offered(product: &Product, words: &[&str]) -> Vec<String> {
    let args = [&["--", "nvctl"], words].concat();
    let output = product
        .command(&args)
        .env("NV_COMPLETE", "fish")
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{words:?}: {output:?}"
    );
    let out = String::from_utf8(output.stdout).unwrap();
    out.lines()
        .map(|line| line.split('\t').next().unwrap().to_owned())
        .collect()
}

fn completes(product: &Product) {
    let has = |words: &[&str], name: &str| {
        let found = offered(product, words);
        assert!(found.iter().any(|found| found == name), "{words:?}: {found:?}");
    };
    has(&["set-m"], "set-mode");
    has(&["get", "workloads", "w"], "web");
    has(&["get", "groups", "nv."], "nv.web");
    has(&["describe", "node", ""], "here");
    has(&["delete", "group", "cont"], "containers");
    has(&["set-mode", "nv.a"], "nv.app");
    has(&["explain", "web", "ext"], "external");
    has(&["flows", "--to", "nv.d"], "nv.db");
    has(&["flows", "--verdict", "de"], "deny");
    let rule = product.json(&["get", "rules"])["rules"][0]["id"].to_string();
    has(&["get", "rules", ""], &rule);
    let id = product.ok(&["capture", "start", "app"]).trim().to_owned();
    has(&["capture", "stop", ""], &id);
    product.ok(&["capture", "stop", &id]);
    product.ok(&["capture", "delete", &id]);
    assert!(!offered(product, &["get", "workloads", "w"]).contains(&"app".to_owned()));

    // In a real shell, by the script that the program prints.
    let shell = "PATH=\"$1:$PATH\"; source <(nvctl completion bash); COMP_WORDS=(nvctl get workloads w); COMP_CWORD=3; COMP_TYPE=9; \
                 _clap_complete_nvctl nvctl w workloads; echo \"${COMPREPLY[@]}\"";
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_nvctl"))
        .parent()
        .unwrap();
    let mut command = std::process::Command::new("bash");
    command.args(["-c", shell, "bash", bin.to_str().unwrap()]);
    for (name, value) in product.command(&[]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "web",
        "{output:?}"
    );

    // Nobody there, and somebody who never answers: nothing is said, and it does not take long.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = format!("https://{}", silent.local_addr().unwrap());
    for server in ["https://127.0.0.1:9", hangs.as_str()] {
        let begun = Instant::now();
        let found = offered(product, &["--server", server, "get", "workloads", "w"]);
        assert!(found.is_empty(), "{server}: {found:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{server}: {:?}",
            begun.elapsed()
        );
    }
}

fn simulates(product: &Product) {
    let file = product.file("proposed.yaml");
    let text = "kind: Group\nname: front\ncriteria: [{key: service, value: web}]\n---\n\
                kind: Rule\nid: 7\nfrom: front\nto: nv.app\nports: tcp/8080\naction: allow\nafter: 0\n---\n\
                kind: Rule\nid: 8\nfrom: containers\nto: nv.app\naction: deny\nafter: 7\n---\n\
                kind: ServiceMode\nservice: nv.app\nmode: Protect\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let before = product.json(&["status"]);
    let answer = product.json(&["policy", "simulate", file, "--to", "app", "--protocol", "tcp"]);
    let affected = answer["affected"].as_array().unwrap();
    let becomes = |from: &str, port: &str| -> Option<&Value> {
        affected
            .iter()
            .find(|found| found["flow"]["client_name"] == from && found["flow"]["port"] == port)
    };
    let allowed = becomes("web", "tcp/8080").unwrap();
    assert_eq!(
        (&allowed["after"]["verdict"], &allowed["after"]["rule"]),
        (&Value::from("allow"), &Value::from(7))
    );
    for (from, port) in [("db", "tcp/8080"), ("web", "tcp/9090")] {
        let found = becomes(from, port).unwrap();
        assert_eq!(found["before"]["verdict"], "alert", "{found}");
        assert_eq!(found["after"]["verdict"], "deny", "{found}");
        assert_eq!(
            (&found["after"]["rule"], &found["after"]["mode"]),
            (&Value::from(8), &Value::from("Protect"))
        );
        assert!(found["count"].as_u64().unwrap() > 0, "{found}");
    }
    let (code, out, err) = product.run(&["policy", "simulate", file, "--to", "app", "--fail-on", "deny"]);
    assert!(
        code == 4 && out.contains("THEN") && err.contains("deny"),
        "{out}{err}"
    );
    let calm = [
        "policy",
        "simulate",
        file,
        "--to",
        "app",
        "--to-port",
        "8080",
        "--from",
        "web",
        "--fail-on",
        "deny",
    ];
    product.ok(&calm);
    assert_eq!(
        product.run(&["get", "groups", "front"]).0,
        1,
        "nothing is changed"
    );
    let after = product.json(&["status"]);
    assert_eq!(before["nodes"][0]["revision"], after["nodes"][0]["revision"]);
    std::fs::write(file, "kind: Rule\nfrom: nowhere\nto: nv.app\naction: allow\n").unwrap();
    let (code, _, err) = product.run(&["policy", "simulate", file]);
    assert!(code == 1 && err.contains("nowhere"), "{err}");
}

fn bundles(product: &Product) {
    let secret = "hunter2-canary";
    let text = format!(
        "kind: Group\nname: odd\ncomment: 'db at postgres://u:{secret}@db/x with password={secret}'\n\
         criteria: [{{key: db-password, op: '=', value: x}}]\n"
    );
    let (code, _, err) = product.apply(&text);
    assert_eq!(code, 0, "{err}");
    let file = product.file("case.tar.gz");
    let said = product.ok(&["diag", "bundle", "-w", file.to_str().unwrap()]);
    assert_eq!(said.trim(), file.to_str().unwrap());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut content = String::new();
    let packed = std::fs::File::open(&file).unwrap();
    flate2::read::GzDecoder::new(packed)
        .read_to_string(&mut content)
        .unwrap();
    for part in [
        "summary.json",
        "host/kernel.json",
        "host/pins.txt",
        "api/nodes.json",
        "api/workloads.json",
        "api/rules.json",
        "api/flows.json",
        "api/metrics.txt",
        "BPF_MAP_TYPE_RINGBUF",
        "nv.web",
    ] {
        assert!(content.contains(part), "no {part}");
    }
    assert!(!content.contains("\"what\": \"api"), "something was not had");
    let token = std::fs::read_to_string(product.file("token")).unwrap();
    let password = std::fs::read_to_string(product.file("password")).unwrap();
    for hidden in [secret, token.trim(), password.trim(), "-----BEGIN", "$argon2"] {
        assert!(!content.contains(hidden), "'{hidden}' is in it");
    }
    // An archive that is there is not overwritten, and without a controller there is still this host.
    assert_eq!(
        product.run(&["diag", "bundle", "-w", file.to_str().unwrap()]).0,
        1
    );
    let alone = product.file("alone.tar.gz");
    let args = [
        "--server",
        "https://127.0.0.1:9",
        "diag",
        "bundle",
        "-w",
        alone.to_str().unwrap(),
    ];
    let (code, _, err) = product.run(&args);
    assert!(code == 0 && err.contains("left out: api"), "{code} {err}");
}
