//! One policy of any size, for nv and for nftables: a client may reach a server by one rule, the last of all.
//!
//! The other rules speak of the same client and server: half let two hundred other services reach the server, half
//! let the client reach them, each by a port of its own. So every rule costs something: a line to walk for
//! nftables, entries in the tables of the endpoints under test for nv.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use nv_types::{
    Action, Criterion, CriterionOp, Group, GroupKind, GroupName, Interface, InvalidId, InvalidPorts, Mode,
    Node, NodeId, Rule, RuleId, Tier, Timestamp, Workload, WorkloadId,
};

use crate::traffic::{BULK_PORT, CONNECT_PORT, Ends, UDP_PORT};

/// Other services.
pub const PEERS: usize = 200;
/// First rule id: the range with room for 10,000 rules.
const FIRST_RULE: u32 = RuleId::LEARNED.0;
/// First port of the other rules; all of them are below the ephemeral ports and above those of the measurements.
const FIRST_PORT: usize = 6000;
/// Ports of the other rules.
const PORTS: usize = 26_000;

/// What a controller would know.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The node under test, and the one where everybody else is.
    pub nodes: Vec<Node>,
    /// Client, server, and the others.
    pub workloads: Vec<Workload>,
    /// A group for each of them, and the services of client and server.
    pub groups: Vec<Group>,
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// Client and server are in Protect.
    pub modes: BTreeMap<GroupName, Mode>,
    addresses: BTreeMap<GroupName, Ipv4Addr>,
}

/// Text that the generator made and the types refuse.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A name.
    #[error(transparent)]
    Name(#[from] InvalidId),
    /// Ports.
    #[error(transparent)]
    Ports(#[from] InvalidPorts),
}

/// Id of the client's workload.
pub const CLIENT: &str = "bench-client";
/// Id of the server's workload.
pub const SERVER: &str = "bench-server";
/// Node under test.
pub const NODE: &str = "bench";

impl Scenario {
    /// A policy of this many rules, at least one.
    ///
    /// # Errors
    /// [`ScenarioError`] if the generator is wrong.
    pub fn new(ends: &Ends, rules: usize) -> Result<Self, ScenarioError> {
        let here = NodeId::try_new(NODE)?;
        let elsewhere = NodeId::try_new("elsewhere")?;
        let mut scenario = Self {
            nodes: vec![
                node(&here, [10, 223, 0, 1].into()),
                node(&elsewhere, [10, 223, 0, 2].into()),
            ],
            workloads: Vec::new(),
            groups: Vec::new(),
            rules: Vec::new(),
            modes: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        scenario.add(CLIENT, &here, ends.client_addr)?;
        scenario.add(SERVER, &here, ends.server_addr)?;
        for peer in 0..PEERS {
            let [high, low] = u16::try_from(peer + 1).unwrap_or(u16::MAX).to_be_bytes();
            scenario.add(
                &format!("peer-{peer}"),
                &elsewhere,
                Ipv4Addr::new(10, 222, high, low),
            )?;
        }
        let group = |name: &str| GroupName::try_new(name);
        for number in 0..rules.saturating_sub(1) {
            let peer = group(&format!("peer-{}", number / 2 % PEERS))?;
            let ports = format!("tcp/{}", FIRST_PORT + number % PORTS);
            let (from, to) = if number % 2 == 0 {
                (peer, group(SERVER)?)
            } else {
                (group(CLIENT)?, peer)
            };
            scenario.push(from, to, &ports)?;
        }
        let measured = format!("tcp/{BULK_PORT}-{CONNECT_PORT},udp/{UDP_PORT}");
        scenario.push(group(CLIENT)?, group(SERVER)?, &measured)?;
        Ok(scenario)
    }

    fn add(&mut self, name: &str, node: &NodeId, address: Ipv4Addr) -> Result<(), ScenarioError> {
        let workload = workload(name, node, address)?;
        if let Some(service) = workload.service_group() {
            self.groups
                .push(group(service.clone(), Some(Tier::Learned), "service", name));
            self.modes.insert(service, Mode::Protect);
        }
        let own = GroupName::try_new(name)?;
        self.groups
            .push(group(own.clone(), Some(Tier::User), "app", name));
        self.addresses.insert(own, address);
        self.workloads.push(workload);
        Ok(())
    }

    fn push(&mut self, from: GroupName, to: GroupName, ports: &str) -> Result<(), ScenarioError> {
        let id = FIRST_RULE + u32::try_from(self.rules.len()).unwrap_or(u32::MAX - FIRST_RULE);
        self.rules.push(Rule {
            id: RuleId(id),
            comment: String::new(),
            from,
            to,
            ports: ports.parse()?,
            applications: Vec::new(),
            action: Action::Allow,
            disable: false,
            created: Timestamp(0),
            modified: Timestamp(0),
        });
        Ok(())
    }

    /// The same policy for the server's own namespace: connections that exist pass by the first line, a new one walks
    /// the rules in their order, what none of them allows is dropped.
    #[must_use]
    pub fn nftables(&self) -> String {
        let mut text = String::from(
            "table inet nvbench {\n chain input {\n  type filter hook input priority filter; policy drop;\n\
             \x20 ct state established,related accept\n  iif lo accept\n",
        );
        for rule in &self.rules {
            let address = |group| {
                self.addresses
                    .get(group)
                    .copied()
                    .unwrap_or(Ipv4Addr::UNSPECIFIED)
            };
            for ports in rule.ports.specs() {
                let (proto, ports) = match ports {
                    nv_types::PortSpec::Ports(proto, range) => {
                        (proto, format!("{}-{}", range.first, range.last))
                    }
                    nv_types::PortSpec::Any | nv_types::PortSpec::Icmp => continue,
                };
                let (from, to) = (address(&rule.from), address(&rule.to));
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "  ip saddr {from} ip daddr {to} {proto} dport {ports} accept"
                );
            }
        }
        text.push_str(" }\n}\n");
        text
    }
}

fn node(id: &NodeId, address: IpAddr) -> Node {
    Node {
        id: id.clone(),
        addresses: vec![address],
        agent_endpoint: String::new(),
        version: String::new(),
        kernel: String::new(),
        hook: String::new(),
        revision: nv_types::Revision(0),
        endpoints: 0,
        degraded: Vec::new(),
        lost_events: BTreeMap::new(),
        seen: Timestamp(0),
        started: Timestamp(0),
    }
}

fn workload(name: &str, node: &NodeId, address: Ipv4Addr) -> Result<Workload, ScenarioError> {
    Ok(Workload {
        id: WorkloadId::try_new(name)?,
        name: name.into(),
        node: node.clone(),
        runtime: "netns".into(),
        service: name.into(),
        domain: String::new(),
        image: String::new(),
        labels: BTreeMap::from([("app".into(), name.into())]),
        namespace_labels: BTreeMap::new(),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            mac: None,
            host_index: None,
            host_name: None,
            addresses: vec![(address.into(), 24)],
        }],
        published: Vec::new(),
        netns: 0,
        pid: 0,
        host_network: false,
        privileged: false,
        state: nv_types::WorkloadState::Running,
        created: Timestamp(0),
        started: Timestamp(0),
    })
}

fn group(name: GroupName, origin: Option<Tier>, key: &str, value: &str) -> Group {
    let criterion = Criterion {
        key: key.into(),
        value: value.into(),
        op: CriterionOp::Equal,
    };
    Group {
        name,
        kind: GroupKind::Container,
        origin,
        comment: String::new(),
        domain: String::new(),
        criteria: vec![criterion],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Ends {
        Ends {
            client: "/c".into(),
            server: "/s".into(),
            client_addr: [10, 0, 0, 1].into(),
            server_addr: [10, 0, 0, 2].into(),
        }
    }

    #[test]
    fn both_forms_have_every_rule_and_the_measured_one_last() {
        for count in [1, 10, 1000, 10_000] {
            let scenario = Scenario::new(&ends(), count).unwrap();
            assert_eq!(scenario.rules.len(), count);
            let last = scenario.rules.last().unwrap();
            assert_eq!((last.from.as_str(), last.to.as_str()), (CLIENT, SERVER));
            let text = scenario.nftables();
            // The last rule has two lines: TCP and UDP.
            assert_eq!(text.matches("ip saddr").count(), count + 1);
            assert!(text.contains("ip saddr 10.0.0.1 ip daddr 10.0.0.2 tcp dport 5201-5202 accept"));
            assert!(text.contains("ip saddr 10.0.0.1 ip daddr 10.0.0.2 udp dport 5203-5203 accept"));
        }
    }
}
