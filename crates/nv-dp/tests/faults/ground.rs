//! What the faults are played on: a host and a workload, ports that a policy opens, and probes that say which are open.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use nv_dp::{EbpfConfig, EbpfDatapath};
use nv_types::{AppMask, Direction, IpProto, Mode, PolicyImage, Revision, Verdict};

use crate::common::image::{Builder, rule};
use crate::common::netns::Bed;

pub const HOST: &str = "10.9.0.1";
pub const OWN: [&str; 2] = ["10.9.0.2", "fd09::2"];

/// Open under every policy: what arrives there shows that what was sent before has been dealt with.
const FENCE: u16 = 7777;

/// In Protect, the host may send to the fence and to this port of the workload.
pub fn opens(port: u16, revision: u64) -> PolicyImage {
    let allow = [(AppMask::ANY, rule(Verdict::Allow, 7))];
    Builder::new(Mode::Protect)
        .revision(revision)
        .friend(HOST)
        .rules(
            Direction::Ingress,
            &[
                (IpProto::UDP, Some(FENCE), &allow),
                (IpProto::UDP, Some(port), &allow),
            ],
        )
        .build()
}

pub fn revision(datapath: &mut EbpfDatapath) -> Option<Revision> {
    nv_dp::Datapath::status(datapath).unwrap().revision
}

pub fn open(dir: &Path) -> EbpfDatapath {
    EbpfDatapath::open(EbpfConfig::new(dir)).unwrap()
}

/// Sockets in the workload, and one at the host for each packet.
pub struct Probe {
    fence: UdpSocket,
    ports: Vec<(u16, UdpSocket)>,
}

impl Probe {
    pub fn new(bed: &Bed, ports: &[u16]) -> Self {
        let bind = |port: u16| {
            let socket = bed.workload.run(move || UdpSocket::bind((OWN[0], port)).unwrap());
            socket.set_nonblocking(true).unwrap();
            socket
        };
        Self {
            fence: bind(FENCE),
            ports: ports.iter().map(|port| (*port, bind(*port))).collect(),
        }
    }

    /// The ports that a packet of a new flow arrives at.
    pub fn open_ports(&self, bed: &Bed) -> Vec<u16> {
        let ports: Vec<u16> = self.ports.iter().map(|(port, _)| *port).collect();
        let start = Instant::now();
        let mut buffer = [0; 8];
        for (_, socket) in &self.ports {
            while socket.recv(&mut buffer).is_ok() {}
        }
        let sender = bed.host.run(move || {
            let sender = UdpSocket::bind((HOST, 0)).unwrap();
            for port in ports {
                sender.send_to(b"probe", (OWN[0], port)).unwrap();
            }
            sender
        });
        loop {
            sender.send_to(b"fence", (OWN[0], FENCE)).unwrap();
            std::thread::sleep(Duration::from_micros(500));
            match self.fence.recv(&mut buffer) {
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            assert!(start.elapsed() < Duration::from_secs(5), "the fence is closed");
        }
        while self.fence.recv(&mut buffer).is_ok() {}
        let arrived = |socket: &UdpSocket| socket.recv(&mut [0; 8]).is_ok();
        self.ports
            .iter()
            .filter(|(_, socket)| arrived(socket))
            .map(|(port, _)| *port)
            .collect()
    }
}
