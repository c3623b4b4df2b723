//! A store of three lines under a controller, and short ways to say what a test is about.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nv_controller_core::{CommandError, Controller, CriterionDraft, GroupDraft, Plan, RuleDraft};
use nv_policy::encode;
use nv_types::{
    Application, Decision, Direction, FiveTuple, FlowRecord, FlowState, Interface, IpProto, Mode, Node, Peer,
    Reason, Revision, RuleId, Timestamp, Verdict, Workload, keys,
};

pub(crate) const NOW: Timestamp = Timestamp(1_000_000_000_000);
pub(crate) const SECOND: u64 = 1_000_000_000;

/// A moment after [`NOW`].
pub(crate) const fn later(seconds: u64) -> Timestamp {
    Timestamp(NOW.0 + seconds * SECOND)
}

#[derive(Default)]
pub(crate) struct Lab {
    pub(crate) core: Controller,
    pub(crate) store: BTreeMap<String, (Vec<u8>, Revision)>,
    pub(crate) revision: u64,
}

impl Lab {
    /// Services `web`, `app` and `db`, one workload each, known to the policy; `web` and `app` also as user groups.
    pub(crate) fn with_services() -> Self {
        let mut lab = Self::default();
        for (at, name) in ["web", "app", "db"].into_iter().enumerate() {
            lab.put_workload(&workload(name, name, &format!("10.0.0.{}", at + 2)));
        }
        lab.settle(NOW);
        lab
    }

    /// Writes a plan the way a store does: all conditions hold, or nothing happens.
    pub(crate) fn commit(&mut self, plan: &Plan) -> Result<(), String> {
        for (key, expected) in &plan.conditions {
            if self.store.get(key).map(|(_, revision)| *revision) != *expected {
                return Err(key.clone());
            }
        }
        if plan.is_empty() {
            return Ok(());
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        for (key, value) in &plan.puts {
            self.store.insert(key.clone(), (value.clone(), revision));
            self.core.store_put(key, value, revision);
        }
        for key in &plan.deletes {
            self.store.remove(key);
            self.core.store_delete(key, revision);
        }
        Ok(())
    }

    /// Makes a change that must succeed.
    #[track_caller]
    pub(crate) fn make(
        &mut self,
        request: impl FnOnce(&Controller) -> Result<Plan, CommandError>,
    ) -> Vec<String> {
        let plan = request(&self.core).unwrap();
        self.commit(&plan).unwrap();
        plan.summary
    }

    /// Asks for a change that must be refused, and gives the message.
    #[track_caller]
    pub(crate) fn refused(
        &self,
        request: impl FnOnce(&Controller) -> Result<Plan, CommandError>,
    ) -> CommandError {
        let before = self.core.input().clone();
        let error = request(&self.core).unwrap_err();
        assert_eq!(*self.core.input(), before);
        error
    }

    pub(crate) fn put(&mut self, key: &str, value: &[u8]) {
        self.revision += 1;
        self.store
            .insert(key.to_owned(), (value.to_vec(), Revision(self.revision)));
        self.core.store_put(key, value, Revision(self.revision));
    }

    pub(crate) fn delete(&mut self, key: &str) {
        self.revision += 1;
        self.store.remove(key);
        self.core.store_delete(key, Revision(self.revision));
    }

    pub(crate) fn put_workload(&mut self, workload: &Workload) {
        let key = keys::workload(&workload.node, &workload.id);
        self.put(&key, &encode(&key, workload).unwrap());
    }

    pub(crate) fn put_node(&mut self, node: &Node) {
        let key = keys::node(&node.id);
        self.put(&key, &encode(&key, node).unwrap());
    }

    /// Lets the controller do what it wants of its own accord; gives what it did.
    pub(crate) fn settle(&mut self, now: Timestamp) -> Vec<String> {
        let mut done = Vec::new();
        while let Some(plan) = self.core.poll_plan(now) {
            self.commit(&plan).unwrap();
            done.extend(plan.summary);
            assert!(done.len() < 10_000, "it comes to rest");
        }
        done
    }

    pub(crate) fn set_mode(&mut self, service: &str, mode: Mode) {
        self.make(|core| core.set_modes(&[service.to_owned()], mode, NOW));
    }

    /// A controller that reads the store anew.
    pub(crate) fn restarted(&self) -> Controller {
        let mut core = Controller::new();
        let entries = self
            .store
            .iter()
            .map(|(key, (value, revision))| (key.as_str(), value.as_slice(), *revision));
        core.store_resync(entries, Revision(self.revision));
        core
    }

    /// Rule ids in list order.
    pub(crate) fn order(&self) -> Vec<u32> {
        self.core.input().rules.iter().map(|rule| rule.id.0).collect()
    }
}

pub(crate) fn workload(id: &str, service: &str, address: &str) -> Workload {
    Workload {
        name: format!("{id}-name"),
        runtime: "test".into(),
        image: format!("{service}:1"),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            host_index: Some(7),
            addresses: vec![(address.parse().unwrap(), 24)],
            ..Interface::default()
        }],
        ..Workload::new(id.parse().unwrap(), "n1".parse().unwrap(), service)
    }
}

pub(crate) fn node(id: &str, revision: u64) -> Node {
    Node {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        agent_endpoint: "127.0.0.1:18401".into(),
        version: "0".into(),
        revision: Revision(revision),
        seen: NOW,
        started: NOW,
        ..Node::new(id.parse().unwrap())
    }
}

pub(crate) fn group(name: &str, criteria: &[(&str, &str, &str)]) -> GroupDraft {
    GroupDraft {
        name: name.into(),
        comment: String::new(),
        criteria: criteria
            .iter()
            .map(|(key, op, value)| CriterionDraft {
                key: (*key).into(),
                value: (*value).into(),
                op: (*op).into(),
            })
            .collect(),
    }
}

pub(crate) fn rule(from: &str, to: &str, ports: &str) -> RuleDraft {
    RuleDraft {
        from: from.into(),
        to: to.into(),
        ports: ports.into(),
        ..RuleDraft::default()
    }
}

/// A rule with a number, from `containers` to `external`.
pub(crate) fn numbered(id: u32) -> RuleDraft {
    RuleDraft {
        id,
        ..rule("containers", "external", "tcp/443")
    }
}

pub(crate) const LEARNABLE: Decision = decision(Verdict::Allow, 0);

pub(crate) const fn decision(verdict: Verdict, rule: u32) -> Decision {
    Decision {
        verdict,
        reason: if rule == 0 { Reason::Default } else { Reason::Rule },
        rule: RuleId(rule),
    }
}

/// Who is behind an address of the lab.
fn peer(address: IpAddr) -> (Peer, &'static str) {
    match address.to_string().as_str() {
        "10.0.0.2" => (Peer::Workload("web".parse().unwrap()), "web"),
        "10.0.0.3" => (Peer::Workload("app".parse().unwrap()), "app"),
        "10.0.0.4" => (Peer::Workload("db".parse().unwrap()), "db"),
        "192.0.2.1" => (Peer::Node("n1".parse().unwrap()), ""),
        _ => (Peer::External, ""),
    }
}

pub(crate) const WEB: &str = "10.0.0.2";
pub(crate) const APP: &str = "10.0.0.3";
pub(crate) const DB: &str = "10.0.0.4";
pub(crate) const NODE: &str = "192.0.2.1";
pub(crate) const OUTSIDE: &str = "198.51.100.7";

/// A TCP flow's record as one of its ends saw it.
pub(crate) fn flow(direction: Direction, client: &str, server: &str, port: u16) -> FlowRecord {
    let (client, server): (IpAddr, IpAddr) = (client.parse().unwrap(), server.parse().unwrap());
    let ((client_peer, client_id), (server_peer, server_id)) = (peer(client), peer(server));
    let seen_by = match direction {
        Direction::Egress => client_id,
        Direction::Ingress => server_id,
    };
    FlowRecord {
        node: "n1".parse().unwrap(),
        workload: seen_by.parse().unwrap(),
        direction,
        tuple: FiveTuple {
            proto: IpProto::TCP,
            client,
            client_port: 40_000,
            server,
            server_port: port,
        },
        client: client_peer,
        server: server_peer,
        application: None,
        decision: LEARNABLE,
        state: FlowState::New,
        packets_to_server: 1,
        packets_to_client: 1,
        bytes_to_server: 60,
        bytes_to_client: 40,
        first_seen: NOW,
        last_seen: NOW,
    }
}

pub(crate) fn egress(client: &str, server: &str, port: u16) -> FlowRecord {
    flow(Direction::Egress, client, server, port)
}

pub(crate) fn ingress(client: &str, server: &str, port: u16) -> FlowRecord {
    flow(Direction::Ingress, client, server, port)
}

pub(crate) fn as_app(record: FlowRecord, application: Application) -> FlowRecord {
    FlowRecord {
        application: Some(application),
        state: FlowState::Active,
        ..record
    }
}

pub(crate) fn judged(record: FlowRecord, decision: Decision) -> FlowRecord {
    FlowRecord { decision, ..record }
}
