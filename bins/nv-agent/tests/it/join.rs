//! How a node gets its certificate.

use crate::bed::{Controller, Program, nobody, node};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_its_node_in_once() {
    let controller = Controller::start().await;
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, controller.join_token(&node()) + "\n").unwrap();
    let ca = controller.folder.path().join("ca.pem");
    let options = [
        "--join-token-file",
        token_file.to_str().unwrap(),
        "--ca",
        ca.to_str().unwrap(),
    ];
    let (data, second) = (folder.path().join("a"), folder.path().join("b"));

    let mut agent = Program::start(&node(), &data, controller.grpc, &options);
    agent.says("joined").await;
    let revision = controller.change("fronts").await;
    controller.in_force("n1", revision).await;
    assert!(
        !agent
            .said()
            .contains(&std::fs::read_to_string(&token_file).unwrap().trim().to_owned()),
        "a token is a secret"
    );
    agent.kill();

    // It has its certificate now: no token, no CA.
    let again = Program::start(&node(), &data, controller.grpc, &[]);
    let revision = controller.change("backs").await;
    controller.in_force("n1", revision).await;
    drop(again);

    // The same token a second time, and for another node.
    let mut refused = Program::start(&node(), &second, controller.grpc, &options);
    assert_eq!(refused.ends().await.code(), Some(1));
    assert!(
        refused.said().contains("the controller refused"),
        "{}",
        refused.said()
    );
    assert!(refused.said().contains("token"), "{}", refused.said());
    assert!(
        !second.join("agent.pem").exists(),
        "nothing is left of a failed join"
    );
    let other = controller.join_token(&"n2".parse().unwrap());
    std::fs::write(&token_file, &other).unwrap();
    let mut refused = Program::start(&node(), &second, controller.grpc, &options);
    assert_eq!(refused.ends().await.code(), Some(1));
    assert!(refused.said().contains("another node"), "{}", refused.said());
    // Tried by the wrong node it is still good for the right one.
    let joined = Program::start(&"n2".parse().unwrap(), &second, controller.grpc, &options);
    joined.says("joined").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_for_a_join_is_named() {
    let controller = Controller::start().await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut agent = Program::start(&node(), &data, controller.grpc, &[]);
    assert_eq!(agent.ends().await.code(), Some(1));
    assert!(
        agent.said().contains("nv-controller --join-token n1"),
        "{}",
        agent.said()
    );

    let token_file = folder.path().join("token");
    let ca = controller.folder.path().join("ca.pem");
    let options = [
        "--join-token-file",
        token_file.to_str().unwrap(),
        "--ca",
        ca.to_str().unwrap(),
    ];
    let mut agent = Program::start(&node(), &data, controller.grpc, &options);
    assert_eq!(agent.ends().await.code(), Some(1));
    assert!(
        agent.said().contains(token_file.to_str().unwrap()),
        "{}",
        agent.said()
    );

    // A controller that is away: joining needs it.
    std::fs::write(&token_file, controller.join_token(&node())).unwrap();
    let away = nobody().await;
    let mut agent = Program::start(&node(), &data, away, &options);
    assert_eq!(agent.ends().await.code(), Some(1));
    let words = format!("the controller at {away} does not answer");
    assert!(agent.said().contains(&words), "{}", agent.said());

    // One of another CA: the node does not even show it its token.
    let stranger = Controller::start().await;
    let mut agent = Program::start(&node(), &data, stranger.grpc, &options);
    assert_eq!(agent.ends().await.code(), Some(1));
    let agent = Program::start(&node(), &data, controller.grpc, &options);
    agent.says("joined").await;
}

/// The library that stands between a program and its clock.
fn faketime() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let files = folders.filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketimeMT.so.1")));
    let found = files.into_iter().find(|path| path.exists())?;
    Some(found.to_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_over_or_not_yet_good_is_refused_and_the_clock_is_named() {
    let Some(library) = faketime() else {
        assert!(std::env::var_os("CI").is_none(), "libfaketime is not installed");
        eprintln!("SKIPPED a_certificate_that_is_over: libfaketime is not installed");
        return;
    };
    let controller = Controller::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (data, token_file) = (folder.path().join("data"), folder.path().join("token"));
    std::fs::write(&token_file, controller.join_token(&node())).unwrap();
    let ca = controller.folder.path().join("ca.pem");
    let options = [
        "--join-token-file",
        token_file.to_str().unwrap(),
        "--ca",
        ca.to_str().unwrap(),
    ];
    let at = |clock: &'static str| {
        [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME", clock),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ]
    };
    // The controller's certificate is good for two years.
    for clock in ["+1000d", "-20000d"] {
        let mut agent = Program::start_with(&node(), &data, controller.grpc, &options, &at(clock));
        assert_eq!(agent.ends().await.code(), Some(1));
        assert!(
            agent.said().contains("is the clock right"),
            "{clock}: {}",
            agent.said()
        );
    }
    let mut agent = Program::start(&node(), &data, controller.grpc, &options);
    agent.says("joined").await;
    agent.kill();
    // One that has joined goes on trying, and says why.
    let agent = Program::start_with(&node(), &data, controller.grpc, &[], &at("+1000d"));
    agent.says("is the clock right").await;
    assert!(agent.said().contains("cannot be watched"), "{}", agent.said());
}
