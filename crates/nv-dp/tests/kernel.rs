//! The datapath in the kernel, on real interfaces.

mod common;

use common::image::{Builder, config, endpoint, rule};
use common::netns::{Bed, Cleanup, is_root, pin_dir};
use nv_dp::{Datapath, EbpfConfig, EbpfDatapath};
use nv_types::{Direction, IpProto, Mode, Verdict};

#[test]
fn programs_load_fast_and_small() {
    if !is_root("programs_load_fast_and_small") {
        return;
    }
    let dir = pin_dir();
    let _cleanup = Cleanup(dir.clone());
    let start = std::time::Instant::now();
    let mut datapath = EbpfDatapath::open(EbpfConfig::new(&dir)).unwrap();
    let took = start.elapsed();
    let counts = datapath.verified_instructions().unwrap();
    eprintln!("loaded in {took:?}, verified instructions {counts:?}");
    for (program, count) in counts {
        assert!(
            (1..200_000).contains(&count),
            "{program}: {count} verified instructions"
        );
    }
    datapath.purge().unwrap();
    assert!(!dir.exists());
}
