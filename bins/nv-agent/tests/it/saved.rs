//! Starts without a controller: from the saved policy, or without any if that cannot be trusted.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::bed::{Agent, Controller, Program, nobody, node, policy_file, until};

/// Lets an agent of this node save the controller's policy in a folder.
async fn save(
    controller: &Controller,
    node: &nv_types::NodeId,
    folder: &Path,
    name: &str,
) -> nv_types::Revision {
    let agent = Agent::start(node, folder, controller.grpc, None).await;
    let revision = controller.change(name).await;
    controller.in_force(node.as_str(), revision).await;
    agent.stop().await;
    revision
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_controller_enforces_what_was_saved() {
    let mut controller = Controller::start().await;
    let folder = controller.joined(&node());
    let revision = save(&controller, &node(), folder.path(), "fronts").await;
    controller.stop().await;

    let agent = Agent::start(&node(), folder.path(), controller.grpc, None).await;
    until("the saved policy in force", async || agent.in_force().is_some()).await;
    assert!(agent.in_force() >= Some(revision), "{:?}", agent.in_force());

    // The controller comes back, with more: the agent finds it by itself.
    controller.again().await;
    let revision = controller.change("backs").await;
    controller.in_force("n1", revision).await;
    assert!(agent.in_force() >= Some(revision));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_policy_that_cannot_be_trusted_is_refused_by_name() {
    let controller = Controller::start().await;
    let folder = controller.joined(&node());
    let file = policy_file(folder.path());
    save(&controller, &node(), folder.path(), "fronts").await;
    let good = fs::read_to_string(&file).unwrap();
    let foreign = {
        let other = "n2".parse().unwrap();
        let folder = controller.joined(&other);
        save(&controller, &other, folder.path(), "backs").await;
        fs::read_to_string(policy_file(folder.path())).unwrap()
    };
    let flipped = good.replacen("fronts", "frontz", 1);
    assert_ne!(flipped, good);
    let newer = good.replacen("\"v\":1", "\"v\":2", 1);
    assert_ne!(newer, good);
    let nowhere = nobody().await;

    for (what, text, words) in [
        ("empty", "", "it is damaged"),
        ("truncated", &good[..good.len() / 2], "it is damaged"),
        ("one byte short", &good[..good.len() - 1], "it is damaged"),
        ("a bit flipped", &flipped, "checksum"),
        ("of another version", &newer, "it has version 2"),
        ("of another node", &foreign, "it is of node 'n2'"),
    ] {
        fs::write(&file, text).unwrap();
        let program = Program::start(&node(), folder.path(), nowhere, &[]);
        program.says("agent started").await;
        let said = program.said();
        assert!(
            said.contains(file.to_str().unwrap()) && said.contains(words),
            "{what}: {said}"
        );
        drop(program);
        let agent = Agent::start(&node(), folder.path(), nowhere, None).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(agent.in_force(), None, "{what}: half a policy is worse than none");
        agent.stop().await;
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            text,
            "{what}: it is evidence until there is a better one"
        );
    }

    // With a controller it does not matter, and the file is good again afterwards.
    let revision = save(&controller, &node(), folder.path(), "stores").await;
    let agent = Agent::start(&node(), folder.path(), nowhere, None).await;
    until("the file is good again", async || {
        agent.in_force() >= Some(revision)
    })
    .await;
    agent.stop().await;

    // The same file, untouched, is taken: the refusals above were for what was wrong.
    fs::write(&file, &good).unwrap();
    let program = Program::start(&node(), folder.path(), nowhere, &[]);
    program.says("the saved policy is put in force").await;
    assert!(!program.said().contains("is not used"), "{}", program.said());
}
