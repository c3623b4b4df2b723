//! Captures that violations start.

use nv_agent_core::{Effect, Input, Moment, Steady};
use nv_types::{
    CaptureTriggers, Decision, Direction, FiveTuple, FlowRecord, FlowState, IpProto, Mode, Peer,
    PolicySettings, Reason, RuleId, Timestamp, Verdict,
};

use crate::world::{SECOND, World, id, node, workload};

/// After all that the world does.
const LATER: Timestamp = Timestamp(1_800_000_000 * SECOND);

fn flow(of: &str, verdict: Verdict, rule: u32) -> FlowRecord {
    FlowRecord {
        node: node(),
        workload: id(of),
        direction: Direction::Ingress,
        tuple: FiveTuple {
            proto: IpProto::TCP,
            client: [10, 9, 9, 9].into(),
            client_port: 4711,
            server: [10, 0, 0, 7].into(),
            server_port: 5432,
        },
        client: Peer::Workload(id("stranger")),
        server: Peer::Workload(id(of)),
        application: None,
        decision: Decision {
            verdict,
            reason: if rule == 0 { Reason::Default } else { Reason::Rule },
            rule: RuleId(rule),
        },
        state: FlowState::Closed,
        packets_to_server: 1,
        packets_to_client: 0,
        bytes_to_server: 60,
        bytes_to_client: 0,
        first_seen: LATER,
        last_seen: LATER,
    }
}

fn triggers(ring_kib: u32) -> PolicySettings {
    PolicySettings {
        capture: CaptureTriggers {
            ring_kib,
            rules: [RuleId(10_002)].into(),
            duration: 5,
            interval: 60,
        },
        ..PolicySettings::default()
    }
}

/// What the agent asked about packets since the last call.
fn asked(world: &mut World) -> Vec<Effect> {
    std::mem::take(&mut world.packets)
}

fn notice(world: &mut World, record: &FlowRecord) -> Vec<Effect> {
    let now = Moment {
        steady: Steady(world.now),
        day: world.day,
    };
    world.agent.notice(record, now);
    world.tell(Input::Tick);
    asked(world)
}

fn keep(of: &str, bytes: Option<u64>) -> Effect {
    Effect::KeepPackets {
        workload: id(of),
        bytes,
    }
}

#[test]
fn packets_are_kept_of_protected_endpoints_only_while_settings_say_so() {
    let mut world = World::new();
    world.resync();
    for (name, ifindex, mode) in [
        ("web", 7, Mode::Protect),
        ("db", 8, Mode::Monitor),
        ("new", 9, Mode::Discover),
    ] {
        world.link(ifindex);
        world.up(&workload(name, "n1", ifindex));
        world.set_mode(&format!("nv.{name}"), mode);
    }
    world.settle();
    assert_eq!(asked(&mut world), [], "off by default");
    world.settings(&triggers(64));
    world.settle();
    assert_eq!(
        asked(&mut world),
        [keep("db", Some(65_536)), keep("web", Some(65_536))]
    );
    world.set_mode("nv.db", Mode::Discover);
    world.settle();
    assert_eq!(asked(&mut world), [keep("db", None)]);
    world.tell(Input::WorkloadDown(id("web")));
    assert_eq!(asked(&mut world), [keep("web", None)]);
    world.up(&workload("web", "n1", 7));
    world.settings(&triggers(0));
    world.settle();
    assert_eq!(asked(&mut world), [keep("web", Some(65_536)), keep("web", None)]);
}

#[test]
fn a_listed_violation_saves_packets_once_in_a_while() {
    let mut world = World::new();
    world.resync();
    world.link(7);
    world.up(&workload("web", "n1", 7));
    world.set_mode("nv.web", Mode::Protect);
    world.settings(&triggers(64));
    world.settle();
    asked(&mut world);
    let violation = flow("web", Verdict::Deny, 10_002);
    assert_eq!(notice(&mut world, &violation), [], "nothing is kept yet");
    world.tell(Input::Packets {
        workload: id("web"),
        result: Ok(()),
    });
    let before = FlowRecord {
        first_seen: Timestamp(world.day.0 - 1),
        ..violation
    };
    assert_eq!(notice(&mut world, &before), [], "its first packets were not kept");
    assert_eq!(notice(&mut world, &flow("web", Verdict::Allow, 10_002)), []);
    assert_eq!(
        notice(&mut world, &flow("web", Verdict::Deny, 10_003)),
        [],
        "not listed"
    );
    assert_eq!(
        notice(&mut world, &flow("web", Verdict::Deny, 0)),
        [],
        "not listed"
    );
    assert_eq!(
        notice(&mut world, &flow("other", Verdict::Deny, 10_002)),
        [],
        "not kept"
    );
    let saved = notice(&mut world, &flow("web", Verdict::Deny, 10_002));
    let [
        Effect::SavePackets {
            workload,
            cause,
            duration: 5,
        },
    ] = saved.as_slice()
    else {
        panic!("{saved:?}")
    };
    assert_eq!(*workload, id("web"));
    assert_eq!(
        cause,
        "deny by rule 10002: 10.9.9.9:4711 -> 10.0.0.7:5432, protocol 6"
    );
    world.wait(59 * SECOND);
    assert_eq!(
        notice(&mut world, &flow("web", Verdict::Deny, 10_002)),
        [],
        "too soon"
    );
    world.wait(2 * SECOND);
    assert_eq!(notice(&mut world, &flow("web", Verdict::Alert, 10_002)).len(), 1);
}

#[test]
fn a_node_that_cannot_keep_packets_says_so_until_it_can() {
    let mut world = World::new();
    world.resync();
    world.link(7);
    world.up(&workload("web", "n1", 7));
    world.set_mode("nv.web", Mode::Protect);
    world.settings(&triggers(64));
    world.settle();
    let degraded = |world: &World| world.node.clone().unwrap().degraded.join("; ");
    let told = |result| Input::Packets {
        workload: id("web"),
        result,
    };
    world.tell(told(Err("no such namespace".into())));
    assert!(degraded(&world).contains("'web'") && degraded(&world).contains("no such namespace"));
    world.tell(told(Ok(())));
    assert_eq!(degraded(&world), "");
    world.tell(told(Err("the disk is full".into())));
    world.settings(&triggers(0));
    world.settle();
    assert_eq!(degraded(&world), "");
}
