//! What the agent knows of the container runtimes that it watches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nv_runtime::{ContainerRuntime, EventKind, MonitorEvent};
use nv_types::{NodeRuntime, WorkloadId};

/// One runtime, as it last was.
#[derive(Debug, Default)]
struct Side {
    runtime: NodeRuntime,
    running: BTreeSet<WorkloadId>,
}

/// All runtimes.
#[derive(Debug, Default)]
pub(crate) struct Runtimes {
    /// How many of a name were there at the start.
    expected: BTreeMap<String, usize>,
    sides: BTreeMap<usize, Side>,
}

impl Runtimes {
    pub(crate) fn expecting(found: &[Arc<dyn ContainerRuntime>]) -> Self {
        let mut expected = BTreeMap::new();
        for runtime in found {
            *expected.entry(runtime.name().to_owned()).or_default() += 1;
        }
        Self {
            expected,
            sides: BTreeMap::new(),
        }
    }

    /// Takes what the monitor told. Once every runtime of a name has said what runs in it: the name and all of that.
    pub(crate) fn hear(&mut self, event: &MonitorEvent) -> Option<(String, BTreeSet<WorkloadId>)> {
        match event {
            MonitorEvent::Synced {
                runtime,
                info,
                running,
            } => {
                let runtime = self.sides.entry(*runtime).or_default();
                runtime.runtime = NodeRuntime {
                    name: info.name.clone(),
                    version: info.version.clone(),
                    location: info.location.clone(),
                    connected: true,
                };
                runtime.running.clone_from(running);
                self.all_of(&info.name)
            }
            MonitorEvent::Runtime { runtime, event, .. } => {
                match (event.kind, event.subject.parse::<WorkloadId>()) {
                    (EventKind::SocketError, _) => {
                        if let Some(side) = self.sides.get_mut(runtime) {
                            side.runtime.connected = false;
                        }
                    }
                    (EventKind::Start, Ok(id)) => {
                        self.sides.entry(*runtime).or_default().running.insert(id);
                    }
                    (EventKind::Stop | EventKind::Delete, Ok(id)) => {
                        for side in self.sides.values_mut() {
                            side.running.remove(&id);
                        }
                    }
                    _ => {}
                }
                None
            }
        }
    }

    /// For the node's own description.
    pub(crate) fn facts(&self) -> Vec<NodeRuntime> {
        let known = self.sides.values().map(|side| &side.runtime);
        known
            .filter(|runtime| !runtime.name.is_empty())
            .cloned()
            .collect()
    }

    fn all_of(&self, name: &str) -> Option<(String, BTreeSet<WorkloadId>)> {
        let of_name = || self.sides.values().filter(|side| side.runtime.name == name);
        // One that has not spoken yet may run what an agent before this one stored.
        if of_name().count() < self.expected.get(name).copied().unwrap_or_default() {
            return None;
        }
        let running = of_name().flat_map(|side| side.running.iter().cloned());
        Some((name.to_owned(), running.collect()))
    }
}

#[cfg(test)]
mod tests {
    use nv_runtime::{DiscoverOptions, Location, RuntimeEvent, RuntimeInfo, discover};
    use nv_types::Timestamp;

    use super::*;

    fn synced(runtime: usize, running: &[&str]) -> MonitorEvent {
        MonitorEvent::Synced {
            runtime,
            info: RuntimeInfo {
                name: "docker".into(),
                version: "28".into(),
                location: "/s".into(),
                capabilities: BTreeSet::new(),
            },
            running: running.iter().map(|id| id.parse().unwrap()).collect(),
        }
    }

    fn told(runtime: usize, kind: EventKind, subject: &str) -> MonitorEvent {
        MonitorEvent::Runtime {
            runtime,
            event: RuntimeEvent {
                kind,
                subject: subject.into(),
                at: Timestamp(1),
            },
            workload: None,
        }
    }

    #[test]
    fn two_runtimes_of_one_name_are_believed_together() {
        let found = discover(&DiscoverOptions {
            docker: Location::Each(vec!["/a".into(), "/b".into()]),
            ..DiscoverOptions::nothing()
        });
        let mut runtimes = Runtimes::expecting(&found);
        assert_eq!(runtimes.hear(&synced(0, &["a1"])), None, "the other may run more");
        runtimes.hear(&told(0, EventKind::Start, "a2"));
        runtimes.hear(&told(0, EventKind::Stop, "a1"));
        let (name, running) = runtimes.hear(&synced(1, &["b1"])).unwrap();
        let running: Vec<_> = running.iter().map(WorkloadId::as_str).collect();
        assert_eq!((name.as_str(), running), ("docker", vec!["a2", "b1"]));
        runtimes.hear(&told(1, EventKind::SocketError, "gone"));
        let connected: Vec<_> = runtimes.facts().iter().map(|runtime| runtime.connected).collect();
        assert_eq!(connected, [true, false]);
    }
}
