//! Pods by looking again and again, for runtimes that tell of no events.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Timestamp, WorkloadId};

use crate::proto::cri::{Container, ContainerState, PodSandbox, PodSandboxState};
use crate::runtime::{EventKind, RuntimeEvent};

use super::describe::nanos;

/// What one look finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    pods: BTreeMap<String, Pod>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    is_ready: bool,
    created: Timestamp,
    containers: BTreeSet<(String, i32)>,
}

impl Look {
    pub(super) fn new(pods: Vec<PodSandbox>, containers: Vec<Container>) -> Self {
        let mut look = Self::default();
        for pod in pods {
            let seen = Pod {
                is_ready: pod.state() == PodSandboxState::SandboxReady,
                created: nanos(pod.created_at),
                containers: BTreeSet::new(),
            };
            look.pods.insert(pod.id, seen);
        }
        for container in containers {
            // One that is only made does not run: its pod looks as before.
            if container.state == i32::from(ContainerState::ContainerCreated) {
                continue;
            }
            if let Some(pod) = look.pods.get_mut(&container.pod_sandbox_id) {
                pod.containers.insert((container.id, container.state));
            }
        }
        look
    }

    /// Events that lead from the look before to this one. A pod that came and ended in between is told with both as long
    /// as the runtime still lists it.
    pub(super) fn since(&self, before: &Self, now: Timestamp) -> Vec<RuntimeEvent> {
        let mut events = Vec::new();
        let mut tell = |kind, id: &str, at| {
            if let Ok(id) = WorkloadId::try_new(id.to_owned()) {
                let subject = id.into();
                events.push(RuntimeEvent { kind, subject, at });
            }
        };
        for (id, pod) in &before.pods {
            if self.pods.contains_key(id) {
                continue;
            }
            if pod.is_ready {
                tell(EventKind::Stop, id, now);
            }
            tell(EventKind::Delete, id, now);
        }
        for (id, pod) in &self.pods {
            match before.pods.get(id) {
                Some(known) if known.is_ready && !pod.is_ready => tell(EventKind::Stop, id, now),
                Some(known) if pod.is_ready && !known.is_ready => tell(EventKind::Start, id, now),
                Some(known) if pod.is_ready && known.containers != pod.containers => {
                    tell(EventKind::Change, id, now);
                }
                Some(_) => {}
                None => {
                    tell(EventKind::Start, id, pod.created);
                    if !pod.is_ready {
                        tell(EventKind::Stop, id, now);
                    }
                }
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use EventKind::{Change, Delete, Start, Stop};

    use super::*;

    fn pod(id: &str, is_ready: bool) -> PodSandbox {
        PodSandbox {
            id: id.into(),
            state: i32::from(!is_ready),
            created_at: 3,
            ..PodSandbox::default()
        }
    }

    fn container(id: &str, pod: &str, state: ContainerState) -> Container {
        Container {
            id: id.into(),
            pod_sandbox_id: pod.into(),
            state: state.into(),
            ..Container::default()
        }
    }

    fn told(before: &Look, now: &Look) -> Vec<(EventKind, String)> {
        let events = now.since(before, Timestamp(9));
        events
            .into_iter()
            .map(|event| (event.kind, event.subject))
            .collect()
    }

    #[test]
    fn what_is_still_listed_is_not_lost() {
        let before = Look::new(
            vec![pod("ends", true), pod("gone", true), pod("stays", true)],
            vec![],
        );
        let now = Look::new(
            vec![
                pod("ends", false),
                pod("new", true),
                pod("short", false),
                pod("stays", true),
            ],
            vec![],
        );
        let told: Vec<_> = told(&before, &now);
        let told: Vec<_> = told.iter().map(|(kind, id)| (*kind, id.as_str())).collect();
        assert_eq!(
            told,
            [
                (Stop, "gone"),
                (Delete, "gone"),
                (Stop, "ends"),
                (Start, "new"),
                (Start, "short"),
                (Stop, "short")
            ]
        );
        assert!(now.since(&now, Timestamp(9)).is_empty());
    }

    #[test]
    fn a_container_that_joins_or_ends_makes_its_pod_be_looked_at_again() {
        let look = |state| Look::new(vec![pod("p", true)], vec![container("c", "p", state)]);
        let created = look(ContainerState::ContainerCreated);
        let running = look(ContainerState::ContainerRunning);
        let exited = look(ContainerState::ContainerExited);
        assert!(told(&Look::new(vec![pod("p", true)], vec![]), &created).is_empty());
        assert_eq!(told(&created, &running), [(Change, "p".to_owned())]);
        assert_eq!(told(&running, &exited), [(Change, "p".to_owned())]);
    }
}
