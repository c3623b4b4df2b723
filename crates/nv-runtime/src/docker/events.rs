//! Docker's events in our words.

use std::collections::VecDeque;

use bollard::models::{EventMessage, EventMessageTypeEnum as Type};
use nv_types::Timestamp;

use super::inspect::is_pod_member;
use crate::runtime::{EventKind, RuntimeEvent};

/// Enough for the doubles that dockerd sends: those of one replay and of one stop.
const REMEMBERED: usize = 64;

/// Turns messages into events and leaves out doubles.
#[derive(Debug, Default)]
pub(super) struct Filter {
    recent: VecDeque<RuntimeEvent>,
}

impl Filter {
    /// `None`: nothing that we tell of, or told already.
    pub(super) fn event(&mut self, message: EventMessage) -> Option<RuntimeEvent> {
        let event = translate(message)?;
        if self.recent.contains(&event) {
            return None;
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(event.clone());
        Some(event)
    }
}

fn translate(message: EventMessage) -> Option<RuntimeEvent> {
    // An exec's actions are `exec_…`: its end is not the container's.
    let kind = match (message.typ?, message.action?.as_str()) {
        (Type::CONTAINER, "start") => EventKind::Start,
        (Type::CONTAINER, "die") => EventKind::Stop,
        (Type::CONTAINER, "destroy" | "remove") => EventKind::Delete,
        (Type::CONTAINER, "extract-to-dir") => EventKind::CopyIn,
        (Type::CONTAINER, "archive-path") => EventKind::CopyOut,
        (Type::NETWORK, "create") => EventKind::NetworkCreate,
        (Type::NETWORK, "destroy" | "remove") => EventKind::NetworkDelete,
        // The actor is the network; the container stands beside it.
        (Type::NETWORK, "connect" | "disconnect") => EventKind::Change,
        _ => return None,
    };
    let actor = message.actor?;
    if actor.attributes.as_ref().is_some_and(is_pod_member) {
        return None;
    }
    let at = match (message.time_nano, message.time) {
        (Some(nanos), _) => u64::try_from(nanos).ok()?,
        (None, seconds) => u64::try_from(seconds?).ok()?.checked_mul(1_000_000_000)?,
    };
    let subject = match kind {
        EventKind::Change => actor.attributes?.remove("container")?,
        _ => actor.id?,
    };
    Some(RuntimeEvent {
        kind,
        subject,
        at: Timestamp(at),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::EventActor;

    use super::*;

    fn message(typ: Type, action: &str, at: i64) -> EventMessage {
        EventMessage {
            typ: Some(typ),
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                id: Some("c1".to_owned()),
                attributes: None,
            }),
            time_nano: Some(at),
            ..EventMessage::default()
        }
    }

    #[test]
    fn the_kinds_without_noise_and_doubles() {
        let mut filter = Filter::default();
        let mut kinds = Vec::new();
        for (typ, action, at) in [
            (Type::CONTAINER, "create", 1),
            (Type::NETWORK, "create", 1),
            (Type::CONTAINER, "start", 2),
            (Type::CONTAINER, "start", 2),
            (Type::CONTAINER, "exec_create: sh -c x", 3),
            (Type::CONTAINER, "exec_start: sh -c x", 3),
            (Type::CONTAINER, "exec_die", 3),
            (Type::CONTAINER, "health_status: healthy", 3),
            (Type::CONTAINER, "kill", 4),
            (Type::CONTAINER, "die", 4),
            (Type::CONTAINER, "stop", 4),
            (Type::CONTAINER, "start", 5),
            (Type::CONTAINER, "extract-to-dir", 6),
            (Type::CONTAINER, "archive-path", 7),
            (Type::CONTAINER, "destroy", 8),
            (Type::NETWORK, "prune", 9),
            (Type::NETWORK, "destroy", 9),
            (Type::VOLUME, "destroy", 9),
        ] {
            kinds.extend(filter.event(message(typ, action, at)).map(|event| event.kind));
        }
        use EventKind::{CopyIn, CopyOut, Delete, NetworkCreate, NetworkDelete, Start, Stop};
        assert_eq!(
            kinds,
            [
                NetworkCreate,
                Start,
                Stop,
                Start,
                CopyIn,
                CopyOut,
                Delete,
                NetworkDelete
            ]
        );
    }

    #[test]
    fn a_network_that_is_connected_or_disconnected_changes_its_container() {
        let event = |action: &str, container: Option<&str>| {
            let attributes = container.map(|id| HashMap::from([("container".to_owned(), id.to_owned())]));
            let actor = EventActor {
                id: Some("net".to_owned()),
                attributes,
            };
            Filter::default().event(EventMessage {
                actor: Some(actor),
                ..message(Type::NETWORK, action, 1)
            })
        };
        for action in ["connect", "disconnect"] {
            let told = event(action, Some("c1")).unwrap();
            assert_eq!((told.kind, told.subject.as_str()), (EventKind::Change, "c1"));
            assert_eq!(event(action, None), None, "of which container, nobody knows");
        }
    }

    #[test]
    fn containers_inside_a_pod_sandbox_are_left_out() {
        let mut inside = message(Type::CONTAINER, "start", 1);
        inside.actor = Some(EventActor {
            id: Some("c2".to_owned()),
            attributes: Some(HashMap::from([(
                "io.kubernetes.docker.type".to_owned(),
                "container".to_owned(),
            )])),
        });
        assert_eq!(Filter::default().event(inside), None);
    }
}
