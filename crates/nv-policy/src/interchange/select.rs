//! Who a Kubernetes or Cilium policy speaks of, and the same as criteria. Label selectors are closed under intersection, and that is what
//! turns two one-sided policies into one rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr as _;

use ipnetwork::IpNetwork;
use nv_types::{Criterion, CriterionOp, Group, GroupKind, GroupName, Tier, Workload, reserved};

use super::cursor::{At, Notes, Problem};
use crate::address::AddressSet;

/// Most criteria of a group.
pub(super) const MAX_CRITERIA: usize = 256;
/// Both address families whole.
pub(super) const WORLD: [&str; 2] = ["0.0.0.0/0", "::/0"];

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
        self.and(other).is_some_and(|both| both == *self)
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

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Workloads.
    Pods(Sel),
    /// Whoever is neither workload nor node.
    External,
    /// Nodes.
    Nodes,
    /// CIDRs and DNS names.
    Addresses(BTreeSet<String>),
}

impl End {
    pub(super) const fn pods(&self) -> Option<&Sel> {
        match self {
            Self::Pods(sel) => Some(sel),
            Self::External | Self::Nodes | Self::Addresses(_) => None,
        }
    }

    pub(super) fn all() -> Self {
        Self::Pods(Sel::default())
    }

    /// The group's name, and the group if it is not reserved. Names are made of the content: equal ends have equal names.
    pub(super) fn group(&self) -> Option<(GroupName, Option<Group>)> {
        let (name, kind, criteria) = match self {
            Self::External => return Some((GroupName::try_new(reserved::EXTERNAL).ok()?, None)),
            Self::Nodes => return Some((GroupName::try_new(reserved::NODES).ok()?, None)),
            Self::Pods(sel) if sel.is_all() => {
                return Some((GroupName::try_new(reserved::CONTAINERS).ok()?, None));
            }
            Self::Pods(sel) => ("pods", GroupKind::Container, sel.criteria()),
            Self::Addresses(values) => {
                let criterion = |value: &String| Criterion {
                    key: "address".to_owned(),
                    value: value.clone(),
                    op: CriterionOp::Equal,
                };
                ("net", GroupKind::Address, values.iter().map(criterion).collect())
            }
        };
        let name = GroupName::try_new(content_name(name, &criteria)).ok()?;
        let group = Group {
            name: name.clone(),
            kind,
            origin: Some(Tier::Ground),
            comment: String::new(),
            domain: String::new(),
            criteria,
        };
        Some((name, Some(group)))
    }
}

/// A name that says roughly what is in it, and a digest (FNV-1a) that says it exactly.
fn content_name(prefix: &str, criteria: &[Criterion]) -> String {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut name = prefix.to_owned();
    for Criterion { key, value, op } in criteria {
        for byte in [key.as_str(), "\0", op.as_str(), "\0", value, "\0"]
            .into_iter()
            .flat_map(str::bytes)
        {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if name.len() < 60 && matches!(op, CriterionOp::Equal | CriterionOp::Regex) {
            name.push('.');
            name.extend(
                value
                    .chars()
                    .filter(|c| !matches!(c, '*' | '^' | '$'))
                    .map(|c| {
                        if c.is_ascii_alphanumeric() || c == '.' {
                            c
                        } else {
                            '-'
                        }
                    })
                    .take(30),
            );
        }
    }
    format!("{name}.{digest:016x}")
}

/// A CIDR as numbers; IPv4 in the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Net {
    v6: bool,
    bits: u128,
    len: u32,
}

impl Net {
    fn parse(text: &str) -> Result<Self, String> {
        let problem = || format!("'{text}' is no CIDR");
        if !text.contains('/') {
            return Err(problem());
        }
        let net = IpNetwork::from_str(text).map_err(|_| problem())?;
        let (v6, bits) = match net.network() {
            IpAddr::V4(addr) => (false, u128::from(addr.to_bits())),
            IpAddr::V6(addr) => (true, addr.to_bits()),
        };
        Ok(Self {
            v6,
            bits,
            len: u32::from(net.prefix()),
        })
    }

    const fn width(self) -> u32 {
        if self.v6 { 128 } else { 32 }
    }

    fn contains(self, other: Self) -> bool {
        let shift = self.width() - self.len;
        let cut = |bits: u128| bits.checked_shr(shift).unwrap_or(0);
        self.v6 == other.v6 && self.len <= other.len && cut(self.bits) == cut(other.bits)
    }

    fn halves(self) -> [Self; 2] {
        let len = self.len + 1;
        let half = Self { len, ..self };
        let high = 1u128.checked_shl(self.width() - len).unwrap_or(0);
        [
            half,
            Self {
                bits: self.bits | high,
                ..half
            },
        ]
    }

    fn text(self) -> String {
        let addr = if self.v6 {
            IpAddr::V6(self.bits.into())
        } else {
            IpAddr::V4(u32::try_from(self.bits).unwrap_or(u32::MAX).into())
        };
        format!("{addr}/{}", self.len)
    }
}

/// The CIDR without the exceptions, as CIDRs.
///
/// # Errors
/// What is wrong with it.
pub(super) fn cidr_except(cidr: &str, except: &[&str]) -> Result<BTreeSet<String>, String> {
    let net = Net::parse(cidr)?;
    let holes: Vec<Net> = except
        .iter()
        .map(|text| Net::parse(text))
        .collect::<Result<_, _>>()?;
    if let Some(stray) = holes.iter().find(|hole| !net.contains(**hole)) {
        return Err(format!(
            "the exception {} is not within {}",
            stray.text(),
            net.text()
        ));
    }
    let mut found = BTreeSet::new();
    let mut todo = vec![net];
    while let Some(net) = todo.pop() {
        if holes.iter().any(|hole| hole.contains(net)) {
            continue;
        }
        if holes.iter().any(|hole| net.contains(*hole)) {
            todo.extend(net.halves());
        } else if found.len() == MAX_CRITERIA {
            return Err(format!(
                "without its exceptions it is more than {MAX_CRITERIA} CIDRs"
            ));
        } else {
            found.insert(net.text());
        }
    }
    Ok(found)
}

/// CIDRs and names of an address group; what is neither comes second.
pub(super) fn addresses(criteria: &[Criterion]) -> (BTreeSet<String>, Vec<String>) {
    let mut found = BTreeSet::new();
    let mut lost = Vec::new();
    for criterion in criteria {
        if let Ok(net) = Net::parse(&criterion.value) {
            found.insert(net.text());
            continue;
        }
        match AddressSet::parse(&criterion.value) {
            Ok(AddressSet::Prefixes(prefixes)) => found.extend(prefixes.iter().map(|prefix| {
                let bits = u128::from_be_bytes(prefix.addr);
                let mapped = bits >> 32 == 0xffff && prefix.len >= 96;
                let (v6, len) = if mapped {
                    (false, u32::from(prefix.len) - 96)
                } else {
                    (true, u32::from(prefix.len))
                };
                let bits = if mapped { bits & 0xffff_ffff } else { bits };
                Net { v6, bits, len }.text()
            })),
            Ok(AddressSet::Name(name)) if !name.starts_with("vh:") => {
                found.insert(name);
            }
            _ => lost.push(criterion.value.clone()),
        }
    }
    (found, lost)
}

/// Whether an address is a DNS name.
pub(super) fn is_name(address: &str) -> bool {
    !address.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_cut_out() {
        let texts =
            |cidr, except: &[&str]| cidr_except(cidr, except).unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!(
            texts("10.0.0.0/30", &["10.0.0.1/32"]),
            ["10.0.0.0/32", "10.0.0.2/31"]
        );
        assert_eq!(texts("10.0.0.7/8", &[]), ["10.0.0.0/8"]);
        assert_eq!(texts("fd00::/127", &["fd00::/128"]), ["fd00::1/128"]);
        assert!(texts("10.0.0.0/8", &["10.0.0.0/8"]).is_empty());
        assert_eq!(texts("0.0.0.0/0", &["10.0.0.0/8"]).len(), 8);
        assert_eq!(texts("::/0", &["::1/128"]).len(), 128);
        assert!(cidr_except("10.0.0.0/8", &["11.0.0.0/16"]).is_err());
        assert!(cidr_except("10.0.0.1", &[]).is_err());
    }

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
