//! Flows: five-tuples, oriented client to server, with what became of them.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use crate::{Application, Decision, Direction, IpProto, NodeId, Timestamp, WorkloadId};

/// One conversation's addresses, oriented: the client opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FiveTuple {
    /// Protocol.
    pub proto: IpProto,
    /// Who opened it.
    pub client: IpAddr,
    /// Client's port, or the ICMP identifier.
    pub client_port: u16,
    /// Who was asked.
    pub server: IpAddr,
    /// Server's port, 0 for protocols without ports.
    pub server_port: u16,
}

impl fmt::Display for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = SocketAddr::new(self.client, self.client_port);
        let server = SocketAddr::new(self.server, self.server_port);
        write!(f, "{} {client} -> {server}", self.proto)
    }
}

/// Who is at one end of a flow, as far as the node that saw it can tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase", tag = "kind", content = "id")
)]
pub enum Peer {
    /// A workload.
    Workload(WorkloadId),
    /// A node's own address.
    Node(NodeId),
    /// Neither.
    External,
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[repr(u8)]
pub enum FlowState {
    /// Its first packet was seen.
    New = 0,
    /// Goes on: counters, application or verdict have changed.
    Active = 1,
    /// Has ended: FIN both ways, RST, or idle for too long.
    Closed = 2,
}

/// One flow as one endpoint saw it. Counters are totals since its start.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FlowRecord {
    /// Node that saw it.
    pub node: NodeId,
    /// Workload whose endpoint saw it.
    pub workload: WorkloadId,
    /// Whether that workload is the client (egress) or the server (ingress).
    pub direction: Direction,
    /// Addresses.
    pub tuple: FiveTuple,
    /// Who the client is.
    pub client: Peer,
    /// Who the server is.
    pub server: Peer,
    /// Application; `None` while it is not known yet.
    pub application: Option<Application>,
    /// Verdict in force and why.
    pub decision: Decision,
    /// Life.
    pub state: FlowState,
    /// Packets from client to server.
    pub packets_to_server: u64,
    /// Packets from server to client.
    pub packets_to_client: u64,
    /// Bytes from client to server, link-layer headers included.
    pub bytes_to_server: u64,
    /// Bytes from server to client, link-layer headers included.
    pub bytes_to_client: u64,
    /// First packet.
    pub first_seen: Timestamp,
    /// Last packet.
    pub last_seen: Timestamp,
}
