//! Groups of DNS names on the real kernel: a workload asks a resolver and connects; what passes is what was answered.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    dead_code,
    reason = "a test that cannot go on has failed; helpers are shared with other tests"
)]
#![allow(unused_crate_dependencies, reason = "the package's other targets use them")]

#[path = "it/bed.rs"]
mod bed;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bed::{Controller, node, until};
use nv_agent::{Config, Credentials, DatapathKind, HookFail, NameOptions};
use nv_lab::{Host, HostSpec, Lab};
use nv_runtime::testing::is_root;
use nv_runtime::{DiscoverOptions, Location};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const PORT: u16 = 8080;
const LAB: u8 = 216;
const TTL: u8 = 1;
/// More than the time between two looks at the flows, which a slow machine makes longer.
const GRACE: Duration = Duration::from_secs(4);
/// Names `n1.example.test` and so on, each with an address of its own.
const NAMES: u8 = 10;

/// Documentation addresses (RFC 5737): public to nv, and nobody's.
const fn site(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, number)
}

/// The address that a name has: its number, `n7.example.test`.
fn number_of(query: &[u8]) -> u8 {
    let length = usize::from(query[12]);
    let label = std::str::from_utf8(&query[13..13 + length]).unwrap();
    label[1..].parse().unwrap()
}

/// An answer with the address that the name has, `shift` places further.
fn answer(query: &[u8], shift: u8) -> Vec<u8> {
    let mut reply = query.to_vec();
    (reply[2], reply[3], reply[7]) = (0x81, 0x80, 1);
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, TTL, 0, 4]);
    reply.extend(site(number_of(query) + shift).octets());
    reply
}

fn query(number: u8, id: u8) -> Vec<u8> {
    let label = format!("n{number}");
    let mut bytes = vec![0x4e, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [label.as_str(), "example", "test"] {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// Serves over UDP and TCP until the process ends.
fn serve(host: &Host, at: Ipv4Addr, shift: u8) {
    let (udp, tcp) = host
        .run(move || {
            (
                UdpSocket::bind((at, 53)).unwrap(),
                TcpListener::bind((at, 53)).unwrap(),
            )
        })
        .unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&answer(&buffer[..count], shift), from);
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 512];
            let count = stream.read(&mut buffer).unwrap();
            let reply = answer(&buffer[2..count], shift);
            let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &reply].concat()).unwrap();
        }
    });
}

/// Asks, and gives the answer's address and how long it took.
fn resolve(from: &Host, resolver: Ipv4Addr, number: u8) -> Option<(Ipv4Addr, Duration)> {
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((resolver, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let begun = Instant::now();
        socket.send(&query(number, number)).unwrap();
        let mut buffer = [0; 512];
        let count = socket.recv(&mut buffer).ok()?;
        let address: [u8; 4] = buffer[count - 4..count].try_into().unwrap();
        Some((Ipv4Addr::from(address), begun.elapsed()))
    })
    .unwrap()
}

fn resolve_over_tcp(from: &Host, resolver: Ipv4Addr, number: u8) {
    from.run(move || {
        let mut stream = TcpStream::connect((resolver, 53)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let query = query(number, number);
        let length = u16::try_from(query.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &query].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
    })
    .unwrap();
}

fn connects(from: &Host, to: Ipv4Addr, within: Duration) -> Option<TcpStream> {
    from.run(move || TcpStream::connect_timeout(&SocketAddr::from((to, PORT)), within).ok())
        .unwrap()
}

/// One try: a SYN that is dropped is sent again after a second.
const FIRST: Duration = Duration::from_millis(700);

/// Removes enforcement however the test ends.
struct Purge(Config, CancellationToken);

impl Drop for Purge {
    fn drop(&mut self) {
        self.1.cancel();
        let begun = Instant::now();
        while let Err(error) = nv_agent::purge(&self.0) {
            if begun.elapsed() > Duration::from_secs(5) {
                eprintln!("enforcement is left: {error:#}");
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[allow(
    clippy::needless_update,
    reason = "there may be more runtimes than this test knows"
)]
fn config(controller: &Controller, data: &Path, instance: &str, resolver: IpAddr) -> Config {
    Config {
        node: node(),
        controller: controller.grpc.to_string(),
        data_dir: data.to_owned(),
        datapath: DatapathKind::Ebpf(format!("/sys/fs/bpf/nv/{instance}").into()),
        pin_dir: format!("/sys/fs/bpf/nv/{instance}").into(),
        dp_socket: data.join("dp.sock"),
        listen: "127.0.0.1:0".parse().unwrap(),
        runtimes: DiscoverOptions {
            docker: Location::Off,
            netns: Location::Auto,
            netns_prefix: instance.to_owned(),
            ..DiscoverOptions::default()
        },
        credentials: Credentials::Folder {
            join_token_file: None,
            ca: None,
        },
        hook_socket: None,
        hook_fail: HookFail::default(),
        hook_wait: Duration::from_secs(1),
        names: NameOptions {
            resolvers: vec![resolver],
            grace: GRACE,
        },
    }
}

fn ip(host: &Host, words: &str) {
    let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
    let output = host
        .run(move || Command::new("ip").args(&words).output().unwrap())
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Protects the one service there is, and allows it resolvers and sites.
async fn set_up(controller: &Controller, resolvers: &[Ipv4Addr]) {
    let services = controller.get("/v1/service").await;
    let web = services["services"][0]["name"].as_str().unwrap().to_owned();
    for mode in ["Monitor", "Protect"] {
        let mode = json!({"config": {"services": [web], "policy_mode": mode}});
        controller.send("PATCH", "/v1/service/config", &mode).await;
    }
    let rules = controller.get("/v1/policy/rule").await;
    for rule in rules["rules"].as_array().unwrap() {
        controller
            .send("DELETE", &format!("/v1/policy/rule/{}", rule["id"]), &json!(null))
            .await;
    }
    let address = |value: String| json!({"key": "address", "op": "=", "value": value});
    let resolvers: Vec<_> = resolvers.iter().map(|at| address(at.to_string())).collect();
    for (name, criteria) in [
        ("resolvers", resolvers),
        ("sites", vec![address("*.example.test".into())]),
    ] {
        let group = json!({"config": {"name": name, "criteria": criteria}});
        controller.send("POST", "/v1/group", &group).await;
    }
    let rule = |to: &str, ports: String| json!({"id": 0, "from": web, "to": to, "ports": ports, "action": "allow", "applications": []});
    let rules = [
        rule("resolvers", "udp/53,tcp/53".into()),
        rule("sites", format!("tcp/{PORT}")),
    ];
    let insert = json!({"insert": {"after": 0, "rules": rules}});
    let revision = controller.send("PATCH", "/v1/policy/rule", &insert).await;
    controller.in_force("n1", revision).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_reaches_what_its_resolver_answered_and_nothing_else() {
    if !is_root("a_workload_reaches_what_its_resolver_answered_and_nothing_else") {
        return;
    }
    let instance = format!("nvn{}-", std::process::id() % 1_000_000);
    // The other host is not watched: it is the world outside.
    let (web, world) = (format!("{instance}web"), format!("x{instance}w"));
    let bridge = instance.trim_end_matches('-');
    let hosts = [HostSpec::new(&web, LAB, 2), HostSpec::new(&world, LAB, 3)];
    let lab = Lab::create(bridge, &hosts).unwrap();
    let (web, world) = (lab.host(&web).unwrap(), lab.host(&world).unwrap());
    for number in 1..=NAMES + 5 {
        ip(world, &format!("addr add {}/32 dev lo", site(number)));
    }
    ip(world, &format!("addr add {}/32 dev lo", site(200)));
    ip(web, &format!("route add 203.0.113.0/24 via {}", world.spec().v4));
    let (resolver, liar) = (world.spec().v4, site(200));
    serve(world, resolver, 0);
    serve(world, liar, 1);
    let sites = world
        .run(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap())
        .unwrap();
    // None is refused for want of room.
    std::thread::spawn(move || sites.incoming().collect::<Vec<_>>());

    let controller = Controller::start().await;
    let data = controller.joined(&node());
    let config = config(&controller, data.path(), &instance, resolver.into());
    let token = CancellationToken::new();
    let _purge = Purge(config.clone(), token.clone());
    let agent = nv_agent::start(config.clone(), token.clone()).await.unwrap();
    until("the workload under guard", async || {
        let node = controller.node("n1").await;
        node.is_some_and(|node| node["endpoints"].as_u64() == Some(1))
    })
    .await;
    assert!(
        connects(web, site(1), FIRST).is_some(),
        "in Discover everything passes"
    );
    set_up(&controller, &[resolver, liar]).await;
    assert!(connects(web, site(1), FIRST).is_none(), "nobody has asked");

    // Each first connection, right after its answer, finds the address in the tables.
    let mut slowest = Duration::ZERO;
    for number in 1..=NAMES {
        let (address, took) = resolve(web, resolver, number).expect("an answer");
        assert!(
            connects(web, address, FIRST).is_some(),
            "{address}: the first connection"
        );
        slowest = slowest.max(took);
    }
    let (_, known) = resolve(web, resolver, NAMES).unwrap();
    eprintln!(
        "slowest of {NAMES} answers with a new address {slowest:?}, one with a known address {known:?}"
    );
    let other = NAMES + 3;
    assert!(
        connects(web, site(other), FIRST).is_none(),
        "an address of no name"
    );
    // One who is no resolver answers, and is not believed.
    let (lie, _) = resolve(web, liar, other - 1).expect("its answer passes");
    assert_eq!(lie, site(other));
    assert!(connects(web, lie, FIRST).is_none(), "a lie");
    // By TCP.
    resolve_over_tcp(web, resolver, NAMES + 1);
    assert!(
        connects(web, site(NAMES + 1), FIRST).is_some(),
        "answered over TCP"
    );

    // Its time over, an address is none of the name's any more; a flow that it let begin is not cut while it moves.
    let (address, _) = resolve(web, resolver, 1).unwrap();
    let mut open = connects(web, address, FIRST).unwrap();
    let begun = Instant::now();
    until("the time of the others is over", async || {
        assert!(open.write_all(b"x").is_ok());
        connects(web, site(2), Duration::from_millis(100)).is_none()
    })
    .await;
    while begun.elapsed() < Duration::from_secs(u64::from(TTL) + 2) + GRACE {
        open.write_all(b"x").unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(connects(web, address, FIRST).is_some(), "kept by its open flow");
    let lost = controller.node("n1").await.unwrap()["lost_events"].clone();
    assert!(
        !lost.to_string().contains("names_"),
        "no answer was late, refused or lost: {lost}"
    );

    // Without an agent nothing is learned, and answers pass.
    token.cancel();
    agent.wait().await.unwrap();
    let (address, _) = resolve(web, resolver, 5).expect("DNS works without an agent");
    assert!(connects(web, address, FIRST).is_none(), "the last policy stays");
}
