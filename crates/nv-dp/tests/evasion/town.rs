//! The place where the matrix is played: a node with a bridge, the workload `web` under guard, and whoever is opposite.
//!
//! Neither end has addresses in its kernel: nothing answers, and what arrives is what was let through. The node routes, so that
//! its NAT can be tried.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nv_dp::{Datapath as _, DatapathConfig, DatapathStatus, EbpfConfig, EbpfDatapath, EndpointSpec};
use nv_types::{
    AddressEntry, AppMask, Application, Chain, ChainEntry, Decision, DecisionId, Direction, Identity,
    IpPrefix, IpProto, LocalEntry, MacAddr, Mode, PairEntry, PolicyImage, PortEntry, PortTableId, Revision,
    Verdict,
};

use crate::common::image::{default_for, only, rule, workload};
use crate::common::netns::{Cleanup, Namespace, pin_dir};
use crate::sys::Wire;
use crate::wire::{self, Mac};

pub const WEB_MAC: Mac = [2, 0, 0, 0, 0x77, 2];
pub const PEER_MAC: Mac = [2, 0, 0, 0, 0x77, 0x20];
pub const NODE_MAC: Mac = [2, 0, 0, 0, 0x77, 1];

/// Allowed for everybody, in every state of the policy: it shows that what was sent before it has been dealt with.
const FENCE: u16 = 7777;

/// Who is meant; each has an address in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The workload under guard.
    Web,
    /// May do what the rules say.
    Friend,
    /// May do nothing. The other end's own address.
    Stranger,
    /// The node.
    Node,
    /// An address of the workload's network that nobody has.
    Nobody,
    /// An address that the node translates.
    Virtual,
}

pub fn address(who: Who, v6: bool) -> IpAddr {
    let (v4, six) = match who {
        Who::Web => ("10.77.0.2", "fd77::2"),
        Who::Friend => ("10.77.0.10", "fd77::10"),
        Who::Stranger => ("10.77.0.32", "fd77::20"),
        Who::Node => ("10.77.0.1", "fd77::1"),
        Who::Nobody => ("10.77.0.99", "fd77::99"),
        Who::Virtual => ("10.96.0.1", "fd96::1"),
    };
    if v6 { six } else { v4 }.parse().unwrap()
}

/// Which rules are in force for friends, in both directions, beside the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// tcp/8080 and udp/5000 any application, tcp/80 only HTTP, tcp/443 only TLS, udp/53 only DNS.
    Usual,
    /// Nothing.
    Strict,
    /// As usual, but the stranger's address is in the friends' class, too.
    Joined,
    /// As usual, but nobody is a friend any more.
    Friendless,
}

const LOCAL: Identity = Identity(1);
const EXTERNAL: Identity = Identity(2);
const FRIEND: Identity = Identity(3);
const PEER_LOCAL: Identity = Identity(4);

struct Draft(PolicyImage);

impl Draft {
    fn chain(&mut self, entries: &[(AppMask, Decision)]) -> DecisionId {
        let id = DecisionId(self.0.decisions.len().try_into().unwrap());
        let entries = entries.iter().map(|(apps, decision)| ChainEntry {
            apps: *apps,
            decision: *decision,
        });
        self.0.decisions.push(Chain(entries.collect()));
        id
    }

    /// A port table: denied, but for the fence and these.
    fn table(&mut self, ports: &[(IpProto, u16, DecisionId)]) -> PortTableId {
        let table = PortTableId(
            self.0
                .ports
                .iter()
                .filter(|port| port.prefix_len == 0)
                .count()
                .try_into()
                .unwrap(),
        );
        let deny = self.chain(&[(AppMask::ANY, default_for(Mode::Protect))]);
        let fence = self.chain(&[(AppMask::ANY, rule(Verdict::Allow, 99))]);
        let mut entry = |proto, port, prefix_len, decision| {
            self.0.ports.push(PortEntry {
                table,
                proto,
                port,
                prefix_len,
                decision,
            });
        };
        entry(IpProto(0), 0, 0, deny);
        entry(IpProto::UDP, FENCE, 24, fence);
        for (proto, port, decision) in ports {
            entry(*proto, *port, 24, *decision);
        }
        table
    }
}

pub fn image(law: Law) -> PolicyImage {
    let mut draft = Draft(PolicyImage {
        revision: Revision(1),
        ..PolicyImage::default()
    });
    let deny = default_for(Mode::Protect);
    let any = draft.chain(&[(AppMask::ANY, rule(Verdict::Allow, 1))]);
    let by = |app, id| [(only(app), rule(Verdict::Allow, id)), (AppMask::ANY, deny)];
    let http = draft.chain(&by(Application::HTTP, 2));
    let tls = draft.chain(&by(Application::SSL, 3));
    let dns = draft.chain(&by(Application::DNS, 4));
    let closed = draft.table(&[]);
    let open = draft.table(&[
        (IpProto::TCP, 8080, any),
        (IpProto::UDP, 5000, any),
        (IpProto::TCP, 80, http),
        (IpProto::TCP, 443, tls),
        (IpProto::UDP, 53, dns),
    ]);
    let open = if law == Law::Strict { closed } else { open };
    for direction in [Direction::Ingress, Direction::Egress] {
        for (local, peer, ports) in [
            (LOCAL, Identity::ANY, closed),
            (LOCAL, FRIEND, open),
            (PEER_LOCAL, Identity::ANY, closed),
        ] {
            draft.0.pairs.push(PairEntry {
                local,
                direction,
                peer,
                ports,
            });
        }
    }
    for (name, identity) in [("web", LOCAL), ("peer", PEER_LOCAL)] {
        draft.0.locals.push(LocalEntry {
            workload: workload(name),
            identity,
            mode: Mode::Protect,
        });
    }
    let mut friends = vec![Who::Friend];
    match law {
        Law::Joined => friends.push(Who::Stranger),
        Law::Friendless => friends.clear(),
        Law::Usual | Law::Strict => {}
    }
    draft.0.addresses.push(AddressEntry {
        prefix: IpPrefix::ALL,
        identity: EXTERNAL,
    });
    for who in friends {
        for v6 in [false, true] {
            draft.0.addresses.push(AddressEntry {
                prefix: IpPrefix::host(address(who, v6)),
                identity: FRIEND,
            });
        }
    }
    let mut image = draft.0;
    image.addresses.sort();
    image.pairs.sort();
    image.ports.sort();
    image
}

pub struct Town {
    pub node: Namespace,
    pub web: Namespace,
    pub peer: Namespace,
    pub web_wire: Wire,
    pub peer_wire: Wire,
    pub web_index: u32,
    pub peer_index: u32,
    pub config: DatapathConfig,
    pins: PathBuf,
    datapath: Option<EbpfDatapath>,
    serial: u16,
    _cleanup: Cleanup,
}

impl Town {
    pub fn new() -> Self {
        let (node, web, peer) = (Namespace::new(), Namespace::new(), Namespace::new());
        node.ip("link set lo up");
        node.ip("link add br0 address 02:00:00:00:77:01 type bridge mcast_snooping 0");
        node.ip("addr add 10.77.0.1/24 dev br0");
        node.ip("addr add fd77::1/64 dev br0 nodad");
        node.ip("link set br0 up");
        node.sysctl("net/ipv4/ip_forward", "1");
        node.sysctl("net/ipv6/conf/all/forwarding", "1");
        node.sysctl("net/ipv4/conf/all/send_redirects", "0");
        node.sysctl("net/ipv4/conf/br0/send_redirects", "0");
        for (inside, name, mac) in [(&web, "web", WEB_MAC), (&peer, "peer", PEER_MAC)] {
            node.add_port(inside, name, "eth0", mac);
            inside.ip("link set lo up");
        }
        for (who, mac) in [
            (Who::Web, WEB_MAC),
            (Who::Friend, PEER_MAC),
            (Who::Stranger, PEER_MAC),
        ] {
            for v6 in [false, true] {
                node.ip(&format!(
                    "neigh replace {} lladdr {} dev br0 nud permanent",
                    address(who, v6),
                    MacAddr(mac)
                ));
            }
        }
        let pins = pin_dir();
        let cleanup = Cleanup(pins.clone());
        let datapath = open(&node, &pins);
        let mut town = Self {
            web_wire: web.run(|| Wire::open("eth0")),
            peer_wire: peer.run(|| Wire::open("eth0")),
            web_index: node.ifindex("web"),
            peer_index: node.ifindex("peer"),
            config: crate::common::image::config(),
            node,
            web,
            peer,
            pins,
            datapath: Some(datapath),
            serial: 0,
            _cleanup: cleanup,
        };
        town.apply(Law::Usual);
        town
    }

    /// Works with the datapath, in the node's namespace.
    pub fn with<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut EbpfDatapath) -> T + Send + 'static,
    ) -> T {
        let mut datapath = self.datapath.take().expect("the agent is down");
        let (datapath, answer) = self.node.run(move || {
            let answer = job(&mut datapath);
            (datapath, answer)
        });
        self.datapath = Some(datapath);
        answer
    }

    pub fn apply(&mut self, law: Law) {
        let config = self.config.clone();
        self.with(move |datapath| datapath.apply(&image(law), &config).unwrap());
    }

    pub fn attach(&mut self, spec: EndpointSpec) {
        self.with(move |datapath| datapath.attach(&spec).unwrap());
    }

    pub fn web_spec(&self) -> EndpointSpec {
        spec(self.web_index, "web", WEB_MAC, Who::Web)
    }

    pub fn peer_spec(&self) -> EndpointSpec {
        spec(self.peer_index, "peer", PEER_MAC, Who::Stranger)
    }

    pub fn detach_all(&mut self) {
        self.with(|datapath| {
            let guarded: Vec<_> = datapath.status().unwrap().endpoints.into_keys().collect();
            for ifindex in guarded {
                datapath.detach(ifindex).unwrap();
            }
        });
    }

    pub fn status(&mut self) -> DatapathStatus {
        self.with(|datapath| datapath.status().unwrap())
    }

    /// The agent goes as in a crash: nothing is cleaned up.
    pub fn stop_agent(&mut self) {
        self.datapath = None;
    }

    pub fn start_agent(&mut self) {
        self.datapath = Some(open(&self.node, &self.pins));
    }

    pub fn pins(&self) -> PathBuf {
        self.pins.clone()
    }

    /// A number that no other call gets, for ports and marks.
    pub fn fresh(&mut self) -> u16 {
        self.serial += 1;
        self.serial
    }

    /// Sends frames from one end; gives how many with the mark have arrived at the other once a frame sent after them has.
    pub fn deliver(
        &mut self,
        egress: bool,
        mark: Mac,
        frames: &[Vec<u8>],
        send: impl Fn(&Wire, &[u8]),
    ) -> usize {
        let number = self.fresh();
        let mut fence_mark = [0xfe; 6];
        fence_mark[4..].copy_from_slice(&number.to_be_bytes());
        let (from, to) = if egress {
            (Who::Web, Who::Stranger)
        } else {
            (Who::Stranger, Who::Web)
        };
        let ends = [(address(from, false), FENCE), (address(to, false), FENCE)];
        let (kind, packet) = wire::ip(
            ends[0].0,
            ends[1].0,
            wire::UDP,
            &wire::udp(ends[0], ends[1], &fence_mark),
        );
        let macs = if egress {
            [PEER_MAC, WEB_MAC]
        } else {
            [WEB_MAC, PEER_MAC]
        };
        let fence = wire::eth(macs[0], macs[1], kind, &packet);
        let (sender, receiver) = if egress {
            (&self.web_wire, &self.peer_wire)
        } else {
            (&self.peer_wire, &self.web_wire)
        };
        let mut buffer = vec![0; 70_000];
        while receiver.recv(&mut buffer).is_some() {}
        for frame in frames {
            send(sender, frame);
        }
        sender.send(&fence);
        let start = Instant::now();
        let (mut count, mut again) = (0, 1);
        loop {
            match receiver.recv(&mut buffer) {
                Some(frame) if holds(frame, fence_mark) => return count,
                Some(frame) => count += usize::from(holds(frame, mark)),
                None => {
                    assert!(
                        start.elapsed() < Duration::from_secs(5),
                        "the fence did not arrive"
                    );
                    std::thread::sleep(Duration::from_micros(200));
                    // A link that has just come up loses frames for a moment.
                    if start.elapsed() > Duration::from_millis(50) * again {
                        sender.send(&fence);
                        again += 1;
                    }
                }
            }
        }
    }
}

fn holds(frame: &[u8], mark: Mac) -> bool {
    frame.windows(mark.len()).any(|window| window == mark)
}

fn open(node: &Namespace, pins: &std::path::Path) -> EbpfDatapath {
    let config = EbpfConfig {
        conntrack_entries: 4096,
        ..EbpfConfig::new(pins)
    };
    node.run(move || EbpfDatapath::open(config).unwrap())
}

pub fn spec(ifindex: u32, name: &str, mac: Mac, who: Who) -> EndpointSpec {
    EndpointSpec {
        ifindex,
        name: name.into(),
        workload: Some(workload(name)),
        mac: Some(MacAddr(mac)),
        addresses: vec![address(who, false), address(who, true)],
        quarantine: false,
    }
}

impl Namespace {
    pub fn sysctl(&self, name: &str, value: &'static str) {
        let path = format!("/proc/sys/{name}");
        self.run(move || std::fs::write(path, value).unwrap());
    }

    /// Runs a program here; what it says of itself is not asked.
    pub fn try_run(&self, line: &str) -> bool {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.run(move || {
            let output = Command::new(&words[0]).args(&words[1..]).output();
            output.is_ok_and(|output| output.status.success())
        })
    }

    /// A port of the bridge: `outside` here, `inside` with this Ethernet address in the other namespace, without IPv6 of its own.
    pub fn add_port(&self, other: &Self, outside: &str, inside: &str, mac: Mac) {
        self.ip(&format!(
            "link add {outside} type veth peer name {inside} address {} netns {}",
            MacAddr(mac),
            other.tid()
        ));
        other.sysctl(&format!("net/ipv6/conf/{inside}/disable_ipv6"), "1");
        other.ip(&format!("link set {inside} up"));
        self.sysctl(&format!("net/ipv6/conf/{outside}/disable_ipv6"), "1");
        self.ip(&format!("link set {outside} master br0 up"));
        // Who lies about a MAC must not lead the bridge astray: it sends to every port.
        self.ip(&format!("link set {outside} type bridge_slave learning off"));
        // A port carries nothing before the bridge has noticed that it is up, and its other end has a queue.
        self.await_link(outside, "state forwarding");
        other.await_link(inside, "state UP");
    }

    fn await_link(&self, name: &str, state: &str) {
        let start = Instant::now();
        loop {
            let link = name.to_owned();
            let shown = self.run(move || {
                let output = Command::new("ip")
                    .args(["-d", "link", "show", &link])
                    .output()
                    .unwrap();
                String::from_utf8_lossy(&output.stdout).into_owned()
            });
            if shown.contains(state) && shown.contains("LOWER_UP") && !shown.contains("qdisc noop ") {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{name} does not come up: {shown}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
