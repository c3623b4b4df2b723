//! The controller, or the road to it, is away for a while.

use std::time::{Duration, Instant};

use crate::bed::{Agent, Controller, Program, Road, node, until};
use crate::dockerd::Dockerd;

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_restarts_is_found_again() {
    let mut controller = Controller::start().await;
    let folder = controller.joined(&node());
    let program = Program::start(&node(), folder.path(), controller.grpc, &[]);
    for name in ["one", "two", "three"] {
        let revision = controller.change(name).await;
        controller.in_force("n1", revision).await;
        controller.stop().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        controller.again().await;
    }
    let begun = Instant::now();
    let revision = controller.change("four").await;
    controller.in_force("n1", revision).await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(
        program.said().matches("agent started").count(),
        1,
        "the agent itself went on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_road_is_cut_is_known_on_both_sides_soon_after() {
    let controller = Controller::start().await;
    let folder = controller.joined(&node());
    let road = Road::to(controller.grpc).await;
    let docker = Dockerd::start(folder.path()).await;
    docker.run("stays");
    docker.run("ends");
    let agent = Agent::start(&node(), folder.path(), road.address, Some(&docker.socket)).await;
    until("both containers", async || {
        controller.workloads().await == ["ends", "stays"]
    })
    .await;
    let before = agent.in_force();

    road.cut();
    docker.kill("ends");
    docker.run("comes");
    // More than the store keeps for those who were away.
    controller.churn(&"n2".parse().unwrap(), 10_000).await;
    let last = controller.change("last").await;
    assert!(agent.in_force() < Some(last), "the road is cut");
    assert!(agent.in_force() >= before, "what was in force stays");
    // Those of the other node begin with w.
    let here = async || {
        let mut names = controller.workloads().await;
        names.retain(|name| !name.starts_with('w'));
        names
    };
    assert_eq!(here().await, ["ends", "stays"], "the road is cut");

    road.mend();
    let begun = Instant::now();
    until("the last of the changes", async || agent.in_force() >= Some(last)).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    until("the containers as they are", async || {
        here().await == ["comes", "stays"]
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_anew_takes_back_what_its_predecessor_wrote() {
    let controller = Controller::start().await;
    let folder = controller.joined(&node());
    let docker = Dockerd::start(folder.path()).await;
    docker.run("stays");
    docker.run("ends");
    let agent = Agent::start(&node(), folder.path(), controller.grpc, Some(&docker.socket)).await;
    until("both containers", async || {
        controller.workloads().await == ["ends", "stays"]
    })
    .await;
    agent.stop().await;
    docker.kill("ends");
    let agent = Agent::start(&node(), folder.path(), controller.grpc, Some(&docker.socket)).await;
    until("the one that is left", async || {
        controller.workloads().await == ["stays"]
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_be_named_is_shown_by_the_name_it_gets() {
    let controller = Controller::start().await;
    let folder = controller.joined(&node());
    let docker = Dockerd::start(folder.path()).await;
    docker.run_service("c1", "team/web shop");
    let agent = Agent::start(&node(), folder.path(), controller.grpc, Some(&docker.socket)).await;
    until("a service of that name, with its mode", async || {
        let services = controller.get("/v1/service").await;
        services["services"]
            .as_array()
            .unwrap()
            .iter()
            .any(|service| service["name"] == "nv.team:web:shop" && service["policy_mode"] == "Discover")
    })
    .await;
    agent.stop().await;
}
