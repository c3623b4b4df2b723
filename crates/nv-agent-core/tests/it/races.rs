//! Stories in which something happens while something else is under way.

use nv_policy::{StoredMode, encode};
use nv_types::{Mode, PolicySettings, UnknownEndpoint, keys};

use crate::shell::{Ask, Shell};
use crate::world::{SECOND, id, node, workload};

/// An agent with a controller and a policy in force.
fn ready(preexisting: &[u32]) -> Shell {
    let mut shell = Shell::new(preexisting);
    shell.connect();
    shell.settle();
    shell
}

fn write<T: serde::Serialize>(shell: &mut Shell, key: &str, value: &T) {
    shell.store.write(key, Some(encode(key, value).unwrap()));
}

fn settings(shell: &mut Shell, unknown_endpoint: UnknownEndpoint) {
    let value = PolicySettings {
        unknown_endpoint,
        ..PolicySettings::default()
    };
    write(shell, keys::SETTINGS, &value);
    shell.settle();
}

#[test]
fn a_workload_that_restarts_waits_for_an_image_that_knows_it() {
    let mut shell = ready(&[]);
    shell.link(7);
    shell.up(&workload("web", "n1", 7));
    shell.synced(&["web"]);
    shell.settle();
    assert_eq!(shell.owner(7), Some(Some(id("web"))));
    // It ends, and an image without it is on its way when it is there again: that image comes first.
    shell.down("web");
    shell.unlink(7);
    // The runtime is faster than the kernel's message.
    shell.kernel.links.insert(8, "veth8".into());
    shell.up(&workload("web", "n1", 8));
    while !shell.asks.is_empty() {
        shell.serve(None); // asserts that the tables know who is attached
    }
    assert_eq!(
        shell.owner(8),
        Some(None),
        "guarded as nobody's until the next image"
    );
    shell.settle();
    assert_eq!(shell.owner(8), Some(Some(id("web"))));
    assert_eq!(shell.kernel.guarded.len(), 1);
}

#[test]
fn an_interface_that_workloads_share_never_falls_back_to_nobody() {
    let mut shell = ready(&[]);
    shell.link(7);
    shell.up(&workload("web", "n1", 7));
    shell.synced(&["web"]);
    shell.settle();
    // Another one in its namespace.
    shell.up(&workload("web2", "n1", 7));
    shell.settle(); // asserts that it always has an owner
    assert_eq!(shell.owner(7), Some(Some(id("web2"))));
    shell.down("web2");
    shell.settle();
    assert_eq!(shell.owner(7), Some(Some(id("web"))));
    shell.down("web");
    shell.settle();
    assert_eq!(shell.owner(7), None);
}

#[test]
fn an_attach_that_fails_once_it_is_guarded_is_undone_when_the_workload_ends() {
    let mut shell = ready(&[]);
    shell.link(7);
    let mut web = workload("web", "n1", 7);
    shell.up(&web);
    shell.settle();
    web.interfaces[0].addresses = vec![("10.0.0.77".parse().unwrap(), 24)];
    shell.up(&web);
    while !shell.asks.is_empty() {
        let is_attach = matches!(shell.asks.front(), Some(Ask::Attach(_)));
        shell.serve(is_attach.then_some("busy"));
        shell.read();
    }
    assert!(shell.troubles().contains("busy"), "{}", shell.troubles());
    assert_eq!(
        shell.node.clone().unwrap().endpoints,
        1,
        "it is guarded as it was before"
    );
    shell.down("web");
    shell.settle();
    assert!(shell.kernel.guarded.is_empty() && shell.kept.is_empty());
    assert_eq!(shell.troubles(), "");
    assert_eq!(shell.node.clone().unwrap().endpoints, 0);
}

#[test]
fn an_interface_that_vanishes_under_an_attach_leaves_nothing_behind() {
    let mut shell = ready(&[]);
    shell.link(7);
    shell.settle();
    let web = workload("web", "n1", 7);
    shell.up(&web);
    shell.serve(None);
    shell.read();
    assert!(matches!(shell.asks.front(), Some(Ask::Attach(_))));
    // The datapath sees that it is gone before the agent is told.
    shell.kernel.links.remove(&7);
    shell.kernel.guarded.remove(&7);
    shell.settle();
    shell.unlink(7);
    shell.down("web");
    shell.settle();
    assert!(shell.kept.is_empty(), "{:?}", shell.kept);
}

#[test]
fn an_answer_about_an_interface_that_was_there_before_is_not_about_its_successor() {
    let mut shell = ready(&[]);
    shell.link(7);
    assert!(matches!(shell.asks.front(), Some(Ask::Attach(_))));
    shell.unlink(7);
    shell.serve(None); // it is gone
    shell.link(7); // another one with its index
    shell.read();
    shell.settle();
    assert_eq!(shell.owner(7), Some(None));
}

#[test]
fn changes_of_a_workload_do_not_pile_up_at_the_datapath() {
    let mut shell = ready(&[]);
    shell.link(7);
    let mut web = workload("web", "n1", 7);
    shell.up(&web);
    shell.settle();
    for last in 1..100u8 {
        web.interfaces[0].addresses = vec![(std::net::Ipv4Addr::new(10, 0, 1, last).into(), 24)];
        shell.up(&web);
        assert!(shell.asks.len() <= 2, "{:?}", shell.asks);
    }
    shell.settle();
    assert_eq!(
        shell.kernel.guarded[&7].addresses,
        [std::net::IpAddr::from([10, 0, 1, 99])],
        "the last word"
    );
}

#[test]
fn a_stranger_that_failed_is_let_go_without_running_in_circles() {
    let mut shell = ready(&[]);
    shell.link(7);
    shell.wait(29 * SECOND + SECOND / 2);
    shell.serve(Some("busy"));
    shell.read();
    assert!(shell.troubles().contains("busy"));
    shell.wait(SECOND); // asserts that it is not woken in the past
    shell.settle();
    assert!(shell.kernel.guarded.is_empty());
    assert!(
        !shell.troubles().contains("busy") && shell.troubles().contains("veth7"),
        "{}",
        shell.troubles()
    );
    assert_eq!(shell.agent.poll_timeout(), None);
}

#[test]
fn strangers_that_were_let_go_are_guarded_again_when_settings_deny() {
    let mut shell = ready(&[]);
    shell.link(7);
    shell.settle();
    shell.wait(31 * SECOND);
    shell.settle();
    assert_eq!(shell.owner(7), None);
    settings(&mut shell, UnknownEndpoint::Deny);
    assert_eq!(shell.owner(7), Some(None));
    assert_eq!(shell.troubles(), "");
    shell.wait(3600 * SECOND);
    assert_eq!(shell.owner(7), Some(None));
    // And back: it has been a stranger for long enough.
    settings(&mut shell, UnknownEndpoint::Auto);
    assert_eq!(shell.owner(7), None);
}

#[test]
fn a_refused_image_is_tried_again_at_growing_intervals() {
    let mut shell = ready(&[]);
    let before = shell.agent.revision().unwrap();
    let key = keys::mode(&"nv.web".parse().unwrap());
    write(&mut shell, &key, &StoredMode { mode: Mode::Protect });
    shell.change();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert!(matches!(shell.asks.front(), Some(Ask::Apply(..))));
        shell.serve(Some("no memory"));
        shell.read();
        assert!(shell.asks.is_empty(), "not at once");
        assert_eq!(shell.agent.revision(), Some(before));
        assert!(shell.troubles().contains("no memory"), "{}", shell.troubles());
        let pause = shell.agent.poll_timeout().unwrap().0 - shell.now;
        pauses.push(pause / SECOND);
        shell.wait(pause);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    shell.settle();
    assert!(shell.agent.revision().unwrap() > before);
    assert_eq!(shell.troubles(), "");
    assert_eq!(shell.agent.poll_timeout(), None);
}

#[test]
fn a_change_does_not_wait_for_the_next_try() {
    let mut shell = ready(&[]);
    let key = keys::mode(&"nv.web".parse().unwrap());
    write(&mut shell, &key, &StoredMode { mode: Mode::Protect });
    shell.change();
    shell.serve(Some("no memory"));
    shell.read();
    write(&mut shell, &key, &StoredMode { mode: Mode::Monitor });
    shell.settle();
    assert_eq!(shell.troubles(), "");
    assert_eq!(shell.agent.poll_timeout(), None);
}

#[test]
fn an_agent_that_starts_again_without_controller_uses_what_was_saved() {
    let mut shell = ready(&[]);
    let key = keys::mode(&"nv.web".parse().unwrap());
    write(&mut shell, &key, &StoredMode { mode: Mode::Protect });
    shell.link(7);
    shell.up(&workload("web", "n1", 7));
    shell.synced(&["web"]);
    shell.settle();
    shell.disconnect();
    shell.restart();
    // Its first image knows who is guarded already, though no runtime has spoken.
    let Some(Ask::Apply(revision, locals, _)) = shell.asks.front().cloned() else {
        panic!("{:?}", shell.asks);
    };
    assert!(revision.0 > 0 && locals.contains(&id("web")));
    shell.settle();
    assert_eq!(shell.owner(7), Some(Some(id("web"))), "untouched");
    assert!(shell.asks.is_empty());
    shell.up(&workload("web", "n1", 7));
    shell.up(&workload("app", "n1", 8));
    shell.link(8);
    shell.synced(&["web", "app"]);
    shell.settle();
    assert_eq!(shell.owner(7), Some(Some(id("web"))));
    assert_eq!(shell.owner(8), Some(Some(id("app"))));
    // What happened meanwhile is written when the controller is back.
    assert_eq!(shell.workloads_in_store(), ["web".to_owned()].into());
    shell.connect();
    shell.settle();
    assert_eq!(
        shell.workloads_in_store(),
        ["app".to_owned(), "web".to_owned()].into()
    );
    assert_eq!(shell.node.clone().unwrap().endpoints, 2);
}

#[test]
fn what_an_agent_before_left_guarded_is_undone_when_it_is_gone() {
    let mut shell = ready(&[]);
    shell.link(7);
    shell.up(&workload("web", "n1", 7));
    shell.synced(&["web"]);
    shell.settle();
    shell.restart();
    shell.settle();
    assert!(shell.kept.contains(&7));
    // It ended before anyone could look at it.
    shell.synced(&[]);
    shell.unlink(7);
    shell.settle();
    assert!(shell.kept.is_empty(), "{:?}", shell.kept);
}

#[test]
fn a_stranger_that_an_agent_before_guarded_stays_guarded() {
    let mut shell = ready(&[5]);
    settings(&mut shell, UnknownEndpoint::Deny);
    shell.link(7);
    shell.settle();
    assert_eq!(shell.owner(7), Some(None));
    shell.restart();
    assert_eq!(shell.owner(7), Some(None), "nothing opens");
    shell.settle();
    shell.synced(&[]);
    shell.wait(3600 * SECOND);
    shell.settle();
    assert_eq!(
        shell.owner(7),
        Some(None),
        "settings say deny: it is never let go"
    );
    assert_eq!(shell.owner(5), None, "it was there before the first agent");
    // Where settings leave it open it has its half minute, as any other.
    settings(&mut shell, UnknownEndpoint::Auto);
    shell.settle();
    shell.link(8);
    shell.settle();
    shell.restart();
    shell.settle();
    shell.wait(29 * SECOND);
    shell.settle();
    assert_eq!(shell.owner(8), Some(None));
    shell.wait(SECOND);
    shell.settle();
    assert_eq!(shell.owner(8), None);
    assert!(shell.troubles().contains("veth8"), "{}", shell.troubles());
    // Once let go it is as if it had been there before.
    shell.restart();
    shell.settle();
    assert_eq!(shell.owner(8), None);
}

#[test]
fn what_an_agent_before_guarded_is_kept_while_its_runtime_is_away() {
    let mut shell = ready(&[]);
    shell.link(7);
    shell.up(&workload("web", "n1", 7));
    shell.synced(&["web"]);
    shell.settle();
    shell.restart();
    shell.settle();
    shell.wait(3600 * SECOND);
    shell.settle();
    assert_eq!(
        shell.owner(7),
        Some(Some(id("web"))),
        "dockerd does not answer for an hour"
    );
    assert_eq!(shell.agent.poll_timeout(), None);
    // It is back and says that the workload is gone; its interface is not.
    shell.synced(&[]);
    shell.settle();
    shell.wait(SECOND);
    shell.settle();
    assert_eq!(shell.owner(7), None, "nobody's for longer than half a minute");
}

#[test]
fn an_agent_that_starts_without_anything_saved_touches_nothing_until_the_controller_answers() {
    let mut shell = Shell::new(&[5, 7]);
    shell.disconnect();
    shell.up(&workload("web", "n1", 7));
    shell.link(9);
    shell.synced(&["web"]);
    shell.wait(10 * SECOND);
    assert!(
        shell.asks.is_empty(),
        "what an agent before this one left stays in force"
    );
    assert_eq!(shell.node, None);
    shell.connect();
    shell.settle();
    assert_eq!(shell.owner(7), Some(Some(id("web"))));
    assert_eq!(shell.owner(9), Some(None));
    assert_eq!(shell.owner(5), None, "nobody claims it");
    assert_eq!(shell.workloads_in_store(), ["web".to_owned()].into());
}

#[test]
fn what_changes_while_the_controller_is_away_is_written_when_it_is_back() {
    let mut shell = ready(&[]);
    shell.link(7);
    shell.up(&workload("web", "n1", 7));
    shell.synced(&["web"]);
    shell.settle();
    shell.disconnect();
    shell.down("web");
    shell.unlink(7);
    shell.link(8);
    shell.up(&workload("app", "n1", 8));
    shell.settle();
    assert_eq!(
        shell.owner(8),
        Some(Some(id("app"))),
        "guarded without a controller"
    );
    let key = keys::mode(&"nv.app".parse().unwrap());
    write(&mut shell, &key, &StoredMode { mode: Mode::Protect });
    shell.connect();
    shell.settle();
    assert_eq!(shell.workloads_in_store(), ["app".to_owned()].into());
    assert_eq!(
        shell.agent.revision(),
        shell.kernel.image.as_ref().map(|image| image.0)
    );
}

#[test]
fn the_last_runtime_to_speak_decides_about_its_own_workloads_only() {
    let mut shell = Shell::new(&[]);
    let (old, mut other) = (workload("old", "n1", 5), workload("pod", "n1", 6));
    other.runtime = "second".into();
    for left in [&old, &other] {
        write(&mut shell, &keys::workload(&node(), &left.id), left);
    }
    shell.connect();
    shell.settle();
    shell.synced(&[]);
    shell.settle();
    assert_eq!(
        shell.workloads_in_store(),
        ["pod".to_owned()].into(),
        "its runtime is silent yet"
    );
    assert!(shell.kernel.image.as_ref().unwrap().1.contains(&other.id));
    shell.tell(nv_agent_core::Input::Synced {
        runtime: "second".into(),
        running: [].into(),
    });
    shell.settle();
    assert!(shell.workloads_in_store().is_empty());
    assert!(shell.kernel.image.as_ref().unwrap().1.is_empty());
}

#[test]
fn values_that_make_no_sense_are_named_and_the_rest_counts() {
    let mut shell = Shell::new(&[]);
    let elsewhere = workload("db", "n2", 3);
    let good = keys::workload(&elsewhere.node, &elsewhere.id);
    write(&mut shell, &good, &elsewhere);
    let foreign = keys::workload(&node(), &id("stolen"));
    let bad = [
        keys::rule(nv_types::RuleId(3)),
        foreign.clone(),
        keys::node(&"n3".parse().unwrap()),
        "policy/mode/no such".to_owned(),
    ];
    for key in &bad {
        write(&mut shell, key, &elsewhere);
    }
    shell.store.write("something/else", Some(b"\xff\x00".to_vec()));
    shell.store.write(keys::ORDER, Some(b"not json".to_vec()));
    shell.connect();
    shell.settle();
    let words = shell.troubles();
    for key in bad.iter().map(String::as_str).chain([keys::ORDER]) {
        assert!(words.contains(&format!("'{key}'")), "{key} in {words}");
    }
    assert!(
        !words.contains("something/else") && !words.contains(&format!("value of '{good}'")),
        "{words}"
    );
    assert!(shell.agent.revision().is_some(), "the rest is in force");
    shell.link(7);
    shell.up(&workload("stolen", "n1", 7));
    shell.synced(&["stolen"]);
    shell.settle();
    assert!(
        !shell.troubles().contains(&foreign),
        "what runs here is written anew"
    );
    assert_eq!(shell.owner(7), Some(Some(id("stolen"))));
    for key in bad.iter().chain([&keys::ORDER.to_owned()]) {
        if *key != foreign {
            shell.store.write(key, None);
        }
    }
    shell.settle();
    assert_eq!(shell.troubles(), "");
}
