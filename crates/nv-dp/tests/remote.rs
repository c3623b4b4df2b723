//! Either side of the datapath's socket dies and comes back; strangers and other versions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    dead_code,
    reason = "a test that cannot go on has failed; helpers are shared"
)]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::frames::{Path, SYN, tcp};
use common::image::{Builder, config, endpoint, rule};
use common::remote::{Remote, Shared};
use nv_dp::remote::{MAX_FRAME, RemoteDatapath, Server};
use nv_dp::{Datapath as _, DatapathError};
use nv_types::{Direction, IpProto, Mode, PolicyImage, Revision, Verdict};

fn image(revision: u64, port: u16) -> PolicyImage {
    Builder::new(Mode::Protect)
        .revision(revision)
        .friend("10.9.0.9")
        .port(Direction::Ingress, IpProto::TCP, port, rule(Verdict::Allow, 7))
        .build()
}

fn passes(served: &Shared, port: u16) -> bool {
    let frame = tcp(Path::new("10.9.0.9", 40_000, "10.9.0.2", port), SYN, b"");
    served.0.lock().unwrap().process(7, Direction::Ingress, &frame, 1) != Verdict::Deny
}

/// Until a call gets through again.
fn again(client: &mut RemoteDatapath) {
    let begun = Instant::now();
    while let Err(error) = client.status() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_client_that_comes_back_finds_everything_as_it_was() {
    let mut remote = Remote::start();
    remote.client.apply(&image(5, 80), &config()).unwrap();
    remote
        .client
        .attach(&endpoint(7, "veth7", &["10.9.0.2"]))
        .unwrap();
    // Another one while the first is there waits; then it is its turn.
    let socket = remote.socket.clone();
    let second = std::thread::spawn(move || RemoteDatapath::connect(socket).unwrap());
    std::thread::sleep(Duration::from_millis(200));
    assert!(!second.is_finished(), "one client at a time");
    let Remote {
        client,
        served,
        serving: _serving,
        folder: _folder,
        ..
    } = remote;
    drop(client);
    let mut second = second.join().unwrap();
    let status = second.status().unwrap();
    assert_eq!(status.revision, Some(Revision(5)));
    assert_eq!(status.endpoints[&7].spec.name, "veth7");
    assert!(passes(&served, 80) && !passes(&served, 81));
}

#[test]
fn a_server_that_comes_back_empty_is_brought_to_what_was_asked_for() {
    let mut remote = Remote::start();
    remote.client.apply(&image(5, 80), &config()).unwrap();
    for ifindex in [7, 8, 9] {
        let spec = endpoint(ifindex, "veth", &["10.9.0.2"]);
        remote.client.attach(&spec).unwrap();
    }
    remote.client.detach(9).unwrap();
    remote.replace(Shared::default());
    assert!(
        passes(&remote.served, 81),
        "nothing is guarded before somebody asks"
    );
    again(&mut remote.client);
    assert!(
        passes(&remote.served, 80) && !passes(&remote.served, 81),
        "image and interface are back"
    );
    let status = remote.client.status().unwrap();
    assert_eq!(status.endpoints.keys().copied().collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn a_server_that_comes_back_with_what_is_pinned_is_left_alone() {
    let mut remote = Remote::start();
    remote.client.apply(&image(5, 80), &config()).unwrap();
    remote
        .client
        .attach(&endpoint(7, "veth7", &["10.9.0.2"]))
        .unwrap();
    assert!(passes(&remote.served, 80));
    let same = remote.served.clone();
    remote.replace(same);
    again(&mut remote.client);
    let mut flows = 0;
    remote.client.sweep(&mut |_| flows += 1).unwrap();
    assert_eq!(flows, 1, "an open connection goes on");
    // An interface that was left over there and is nobody's here is let go.
    remote.serving = None;
    let mut served = remote.served.clone();
    served.attach(&endpoint(8, "veth8", &[])).unwrap();
    remote.replace(served);
    again(&mut remote.client);
    assert_eq!(remote.client.status().unwrap().endpoints.len(), 1);
}

#[test]
fn calls_fail_by_name_while_nobody_is_there_and_the_old_policy_stays() {
    let mut remote = Remote::start();
    remote.client.apply(&image(5, 80), &config()).unwrap();
    remote
        .client
        .attach(&endpoint(7, "veth7", &["10.9.0.2"]))
        .unwrap();
    remote.serving = None;
    let error = remote.client.apply(&image(6, 81), &config()).unwrap_err();
    assert!(error.to_string().contains("dp.sock"), "{error}");
    assert!(remote.client.poll_events(1).is_err());
    assert!(passes(&remote.served, 80) && !passes(&remote.served, 81));
    let same = remote.served.clone();
    remote.replace(same);
    again(&mut remote.client);
    assert_eq!(
        remote.client.status().unwrap().revision,
        Some(Revision(5)),
        "what failed is not done later"
    );
    remote.client.apply(&image(6, 81), &config()).unwrap();
    assert!(!passes(&remote.served, 80) && passes(&remote.served, 81));
}

#[test]
fn a_long_sweep_comes_in_parts() {
    let mut remote = Remote::start();
    remote.client.apply(&image(5, 80), &config()).unwrap();
    remote
        .client
        .attach(&endpoint(7, "veth7", &["10.9.0.2"]))
        .unwrap();
    for port in 0..10_000 {
        let frame = tcp(Path::new("10.9.0.9", 20_000 + port, "10.9.0.2", 80), SYN, b"");
        remote
            .served
            .0
            .lock()
            .unwrap()
            .process(7, Direction::Ingress, &frame, 1);
    }
    let mut flows = std::collections::BTreeSet::new();
    remote
        .client
        .sweep(&mut |flow| {
            flows.insert(flow.key);
        })
        .unwrap();
    assert_eq!(flows.len(), 10_000);
}

#[test]
fn nonsense_ends_its_connection_and_nothing_else() {
    let remote = Remote::start();
    let Remote {
        client,
        socket,
        serving: _serving,
        folder: _folder,
        ..
    } = remote;
    drop(client);
    let mut hello = Vec::new();
    hello.extend(b"nvdp");
    hello.extend(1u32.to_le_bytes());
    hello.extend(nv_dp_common::ABI_VERSION.to_le_bytes());
    hello.extend([0; 8]);
    let mut other = hello.clone();
    other[4] = 9;
    let mut huge = hello.clone();
    huge.extend((MAX_FRAME + 1).to_le_bytes());
    let mut noise = hello.clone();
    noise.extend([3, 0, 0, 0, 255, 255, 255]);
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n     ".to_vec(),
        other,
        huge,
        noise,
        Vec::new(),
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() <= 20, "at most the greeting comes back");
    }
    RemoteDatapath::connect(&socket).unwrap();
}

#[test]
fn the_socket_is_for_its_user_only_and_for_one_server() {
    let remote = Remote::start();
    let mode = std::fs::metadata(&remote.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = Server::bind(&remote.socket, None).unwrap_err().to_string();
    assert!(error.contains("another process listens"), "{error}");
    let nowhere = remote.socket.with_extension("none");
    let error = RemoteDatapath::connect(&nowhere).unwrap_err();
    assert!(matches!(error, DatapathError::Kernel { .. }));
    assert!(error.to_string().contains(nowhere.to_str().unwrap()), "{error}");
}
