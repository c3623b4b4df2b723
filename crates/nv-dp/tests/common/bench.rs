//! One bench for both backends: a datapath, one endpoint, frames in, verdicts out.

use nv_dp::{
    Datapath, DatapathConfig, DatapathEvent, DatapathStatus, DirectionCounters, EbpfConfig, EbpfDatapath,
    EndpointSpec, FlowStats, SoftwareConfig, SoftwareDatapath,
};
use nv_types::{Direction, PolicyImage, Verdict};

use super::frames::LOCAL_MAC;
use super::image::{config, endpoint};
use super::netns::{Cleanup, Namespace, pin_dir};
use super::remote::Remote;

/// Addresses of the endpoint on the bench.
pub const OWN: [&str; 2] = ["10.9.0.2", "fd09::2"];

/// The backend under test.
pub enum Backend {
    Software(Box<SoftwareDatapath>, u64),
    Kernel(Box<EbpfDatapath>),
    /// The software datapath behind a socket, and frames for it on the server's side.
    Remote(Box<Remote>, u64),
}

/// A datapath with one endpoint of workload `web`.
pub struct Bench {
    pub backend: Backend,
    pub spec: EndpointSpec,
}

impl Bench {
    pub fn datapath(&mut self) -> &mut dyn Datapath {
        match &mut self.backend {
            Backend::Software(datapath, _) => datapath.as_mut(),
            Backend::Kernel(datapath) => datapath.as_mut(),
            Backend::Remote(remote, _) => &mut remote.client,
        }
    }

    /// Puts an image in force and the endpoint under guard.
    pub fn start(&mut self, image: &PolicyImage) {
        self.start_with(image, &config());
    }

    pub fn start_with(&mut self, image: &PolicyImage, config: &DatapathConfig) {
        let spec = self.spec.clone();
        self.datapath().apply(image, config).unwrap();
        self.datapath().attach(&spec).unwrap();
    }

    pub fn apply(&mut self, image: &PolicyImage) {
        self.datapath().apply(image, &config()).unwrap();
    }

    /// Whether the frame passes.
    pub fn pass(&mut self, direction: Direction, frame: &[u8]) -> bool {
        match &mut self.backend {
            Backend::Software(datapath, now) => {
                *now += 1_000_000;
                datapath.process(self.spec.ifindex, direction, frame, *now) != Verdict::Deny
            }
            Backend::Kernel(datapath) => datapath.run_frame(self.spec.ifindex, direction, frame).unwrap(),
            Backend::Remote(remote, now) => {
                *now += 1_000_000;
                let mut served = remote.served.0.lock().unwrap();
                served.process(self.spec.ifindex, direction, frame, *now) != Verdict::Deny
            }
        }
    }

    /// Whether the frame passes, and what its sender gets in answer.
    pub fn answer(&mut self, direction: Direction, frame: &[u8]) -> (bool, Option<Vec<u8>>) {
        match &mut self.backend {
            Backend::Software(datapath, now) => {
                *now += 1_000_000;
                let outcome = datapath.exchange(self.spec.ifindex, direction, frame, *now);
                let to_sender = outcome.answers.into_iter().find(|(way, _)| *way != direction);
                (
                    outcome.verdict != Verdict::Deny,
                    to_sender.map(|(_, frame)| frame),
                )
            }
            Backend::Kernel(datapath) => datapath
                .answer_frame(self.spec.ifindex, direction, frame)
                .unwrap(),
            Backend::Remote(remote, now) => {
                *now += 1_000_000;
                let mut served = remote.served.0.lock().unwrap();
                let outcome = served.exchange(self.spec.ifindex, direction, frame, *now);
                let to_sender = outcome.answers.into_iter().find(|(way, _)| *way != direction);
                (
                    outcome.verdict != Verdict::Deny,
                    to_sender.map(|(_, frame)| frame),
                )
            }
        }
    }

    pub fn send(&mut self, frame: &[u8]) -> bool {
        self.pass(Direction::Egress, frame)
    }

    pub fn receive(&mut self, frame: &[u8]) -> bool {
        self.pass(Direction::Ingress, frame)
    }

    pub fn status(&mut self) -> DatapathStatus {
        self.datapath().status().unwrap()
    }

    pub fn counters(&mut self, direction: Direction) -> DirectionCounters {
        let ifindex = self.spec.ifindex;
        let status = self.status();
        match direction {
            Direction::Ingress => status.endpoints[&ifindex].ingress,
            Direction::Egress => status.endpoints[&ifindex].egress,
        }
    }

    pub fn events(&mut self) -> Vec<DatapathEvent> {
        self.datapath().poll_events(10_000).unwrap()
    }

    /// Every flow, by key.
    pub fn flows(&mut self) -> Vec<FlowStats> {
        let mut flows = Vec::new();
        self.datapath().sweep(&mut |flow| flows.push(flow)).unwrap();
        flows.sort_by_key(|flow| {
            (
                flow.key.local,
                flow.key.local_port,
                flow.key.peer,
                flow.key.peer_port,
            )
        });
        flows
    }
}

fn spec(ifindex: u32) -> EndpointSpec {
    EndpointSpec {
        mac: Some(nv_types::MacAddr(LOCAL_MAC)),
        ..endpoint(ifindex, "veth0", &OWN)
    }
}

/// Runs a scenario on the software datapath.
pub fn on_software(scenario: fn(&mut Bench)) {
    let datapath = SoftwareDatapath::new(SoftwareConfig::default());
    let backend = Backend::Software(Box::new(datapath), 1_000_000_000);
    scenario(&mut Bench {
        backend,
        spec: spec(7),
    });
}

/// Runs a scenario on the software datapath behind a socket.
pub fn on_remote(scenario: fn(&mut Bench)) {
    let backend = Backend::Remote(Box::new(Remote::start()), 1_000_000_000);
    scenario(&mut Bench {
        backend,
        spec: spec(7),
    });
}

/// Runs a scenario on the kernel's programs, in a namespace of its own.
pub fn on_kernel(name: &str, scenario: fn(&mut Bench)) {
    if !super::netns::is_root(name) {
        return;
    }
    let namespace = Namespace::new();
    namespace.ip("link add veth0 type veth peer name eth0");
    namespace.ip("link set veth0 up");
    let ifindex = namespace.ifindex("veth0");
    namespace.run(move || {
        let dir = pin_dir();
        let _cleanup = Cleanup(dir.clone());
        let datapath = EbpfDatapath::open(EbpfConfig::new(&dir)).unwrap();
        let mut bench = Bench {
            backend: Backend::Kernel(Box::new(datapath)),
            spec: spec(ifindex),
        };
        scenario(&mut bench);
        bench.datapath().purge().unwrap();
        assert!(!dir.exists(), "purge left {}", dir.display());
    });
}
