//! Many short flows between the same ends: decisions that are remembered, and what is told of flows that come in bursts.

use std::time::Instant;

use nv_dp::{DatapathEvent, EndpointSpec, FlowStats};
use nv_types::{Direction, FlowState, Mode, Reason, Verdict};

use super::common::bench::{Backend, Bench, on_kernel, on_remote, on_software};
use super::common::frames::{ACK, Path, RST, SYN, tcp, tcp_at};
use super::common::image::{Builder, rule, workload};
use super::{OWN, PEER, STRANGER, allow_in, to_own};

scenarios! {
    a_decision_holds_for_its_own_question_only,
    a_decision_ends_with_its_policy_and_its_endpoint,
    flows_in_a_burst_are_all_told_in_the_end,
}

/// The first packet of a flow of its own, from this port.
fn opens(bench: &mut Bench, path: Path, port: u16) -> bool {
    let path = Path {
        from: (path.from.0, port),
        ..path
    };
    bench.receive(&tcp(path, SYN, b""))
}

fn a_decision_holds_for_its_own_question_only(bench: &mut Bench) {
    bench.start(&allow_in(80));
    for port in 2000..2020 {
        assert!(opens(bench, to_own(80), port));
        assert!(!opens(bench, to_own(81), port), "another port");
        assert!(
            !opens(bench, Path::new(STRANGER, 0, OWN, 80), port),
            "another peer"
        );
        assert!(
            opens(bench, Path::new(PEER, 0, "10.9.0.3", 80), port),
            "another address than the endpoint's: what comes for it is policy's matter"
        );
        assert!(
            !bench.send(&tcp(Path::new(OWN, port + 1000, PEER, 80), SYN, b"")),
            "another direction"
        );
        assert!(
            !bench.send(&tcp(Path::new("10.9.0.3", 80, PEER, port), SYN | ACK, b"")),
            "what goes out from it is not"
        );
        assert!(opens(bench, Path::new("fd09::9", 0, "fd09::2", 80), port));
    }
    let spoofed = bench.counters(Direction::Egress).by_reason[Reason::Spoofed as usize];
    assert_eq!(spoofed, 20, "however often it is tried");
    let flows = bench.flows();
    let of = |local_port: u16, verdict| {
        let ruled = |flow: &&FlowStats| flow.key.local_port == local_port && flow.decision == verdict;
        flows.iter().filter(ruled).count()
    };
    assert_eq!(of(80, rule(Verdict::Allow, 7)), 60, "each flow has its rule");
}

fn a_decision_ends_with_its_policy_and_its_endpoint(bench: &mut Bench) {
    bench.start(&allow_in(80));
    assert!(opens(bench, to_own(80), 2000) && opens(bench, to_own(80), 2001));
    bench.apply(&Builder::new(Mode::Protect).friend(PEER).revision(2).build());
    assert!(!opens(bench, to_own(80), 2002), "the policy has changed");
    bench.apply(&allow_in(80));
    assert!(opens(bench, to_own(80), 2003), "and back");

    // The endpoint has another address: what is for the old one is a stranger's.
    let spec = bench.spec.clone();
    let moved = EndpointSpec {
        addresses: vec!["10.9.0.3".parse().unwrap()],
        ..spec.clone()
    };
    bench.datapath().attach(&moved).unwrap();
    assert!(!bench.send(&tcp(Path::new(OWN, 80, PEER, 2004), SYN | ACK, b"")));
    bench.datapath().attach(&spec).unwrap();
    assert!(opens(bench, to_own(80), 2004));

    // Another workload takes the interface's place, long after: nothing of the first one is left.
    bench.datapath().detach(spec.ifindex).unwrap();
    bench.flows();
    let other = EndpointSpec {
        workload: Some(workload("other")),
        ..spec
    };
    bench.datapath().attach(&other).unwrap();
    assert!(opens(bench, to_own(80), 2005), "no policy knows it");
    let flows = bench.flows();
    let flow = flows.iter().find(|flow| flow.key.peer_port == 2005).unwrap();
    assert_eq!(flow.decision.reason, Reason::NoPolicy);
}

/// Flows of the burst.
const BURST: u16 = 6000;
/// What the kernel tells at most in a tick, which is a millisecond at least.
const TOLD_A_TICK: u128 = 32;

fn flows_in_a_burst_are_all_told_in_the_end(bench: &mut Bench) {
    bench.start(&allow_in(80));
    let one_cpu = matches!(bench.backend, Backend::Kernel(_)).then(|| {
        let mut set = nix::sched::CpuSet::new();
        set.set(0).unwrap();
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).unwrap();
        set
    });
    let begun = Instant::now();
    for n in 0..BURST {
        assert!(opens(bench, to_own(80), 10_000 + n));
    }
    let ticks = begun.elapsed().as_millis() + 2;
    let in_state = |events: &[DatapathEvent], state: FlowState| {
        let its = |event: &&DatapathEvent| matches!(event, DatapathEvent::Flow(flow) if flow.state == state);
        events.iter().filter(its).count()
    };
    let told = in_state(&bench.events(), FlowState::New);
    if one_cpu.is_some() {
        assert!(
            told > 0 && told as u128 <= ticks * TOLD_A_TICK,
            "{told} in {ticks} ticks"
        );
    } else {
        assert_eq!(told, usize::from(BURST), "whoever has time tells all");
    }
    assert_eq!(bench.flows().len(), usize::from(BURST), "the table has them");
    for n in 0..BURST {
        let path = Path::new(PEER, 10_000 + n, OWN, 80);
        assert!(bench.receive(&tcp_at(path, (1, 0), RST, b"")));
    }
    let events = bench.events();
    assert_eq!(in_state(&events, FlowState::Closed), usize::from(BURST));
    // What is denied is told at once.
    for n in 0..500 {
        assert!(!opens(bench, to_own(81), 10_000 + n));
    }
    assert_eq!(in_state(&bench.events(), FlowState::New), 500);
    assert_eq!(bench.status().lost_events, 0);
}
