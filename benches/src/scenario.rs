//! One policy of any size, for nv and for nftables: a client may reach a server by one rule, the last of all.
//!
//! The other rules speak of the same client and server: half let two hundred other services reach the server, half
//! let the client reach them, each by a port of its own. So every rule costs something: a line to walk for
//! nftables, entries in the tables of the endpoints under test for nv.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use nv_policy::PolicyInput;
use nv_types::{
    Action, Criterion, CriterionOp, Group, GroupKind, GroupName, Interface, InvalidId, InvalidPorts, Mode,
    Node, NodeId, PolicyImage, Revision, Rule, RuleId, Tier, Timestamp, Workload, WorkloadId,
};

use crate::traffic::{BULK_PORT, CONNECT_PORTS, Ends, UDP_PORT};

/// Other services.
pub const PEERS: usize = 200;
/// First rule id: the range with room for 10,000 rules.
const FIRST_RULE: u32 = RuleId::LEARNED.0;
/// First port of the other rules; all of them are below the ephemeral ports and above those of the measurements.
const FIRST_PORT: usize = 6000;
/// Ports of the other rules.
const PORTS: usize = 26_000;

/// A generated policy.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What a controller would know: client and server on the node under test, everybody else on another one; all in
    /// Protect.
    pub input: PolicyInput,
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
    /// The policy as a whole.
    #[error(transparent)]
    Compile(#[from] nv_policy::CompileError),
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
            input: PolicyInput::default(),
            addresses: BTreeMap::new(),
        };
        for (id, address) in [(&here, [10, 223, 0, 1]), (&elsewhere, [10, 223, 0, 2])] {
            scenario.input.nodes.insert(id.clone(), node(id, address.into()));
        }
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
        let measured = format!("tcp/{BULK_PORT}-{},udp/{UDP_PORT}", CONNECT_PORTS[1]);
        scenario.push(group(CLIENT)?, group(SERVER)?, &measured)?;
        Ok(scenario)
    }

    fn add(&mut self, name: &str, node: &NodeId, address: Ipv4Addr) -> Result<(), ScenarioError> {
        let workload = workload(name, node, address)?;
        if let Some(service) = self.input.add_service_group(&workload) {
            self.input.modes.insert(service, Mode::Protect);
        }
        let own = GroupName::try_new(name)?;
        self.input.groups.insert(own.clone(), group(own.clone(), name));
        self.addresses.insert(own, address);
        self.input.workloads.insert(workload.id.clone(), workload);
        Ok(())
    }

    fn push(&mut self, from: GroupName, to: GroupName, ports: &str) -> Result<(), ScenarioError> {
        let id = FIRST_RULE + u32::try_from(self.input.rules.len()).unwrap_or(u32::MAX - FIRST_RULE);
        self.input.rules.push(Rule {
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

    /// The policy as the node under test enforces it.
    ///
    /// # Errors
    /// When the compiler refuses it.
    pub fn compile(&self) -> Result<PolicyImage, ScenarioError> {
        let compiled = nv_policy::compile(&self.input, &NodeId::try_new(NODE)?, Revision(1))?;
        Ok(compiled.image)
    }

    /// The same policy for the server's own namespace: connections that exist pass by the first line, a new one walks
    /// the rules in their order, what none of them allows is dropped.
    #[must_use]
    pub fn nftables(&self) -> String {
        let mut text = String::from(
            "table inet nvbench {\n chain input {\n  type filter hook input priority filter; policy drop;\n\
             \x20 ct state established,related accept\n  iif lo accept\n",
        );
        for rule in &self.input.rules {
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

    /// The same once more as one map from (client, server, protocol, port) to a verdict: a new connection costs one lookup,
    /// however many rules there are. Ranges are written out port by port, so that the map is a hash.
    #[must_use]
    pub fn nftables_maps(&self) -> String {
        let mut elements = Vec::new();
        for rule in &self.input.rules {
            let address = |group| {
                self.addresses
                    .get(group)
                    .copied()
                    .unwrap_or(Ipv4Addr::UNSPECIFIED)
            };
            let (from, to) = (address(&rule.from), address(&rule.to));
            for ports in rule.ports.specs() {
                let nv_types::PortSpec::Ports(proto, range) = ports else {
                    continue;
                };
                for port in range.first..=range.last {
                    elements.push(format!("{from} . {to} . {proto} . {port} : accept"));
                }
            }
        }
        format!(
            "table inet nvbench {{\n map rules {{\n  type ipv4_addr . ipv4_addr . inet_proto . inet_service : verdict\n  elements = {{ {} }}\n }}\n\
             \x20chain input {{\n  type filter hook input priority filter; policy drop;\n  ct state established,related accept\n  iif lo accept\n\
             \x20 ip saddr . ip daddr . meta l4proto . th dport vmap @rules\n }}\n}}\n",
            elements.join(",\n   ")
        )
    }
}

fn node(id: &NodeId, address: IpAddr) -> Node {
    Node {
        addresses: vec![address],
        ..Node::new(id.clone())
    }
}

fn workload(name: &str, node: &NodeId, address: Ipv4Addr) -> Result<Workload, ScenarioError> {
    Ok(Workload {
        name: name.into(),
        runtime: "netns".into(),
        labels: BTreeMap::from([("app".into(), name.into())]),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            addresses: vec![(address.into(), 24)],
            ..Interface::default()
        }],
        ..Workload::new(WorkloadId::try_new(name)?, node.clone(), name)
    })
}

fn group(name: GroupName, label: &str) -> Group {
    let criterion = Criterion {
        key: "app".into(),
        value: label.into(),
        op: CriterionOp::Equal,
    };
    Group {
        name,
        kind: GroupKind::Container,
        origin: Some(Tier::User),
        comment: String::new(),
        domain: String::new(),
        criteria: vec![criterion],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nv_types::{Direction, IpProto, Verdict};

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
            assert_eq!(scenario.input.rules.len(), count);
            let last = scenario.input.rules.last().unwrap();
            assert_eq!((last.from.as_str(), last.to.as_str()), (CLIENT, SERVER));
            let text = scenario.nftables();
            // The last rule has two lines: TCP and UDP.
            assert_eq!(text.matches("ip saddr").count(), count + 1);
            assert!(text.contains("ip saddr 10.0.0.1 ip daddr 10.0.0.2 tcp dport 5201-5203 accept"));
            assert!(text.contains("ip saddr 10.0.0.1 ip daddr 10.0.0.2 udp dport 5204-5204 accept"));
            // Three ports of TCP and one of UDP.
            let maps = scenario.nftables_maps();
            assert_eq!(maps.matches(" : accept").count(), count + 3);
            assert!(maps.contains("10.0.0.1 . 10.0.0.2 . tcp . 5203 : accept"));
        }
    }

    #[test]
    fn the_compiled_policy_allows_what_is_measured_and_nothing_else() {
        let ends = ends();
        let server = WorkloadId::try_new(SERVER).unwrap();
        for count in [1, 10, 1000, 10_000] {
            let scenario = Scenario::new(&ends, count).unwrap();
            let image = scenario.compile().unwrap();
            let tables = nv_policy::Tables::new(&image);
            let judge = |proto, port| {
                let client = ends.client_addr.into();
                let judged = tables
                    .lookup(&server, Direction::Ingress, client, proto, port, None)
                    .unwrap();
                judged.decision().unwrap()
            };
            let last = scenario.input.rules.last().unwrap().id;
            for (proto, port) in [
                (IpProto::TCP, 5201),
                (IpProto::TCP, 5202),
                (IpProto::TCP, 5203),
                (IpProto::UDP, 5204),
            ] {
                let decision = judge(proto, port);
                assert_eq!((decision.verdict, decision.rule), (Verdict::Allow, last));
            }
            assert_eq!(judge(IpProto::TCP, 5205).verdict, Verdict::Deny);
        }
    }
}
