//! The CRI's events in our words, or what looking again and again finds where there are none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nv_types::WorkloadId;
use tokio::sync::mpsc;
use tonic::Code;

use crate::clock::now;
use crate::proto::cri::{ContainerEventResponse, ContainerEventType, GetEventsRequest, PodSandboxState};
use crate::runtime::{EventKind, RuntimeError, RuntimeEvent};

use super::Client;
use super::describe::nanos;
use super::poll::Look;

const QUEUE: usize = 4096;

pub(super) async fn subscribe(
    client: Arc<Client>,
    every: Duration,
) -> Result<mpsc::Receiver<RuntimeEvent>, RuntimeError> {
    client.peer.fresh_channel().await?;
    let first = client.look().await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        tokio::select! {
            () = forward(&client, first, every, &sender) => {}
            () = sender.closed() => {}
        }
    });
    Ok(receiver)
}

/// Returns when the connection is lost or the consumer too slow: the channel then closes.
async fn forward(client: &Client, first: Look, every: Duration, sender: &mpsc::Sender<RuntimeEvent>) {
    match stream(client, sender).await {
        Ok(()) => {}
        Err(NoEvents) => {
            tracing::info!(
                location = client.peer.location(),
                "no events from this runtime: looking every {every:?}"
            );
            poll(client, first, every, sender).await;
        }
    }
}

/// The runtime has no events to give.
struct NoEvents;

async fn stream(client: &Client, sender: &mpsc::Sender<RuntimeEvent>) -> Result<(), NoEvents> {
    let Ok(mut service) = client.service().await else {
        return Ok(());
    };
    let mut stream = match service.get_container_events(GetEventsRequest {}).await {
        Ok(answer) => answer.into_inner(),
        // containerd 1.6.
        Err(status) if status.code() == Code::Unimplemented => return Err(NoEvents),
        Err(status) => {
            tracing::debug!(%status, "the runtime's events ended");
            return Ok(());
        }
    };
    let mut pods = Pods::default();
    let mut heard = false;
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                heard = true;
                let Some(event) = pods.event(message) else {
                    continue;
                };
                if let Err(error) = sender.try_send(event) {
                    tracing::warn!(%error, "events come faster than they are taken: comparing anew");
                    return Ok(());
                }
            }
            // CRI-O with its events switched off ends the stream at once, without an error.
            Ok(None) if !heard => return Err(NoEvents),
            Ok(None) => return Ok(()),
            Err(status) if status.code() == Code::Unimplemented => return Err(NoEvents),
            Err(status) => {
                tracing::debug!(%status, "the runtime's events ended");
                return Ok(());
            }
        }
    }
}

async fn poll(client: &Client, mut before: Look, every: Duration, sender: &mpsc::Sender<RuntimeEvent>) {
    loop {
        tokio::time::sleep(every).await;
        let look = match client.look().await {
            Ok(look) => look,
            Err(error) => return tracing::debug!(%error, "a runtime does not answer"),
        };
        for event in look.since(&before, now()) {
            if sender.send(event).await.is_err() {
                return;
            }
        }
        before = look;
    }
}

/// In which pod a container is, so that its deletion, which may come without its pod, can be told.
#[derive(Debug, Default)]
struct Pods {
    of: BTreeMap<String, String>,
}

impl Pods {
    fn event(&mut self, message: ContainerEventResponse) -> Option<RuntimeEvent> {
        let happened = message.container_event_type();
        let at = nanos(message.created_at);
        let status = message.pod_sandbox_status;
        let container = message.container_id;
        let ended = status
            .as_ref()
            .is_some_and(|status| status.state() == PodSandboxState::SandboxNotready);
        let known = status.map(|status| status.id).filter(|id| !id.is_empty());
        // Without a status it is what we know it by; a container that nobody spoke of before is taken for a pod: if it is
        // none, nobody knows the id.
        let pod = known
            .or_else(|| self.of.get(&container).cloned())
            .unwrap_or_else(|| container.clone());
        let subject: String = WorkloadId::try_new(pod.clone()).ok()?.into();
        if happened == ContainerEventType::ContainerDeletedEvent {
            self.of.remove(&container);
        } else {
            self.of.insert(container.clone(), pod.clone());
        }
        let kind = if container == pod {
            match happened {
                ContainerEventType::ContainerCreatedEvent => return None,
                ContainerEventType::ContainerStartedEvent => EventKind::Start,
                ContainerEventType::ContainerStoppedEvent => EventKind::Stop,
                ContainerEventType::ContainerDeletedEvent => EventKind::Delete,
            }
        } else {
            match happened {
                ContainerEventType::ContainerCreatedEvent | ContainerEventType::ContainerDeletedEvent => {
                    return None;
                }
                _ if ended => return None,
                _ => EventKind::Change,
            }
        };
        Some(RuntimeEvent { kind, subject, at })
    }
}

#[cfg(test)]
mod tests {
    use crate::proto::cri::PodSandboxStatus;

    use super::*;

    #[test]
    fn containers_are_told_as_their_pod() {
        use ContainerEventType as Type;
        let mut pods = Pods::default();
        let mut event = |container: &str, kind: Type, pod: Option<&str>| {
            let message = ContainerEventResponse {
                container_id: container.into(),
                container_event_type: kind.into(),
                created_at: 7,
                pod_sandbox_status: pod.map(|id| PodSandboxStatus {
                    id: id.into(),
                    ..PodSandboxStatus::default()
                }),
            };
            pods.event(message).map(|event| (event.kind, event.subject))
        };
        let told = |kind, id: &str| Some((kind, id.to_owned()));
        assert_eq!(
            event("p", Type::ContainerStartedEvent, Some("p")),
            told(EventKind::Start, "p")
        );
        assert_eq!(event("c", Type::ContainerCreatedEvent, Some("p")), None);
        assert_eq!(
            event("c", Type::ContainerStartedEvent, Some("p")),
            told(EventKind::Change, "p")
        );
        assert_eq!(
            event("c", Type::ContainerStoppedEvent, None),
            told(EventKind::Change, "p"),
            "its pod is known from before"
        );
        assert_eq!(event("c", Type::ContainerDeletedEvent, None), None);
        assert_eq!(
            event("p", Type::ContainerStoppedEvent, None),
            told(EventKind::Stop, "p")
        );
        assert_eq!(
            event("p", Type::ContainerDeletedEvent, None),
            told(EventKind::Delete, "p")
        );
    }
}
