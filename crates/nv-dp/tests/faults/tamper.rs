//! F18: somebody takes away what enforces.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nv_dp::{Datapath as _, DatapathEvent, EbpfDatapath};

use crate::common::image::{config, endpoint};
use crate::common::netns::{Bed, Cleanup, is_root, pin_dir};
use crate::ground::{OWN, Probe, open, opens, revision};
use crate::trace::take_off;

const OPEN: u16 = 20_000;
const CLOSED: u16 = 30_000;

/// How somebody does it.
type Trick = fn(&Path);

fn each_link(dir: &Path, act: impl Fn(&Path)) {
    for entry in fs::read_dir(dir.join("links")).unwrap() {
        act(&entry.unwrap().path());
    }
}

fn unpin(dir: &Path) {
    each_link(dir, |link| fs::remove_file(link).unwrap());
}

fn detach(dir: &Path) {
    each_link(dir, |link| take_off(link).unwrap());
}

fn unpin_one(dir: &Path) {
    let link = fs::read_dir(dir.join("links")).unwrap().next().unwrap().unwrap();
    fs::remove_file(link.path()).unwrap();
}

fn remove_all(dir: &Path) {
    for folder in ["links", "maps"].map(|name| dir.join(name)) {
        for entry in fs::read_dir(&folder).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        fs::remove_dir(folder).unwrap();
    }
}

fn tampered(datapath: &mut EbpfDatapath) -> Vec<bool> {
    let events = datapath.poll_events(1000).unwrap().into_iter();
    events
        .filter_map(|event| match event {
            DatapathEvent::Tampered { restored, .. } => Some(restored),
            DatapathEvent::Flow(_) | DatapathEvent::Packet { .. } => None,
        })
        .collect()
}

/// An agent sweeps once a second.
#[test]
fn what_is_taken_away_is_put_back_by_the_next_sweep_and_told() {
    if !is_root("what_is_taken_away_is_put_back_by_the_next_sweep_and_told") {
        return;
    }
    let bed = Bed::new();
    let (dir, ifindex) = (pin_dir(), bed.ifindex);
    let _cleanup = Cleanup(dir.clone());
    let probe = Probe::new(&bed, &[OPEN, CLOSED]);
    let place = dir.clone();
    let mut datapath = bed.host.run(move || {
        let mut datapath = open(&place);
        datapath.apply(&opens(OPEN, 3), &config()).unwrap();
        datapath.attach(&endpoint(ifindex, "veth0", &OWN)).unwrap();
        datapath
    });
    assert_eq!(probe.open_ports(&bed), [OPEN]);
    let tricks: [(&str, Trick); 4] = [
        ("both links unpinned", unpin),
        ("one link unpinned", unpin_one),
        ("programs taken off", detach),
        ("every pin and folder removed", remove_all),
    ];
    for (what, trick) in tricks {
        trick(&dir);
        // The kernel takes a link down some time after its last holder has gone. Nobody would notice, but for the sweep.
        let start = Instant::now();
        while what != "one link unpinned" && !probe.open_ports(&bed).contains(&CLOSED) {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{what}: it still enforces"
            );
        }
        assert!(
            !datapath.status().unwrap().endpoints[&ifindex].guarded,
            "{what}: it is shown"
        );
        let start = Instant::now();
        datapath = bed.host.run(move || {
            datapath.sweep(&mut |_| {}).unwrap();
            datapath
        });
        let took = start.elapsed();
        assert_eq!(probe.open_ports(&bed), [OPEN], "{what}");
        assert_eq!(tampered(&mut datapath), [true], "{what}: it is told, once");
        assert!(datapath.status().unwrap().endpoints[&ifindex].guarded);
        eprintln!("{what}: back within {took:?}");
    }
    // What can be put back is there for the next agent, too.
    drop(datapath);
    let place = dir.clone();
    let mut datapath = bed.host.run(move || open(&place));
    assert_eq!(revision(&mut datapath).unwrap().0, 3);
    assert_eq!(probe.open_ports(&bed), [OPEN]);
    // What cannot is said once, and shown for as long as it lasts.
    unpin(&dir);
    for direction in ["ingress", "egress"] {
        fs::create_dir(dir.join(format!("links/{ifindex}-{direction}"))).unwrap();
    }
    let mut datapath = bed.host.run(move || {
        for _ in 0..3 {
            datapath.sweep(&mut |_| {}).unwrap();
        }
        datapath
    });
    assert_eq!(tampered(&mut datapath), [false]);
    assert!(!datapath.status().unwrap().endpoints[&ifindex].guarded);
    for direction in ["ingress", "egress"] {
        fs::remove_dir(dir.join(format!("links/{ifindex}-{direction}"))).unwrap();
    }
    // The kernel lets go of a link that could not be pinned when it has time, and takes no program twice: a later sweep puts it back then.
    let (mut datapath, told) = bed.host.run(move || {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            datapath.sweep(&mut |_| {}).unwrap();
            let told = tampered(&mut datapath);
            if !told.is_empty() || Instant::now() > deadline {
                return (datapath, told);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(told, [true]);
    assert_eq!(probe.open_ports(&bed), [OPEN]);
    bed.host.run(move || datapath.purge().unwrap());
    assert!(!dir.exists());
}
