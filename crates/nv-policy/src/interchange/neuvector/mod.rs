//! NeuVector's custom resources.
//!
//! What NeuVector means differently is noted on import and on export alike: it takes any one of several label keys (here all must hold), it takes
//! positive and negative criteria of one key as alternatives, a missing label never satisfies `!=` there. Its `service` criterion
//! holds the domain (`web.shop`), ours does not; it is rewritten where the group has exactly one domain.
//!
//! Every difference of meaning, and what an import does about it:
//!
//! | topic | NeuVector | here | import |
//! | --- | --- | --- | --- |
//! | bare port `80` | TCP | TCP | nothing to do |
//! | different label keys | any of them | all of them | noted (changed) |
//! | positive and negative criteria of one key | alternatives | both must hold | noted (changed) |
//! | missing label with `!=` | no member | member | noted (changed) |
//! | `service` with its domain at the end | yes | no | rewritten, or noted where it cannot be |
//! | `any` and ICMP, unmatched ICMP | let pass unless `enable_icmp_policy` | judged (setting `icmp_policy`) | noted with the mode (Protect) |
//! | link-local addresses | always pass | judged | noted with the mode (Protect) |
//! | user and learned rules | one list | learned ones last | objects have no learned rules; order is kept by priority |
//! | contention | the less strict mode by default | setting `contention` | not in the objects; `/v2/system/config` takes `strict_group_mode` |
//! | deny on `nodes`, `Host:` | only reported | can block | noted (changed) |
//! | DNS names, `vh:` | resolved in the datapath; `vh:` by Host or SNI | by the addresses that are told; internal answers need `internal_names`; `vh:` by address | kept; diagnostics of the group say it |
//! | boundary of a namespace | also before rules of users | learned rules only | a namespace's label is read; not in the objects |
//! | application Couchbase | the memcached binary protocol, whoever speaks it | Couchbase's own commands only; plain ones are Memcached | noted (changed) |
//! | process and file rules, DLP, WAF, sensors | there | not there | noted (lost) |

mod read;
mod write;

pub(super) use read::Reader;
pub(super) use write::write;

use std::collections::BTreeSet;

use nv_types::{Criterion, CriterionOp, Group};

/// The only domain of a group, if its criteria name exactly one.
fn only_domain(criteria: &[Criterion]) -> Option<&str> {
    let mut domains = criteria
        .iter()
        .filter(|criterion| matches!(criterion.key.as_str(), "domain" | "namespace"));
    match (domains.next(), domains.next()) {
        (Some(one), None) if one.op == CriterionOp::Equal && is_literal(&one.value) => Some(&one.value),
        _ => None,
    }
}

/// Whether a value of `=` means just itself.
fn is_literal(value: &str) -> bool {
    value != "any" && !value.contains(['*', '?'])
}

/// Whether NeuVector would have the domain at the end of this criterion's value.
fn is_service_value(criterion: &Criterion) -> bool {
    criterion.key == "service" && matches!(criterion.op, CriterionOp::Equal | CriterionOp::NotEqual)
}

fn is_label(key: &str) -> bool {
    !matches!(
        key,
        "image" | "node" | "container" | "service" | "domain" | "namespace" | "address"
    )
}

/// What NeuVector understands differently in these criteria, in words.
fn differences(group: &Group) -> Vec<String> {
    let mut found = Vec::new();
    let criteria = &group.criteria;
    for (namespace, word) in [(false, "labels"), (true, "namespace labels")] {
        let labels = || {
            criteria
                .iter()
                .filter(move |c| is_label(&c.key) && c.key.starts_with("ns:") == namespace)
        };
        let keys: BTreeSet<_> = labels().map(|c| c.key.as_str()).collect();
        if keys.len() > 1 && labels().any(|c| !c.op.is_negative()) {
            found.push(format!(
                "NeuVector takes any one of the {word} {}; here all of them must hold",
                keys.into_iter().collect::<Vec<_>>().join(", ")
            ));
        }
    }
    let keys: BTreeSet<_> = criteria.iter().map(|c| c.key.as_str()).collect();
    for key in keys {
        let of_key = || criteria.iter().filter(move |c| c.key == key);
        let negative = of_key().any(|c| c.op.is_negative());
        if negative && of_key().any(|c| !c.op.is_negative()) {
            found.push(format!(
                "NeuVector takes the positive and negative criteria of '{key}' as alternatives; here the negative ones must hold as well"
            ));
        }
        if negative && is_label(key) {
            found.push(format!(
                "a workload without the label '{key}' is a member here, and not in NeuVector"
            ));
        }
        let expression = |c: &Criterion| !matches!(c.op, CriterionOp::Equal | CriterionOp::NotEqual);
        if key == "service" && (of_key().any(expression) || only_domain(criteria).is_none()) {
            found.push(
                "NeuVector's 'service' ends in '.DOMAIN', ours does not; it was kept as it is".to_owned(),
            );
        }
    }
    found
}
