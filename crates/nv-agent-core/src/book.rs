//! Who is at an address, for flow records.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nv_policy::PolicyInput;
use nv_types::{NodeId, Peer, WorkloadId, WorkloadState, v4_mapped};

/// Addresses of workloads and nodes.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    workloads: BTreeMap<[u8; 16], WorkloadId>,
    nodes: BTreeMap<[u8; 16], NodeId>,
}

impl AddressBook {
    pub(crate) fn new(input: &PolicyInput) -> Self {
        let mut book = Self::default();
        for node in input.nodes.values() {
            for address in &node.addresses {
                book.nodes.insert(v4_mapped(*address), node.id.clone());
            }
        }
        let running = input
            .workloads
            .values()
            .filter(|w| w.state == WorkloadState::Running && !w.host_network);
        for workload in running {
            for address in workload.peer_addresses() {
                book.workloads.insert(v4_mapped(address), workload.id.clone());
            }
        }
        book
    }

    pub(crate) fn peer(&self, address: IpAddr) -> Peer {
        let key = v4_mapped(address);
        if let Some(workload) = self.workloads.get(&key) {
            return Peer::Workload(workload.clone());
        }
        self.nodes
            .get(&key)
            .map_or(Peer::External, |node| Peer::Node(node.clone()))
    }
}
