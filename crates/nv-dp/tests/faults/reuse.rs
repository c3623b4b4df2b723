//! F15: an index that means another interface than a moment ago.

use std::time::Instant;

use nv_dp::{Datapath as _, EbpfDatapath, EndpointSpec};
use nv_types::{Direction, Identity, LocalEntry, Mode, PairEntry, PolicyImage, PortTableId};

use crate::common::frames::{self, udp};
use crate::common::image::{config, endpoint, workload};
use crate::common::netns::{Cleanup, Namespace, is_root, pin_dir};
use crate::ground::{HOST, OWN, open, opens};

const PORT: u16 = 20_000;
const INDEX: u32 = 7007;

/// Reuses, or as many as `NV_ROUNDS` says.
fn rounds() -> u16 {
    let asked = std::env::var("NV_ROUNDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(40)
}

/// As [`opens`] for the workload `web`; to `other`, nothing.
fn two_workloads() -> PolicyImage {
    let mut image = opens(PORT, 1);
    let identity = Identity(9);
    image.locals.push(LocalEntry {
        workload: workload("other"),
        identity,
        mode: Mode::Protect,
    });
    for direction in [Direction::Ingress, Direction::Egress] {
        image.pairs.push(PairEntry {
            local: identity,
            direction,
            peer: Identity::ANY,
            ports: PortTableId(0),
        });
    }
    image.pairs.sort();
    image
}

fn passes(datapath: &mut EbpfDatapath, source: u16) -> bool {
    let path = frames::Path::new(HOST, source, OWN[0], PORT);
    datapath
        .run_frame(INDEX, Direction::Ingress, &udp(path, b"x"))
        .unwrap()
}

/// Nobody tells that the interface has gone and another one has its index.
#[test]
fn an_index_that_is_another_interfaces_by_now_has_nothing_of_the_one_before() {
    if !is_root("an_index_that_is_another_interfaces_by_now_has_nothing_of_the_one_before") {
        return;
    }
    let namespace = Namespace::new();
    let dir = pin_dir();
    let _cleanup = Cleanup(dir.clone());
    let mut datapath = namespace.run(move || {
        let mut datapath = open(&dir);
        datapath.apply(&two_workloads(), &config()).unwrap();
        datapath
    });
    let web = endpoint(INDEX, "nv0", &OWN);
    let other = EndpointSpec {
        workload: Some(workload("other")),
        ..web.clone()
    };
    let start = Instant::now();
    let mut wrong = 0;
    for round in 0..rounds() {
        namespace.ip(&format!("link add nv0 index {INDEX} type veth peer name nv9"));
        // Twice the same, and twice another.
        let (spec, may) = if round % 4 < 2 {
            (web.clone(), true)
        } else {
            (other.clone(), false)
        };
        datapath = namespace.run(move || {
            datapath.attach(&spec).unwrap();
            datapath
        });
        let status = datapath.status().unwrap().endpoints.remove(&INDEX).unwrap();
        assert!(
            status.guarded,
            "round {round}: the programs are on this interface"
        );
        assert!(
            status.ingress.packets <= u64::from(round % 2),
            "round {round}: {} packets of the interface before",
            status.ingress.packets
        );
        let source = 40_000 + round;
        let namespace_passes = namespace.run(move || {
            let passed = passes(&mut datapath, source);
            (passed, datapath)
        });
        wrong += usize::from(namespace_passes.0 != may);
        datapath = namespace_passes.1;
        namespace.ip("link del nv0");
    }
    eprintln!(
        "{} reuses of an index: {wrong} judged as the one before, {:?}",
        rounds(),
        start.elapsed()
    );
    assert_eq!(wrong, 0);
    namespace.run(move || datapath.purge().unwrap());
}
