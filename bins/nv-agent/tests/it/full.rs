//! A policy that the tables have no room for.

use nv_dp::{Capacity, SoftwareConfig};
use serde_json::json;

use crate::bed::{Agent, Controller, node, until};
use crate::dockerd::Dockerd;

#[tokio::test(flavor = "multi_thread")]
async fn it_is_refused_whole_the_old_one_stays_and_rest_says_so() {
    let controller = Controller::start().await;
    let folder = controller.joined(&node());
    let docker = Dockerd::start(folder.path()).await;
    docker.run("web");
    let small = SoftwareConfig {
        capacity: Capacity {
            addresses: 40,
            ..Capacity::default()
        },
        ..SoftwareConfig::default()
    };
    let agent = Agent::sized(
        &node(),
        folder.path(),
        controller.grpc,
        Some(&docker.socket),
        small,
    )
    .await;
    until("the container", async || controller.workloads().await == ["web"]).await;
    let fits = controller.change("fronts").await;
    controller.in_force("n1", fits).await;

    let addresses: Vec<_> = (0..60)
        .map(|last| json!({"key": "address", "op": "=", "value": format!("192.0.2.{}", last * 4)}))
        .collect();
    let group = json!({"config": {"name": "many", "criteria": addresses}});
    controller.send("POST", "/v1/group", &group).await;
    let rule = json!({"id": 0, "from": "many", "to": "nv.web", "ports": "tcp/80", "action": "allow", "applications": []});
    let insert = json!({"insert": {"after": 0, "rules": [rule]}});
    let too_large = controller.send("PATCH", "/v1/policy/rule", &insert).await;
    until("REST names the table, the room and the revision", async || {
        let node = controller.node("n1").await.unwrap();
        let words = node["degraded"].to_string();
        words.contains(&format!("revision {too_large} is not in force"))
            && words.contains("table 'addresses' needs")
            && words.contains("room for 40")
    })
    .await;
    assert!(agent.in_force() < Some(too_large), "{:?}", agent.in_force());
    assert!(agent.in_force() >= Some(fits), "the old one stays");

    let body = json!({"config": {"name": "many", "criteria": [{"key": "address", "op": "=", "value": "192.0.2.0/24"}]}});
    let again = controller.send("PATCH", "/v1/group/many", &body).await;
    controller.in_force("n1", again).await;
    assert_eq!(controller.node("n1").await.unwrap()["degraded"], json!([]));
    agent.stop().await;
}
