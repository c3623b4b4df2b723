//! A controller with many agents, each on a connection of its own.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use nv_api::grpc::enroll_client::EnrollClient;
use nv_api::grpc::report_client::ReportClient;
use nv_api::grpc::store_client::StoreClient;
use nv_api::grpc::{FlowBatch, JoinRequest, WatchRequest, change};
use serde_json::json;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::alone;
use super::bed::{self, Bed, GRPC, REST, node};
use crate::figure::{Figure, median};
use crate::product::{Rest, memory};
use crate::say;

/// Workloads of one node.
const WORKLOADS: u32 = 4;
/// The rule that is changed again and again.
const RULE: u32 = 7;
/// An agent says this often that it is there, as the stock one does.
const HEARTBEAT: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(30);

/// What agents tell of: the state that they began with, or the change that is waited for.
enum Told {
    Ready,
    Rule(Instant),
}

pub(super) fn figures(
    runtime: &tokio::runtime::Runtime,
    agents: usize,
    rounds: usize,
) -> anyhow::Result<[Figure; 2]> {
    let count = u32::try_from(agents)?;
    let bed = Bed::start(&bed::policy(count * WORKLOADS)?, count)?;
    let rest = Rest::login(
        &format!("https://{REST}"),
        &bed.data().join("ca.pem"),
        &bed.password,
    )?;
    let rule = json!({"id": RULE, "from": "team-0", "to": "nv.s1.d1", "ports": "tcp/79", "action": "allow"});
    rest.call(
        "PATCH",
        "/v1/policy/rule",
        Some(&json!({"insert": {"rules": [rule]}})),
    )?;
    let ca = std::fs::read_to_string(bed.data().join("ca.pem"))?;
    let tokens = (0..count)
        .map(|number| bed.token(&node(number)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let alone_mib = memory(bed.pid()?, "VmRSS")?;
    let (tell, told) = mpsc::channel();
    let begun = Instant::now();
    let joined = runtime.block_on(
        futures::stream::iter((0..count).zip(tokens))
            .map(|(number, token)| join(number, token, &ca))
            .buffer_unordered(8)
            .try_collect::<Vec<_>>(),
    )?;
    say(&format!(
        "{agents} agents joined in {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let begun = Instant::now();
    for (node, tls) in joined {
        runtime.spawn(agent(node, tls, tell.clone()));
    }
    for _ in 0..agents {
        let told = told.recv_timeout(PATIENCE).context("an agent did not begin")?;
        ensure!(matches!(told, Told::Ready), "a change before the state");
    }
    say(&format!(
        "all have what they begin with after {:.2} s; the controller takes {:.0} MiB, {alone_mib:.0} without agents",
        begun.elapsed().as_secs_f64(),
        memory(bed.pid()?, "VmRSS")?
    ));
    let (mut delays, mut worst) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(300));
        let change = json!({"config": {"id": RULE, "ports": format!("tcp/{}", 80 + round)}});
        let begun = Instant::now();
        rest.call("PATCH", &format!("/v1/policy/rule/{RULE}"), Some(&change))?;
        let mut round = Vec::new();
        while round.len() < agents {
            match told
                .recv_timeout(PATIENCE)
                .context("an agent was not told of a change")?
            {
                Told::Rule(at) => round.push(at.duration_since(begun).as_secs_f64() * 1000.0),
                Told::Ready => anyhow::bail!("an agent had to begin anew"),
            }
        }
        worst.push(round.iter().copied().fold(0.0, f64::max));
        delays.extend(round);
    }
    delays.sort_by(f64::total_cmp);
    let p99 = delays.get(delays.len() * 99 / 100).copied().unwrap_or(0.0);
    say(&format!(
        "a change is with half of the agents after {:.1} ms; with the last after {:.1} ms, median of rounds",
        median(&delays),
        median(&worst)
    ));
    let peak = memory(bed.pid()?, "VmHWM")?;
    Ok([
        alone("agents_1000_p99_ms", "ms", p99, rounds),
        alone("controller_rss_mib", "MiB", peak, 1),
    ])
}

fn endpoint(tls: ClientTlsConfig) -> anyhow::Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("https://{GRPC}"))?
        .connect_timeout(PATIENCE)
        .keep_alive_while_idle(true)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(PATIENCE);
    Ok(endpoint.tls_config(tls.domain_name(nv_api::CONTROLLER_NAME))?)
}

/// Gets a node's certificate as an agent does.
async fn join(number: u32, token: String, ca: &str) -> anyhow::Result<(String, ClientTlsConfig)> {
    let node = node(number);
    let key = rcgen::KeyPair::generate()?;
    let params = rcgen::CertificateParams::new(vec![nv_api::AGENT_NAME.to_owned()])?;
    let ca = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let channel = endpoint(ca.clone())?.connect().await?;
    let request = JoinRequest {
        token,
        node: node.clone(),
        csr_pem: params.serialize_request(&key)?.pem()?,
    };
    let reply = EnrollClient::new(channel).join(request).await?.into_inner();
    let identity = Identity::from_pem(reply.certificate_pem, key.serialize_pem());
    Ok((node, ca.identity(identity)))
}

async fn agent(node: String, tls: ClientTlsConfig, tell: mpsc::Sender<Told>) -> anyhow::Result<()> {
    let channel = endpoint(tls)?.connect().await?;
    let mut store = StoreClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let request = WatchRequest {
        prefix: String::new(),
        from: 0,
    };
    let mut watch = store.watch(request).await?.into_inner();
    tokio::spawn(heartbeat(node, channel));
    let key = nv_types::keys::rule(nv_types::RuleId(RULE));
    while let Some(reply) = watch.message().await? {
        if reply.resync.is_some() && !reply.more {
            tell.send(Told::Ready)?;
        }
        let is_it = |change: &nv_api::grpc::Change| matches!(&change.change, Some(change::Change::Put(entry)) if entry.key == key);
        if reply.changes.iter().any(is_it) {
            tell.send(Told::Rule(Instant::now()))?;
        }
    }
    Ok(())
}

async fn heartbeat(node: String, channel: Channel) -> Result<(), tonic::Status> {
    let mut client = ReportClient::new(channel);
    for sequence in 1.. {
        tokio::time::sleep(HEARTBEAT).await;
        let batch = FlowBatch {
            node: node.clone(),
            sequence,
            ..FlowBatch::default()
        };
        client.flows(batch).await?;
    }
    Ok(())
}
