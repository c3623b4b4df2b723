//! What each target does with its bytes: nothing that comes from outside may panic, and what is read and written is read the same
//! again. Ordinary tests (`tests/replay.rs`) do the same with the corpora.

use nv_policy::Selector;
use nv_policy::interchange::{import, outline};
use nv_types::{Criterion, CriterionOp, NodeId, PortSet, Workload, WorkloadId};

/// Port syntax.
pub(crate) fn ports(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(set) = text.parse::<PortSet>() {
        let again = set.to_string().parse::<PortSet>();
        assert_eq!(again.as_ref(), Ok(&set), "{text:?} is written as {set}");
    }
}

/// Criteria: a line each, `key<TAB>operator<TAB>value`.
pub(crate) fn criteria(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let criteria: Vec<Criterion> = text.lines().filter_map(criterion).take(64).collect();
    if let Ok(selector) = Selector::new(&criteria) {
        let _ = selector.matches(&workload(text));
    }
}

fn criterion(line: &str) -> Option<Criterion> {
    let mut parts = line.splitn(3, '\t');
    let (key, op, value) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Criterion {
        key: key.into(),
        value: value.into(),
        op: op.parse::<CriterionOp>().ok()?,
    })
}

fn workload(text: &str) -> Workload {
    let id = WorkloadId::try_new("w").unwrap_or_else(|_| unreachable!());
    let node = NodeId::try_new("n").unwrap_or_else(|_| unreachable!());
    let mut workload = Workload::new(id, node, text);
    workload.image = text.into();
    workload.labels.insert("app".into(), text.into());
    workload
}

/// Expressions: the first line, asked of the rest.
pub(crate) fn regex(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (expression, haystack) = text.split_once('\n').unwrap_or((text, ""));
    for op in [CriterionOp::Regex, CriterionOp::NotRegex] {
        let criterion = Criterion {
            key: "image".into(),
            value: expression.into(),
            op,
        };
        if let Ok(selector) = Selector::new(&[criterion]) {
            let _ = selector.matches(&workload(haystack));
        }
    }
}

/// Policies in YAML, of any form.
pub(crate) fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = outline(text);
    if let Ok(imported) = import(text, None) {
        let _ = imported.to_input();
    }
}
