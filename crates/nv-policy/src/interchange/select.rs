//! Who a Kubernetes or Cilium policy speaks of, and the same as criteria. Label selectors are closed under intersection, and that is what
//! turns two one-sided policies into one rule.

use std::collections::{BTreeMap, BTreeSet};

use nv_types::{Criterion, CriterionOp, Workload};

use super::cursor::{At, Notes, Problem};

/// What one key must be. Kept in a normal form: with `any_of`, nothing else is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need {
    any_of: Option<BTreeSet<String>>,
    none_of: BTreeSet<String>,
    present: Option<bool>,
}

impl Need {
    pub(super) fn any_of<T: Into<String>>(values: impl IntoIterator<Item = T>) -> Self {
        Self {
            any_of: Some(values.into_iter().map(Into::into).collect()),
            ..Self::default()
        }
    }

    pub(super) fn none_of<T: Into<String>>(values: impl IntoIterator<Item = T>) -> Self {
        Self {
            none_of: values.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    pub(super) fn present(present: bool) -> Self {
        Self {
            present: Some(present),
            ..Self::default()
        }
    }

    /// Both; `None` when nothing can be both.
    fn and(&self, other: &Self) -> Option<Self> {
        let none_of: BTreeSet<_> = self.none_of.union(&other.none_of).cloned().collect();
        let any_of = match (&self.any_of, &other.any_of) {
            (Some(a), Some(b)) => Some(a.intersection(b).cloned().collect::<BTreeSet<_>>()),
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        let present = match (self.present, other.present) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.or(b),
        };
        match (any_of, present) {
            (Some(_), Some(false)) => None,
            (Some(values), _) => {
                let values: BTreeSet<_> = values.difference(&none_of).cloned().collect();
                (!values.is_empty()).then(|| Self::any_of(values))
            }
            (None, Some(false)) => Some(Self::present(false)),
            (None, present) => Some(Self {
                any_of: None,
                none_of,
                present,
            }),
        }
    }

    /// Whether every value that holds here holds there, as far as the two say.
    fn implies(&self, other: &Self) -> bool {
        match (&self.any_of, &other.any_of) {
            (Some(own), Some(others)) => own.is_subset(others),
            (None, Some(_)) => false,
            (Some(own), None) => other.present != Some(false) && own.is_disjoint(&other.none_of),
            (None, None) => {
                let absent = self.present == Some(false) && other.present.is_none();
                let present = other.present.is_none() || other.present == self.present;
                present && (absent || other.none_of.is_subset(&self.none_of))
            }
        }
    }

    fn holds(&self, value: Option<&str>) -> bool {
        match (value, &self.any_of) {
            (Some(value), Some(any_of)) => any_of.contains(value),
            (None, Some(_)) => false,
            (Some(value), None) => self.present != Some(false) && !self.none_of.contains(value),
            (None, None) => self.present != Some(true),
        }
    }
}

/// Workloads by labels, labels of the namespace (`ns:…`) and `domain`. Without needs: every workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sel {
    needs: BTreeMap<String, Need>,
}

impl Sel {
    pub(super) fn in_domain(domain: &str) -> Self {
        Self {
            needs: BTreeMap::from([("domain".to_owned(), Need::any_of([domain]))]),
        }
    }

    /// Also this; `None` when nothing is left.
    pub(super) fn with(mut self, key: impl Into<String>, need: Need) -> Option<Self> {
        let key = key.into();
        let mut need = match self.needs.get(&key) {
            Some(known) => known.and(&need)?,
            None => need.and(&Need::default())?,
        };
        if key == "domain" {
            // Every workload has a domain.
            if need.present.take() == Some(false) {
                return None;
            }
        }
        if need == Need::default() {
            self.needs.remove(&key);
        } else {
            self.needs.insert(key, need);
        }
        Some(self)
    }

    /// Those that are in both.
    pub(super) fn and(&self, other: &Self) -> Option<Self> {
        other.needs.iter().try_fold(self.clone(), |sel, (key, need)| {
            sel.with(key.clone(), need.clone())
        })
    }

    /// Whether all of these are among the others, as far as the selectors themselves say.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        other
            .needs
            .iter()
            .all(|(key, need)| self.needs.get(key).is_some_and(|own| own.implies(need)))
    }

    /// Whether somebody could be in both; quick, and `true` when in doubt.
    pub(super) fn may_meet(&self, other: &Self) -> bool {
        self.needs.iter().all(|(key, need)| {
            let others = other.needs.get(key).and_then(|other| other.any_of.as_ref());
            match (&need.any_of, others) {
                (Some(own), Some(others)) => own.iter().any(|value| others.contains(value)),
                _ => true,
            }
        })
    }

    pub(super) fn is_all(&self) -> bool {
        self.needs.is_empty()
    }

    /// The domains, when they are listed.
    pub(super) fn domains(&self) -> Option<&BTreeSet<String>> {
        self.needs.get("domain")?.any_of.as_ref()
    }

    /// One for each domain, where they are listed.
    pub(super) fn by_domain(&self) -> Vec<Self> {
        match self.domains() {
            Some(domains) => {
                let one = |domain: &String| self.and(&Self::in_domain(domain));
                domains.iter().filter_map(one).collect()
            }
            None => vec![self.clone()],
        }
    }

    pub(super) fn without_domain(&self) -> Self {
        let mut sel = self.clone();
        sel.needs.remove("domain");
        sel
    }

    pub(super) fn matches(&self, workload: &Workload) -> bool {
        self.needs.iter().all(|(key, need)| {
            need.holds(match key.strip_prefix("ns:") {
                _ if key == "domain" => Some(&workload.domain),
                Some(label) => workload.namespace_labels.get(label).map(String::as_str),
                None => workload.labels.get(key).map(String::as_str),
            })
        })
    }

    pub(super) fn criteria(&self) -> Vec<Criterion> {
        let criterion = |key: &str, op, value: &str| Criterion {
            key: key.to_owned(),
            value: value.to_owned(),
            op,
        };
        let mut found = Vec::new();
        for (key, need) in &self.needs {
            for value in need.any_of.iter().flatten() {
                // '= any' would be every value.
                found.push(if value == "any" {
                    criterion(key, CriterionOp::Regex, "^any$")
                } else {
                    criterion(key, CriterionOp::Equal, value)
                });
            }
            match need.present {
                Some(true) => found.push(criterion(key, CriterionOp::Equal, "*")),
                Some(false) => found.push(criterion(key, CriterionOp::NotEqual, "*")),
                None => {}
            }
            for value in &need.none_of {
                found.push(criterion(key, CriterionOp::NotEqual, value));
            }
        }
        found
    }

    /// The selector that means the same as the criteria.
    ///
    /// # Errors
    /// Why labels cannot say it.
    pub(super) fn from_criteria(criteria: &[Criterion]) -> Result<Self, String> {
        let mut needs: BTreeMap<String, (BTreeSet<String>, Vec<Need>, bool)> = BTreeMap::new();
        for Criterion { key, value, op } in criteria {
            let key = if key == "namespace" { "domain" } else { key };
            if is_reserved(key) {
                return Err(format!("'{key}' is no label"));
            }
            check_key(key)?;
            let place = needs.entry(key.to_owned()).or_default();
            match (op, value.as_str()) {
                (CriterionOp::Equal, "*" | "any") => place.2 = true,
                (CriterionOp::NotEqual, "*") => place.1.push(Need::present(false)),
                (CriterionOp::Regex, "^any$") => {
                    place.0.insert("any".to_owned());
                }
                (CriterionOp::Equal, value) => {
                    check_value(key, value)?;
                    place.0.insert(value.to_owned());
                }
                (CriterionOp::NotEqual, value) => {
                    check_value(key, value)?;
                    place.1.push(Need::none_of([value]));
                }
                (op, _) => return Err(format!("labels cannot say '{key} {op} {value}'")),
            }
        }
        let nobody = || "its criteria match nobody".to_owned();
        let mut sel = Self::default();
        for (key, (values, others, any)) in needs {
            if any {
                sel = sel.with(&key, Need::present(true)).ok_or_else(nobody)?;
            } else if !values.is_empty() {
                sel = sel.with(&key, Need::any_of(values)).ok_or_else(nobody)?;
            }
            for need in others {
                sel = sel.with(&key, need).ok_or_else(nobody)?;
            }
        }
        Ok(sel)
    }

    /// As a Kubernetes label selector, keys written by `key`; only the keys that it gives a name.
    pub(super) fn to_labels(&self, key: impl Fn(&str) -> Option<String>) -> serde_json::Value {
        let mut labels = serde_json::Map::new();
        let mut expressions = Vec::new();
        for (own, need) in &self.needs {
            let Some(name) = key(own) else { continue };
            match &need.any_of {
                Some(values) if values.len() == 1 => {
                    labels.insert(name.clone(), values.iter().next().cloned().into());
                }
                Some(values) => {
                    expressions.push(serde_json::json!({"key": name, "operator": "In", "values": values}))
                }
                None => {}
            }
            if let Some(present) = need.present {
                let operator = if present { "Exists" } else { "DoesNotExist" };
                expressions.push(serde_json::json!({"key": name, "operator": operator}));
            }
            if !need.none_of.is_empty() {
                expressions
                    .push(serde_json::json!({"key": name, "operator": "NotIn", "values": need.none_of}));
            }
        }
        let mut selector = serde_json::Map::new();
        if !labels.is_empty() {
            selector.insert("matchLabels".to_owned(), labels.into());
        }
        if !expressions.is_empty() {
            selector.insert("matchExpressions".to_owned(), expressions.into());
        }
        selector.into()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.needs.keys().map(String::as_str)
    }
}

/// Keys of criteria that are not labels.
pub(super) fn is_reserved(key: &str) -> bool {
    matches!(
        key,
        "image" | "node" | "container" | "service" | "namespace" | "address"
    )
}

/// A label's key as Kubernetes has it, perhaps with `ns:` in front.
fn check_key(key: &str) -> Result<(), String> {
    let key = key.strip_prefix("ns:").unwrap_or(key);
    let (prefix, name) = key.split_once('/').unwrap_or(("", key));
    let edge = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let fine = name.len() <= 63
        && edge(name)
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && prefix.len() <= 253
        && prefix
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        && (prefix.is_empty() || edge(prefix));
    if fine {
        Ok(())
    } else {
        Err(format!("'{key}' is no key of a label"))
    }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    let fine = value.len() <= 63
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && (key != "domain" || !value.is_empty());
    if fine {
        Ok(())
    } else {
        Err(format!("'{value}' is no value of a label"))
    }
}

/// Reads a Kubernetes label selector. `key` turns a label's key into a criterion's, or says why there is none.
///
/// `Ok(None)`: it selects nobody.
pub(super) fn read_selector(
    at: &At<'_>,
    notes: &mut Notes<'_>,
    key: impl Fn(&str) -> Result<String, String>,
) -> Result<Option<Sel>, Problem> {
    let mut fields = at.fields()?;
    let mut sel = Some(Sel::default());
    if let Some(labels) = fields.take("matchLabels") {
        for (label, value, at) in labels.texts()? {
            let key = key(label).map_err(|error| at.invalid(error))?;
            check_key(&key)
                .and_then(|()| check_value(&key, value))
                .map_err(|error| at.invalid(error))?;
            sel = sel.and_then(|sel| sel.with(key, Need::any_of([value])));
        }
    }
    if let Some(list) = fields.take("matchExpressions") {
        for item in list.items()? {
            let (key, need) = expression(&item, notes, &key)?;
            sel = sel.and_then(|sel| sel.with(key, need));
        }
    }
    if fields.finish(notes) {
        return Err(at.invalid("a selector with a field that is not known"));
    }
    Ok(sel)
}

fn expression(
    at: &At<'_>,
    notes: &mut Notes<'_>,
    key: &impl Fn(&str) -> Result<String, String>,
) -> Result<(String, Need), Problem> {
    let mut fields = at.fields()?;
    let key_at = fields.need("key")?;
    let key = key(key_at.text()?).map_err(|error| key_at.invalid(error))?;
    check_key(&key).map_err(|error| key_at.invalid(error))?;
    let operator = fields.need("operator")?;
    let values_at = fields.take("values");
    let mut values = BTreeSet::new();
    if let Some(at) = &values_at {
        for item in at.items()? {
            let value = item.text()?;
            check_value(&key, value).map_err(|error| item.invalid(error))?;
            values.insert(value.to_owned());
        }
    }
    let need = match (operator.text()?, values.is_empty()) {
        ("In", false) => Need::any_of(values),
        ("NotIn", false) => Need::none_of(values),
        ("Exists", true) => Need::present(true),
        ("DoesNotExist", true) => Need::present(false),
        ("In" | "NotIn", true) => return Err(operator.invalid("'In' and 'NotIn' need values")),
        ("Exists" | "DoesNotExist", false) => {
            return Err(operator.invalid("'Exists' and 'DoesNotExist' take no values"));
        }
        (other, _) => return Err(operator.invalid(format!("unknown operator '{other}'"))),
    };
    fields.finish(notes);
    Ok((key, need))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_meet() {
        let sel = |needs: &[(&str, Need)]| {
            needs
                .iter()
                .try_fold(Sel::default(), |sel, (key, need)| sel.with(*key, need.clone()))
        };
        let ab = || Need::any_of(["a", "b"]);
        assert_eq!(
            sel(&[("k", ab()), ("k", Need::none_of(["a"]))]),
            sel(&[("k", Need::any_of(["b"]))])
        );
        assert_eq!(sel(&[("k", ab()), ("k", Need::present(false))]), None);
        assert_eq!(sel(&[("k", ab()), ("k", Need::any_of(["c"]))]), None);
        assert_eq!(
            sel(&[("k", ab()), ("k", Need::present(true))]),
            sel(&[("k", ab())])
        );
        let (a, both) = (
            sel(&[("k", Need::any_of(["a"]))]).unwrap(),
            sel(&[("k", ab())]).unwrap(),
        );
        let one = || {
            vec![
                Need::any_of(["a"]),
                ab(),
                Need::none_of(["a"]),
                Need::none_of(["a", "c"]),
                Need::present(true),
                Need::present(false),
                Need::none_of(["a"]).and(&Need::present(true)).unwrap(),
            ]
        };
        for (a, b) in one()
            .iter()
            .flat_map(|a| one().into_iter().map(move |b| (a.clone(), b)))
        {
            assert_eq!(a.implies(&b), a.and(&b).as_ref() == Some(&a), "{a:?} {b:?}");
        }
        assert!(a.is_within(&both) && !both.is_within(&a) && a.is_within(&Sel::default()));
    }

    #[test]
    fn a_selector_survives_as_criteria() {
        let sel = Sel::in_domain("shop")
            .with("app", Need::any_of(["any", "web"]))
            .and_then(|sel| sel.with("tier", Need::none_of(["db"])))
            .and_then(|sel| sel.with("tier", Need::present(true)))
            .and_then(|sel| sel.with("ns:team", Need::present(false)))
            .unwrap();
        assert_eq!(Sel::from_criteria(&sel.criteria()), Ok(sel));
    }
}
