//! Policy images by hand: peers with a class, rules per pair, the rest by default.

use std::net::IpAddr;

use nv_dp::{DatapathConfig, EndpointSpec};
use nv_types::{
    AddressEntry, AppMask, Application, Chain, ChainEntry, Decision, DecisionId, Direction, Identity,
    IpPrefix, IpProto, LocalEntry, Mode, PairEntry, PolicyImage, PortEntry, PortTableId, Reason, Revision,
    RuleId, Verdict, WorkloadId,
};

pub const LOCAL: Identity = Identity(1);
pub const EXTERNAL: Identity = Identity(2);
pub const FRIEND: Identity = Identity(3);

pub fn rule(verdict: Verdict, id: u32) -> Decision {
    Decision {
        verdict,
        reason: Reason::Rule,
        rule: RuleId(id),
    }
}

pub fn default_for(mode: Mode) -> Decision {
    let verdict = match mode {
        Mode::Discover => Verdict::Allow,
        Mode::Monitor => Verdict::Alert,
        Mode::Protect => Verdict::Deny,
    };
    Decision::implicit(verdict, Reason::Default)
}

pub fn config() -> DatapathConfig {
    DatapathConfig {
        unknown: Verdict::Allow,
        failsafe_ports: vec![],
        failsafe_addresses: vec![],
        ..DatapathConfig::default()
    }
}

pub fn workload(name: &str) -> WorkloadId {
    WorkloadId::try_new(name).unwrap()
}

pub fn endpoint(ifindex: u32, name: &str, addresses: &[&str]) -> EndpointSpec {
    EndpointSpec {
        ifindex,
        name: name.into(),
        workload: Some(workload("web")),
        mac: None,
        addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
        quarantine: false,
    }
}

/// Protocol, port (none: all), and the chain for it.
pub type PortRule<'a> = (IpProto, Option<u16>, &'a [(AppMask, Decision)]);

/// One policed workload `web` with peers `EXTERNAL` (everything) and `FRIEND`.
pub struct Builder {
    mode: Mode,
    image: PolicyImage,
}

impl Builder {
    pub fn new(mode: Mode) -> Self {
        let mut builder = Self {
            mode,
            image: PolicyImage {
                revision: Revision(1),
                ..PolicyImage::default()
            },
        };
        builder.image.locals.push(LocalEntry {
            workload: workload("web"),
            identity: LOCAL,
            mode,
        });
        builder.image.addresses.push(AddressEntry {
            prefix: IpPrefix::ALL,
            identity: EXTERNAL,
        });
        let fallback = default_for(mode);
        let decision = builder.chain(&[(AppMask::ANY, fallback)]);
        let table = builder.table(decision);
        for direction in [Direction::Ingress, Direction::Egress] {
            builder.pair(direction, Identity::ANY, table);
        }
        builder
    }

    pub fn revision(mut self, revision: u64) -> Self {
        self.image.revision = Revision(revision);
        self
    }

    /// This address is a friend's.
    pub fn friend(mut self, addr: &str) -> Self {
        let addr: IpAddr = addr.parse().unwrap();
        self.image.addresses.push(AddressEntry {
            prefix: IpPrefix::host(addr),
            identity: FRIEND,
        });
        self
    }

    /// With friends, in this direction, on this protocol and port: the chain; a chain must end with any application.
    pub fn rules(mut self, direction: Direction, rules: &[PortRule<'_>]) -> Self {
        let fallback = default_for(self.mode);
        let decision = self.chain(&[(AppMask::ANY, fallback)]);
        let table = self.table(decision);
        for (proto, port, chain) in rules {
            let decision = self.chain(chain);
            let (port, prefix_len) = port.map_or((0, 8), |port| (port, 24));
            self.image.ports.push(PortEntry {
                table,
                proto: *proto,
                port,
                prefix_len,
                decision,
            });
        }
        self.pair(direction, FRIEND, table);
        self
    }

    /// One rule for one port, any application.
    pub fn port(self, direction: Direction, proto: IpProto, port: u16, decision: Decision) -> Self {
        self.rules(direction, &[(proto, Some(port), &[(AppMask::ANY, decision)])])
    }

    pub fn build(mut self) -> PolicyImage {
        self.image.addresses.sort();
        self.image.pairs.sort();
        self.image.ports.sort();
        self.image
    }

    fn chain(&mut self, entries: &[(AppMask, Decision)]) -> DecisionId {
        let id = DecisionId(self.image.decisions.len().try_into().unwrap());
        let entries = entries.iter().map(|(apps, decision)| ChainEntry {
            apps: *apps,
            decision: *decision,
        });
        self.image.decisions.push(Chain(entries.collect()));
        id
    }

    fn table(&mut self, decision: DecisionId) -> PortTableId {
        let table = PortTableId(self.image.pairs.len().try_into().unwrap());
        self.image.ports.push(PortEntry {
            table,
            proto: IpProto(0),
            port: 0,
            prefix_len: 0,
            decision,
        });
        table
    }

    fn pair(&mut self, direction: Direction, peer: Identity, ports: PortTableId) {
        self.image.pairs.push(PairEntry {
            local: LOCAL,
            direction,
            peer,
            ports,
        });
    }
}

pub fn only(app: Application) -> AppMask {
    AppMask::NONE.with(app)
}
