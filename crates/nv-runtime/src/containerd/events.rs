//! containerd's events in our words.

use std::collections::BTreeMap;

use nv_types::{Timestamp, WorkloadId};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::proto::containers::GetContainerRequest;
use crate::proto::containers::containers_client::ContainersClient;
use crate::proto::events::events_client::EventsClient;
use crate::proto::events::{ContainerOf, Envelope, SubscribeRequest, TaskExit, TaskOf};
use crate::runtime::{EventKind, RuntimeError, RuntimeEvent};

use super::describe::{Role, id_of, role, timestamp};
use super::{ContainerdRuntime, within};

/// Events that may wait. When the consumer falls further behind the channel is closed, which a
/// [`Monitor`](crate::Monitor) answers by comparing anew.
const QUEUE: usize = 4096;
const START: &str = "/tasks/start";
const EXIT: &str = "/tasks/exit";
const TASK_GONE: &str = "/tasks/delete";
const GONE: &str = "/containers/delete";

/// What is known of the containers, so that the end of one can be told for what it was.
type Roles = BTreeMap<(String, String), Role>;

pub(super) async fn subscribe(
    runtime: &ContainerdRuntime,
    channel: Channel,
) -> Result<mpsc::Receiver<RuntimeEvent>, RuntimeError> {
    let filters = [START, EXIT, TASK_GONE, GONE].map(|topic| format!("topic==\"{topic}\""));
    let request = SubscribeRequest {
        filters: filters.into(),
    };
    let (envelopes, mut received) = mpsc::channel(QUEUE);
    let stream_channel = channel.clone();
    // The answer's first byte comes with the first event: the call is made beside everything else.
    tokio::spawn(async move {
        let forward = async {
            let mut client = EventsClient::new(stream_channel);
            let mut stream = match client.subscribe(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => return tracing::debug!(%status, "containerd gives no events"),
            };
            loop {
                match stream.message().await {
                    Ok(Some(envelope)) => {
                        if let Err(error) = envelopes.try_send(envelope) {
                            tracing::warn!(%error, "containerd's events come faster than they are taken: comparing anew");
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(status) => return tracing::debug!(%status, "containerd's events ended"),
                }
            }
        };
        tokio::select! {
            () = forward => {}
            () = envelopes.closed() => {}
        }
    });
    let mut roles = Roles::new();
    for namespace in runtime.namespaces(&channel).await? {
        for container in runtime.containers(&channel, &namespace, Vec::new()).await? {
            if let Some(role) = role(&namespace, &container) {
                roles.insert((namespace.clone(), container.id), role);
            }
        }
    }
    let mut translator = Translator {
        left_out: runtime.left_out.clone(),
        containers: ContainersClient::new(channel),
        roles,
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Some(envelope) = received.recv().await {
            let Some(event) = translator.event(envelope).await else {
                continue;
            };
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

struct Translator {
    left_out: std::collections::BTreeSet<String>,
    containers: ContainersClient<Channel>,
    roles: Roles,
}

impl Translator {
    async fn event(&mut self, envelope: Envelope) -> Option<RuntimeEvent> {
        if self.left_out.contains(&envelope.namespace) {
            return None;
        }
        let heard = heard(&envelope)?;
        let key = (envelope.namespace.clone(), heard.container.clone());
        if !self.roles.contains_key(&key) {
            let role = self.ask(&key).await.or_else(|| {
                // It is gone already. Nobody has been told of its start either, unless it is a workload.
                Some(Role::Workload(id_of(&key.0, &key.1)?))
            })?;
            self.roles.insert(key.clone(), role);
        }
        let role = match heard.kind {
            EventKind::Delete => self.roles.remove(&key)?,
            _ => self.roles.get(&key)?.clone(),
        };
        let event = |kind, subject: WorkloadId| RuntimeEvent {
            kind,
            subject: subject.into(),
            at: heard.at,
        };
        match role {
            Role::Workload(id) => Some(event(heard.kind, id)),
            Role::Member(_) if envelope.topic == TASK_GONE => None,
            Role::Member(sandbox) => Some(event(EventKind::Change, sandbox)),
        }
    }

    async fn ask(&mut self, (namespace, id): &(String, String)) -> Option<Role> {
        let request = within(namespace, GetContainerRequest { id: id.clone() })?;
        let answer = self.containers.get(request).await.ok()?;
        role(namespace, &answer.into_inner().container?)
    }
}

struct Heard {
    kind: EventKind,
    container: String,
    at: Timestamp,
}

/// `None`: nothing that we tell of, such as the end of an exec.
fn heard(envelope: &Envelope) -> Option<Heard> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    let at = timestamp(envelope.timestamp.as_ref());
    let (kind, container, at) = match envelope.topic.as_str() {
        START => (EventKind::Start, TaskOf::decode(bytes).ok()?.container_id, at),
        EXIT => {
            let exit = TaskExit::decode(bytes).ok()?;
            if exit.id != exit.container_id {
                return None;
            }
            let ended = timestamp(exit.exited_at.as_ref());
            let at = if ended.0 == 0 { at } else { ended };
            (EventKind::Stop, exit.container_id, at)
        }
        // It tells of the end once more, for the case that the first time was lost.
        TASK_GONE => {
            let gone = TaskOf::decode(bytes).ok()?;
            if !gone.id.is_empty() && gone.id != gone.container_id {
                return None;
            }
            (EventKind::Stop, gone.container_id, at)
        }
        GONE => (EventKind::Delete, ContainerOf::decode(bytes).ok()?.id, at),
        _ => return None,
    };
    Some(Heard { kind, container, at })
}

#[cfg(test)]
mod tests {
    use prost_types::Any;

    use super::*;

    fn envelope(topic: &str, event: &impl prost::Message) -> Envelope {
        Envelope {
            timestamp: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
            namespace: "default".into(),
            topic: topic.into(),
            event: Some(Any {
                type_url: String::new(),
                value: event.encode_to_vec(),
            }),
        }
    }

    #[test]
    fn the_end_of_an_exec_is_not_the_containers() {
        let exit = |id: &str| TaskExit {
            container_id: "web".into(),
            id: id.into(),
            exited_at: Some(prost_types::Timestamp { seconds: 4, nanos: 0 }),
            ..TaskExit::default()
        };
        assert!(heard(&envelope(EXIT, &exit("exec-1"))).is_none());
        let end = heard(&envelope(EXIT, &exit("web"))).unwrap();
        assert_eq!((end.kind, end.at), (EventKind::Stop, Timestamp(4_000_000_000)));
        let gone = |id: &str| TaskOf {
            container_id: "web".into(),
            id: id.into(),
        };
        assert!(heard(&envelope(TASK_GONE, &gone("exec-1"))).is_none());
        assert_eq!(
            heard(&envelope(TASK_GONE, &gone(""))).unwrap().kind,
            EventKind::Stop
        );
        assert!(heard(&envelope("/tasks/oom", &exit("web"))).is_none());
        let mut broken = envelope(EXIT, &exit("web"));
        broken.event.as_mut().unwrap().value = vec![0xff; 3];
        assert!(heard(&broken).is_none());
    }
}
