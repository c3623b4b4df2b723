//! Criteria: which workloads a group holds.
//!
//! Different keys must all hold. Of one key, the positive criteria are alternatives and the negative ones must all hold, and both parts
//! must. A missing label satisfies only negative operators. NeuVector differs in three points, on purpose: it ORs across
//! different label keys, ORs positives with negatives of one key, and never matches a missing label.

use std::borrow::Cow;
use std::collections::BTreeMap;

use nv_types::{Criterion, CriterionOp, Workload};
use regex_automata::meta::Regex;

use crate::address::{AddressSet, InvalidAddress};

/// Longest expression or glob.
const MAX_VALUE: usize = 512;
/// Longest key.
const MAX_KEY: usize = 256;
/// Bytes that a compiled expression may take.
const REGEX_SIZE: usize = 256 * 1024;

/// A criterion that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCriterion {
    /// The key.
    #[error("invalid key '{key}': {problem}")]
    Key {
        /// As it was written.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The value.
    #[error("invalid value of '{key}': {problem}")]
    Value {
        /// Key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The address.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// An operator that this key does not take.
    #[error("'{key}' takes only the operator '=', not '{op}'")]
    Operator {
        /// Key.
        key: String,
        /// Operator.
        op: CriterionOp,
    },
    /// Addresses and workload criteria in one group.
    #[error("'address' stands alone: it cannot be mixed with '{key}'")]
    Mixed {
        /// The other key.
        key: String,
    },
}

#[derive(Debug)]
enum Test {
    Any,
    Glob(String),
    Contains(String),
    Prefix(String),
    Regex(Box<Regex>),
}

impl Test {
    fn holds(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Glob(pattern) => glob(pattern.as_bytes(), text.as_bytes()),
            Self::Contains(part) => text.contains(part.as_str()),
            Self::Prefix(part) => text.starts_with(part.as_str()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// Criteria of one key.
#[derive(Debug, Default)]
struct Bucket {
    positive: Vec<Test>,
    negative: Vec<Test>,
}

/// A group's criteria, ready to be asked.
#[derive(Debug)]
pub struct Selector {
    buckets: BTreeMap<String, Bucket>,
    /// Prefixes of an address group; `None` for a group of workloads.
    addresses: Option<Vec<AddressSet>>,
}

impl Selector {
    /// Reads criteria. None at all is a selector that matches nobody.
    ///
    /// # Errors
    /// [`InvalidCriterion`] of the first one that is wrong.
    pub fn new(criteria: &[Criterion]) -> Result<Self, InvalidCriterion> {
        let mut selector = Self {
            buckets: BTreeMap::new(),
            addresses: None,
        };
        for criterion in criteria {
            check_key(&criterion.key)?;
            if criterion.key == "address" {
                if criterion.op != CriterionOp::Equal {
                    return Err(InvalidCriterion::Operator {
                        key: criterion.key.clone(),
                        op: criterion.op,
                    });
                }
                selector
                    .addresses
                    .get_or_insert_default()
                    .push(AddressSet::parse(&criterion.value)?);
                continue;
            }
            let test = test(criterion)?;
            let key = if criterion.key == "namespace" {
                "domain"
            } else {
                criterion.key.as_str()
            };
            let bucket = selector.buckets.entry(key.to_owned()).or_default();
            if criterion.op.is_negative() {
                bucket.negative.push(test)
            } else {
                bucket.positive.push(test)
            }
        }
        match (&selector.addresses, selector.buckets.keys().next()) {
            (Some(_), Some(key)) => Err(InvalidCriterion::Mixed { key: key.clone() }),
            _ => Ok(selector),
        }
    }

    /// The addresses of an address group.
    #[must_use]
    pub fn addresses(&self) -> Option<&[AddressSet]> {
        self.addresses.as_deref()
    }

    /// A key of which every member has one of these exact values, if the criteria say so: the one that is likely to be shared by
    /// the fewest workloads.
    pub(crate) fn anchor(&self) -> Option<(&str, Vec<&str>)> {
        let exact = |(key, bucket): (&'_ String, &'_ Bucket)| {
            let all = bucket
                .positive
                .iter()
                .all(|test| matches!(test, Test::Glob(text) if !text.contains(['*', '?'])));
            (all && !bucket.positive.is_empty()).then(|| spread(key))
        };
        let (key, bucket) = self
            .buckets
            .iter()
            .filter(|entry| exact(*entry).is_some())
            .min_by_key(|entry| exact(*entry))?;
        let values = bucket.positive.iter().filter_map(|test| match test {
            Test::Glob(text) => Some(text.as_str()),
            Test::Any | Test::Contains(_) | Test::Prefix(_) | Test::Regex(_) => None,
        });
        Some((key.as_str(), values.collect()))
    }

    /// Whether every workload that this one picks is picked by the other too, as far as exact values show it: `false` also means that
    /// they do not.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let literals = |bucket: &Bucket| -> Option<Vec<String>> {
            let texts = bucket.positive.iter().map(|test| match test {
                Test::Glob(text) if !text.contains(['*', '?']) => Some(text.clone()),
                _ => None,
            });
            texts
                .collect::<Option<Vec<_>>>()
                .filter(|texts| !texts.is_empty())
        };
        let holds = |(key, theirs): (&String, &Bucket)| {
            let Some(texts) = self.buckets.get(key).and_then(literals) else {
                return false;
            };
            texts.iter().all(|text| {
                (theirs.positive.is_empty() || theirs.positive.iter().any(|test| test.holds(text)))
                    && !theirs.negative.iter().any(|test| test.holds(text))
            })
        };
        self.addresses.is_none()
            && other.addresses.is_none()
            && !other.buckets.is_empty()
            && other.buckets.iter().all(holds)
    }

    /// Whether the workload is a member.
    #[must_use]
    pub fn matches(&self, workload: &Workload) -> bool {
        if self.addresses.is_some() || self.buckets.is_empty() {
            return false;
        }
        self.buckets
            .iter()
            .all(|(key, bucket)| match value(workload, key) {
                Some(text) => {
                    (bucket.positive.is_empty() || bucket.positive.iter().any(|test| test.holds(&text)))
                        && !bucket.negative.iter().any(|test| test.holds(&text))
                }
                None => bucket.positive.is_empty(),
            })
    }
}

/// How many workloads share a value of a key, roughly: the lower the fewer.
fn spread(key: &str) -> u8 {
    match key {
        "container" => 0,
        "service" => 1,
        "image" => 3,
        "domain" | "node" => 4,
        _ if key.starts_with("ns:") => 5,
        _ => 2,
    }
}

pub(crate) fn value<'a>(workload: &'a Workload, key: &str) -> Option<Cow<'a, str>> {
    let text = match key {
        "image" => &workload.image,
        "node" => workload.node.as_str(),
        "container" => &workload.name,
        "service" => &workload.service,
        "domain" => &workload.domain,
        _ => {
            let (labels, label) = match key.strip_prefix("ns:") {
                Some(label) => (&workload.namespace_labels, label),
                None => (&workload.labels, key),
            };
            return labels.get(label).map(|text| Cow::Borrowed(text.as_str()));
        }
    };
    Some(Cow::Borrowed(text))
}

fn check_key(key: &str) -> Result<(), InvalidCriterion> {
    let problem = if key.is_empty() {
        "it is empty"
    } else if key.len() > MAX_KEY {
        "it is longer than 256 bytes"
    } else if key == "ns:" {
        "a label's name must follow 'ns:'"
    } else if !key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_./:".contains(&b))
    {
        "letters, digits and - _ . / : are allowed"
    } else {
        return Ok(());
    };
    Err(InvalidCriterion::Key {
        key: key.to_owned(),
        problem,
    })
}

fn test(criterion: &Criterion) -> Result<Test, InvalidCriterion> {
    let fail = |problem: String| InvalidCriterion::Value {
        key: criterion.key.clone(),
        problem,
    };
    let text = &criterion.value;
    if text.len() > MAX_VALUE {
        return Err(fail(format!("it is longer than {MAX_VALUE} bytes")));
    }
    Ok(match criterion.op {
        CriterionOp::Equal if text == "any" => Test::Any,
        CriterionOp::Equal | CriterionOp::NotEqual => Test::Glob(text.clone()),
        CriterionOp::Contains => Test::Contains(text.clone()),
        CriterionOp::Prefix => Test::Prefix(text.clone()),
        CriterionOp::Regex | CriterionOp::NotRegex => {
            let config = Regex::config()
                .nfa_size_limit(Some(REGEX_SIZE))
                .hybrid_cache_capacity(REGEX_SIZE);
            let syntax = regex_automata::util::syntax::Config::new().nest_limit(32);
            let regex = Regex::builder().configure(config).syntax(syntax).build(text);
            Test::Regex(Box::new(regex.map_err(|error| {
                let detail =
                    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                fail(format!("not a regular expression that can be used: {detail}"))
            })?))
        }
    })
}

/// Anchored match with `*` (any run) and `?` (one character), in time linear in pattern times text at worst.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                t += 1;
                // One character, not one byte.
                while text.get(t).is_some_and(|b| b & 0xc0 == 0x80) {
                    t += 1;
                }
            }
            Some(&wanted) if wanted == byte => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|b| *b == b'*'))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::input::tests::workload;

    pub(crate) fn criterion(key: &str, op: &str, value: &str) -> Criterion {
        Criterion {
            key: key.into(),
            value: value.into(),
            op: op.parse().unwrap(),
        }
    }

    fn matches(criteria: &[(&str, &str, &str)], image: &str, domain: &str) -> bool {
        let criteria: Vec<_> = criteria
            .iter()
            .map(|(key, op, value)| criterion(key, op, value))
            .collect();
        let mut workload = workload("w", "n", "10.0.0.1");
        image.clone_into(&mut workload.image);
        domain.clone_into(&mut workload.domain);
        Selector::new(&criteria).unwrap().matches(&workload)
    }

    /// Cases of NeuVector's `controller/cache/group_test.go`; where we differ on purpose it says so.
    #[test]
    fn neuvectors_table() {
        let positive = [
            ("image", "=", "redis"),
            ("image", "=", "mysql"),
            ("domain", "=", "billing"),
        ];
        assert!(matches(&positive, "redis", "billing"));
        assert!(matches(&positive, "mysql", "billing"));
        assert!(!matches(&positive, "oracle", "billing"));
        assert!(!matches(&positive, "mysql", "sales"));
        let negative = [
            ("image", "!=", "redis"),
            ("image", "!=", "mysql"),
            ("domain", "=", "billing"),
        ];
        assert!(matches(&negative, "oracle", "billing"));
        assert!(!matches(&negative, "redis", "billing"));
        assert!(!matches(&negative, "oracle", "sales"));
        let mixed = [
            ("image", "=", "mysql"),
            ("image", "!=", "redis"),
            ("domain", "=", "billing"),
        ];
        assert!(matches(&mixed, "mysql", "billing"));
        // NeuVector: matches, as it ORs the two. Ours: the positive part must hold too.
        assert!(!matches(&mixed, "oracle", "billing"));
        assert!(!matches(&mixed, "redis", "billing"));
        assert!(matches(&[("image", "=", "redis*")], "redis.abc", ""));
        assert!(!matches(
            &[("image", "!=", "redis*"), ("image", "!=", "*mysql")],
            "mysql",
            ""
        ));
    }

    #[test]
    fn globs() {
        for (pattern, text) in [
            ("*", ""),
            (".*", ".nginx"),
            ("nginx*", "nginx-123"),
            ("nginx?", "nginx."),
            ("nginx*xyz", "nginx.abc.xyz"),
            ("nginx??xyz", "nginx.-xyz"),
            ("*nginx*", "abc-nginx-123"),
            ("**nginx", "111nginx"),
            ("?nginx.com", ".nginx.com"),
            ("?", "ü"),
        ] {
            assert!(glob(pattern.as_bytes(), text.as_bytes()), "{pattern} ~ {text}");
        }
        for (pattern, text) in [
            ("?", ""),
            (".*", "nginx"),
            ("nginx", "nginx1"),
            ("nginx.xyz", "nginx1xyz"),
            ("nginx*", "abc-nginx-123"),
            ("nginx.abc*", "nginx-abc-123"),
            ("nginx*?", "?nginxabc*"),
            ("nginx?", "nginx.a"),
            ("*nginx", "111nginx-123"),
            ("?nginx", "12nginx"),
            ("?nginx.com", ".?nginx-com"),
        ] {
            assert!(!glob(pattern.as_bytes(), text.as_bytes()), "{pattern} !~ {text}");
        }
        let long = "a".repeat(100_000);
        assert!(!glob(b"a*a*a*a*a*a*b", long.as_bytes()));
    }

    #[test]
    fn a_missing_label_satisfies_only_negative_operators() {
        let mut workload = workload("w", "n", "10.0.0.1");
        let holds = |workload: &Workload, op: &str, value: &str| {
            Selector::new(&[criterion("tier", op, value)])
                .unwrap()
                .matches(workload)
        };
        for op in ["=", "contains", "prefix", "regex"] {
            assert!(!holds(&workload, op, "x"), "{op}");
        }
        for op in ["!=", "!regex"] {
            assert!(holds(&workload, op, "x"), "{op}");
        }
        workload.labels.insert("tier".into(), "xy".into());
        assert!(
            holds(&workload, "prefix", "x")
                && holds(&workload, "regex", "y$")
                && !holds(&workload, "!regex", "^x")
        );
        let two = [criterion("tier", "=", "xy"), criterion("app", "=", "a")];
        assert!(
            !Selector::new(&two).unwrap().matches(&workload),
            "different keys must all hold"
        );
    }

    #[test]
    fn refused_by_name() {
        for (key, op, value) in [
            ("", "=", "x"),
            ("<b>", "=", "x"),
            ("address", "!=", "1.2.3.4"),
            ("address", "=", "1.2.3.789"),
            ("image", "regex", "("),
            ("image", "regex", "((a{999}){999}){999}"),
            ("ns:", "=", "x"),
        ] {
            assert!(
                Selector::new(&[criterion(key, op, value)]).is_err(),
                "{key} {op} {value}"
            );
        }
        let mixed = [criterion("address", "=", "1.2.3.4"), criterion("image", "=", "x")];
        assert!(matches!(
            Selector::new(&mixed),
            Err(InvalidCriterion::Mixed { .. })
        ));
        assert!(
            !Selector::new(&[])
                .unwrap()
                .matches(&workload("w", "n", "10.0.0.1"))
        );
    }

    /// A megabyte takes milliseconds; what is quadratic would take hours.
    #[test]
    fn expressions_and_globs_are_linear() {
        let many_globs: Vec<_> = (0..256).map(|_| criterion("image", "=", "*aab*b*c")).collect();
        for criteria in [
            vec![criterion("image", "regex", "(a+)+$")],
            vec![criterion("image", "!regex", "(a|aa|a.)*c")],
            vec![criterion("image", "regex", "((a*)*)*c")],
            many_globs,
        ] {
            let selector = Selector::new(&criteria).unwrap();
            let mut workload = workload("w", "n", "10.0.0.1");
            // A list of globs is as much work as all of them.
            workload.image = format!("{}b", "a".repeat(1_000_000 / criteria.len()));
            let begun = std::time::Instant::now();
            std::hint::black_box(selector.matches(&workload));
            let spent = begun.elapsed();
            assert!(
                spent < std::time::Duration::from_secs(10),
                "{:?}: {spent:?}",
                criteria[0]
            );
        }
    }
}
