//! NeuVector's table of places for rules (`controller/rest/policy_test.go`, facts only), and where ours differs, each with its reason.
//!
//! | case | NeuVector | here | why |
//! | --- | --- | --- | --- |
//! | `after` null, 0, `+id`, `-id` | end, start, behind, before | the same | |
//! | place outside of the rule's tier | clamped into the tier | the same | |
//! | learned rules | one list with users' rules, so a user's rule may stand behind or between them | a tier of their own, below users' rules | what was seen must not decide before what somebody wrote; importers write learned rules in order |
//! | `after` names no rule, or one that no range of ids has (`-100`) | clamped: the start or the end | refused, with the field | a mistyped number must not silently give a rule another place |
//! | rule before or behind itself | stays | refused, with the field | the same |
//! | CRD rules | cannot be moved; by priority | cannot be made, moved or changed over REST, only deleted | the same, and named |
//! | ids | highest of the range + 1, then the smallest free | the same | |

use nv_controller_core::ErrorKind;
use nv_policy::{StoredOrder, encode, rule as stored_rule};
use nv_types::{Action, RuleId, keys};

use crate::lab::{Lab, NOW, numbered};

/// Federated, CRD, users' and learned rules, three of each, as a store may have them.
fn tiers() -> Lab {
    let mut lab = Lab::with_services();
    let ids = [
        100_000, 100_001, 100_002, 110_000, 110_001, 110_002, 1, 2, 3, 10_000, 10_001, 10_002,
    ];
    for id in ids {
        let rule = stored_rule(id, "containers", "external", "tcp/443", Action::Allow).unwrap();
        let key = keys::rule(rule.id);
        lab.put(&key, &encode(&key, &rule).unwrap());
    }
    let rules = ids.into_iter().map(RuleId).collect();
    lab.put(keys::ORDER, &encode(keys::ORDER, &StoredOrder { rules }).unwrap());
    lab
}

/// Users' rules, and whether the other tiers stand as they did, in the order in which rules are tried.
fn users(lab: &Lab) -> Vec<u32> {
    let all: Vec<u32> = lab.core.input().ordered_rules().map(|rule| rule.id.0).collect();
    let (before, rest): (Vec<_>, Vec<_>) = all.iter().partition(|id| **id >= 100_000);
    assert_eq!(
        before,
        [&100_000, &100_001, &100_002, &110_000, &110_001, &110_002]
    );
    let learned = rest.iter().rev().take(3).rev().copied().copied();
    assert_eq!(learned.collect::<Vec<_>>(), [10_000, 10_001, 10_002]);
    rest[..rest.len() - 3].iter().map(|id| **id).collect()
}

#[test]
fn rules_are_inserted_where_neuvectors_table_says() {
    for (after, order) in [
        (None, [1, 2, 3, 7]),
        (Some(0), [7, 1, 2, 3]),
        (Some(1), [1, 7, 2, 3]),
        (Some(3), [1, 2, 3, 7]),
        (Some(-1), [7, 1, 2, 3]),
        (Some(-2), [1, 7, 2, 3]),
        // In another tier: as near as its own allows.
        (Some(100_001), [7, 1, 2, 3]),
        (Some(-100_001), [7, 1, 2, 3]),
        (Some(110_002), [7, 1, 2, 3]),
        (Some(10_000), [1, 2, 3, 7]),
        (Some(-10_000), [1, 2, 3, 7]),
        (Some(10_002), [1, 2, 3, 7]),
    ] {
        let mut lab = tiers();
        lab.make(|core| core.insert_rules(after, &[numbered(7)], NOW));
        assert_eq!(users(&lab), order, "{after:?}");
    }
}

#[test]
fn rules_are_moved_where_neuvectors_table_says() {
    for (id, after, order) in [
        (1, None, [2, 3, 1]),
        (3, Some(0), [3, 1, 2]),
        (1, Some(3), [2, 3, 1]),
        (3, Some(-1), [3, 1, 2]),
        (2, Some(1), [1, 2, 3]),
        (2, Some(-3), [1, 2, 3]),
        (2, Some(100_000), [2, 1, 3]),
        (2, Some(-110_000), [2, 1, 3]),
        (2, Some(10_002), [1, 3, 2]),
        (2, Some(-10_000), [1, 3, 2]),
    ] {
        let mut lab = tiers();
        lab.make(|core| core.move_rule(RuleId(id), after, NOW));
        assert_eq!(users(&lab), order, "{id} {after:?}");
    }
}

#[test]
fn places_that_are_none_are_refused_with_the_field() {
    let lab = tiers();
    for after in [100, -100, 9_999, 120_000, -120_000, i64::MAX, i64::MIN] {
        let error = lab.refused(|core| core.insert_rules(Some(after), &[numbered(7)], NOW));
        assert!(
            error.to_string().contains("after: there is no rule"),
            "{after}: {error}"
        );
        let error = lab.refused(|core| core.move_rule(RuleId(1), Some(after), NOW));
        assert!(
            error.to_string().contains("after: there is no rule"),
            "{after}: {error}"
        );
    }
    for after in [2, -2] {
        let error = lab.refused(|core| core.move_rule(RuleId(2), Some(after), NOW));
        assert!(error.to_string().contains("before or after itself"), "{error}");
    }
}

#[test]
fn ids_that_are_not_the_users_are_refused() {
    let lab = tiers();
    for id in [10_003, 100_003, 110_003, 120_000, u32::MAX] {
        let error = lab.refused(|core| core.insert_rules(None, &[numbered(id)], NOW));
        assert!(
            matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Conflict),
            "{id}: {error}"
        );
        assert!(error.to_string().contains(&id.to_string()), "{id}: {error}");
    }
    let error = lab.refused(|core| core.insert_rules(None, &[numbered(2)], NOW));
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}
