//! Random requests: what holds after each.

use std::collections::BTreeSet;

use nv_controller_core::{CommandError, Document, Plan, RuleDraft, RulePatch};
use nv_types::{Mode, RuleId, Tier, reserved};
use proptest::prelude::*;

use crate::lab::{APP, DB, WEB};
use crate::lab::{Lab, NOW, as_app, egress, group, later, rule};

#[derive(Clone, Debug)]
enum Step {
    CreateGroup(u8),
    DeleteGroup(u8),
    Insert {
        after: Option<i64>,
        ids: Vec<u32>,
        from: u8,
        to: u8,
    },
    Move {
        id: u32,
        after: Option<i64>,
    },
    Replace(Vec<u32>),
    Patch {
        id: u32,
        to: u8,
    },
    Delete(Vec<u32>),
    Modes(u8, u8),
    Apply {
        rules: Vec<(u32, Option<i64>)>,
        group: u8,
    },
    Learn {
        from: u8,
        to: u8,
        port: u16,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = || 0u32..7;
    let after = || proptest::option::of(-7i64..7);
    let step = prop_oneof![
        (0u8..4).prop_map(Step::CreateGroup),
        (0u8..4).prop_map(Step::DeleteGroup),
        (after(), prop::collection::vec(id(), 0..4), 0u8..9, 0u8..9)
            .prop_map(|(after, ids, from, to)| Step::Insert { after, ids, from, to }),
        (id(), after()).prop_map(|(id, after)| Step::Move { id, after }),
        prop::collection::vec(id(), 0..5).prop_map(Step::Replace),
        (id(), 0u8..9).prop_map(|(id, to)| Step::Patch { id, to }),
        prop::collection::vec(prop_oneof![id(), 9_999u32..10_004], 0..3).prop_map(Step::Delete),
        (0u8..9, 0u8..3).prop_map(|(name, mode)| Step::Modes(name, mode)),
        (prop::collection::vec((id(), after()), 0..5), 0u8..4)
            .prop_map(|(rules, group)| Step::Apply { rules, group }),
        (0u8..3, 0u8..3, 1u16..40).prop_map(|(from, to, port)| Step::Learn { from, to, port }),
    ];
    prop::collection::vec(step, 0..40)
}

/// Groups that are there, may be there, and are not.
fn name(index: u8) -> &'static str {
    [
        "g0",
        "g1",
        "g2",
        "g3",
        "nv.web",
        "nv.app",
        "containers",
        "external",
        "nobody",
    ][usize::from(index) % 9]
}

fn drafts(ids: &[u32], from: u8, to: u8) -> Vec<RuleDraft> {
    ids.iter()
        .map(|id| RuleDraft {
            id: *id,
            ..rule(name(from), name(to), "tcp/80")
        })
        .collect()
}

fn ask(lab: &Lab, step: &Step) -> Result<Plan, CommandError> {
    let core = &lab.core;
    let image = |index: u8| group(name(index), &[("image", "=", "*")]);
    match step {
        Step::CreateGroup(index) => core.create_group(&image(*index), NOW),
        Step::DeleteGroup(index) => core.delete_group(name(*index), NOW),
        Step::Insert { after, ids, from, to } => core.insert_rules(*after, &drafts(ids, *from, *to), NOW),
        Step::Move { id, after } => core.move_rule(RuleId(*id), *after, NOW),
        Step::Replace(ids) => core.replace_rules(&drafts(ids, 4, 5), NOW),
        Step::Patch { id, to } => {
            let patch = RulePatch {
                to: Some(name(*to).into()),
                ..RulePatch::default()
            };
            core.patch_rule(RuleId(*id), &patch, NOW)
        }
        Step::Delete(ids) => core.delete_rules(&ids.iter().map(|id| RuleId(*id)).collect::<Vec<_>>(), NOW),
        Step::Modes(index, mode) => {
            let mode = [Mode::Discover, Mode::Monitor, Mode::Protect][usize::from(*mode)];
            core.set_modes(&[name(*index).to_owned()], mode, NOW)
        }
        Step::Apply { rules, group } => {
            let mut documents = vec![Document::Group(image(*group))];
            documents.extend(rules.iter().map(|(id, after)| {
                Document::Rule(RuleDraft {
                    id: *id,
                    after: *after,
                    ..rule(name(*group), "external", "tcp/443")
                })
            }));
            core.apply(&documents, NOW)
        }
        Step::Learn { .. } => Ok(Plan::default()),
    }
}

fn invariants(lab: &Lab) {
    let input = lab.core.input();
    let ids: Vec<_> = input.rules.iter().map(|rule| rule.id).collect();
    let unique: BTreeSet<_> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len(), "every rule once");
    let stored: BTreeSet<_> = lab
        .store
        .keys()
        .filter_map(|key| key.strip_prefix("policy/rule/"))
        .map(|id| RuleId(id.parse().unwrap()))
        .collect();
    assert_eq!(unique, stored, "the list is a permutation of the rules");
    let order: nv_policy::StoredOrder = lab
        .store
        .get("policy/order")
        .map(|(value, _)| nv_policy::decode("policy/order", value).unwrap())
        .unwrap_or_default();
    assert_eq!(order.rules, ids, "the stored list is the whole list");
    let tiers: Vec<Tier> = input.ordered_rules().map(nv_types::Rule::tier).collect();
    assert!(tiers.is_sorted(), "tiers are contiguous: {tiers:?}");
    for rule in &input.rules {
        for side in [&rule.from, &rule.to] {
            assert!(
                input.groups.contains_key(side) || reserved::ALL.contains(&side.as_str()),
                "rule {} names '{side}', which is not there",
                rule.id
            );
        }
    }
    assert!(lab.core.problems().is_empty());
    let anew = lab.restarted();
    assert_eq!(anew.input(), input, "the state is what the store says");
    assert_eq!(anew.revision(), lab.core.revision());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_is_asked_the_policy_stays_whole(steps in steps()) {
        let mut lab = Lab::with_services();
        let mut now = NOW;
        for step in steps {
            now = nv_types::Timestamp(now.0 + 10_000_000_000);
            if let Step::Learn { from, to, port } = step {
                let address = |index| [WEB, APP, DB][usize::from(index)];
                let app = if port < 20 { nv_types::Application::HTTP } else { nv_types::Application::UNKNOWN };
                lab.core.report_flows(&[as_app(egress(address(from), address(to), port), app)], now);
                lab.settle(later(10) .max(nv_types::Timestamp(now.0 + 10_000_000_000)));
            }
            let before = (lab.core.input().clone(), lab.store.clone());
            match ask(&lab, &step) {
                Ok(plan) => {
                    prop_assert_eq!(&before.0, lab.core.input(), "asking changes nothing");
                    let is_empty = plan.is_empty();
                    lab.commit(&plan).unwrap();
                    if is_empty {
                        prop_assert_eq!(&before.0, lab.core.input());
                    } else {
                        prop_assert_ne!(&before.0, lab.core.input(), "a plan that says nothing: {:?}", plan);
                    }
                }
                Err(error) => {
                    prop_assert!(!error.to_string().is_empty());
                    prop_assert_eq!(before, (lab.core.input().clone(), lab.store.clone()));
                }
            }
            invariants(&lab);
        }
    }
}
