//! The part of dockerd's API that the agent uses, over a table of containers that the test fills. Their namespaces are nobody's, so they have no
//! interfaces.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;

struct State {
    /// Containers that run: their ids are their names, the value is the label of Compose's service.
    running: Mutex<BTreeMap<String, Option<String>>>,
    events: broadcast::Sender<String>,
}

pub(crate) struct Dockerd {
    pub(crate) socket: PathBuf,
    state: Arc<State>,
}

impl Dockerd {
    pub(crate) async fn start(folder: &Path) -> Self {
        let socket = folder.join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let state = Arc::new(State {
            running: Mutex::default(),
            events: broadcast::channel(64).0,
        });
        let served = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&served);
                tokio::spawn(async move {
                    let _ = serve(stream, &state).await;
                });
            }
        });
        Self { socket, state }
    }

    pub(crate) fn run(&self, name: &str) {
        self.start_one(name, None);
    }

    pub(crate) fn run_service(&self, name: &str, service: &str) {
        self.start_one(name, Some(service.to_owned()));
    }

    fn start_one(&self, name: &str, service: Option<String>) {
        self.state
            .running
            .lock()
            .unwrap()
            .insert(name.to_owned(), service);
        self.tell("start", name);
    }

    pub(crate) fn kill(&self, name: &str) {
        self.state.running.lock().unwrap().remove(name).expect("it runs");
        self.tell("die", name);
        self.tell("destroy", name);
    }

    fn tell(&self, action: &str, name: &str) {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        let event = json!({"Type": "container", "Action": action, "Actor": {"ID": name, "Attributes": {}},
            "timeNano": u64::try_from(now).unwrap()});
        // Nobody may be listening.
        let _ = self.state.events.send(format!("{event}\n"));
    }
}

/// Answers requests until the client goes.
async fn serve(stream: UnixStream, state: &State) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while stream.read_line(&mut header).await? > 2 {
            header.clear();
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        if path.ends_with("/events") {
            let mut events = state.events.subscribe();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await?;
            while let Ok(event) = events.recv().await {
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                stream.write_all(chunk.as_bytes()).await?;
            }
            return Ok(());
        }
        let (status, body) = answer(path, &state.running.lock().unwrap());
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nApi-Version: 1.47\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
    }
}

fn answer(path: &str, running: &BTreeMap<String, Option<String>>) -> (&'static str, Value) {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [.., "version"] => (
            "200 OK",
            json!({"Version": "test", "ApiVersion": "1.47", "MinAPIVersion": "1.24"}),
        ),
        [.., "_ping"] => ("200 OK", json!("OK")),
        [.., "containers", "json"] => {
            let all = running.keys().map(|id| json!({"Id": id, "Labels": {}}));
            ("200 OK", Value::Array(all.collect()))
        }
        [.., "containers", id, "json"] => match running.get(*id) {
            Some(service) => {
                let labels: BTreeMap<_, _> = service
                    .iter()
                    .map(|service| ("com.docker.compose.service", service))
                    .collect();
                let body = json!({"Id": id, "Name": format!("/{id}"), "Created": "2024-05-01T10:00:00Z",
                    "State": {"Status": "running", "Running": true, "Pid": 0, "StartedAt": "2024-05-01T10:00:01Z"},
                    "Config": {"Image": format!("test/{id}:1"), "Labels": labels}});
                ("200 OK", body)
            }
            None => (
                "404 Not Found",
                json!({"message": format!("No such container: {id}")}),
            ),
        },
        _ => ("404 Not Found", json!({"message": "page not found"})),
    }
}
