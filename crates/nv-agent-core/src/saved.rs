//! What a saved policy says, without putting it in force.

use nv_policy::{PolicyState, decode};
use nv_types::{Mode, NodeId, Workload, keys};

use crate::naming;

/// The mode that these keys and values of the store give to a workload as a runtime found it. Without a workload: the strictest that there is.
#[must_use]
pub fn saved_mode<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    workload: Option<&Workload>,
) -> Option<Mode> {
    let mut state = PolicyState::default();
    state.resync(entries);
    let input = state.input();
    match workload {
        Some(workload) => {
            let mut workload = workload.clone();
            naming::settle(&mut workload);
            input.mode_of(&workload)
        }
        None => {
            let settings = [Some(input.settings.new_service_mode), input.settings.network_mode];
            input
                .modes
                .values()
                .copied()
                .chain(settings.into_iter().flatten())
                .max()
        }
    }
}

/// The workloads of a node that these keys and values name, of one runtime.
#[must_use]
pub fn saved_workloads<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    node: &NodeId,
    runtime: &str,
) -> Vec<Workload> {
    let own = keys::workloads_of(node);
    entries
        .into_iter()
        .filter(|(key, _)| key.starts_with(&own))
        .filter_map(|(key, value)| decode::<Workload>(key, value).ok())
        .filter(|workload| workload.runtime == runtime)
        .collect()
}

#[cfg(test)]
mod tests {
    use nv_policy::{StoredMode, encode};

    use super::*;

    #[test]
    fn the_mode_of_a_service_and_the_workloads_of_a_runtime() {
        let node: NodeId = "n1".parse().unwrap();
        let mut oci = Workload::new("a".parse().unwrap(), node.clone(), "team/web");
        oci.runtime = "oci".into();
        let docker = Workload {
            runtime: "docker".into(),
            ..Workload::new("b".parse().unwrap(), node.clone(), "db")
        };
        let mut entries = vec![(
            keys::mode(&"nv.team:web".parse().unwrap()),
            encode("", &StoredMode { mode: Mode::Protect }).unwrap(),
        )];
        for workload in [&oci, &docker] {
            let key = keys::workload(&node, &workload.id);
            entries.push((key.clone(), encode(&key, workload).unwrap()));
        }
        let entries = || {
            entries
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice()))
        };
        assert_eq!(
            saved_mode(entries(), Some(&oci)),
            Some(Mode::Protect),
            "by the name it will get"
        );
        assert_eq!(saved_mode(entries(), Some(&docker)), Some(Mode::Discover));
        assert_eq!(saved_mode(entries(), None), Some(Mode::Protect));
        assert_eq!(saved_mode([], None), Some(Mode::Discover));
        assert_eq!(saved_workloads(entries(), &node, "oci"), [oci]);
        assert_eq!(saved_workloads(entries(), &"n2".parse().unwrap(), "oci"), []);
    }
}
