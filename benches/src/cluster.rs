//! A cluster's policy of any size: services in tiers and teams, rules as people write and learn them.
//!
//! Of a hundred rules eighty are between two services, ten let a team's workloads reach a service, eight let a service reach a range
//! of outside addresses, two let a service reach a team. Four rules speak of all workloads. Everything is in Protect but
//! one service in ten, which is in Monitor, and one in twenty, in Discover. All workloads are on one node: its image is that
//! of the whole cluster, more than any real node has to hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use nv_policy::{Book, PolicyInput};
use nv_types::{
    Action, Criterion, CriterionOp, Group, GroupKind, GroupName, Interface, InvalidId, InvalidPorts, IpProto,
    Mode, NodeId, PortSpec, Rule, RuleId, Tier, Timestamp, Workload, WorkloadId,
};

/// Sizes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Workloads.
    pub workloads: u32,
    /// Services.
    pub services: u32,
    /// Rules.
    pub rules: u32,
}

impl Size {
    /// The smaller size that figures are given for.
    pub const TEN_THOUSAND: Self = Self {
        workloads: 10_000,
        services: 1_000,
        rules: 10_000,
    };
    /// The larger one.
    pub const HUNDRED_THOUSAND: Self = Self {
        workloads: 100_000,
        services: 5_000,
        rules: 50_000,
    };

    /// The larger size divided.
    #[must_use]
    pub const fn part(divisor: u32) -> Self {
        let whole = Self::HUNDRED_THOUSAND;
        Self {
            workloads: whole.workloads / divisor,
            services: whole.services / divisor,
            rules: whole.rules / divisor,
        }
    }
}

/// A name or ports that the generator made and the types refuse.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A name.
    #[error(transparent)]
    Name(#[from] InvalidId),
    /// Ports.
    #[error(transparent)]
    Ports(#[from] InvalidPorts),
}

/// Name of the node that has all workloads.
pub const NODE: &str = "n1";
const SERVICES_A_TEAM: u32 = 50;
const RANGES: u32 = 200;

/// The workload of this number, of a cluster of so many services.
///
/// # Errors
/// [`ClusterError`] if the generator is wrong.
pub fn workload(number: u32, services: u32) -> Result<Workload, ClusterError> {
    let [_, a, b, c] = number.to_be_bytes();
    let service = number % services;
    let label = |key: &str, value: String| (key.to_owned(), value);
    Ok(Workload {
        name: format!("s{service}-{number}"),
        runtime: "bench".into(),
        domain: format!("d{}", service % 20),
        image: format!("shop/s{service}:1"),
        labels: BTreeMap::from([
            label("app", format!("s{service}")),
            label("team", format!("t{}", service / SERVICES_A_TEAM)),
            label("tier", ["web", "app", "db"][service as usize % 3].to_owned()),
        ]),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            host_index: Some(number + 10),
            addresses: vec![(IpAddr::V4(Ipv4Addr::new(10, a, b, c)), 8)],
            ..Interface::default()
        }],
        started: Timestamp(u64::from(number)),
        ..Workload::new(
            WorkloadId::try_new(format!("{number:08x}"))?,
            NodeId::try_new(NODE)?,
            format!("s{service}"),
        )
    })
}

fn group(name: &str, kind: GroupKind, key: &str, value: &str) -> Result<Group, ClusterError> {
    Ok(Group {
        name: GroupName::try_new(name)?,
        kind,
        origin: Some(Tier::User),
        comment: String::new(),
        domain: String::new(),
        criteria: vec![Criterion {
            key: key.into(),
            value: value.into(),
            op: CriterionOp::Equal,
        }],
    })
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u32) -> u32 {
        // PCG's multiplier (O'Neill 2014); the upper bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(limit)).unwrap_or(0)
    }
}

/// The policy of a cluster.
///
/// # Errors
/// [`ClusterError`] if the generator is wrong.
pub fn policy(size: Size) -> Result<PolicyInput, ClusterError> {
    let mut input = PolicyInput::default();
    for number in 0..size.workloads {
        let workload = workload(number, size.services)?;
        if let Some(service) = input.add_service_group(&workload) {
            let mode = match number % 20 {
                0 => Mode::Discover,
                1 | 11 => Mode::Monitor,
                _ => Mode::Protect,
            };
            input.modes.insert(service, mode);
        }
        input.workloads.insert(workload.id.clone(), workload);
    }
    let teams = size.services.div_ceil(SERVICES_A_TEAM);
    for team in 0..teams {
        let group = group(
            &format!("team-{team}"),
            GroupKind::Container,
            "team",
            &format!("t{team}"),
        )?;
        input.groups.insert(group.name.clone(), group);
    }
    for range in 0..RANGES {
        let group = group(
            &format!("range-{range}"),
            GroupKind::Address,
            "address",
            &format!("172.{}.{}.0/24", 16 + range / 100, range % 100),
        )?;
        input.groups.insert(group.name.clone(), group);
    }
    let mut numbers = Numbers(1);
    for number in 0..size.rules {
        let mut service = || {
            let service = numbers.below(size.services);
            format!("nv.s{service}.d{}", service % 20)
        };
        let (one, other) = (service(), service());
        let (from, to) = match number % 100 {
            // Four rules of all, however many there are.
            0 if number / 100 < 2 => ("containers".to_owned(), other),
            0 if number / 100 < 4 => (one, "containers".to_owned()),
            0..80 => (one, other),
            80..90 => (format!("team-{}", numbers.below(teams)), other),
            90..98 => (one, format!("range-{}", numbers.below(RANGES))),
            _ => (one, format!("team-{}", numbers.below(teams))),
        };
        let port = [80, 443, 8080, 5432, 6379, 9090, 9100, 3306][numbers.below(8) as usize];
        let ports = match numbers.below(10) {
            0 => "any".to_owned(),
            1 => format!("tcp/{port},udp/53"),
            2 => "tcp/8000-8100".to_owned(),
            _ => format!("tcp/{port}"),
        };
        let action = if numbers.below(20) == 0 {
            Action::Deny
        } else {
            Action::Allow
        };
        input.rules.push(Rule {
            // Learned rules: the range that has room for all.
            id: RuleId(RuleId::LEARNED.0 + number),
            comment: String::new(),
            from: GroupName::try_new(&from)?,
            to: GroupName::try_new(&to)?,
            ports: ports.parse()?,
            applications: Vec::new(),
            action,
            disable: false,
            created: Timestamp(0),
            modified: Timestamp(0),
        });
    }
    Ok(input)
}

/// Lines that rules become when each pair of addresses and each item of ports has its own, as in NeuVector's enforcer.
#[must_use]
pub fn lines_by_address(input: &PolicyInput) -> u64 {
    let book = Book::new(input);
    let mut members: BTreeMap<GroupName, u64> = BTreeMap::new();
    for workload in input.workloads.values() {
        let addresses = workload.peer_addresses().count() as u64;
        for group in book.workload(workload).groups {
            *members.entry(group).or_default() += addresses;
        }
    }
    let size = |group: &GroupName| {
        let outside = input
            .groups
            .get(group)
            .is_some_and(|group| group.kind == GroupKind::Address);
        // A range stays one line.
        if outside {
            1
        } else {
            members.get(group).copied().unwrap_or(0)
        }
    };
    input
        .rules
        .iter()
        .map(|rule| size(&rule.from) * size(&rule.to) * rule.ports.specs().len() as u64)
        .sum()
}

/// Flows between random workloads, half of them to a port and a peer that some rule names.
///
/// # Errors
/// [`ClusterError`] if the generator is wrong.
pub fn flows(input: &PolicyInput, count: u32) -> Result<Vec<Flow>, ClusterError> {
    let mut numbers = Numbers(7);
    let workloads: Vec<&Workload> = input.workloads.values().collect();
    let mut by_service: BTreeMap<GroupName, &Workload> = BTreeMap::new();
    for workload in &workloads {
        by_service.extend(workload.service_group().map(|service| (service, *workload)));
    }
    let total = u32::try_from(workloads.len()).unwrap_or(u32::MAX);
    let mut flows = Vec::new();
    for number in 0..count {
        let rule = &input.rules[numbers.below(u32::try_from(input.rules.len()).unwrap_or(1)) as usize];
        let named = (by_service.get(&rule.from), by_service.get(&rule.to));
        let (client, server) = match named {
            (Some(client), Some(server)) if number % 2 == 0 => (*client, *server),
            _ => (
                workloads[numbers.below(total) as usize],
                workloads[numbers.below(total) as usize],
            ),
        };
        let (proto, port) = match rule.ports.specs().first() {
            Some(PortSpec::Ports(proto, range)) => (*proto, range.first),
            _ => (IpProto::TCP, 80),
        };
        let Some(address) = client.peer_addresses().next() else {
            continue;
        };
        flows.push(Flow {
            client: client.clone(),
            server: server.clone(),
            address,
            proto,
            port,
        });
    }
    Ok(flows)
}

/// A flow to ask for.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Who opens it.
    pub client: Workload,
    /// Who is asked.
    pub server: Workload,
    /// The client's address.
    pub address: IpAddr,
    /// Protocol.
    pub proto: IpProto,
    /// The server's port.
    pub port: u16,
}
