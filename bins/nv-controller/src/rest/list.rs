//! What NeuVector's lists can be asked for: `f_<field>=[op,]value`, `s_<field>=asc|desc`, `start`, `limit`.

use std::cmp::Ordering;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{IntoParams, PartialSchema};

use super::body::Query;
use super::error::ApiError;

/// Filters and sorts of one call.
const MOST: usize = 32;
/// Parameters of NeuVector's that make its answers shorter or wider; ours are the same with and without.
const TAKEN: [&str; 4] = ["brief", "view", "verbose", "with_cap"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Equal,
    Unequal,
    /// Contains one of the texts between `|`.
    In,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Prefix,
}

impl Op {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "eq" => Self::Equal,
            "neq" => Self::Unequal,
            "in" => Self::In,
            "gt" => Self::Greater,
            "gte" => Self::GreaterOrEqual,
            "lt" => Self::Less,
            "lte" => Self::LessOrEqual,
            "prefix" => Self::Prefix,
            _ => return None,
        })
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::In | Self::Prefix => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    field: String,
    op: Op,
    value: String,
}

/// What a list is asked for.
#[derive(Debug, Default, PartialEq, Eq, IntoParams)]
pub(crate) struct Page {
    /// First item, from 0. Filters are `f_<field>=[op,]value` with the operators eq, neq, in, gt, gte, lt, lte, prefix; sorts are
    /// `s_<field>=asc` or `desc`.
    start: usize,
    /// Most items; 0: all.
    limit: usize,
    #[param(ignore)]
    filters: Vec<Filter>,
    #[param(ignore)]
    sorts: Vec<(String, bool)>,
}

impl<S: Sync> FromRequestParts<S> for Page {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await?;
        Self::read(pairs)
    }
}

impl Page {
    fn read(pairs: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut page = Self::default();
        for (name, value) in pairs {
            let number = || {
                let wrong = |_error| ApiError::invalid(format!("query: {name}: '{value}' is no number"));
                value.parse::<usize>().map_err(wrong)
            };
            match name.as_str() {
                "start" => page.start = number()?,
                "limit" => page.limit = number()?,
                "scope" if ["local", "all"].contains(&value.as_str()) => {}
                "scope" => {
                    return Err(ApiError::invalid(format!(
                        "query: scope: '{value}' is neither local nor all"
                    )));
                }
                taken if TAKEN.contains(&taken) => {}
                other => page.field(other, value)?,
            }
        }
        if page.filters.len() + page.sorts.len() > MOST {
            return Err(ApiError::invalid(format!(
                "query: more than {MOST} filters and sorts"
            )));
        }
        Ok(page)
    }

    fn field(&mut self, name: &str, value: String) -> Result<(), ApiError> {
        if let Some(field) = name.strip_prefix("f_") {
            let (op, value) = value
                .split_once(',')
                .and_then(|(op, rest)| Some((Op::parse(op)?, rest.to_owned())))
                .unwrap_or((Op::Equal, value));
            self.filters.push(Filter {
                field: field.to_owned(),
                op,
                value,
            });
        } else if let Some(field) = name.strip_prefix("s_") {
            let falling = match value.as_str() {
                "asc" => false,
                "desc" => true,
                _ => {
                    return Err(ApiError::invalid(format!(
                        "query: {name}: '{value}' is neither asc nor desc"
                    )));
                }
            };
            self.sorts.push((field.to_owned(), falling));
        } else {
            return Err(ApiError::invalid(format!("query: unknown parameter '{name}'")));
        }
        Ok(())
    }

    /// The items that are asked for, in the order that is asked for.
    pub(crate) fn cut<T: Serialize + PartialSchema>(&self, items: Vec<T>) -> Result<Vec<T>, ApiError> {
        let limit = if self.limit == 0 { usize::MAX } else { self.limit };
        if self.filters.is_empty() && self.sorts.is_empty() {
            return Ok(items.into_iter().skip(self.start).take(limit).collect());
        }
        self.check(&T::schema())?;
        let mut kept = Vec::new();
        for item in items {
            let Ok(Value::Object(fields)) = serde_json::to_value(&item) else {
                continue;
            };
            if self.lets_through(&fields)? {
                kept.push((fields, item));
            }
        }
        kept.sort_by(|(a, _), (b, _)| {
            let by = |(field, falling): &(String, bool)| {
                let order = compare(a.get(field), b.get(field));
                if *falling { order.reverse() } else { order }
            };
            self.sorts.iter().map(by).fold(Ordering::Equal, Ordering::then)
        });
        Ok(kept
            .into_iter()
            .map(|(_, item)| item)
            .skip(self.start)
            .take(limit)
            .collect())
    }

    /// Names a field that the list's objects do not have.
    fn check(&self, schema: &RefOr<Schema>) -> Result<(), ApiError> {
        let RefOr::T(Schema::Object(object)) = schema else {
            return Ok(());
        };
        let filters = self.filters.iter().map(|filter| ("f", &filter.field));
        let sorts = self.sorts.iter().map(|(field, _)| ("s", field));
        match filters
            .chain(sorts)
            .find(|(_, field)| !object.properties.contains_key(*field))
        {
            Some((kind, field)) => Err(ApiError::invalid(format!(
                "query: {kind}_{field}: there is no field '{field}' in this list"
            ))),
            None => Ok(()),
        }
    }

    fn lets_through(&self, fields: &Map<String, Value>) -> Result<bool, ApiError> {
        for filter in &self.filters {
            if !filter.holds(fields.get(&filter.field).unwrap_or(&Value::Null))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Filter {
    fn holds(&self, found: &Value) -> Result<bool, ApiError> {
        let refused = |problem: &str| ApiError::invalid(format!("query: f_{}: {problem}", self.field));
        match found {
            Value::Number(number) => {
                let wanted = self
                    .value
                    .parse::<f64>()
                    .map_err(|_error| refused("a number is needed"))?;
                if matches!(self.op, Op::In | Op::Prefix) {
                    return Err(refused("numbers have neither 'in' nor 'prefix'"));
                }
                let order = number.as_f64().and_then(|number| number.partial_cmp(&wanted));
                Ok(order.is_some_and(|order| self.op.holds(order)))
            }
            Value::Bool(found) => {
                let wanted: bool = self
                    .value
                    .parse()
                    .map_err(|_error| refused("true or false is needed"))?;
                match self.op {
                    Op::Equal => Ok(*found == wanted),
                    Op::Unequal => Ok(*found != wanted),
                    _ => Err(refused("true and false have only 'eq' and 'neq'")),
                }
            }
            Value::String(text) => Ok(self.holds_text(text)),
            // Not every object has it: as empty as an empty text.
            Value::Null => Ok(self.holds_text("")),
            Value::Array(list) => {
                if list.iter().any(|item| item.is_object() || item.is_array()) {
                    return Err(refused("this field is no text, number or list of such"));
                }
                let one = Self {
                    op: if self.op == Op::Unequal {
                        Op::Equal
                    } else {
                        self.op
                    },
                    ..self.clone()
                };
                let mut any = false;
                for item in list {
                    any |= one.holds(item)?;
                }
                Ok(any != (self.op == Op::Unequal))
            }
            Value::Object(_) => Err(refused("this field is no text, number or list of such")),
        }
    }

    fn holds_text(&self, text: &str) -> bool {
        match self.op {
            Op::In => self.value.split('|').any(|part| text.contains(part)),
            Op::Prefix => text.starts_with(&self.value),
            op => op.holds(text.cmp(&self.value)),
        }
    }
}

/// Numbers by size, all else as text; what is not there comes first.
fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => match (a.as_u64(), b.as_u64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        },
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        (Some(_), None | Some(Value::Null)) => Ordering::Greater,
        (None | Some(Value::Null), Some(_)) => Ordering::Less,
        (a, b) => {
            let text = |value: Option<&Value>| value.map(ToString::to_string);
            text(a).cmp(&text(b))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, utoipa::ToSchema)]
    struct Thing {
        name: String,
        size: u32,
        own: bool,
        tags: Vec<String>,
        parts: Vec<Part>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mode: Option<String>,
    }

    #[derive(Serialize, utoipa::ToSchema)]
    struct Part {
        id: u32,
    }

    fn ask(query: &str) -> Result<String, String> {
        let message = |error: ApiError| format!("{error:?}");
        let thing = |name: &str, size, own, tags: &[&str], mode: Option<&str>| Thing {
            name: name.into(),
            size,
            own,
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            parts: vec![Part { id: size }],
            mode: mode.map(Into::into),
        };
        let things = vec![
            thing("nv.web", 9, true, &["tcp/80", "tcp/443"], Some("Protect")),
            thing("nv.app", 10, true, &["tcp/8080"], Some("Discover")),
            thing("mine", 100, false, &[], None),
            thing("a,b", 10, false, &[], None),
        ];
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        });
        let page = Page::read(pairs.collect()).map_err(message)?;
        let found = page.cut(things).map_err(message)?;
        Ok(found
            .into_iter()
            .map(|thing| thing.name)
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn lists_are_filtered_sorted_and_cut() {
        for (query, expected) in [
            ("", "nv.web nv.app mine a,b"),
            ("start=1&limit=2", "nv.app mine"),
            ("start=9", ""),
            ("f_name=mine", "mine"),
            ("f_name=eq,mine", "mine"),
            ("f_name=a,b", "a,b"),
            ("f_name=neq,mine", "nv.web nv.app a,b"),
            ("f_name=prefix,nv.", "nv.web nv.app"),
            ("f_name=in,web|min", "nv.web mine"),
            ("f_size=gt,9&f_size=lte,10", "nv.app a,b"),
            ("f_size=gte,10", "nv.app mine a,b"),
            ("f_size=lt,10", "nv.web"),
            ("f_own=true&f_name=in,app", "nv.app"),
            ("f_tags=tcp/443", "nv.web"),
            ("f_tags=prefix,tcp/80", "nv.web nv.app"),
            ("f_tags=neq,tcp/443", "nv.app mine a,b"),
            ("f_mode=Protect", "nv.web"),
            ("f_mode=neq,Protect", "nv.app mine a,b"),
            ("s_size=desc&s_name=asc", "mine a,b nv.app nv.web"),
            ("s_mode=asc&s_name=desc", "mine a,b nv.app nv.web"),
            ("s_name=asc&start=1&limit=1&f_own=true", "nv.web"),
            ("brief=true&scope=local", "nv.web nv.app mine a,b"),
        ] {
            assert_eq!(ask(query).as_deref(), Ok(expected), "{query}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        for (query, part) in [
            ("f_colour=red", "'colour'"),
            ("s_colour=asc", "'colour'"),
            ("s_name=up", "'up'"),
            ("f_size=many", "f_size"),
            ("f_size=prefix,1", "f_size"),
            ("f_own=yes", "f_own"),
            ("f_own=gt,true", "f_own"),
            ("f_parts=1", "f_parts"),
            ("limit=all", "limit"),
            ("colour=red", "'colour'"),
            ("scope=fed", "'fed'"),
        ] {
            let error = ask(query).unwrap_err();
            assert!(error.contains(part), "{query}: {error}");
        }
        assert!(ask(&["f_name=x"; MOST + 1].join("&")).is_err());
    }
}
