//! Answers against schemas, and schemas against schemas.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A document with schemas, of Swagger 2 or OpenAPI 3.
pub(crate) struct Schemas<'a> {
    /// Schemas by name.
    pub(crate) named: &'a Value,
}

/// What an answer or a request has beside its schema. Each is `Schema.field`.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Fields that the schema does not have.
    pub(crate) extra: BTreeSet<String>,
    /// Fields that the schema requires.
    pub(crate) missing: BTreeSet<String>,
    /// Values of another type than the schema's.
    pub(crate) wrong: BTreeSet<String>,
    /// Schemas that something was compared with.
    pub(crate) reached: BTreeSet<String>,
}

type Fields<'a> = BTreeMap<&'a str, &'a Value>;

impl<'a> Schemas<'a> {
    /// What stands behind a reference, and its name; `null` beside one other alternative is left out.
    fn target(&self, schema: &'a Value, name: &str) -> (&'a Value, String) {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap();
            let target = &self.named[name];
            assert!(target.is_object(), "there is no schema '{name}'");
            return self.target(target, name);
        }
        let alternatives = ["oneOf", "anyOf"].iter().find_map(|word| schema[word].as_array());
        match alternatives.map(|list| {
            list.iter()
                .filter(|part| part["type"] != "null")
                .collect::<Vec<_>>()
        }) {
            Some(rest) if rest.len() == 1 => self.target(rest[0], name),
            Some(rest) => panic!("{name}: {} alternatives", rest.len()),
            None => (schema, name.to_owned()),
        }
    }

    /// Fields and which of them are required, those of all parts together.
    fn fields(&self, schema: &'a Value) -> (Fields<'a>, BTreeSet<&'a str>) {
        let mut fields: Fields<'a> = BTreeMap::new();
        let mut required: BTreeSet<_> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let own = schema["properties"].as_object().into_iter().flatten();
        fields.extend(own.map(|(name, schema)| (name.as_str(), schema)));
        for part in schema["allOf"].as_array().into_iter().flatten() {
            let (more, needed) = self.fields(self.target(part, "").0);
            fields.extend(more);
            required.extend(needed);
        }
        (fields, required)
    }

    /// Compares a value with its schema.
    pub(crate) fn compare(&self, value: &Value, schema: &'a Value, name: &str, found: &mut Findings) {
        let optional = schema["type"]
            .as_array()
            .is_some_and(|list| list.contains(&"null".into()))
            || schema["oneOf"]
                .as_array()
                .is_some_and(|list| list.iter().any(|part| part["type"] == "null"));
        if value.is_null() && optional {
            return;
        }
        let (schema, name) = self.target(schema, name);
        found.reached.insert(name.clone());
        let (fields, required) = self.fields(schema);
        let fits = match (kind(schema), value) {
            (_, Value::Object(object)) if !fields.is_empty() => {
                for (field, value) in object {
                    let at = format!("{name}.{field}");
                    match fields.get(field.as_str()) {
                        Some(schema) => self.compare(value, schema, &at, found),
                        None => _ = found.extra.insert(at),
                    }
                }
                let left = required.iter().filter(|field| !object.contains_key(**field));
                found.missing.extend(left.map(|field| format!("{name}.{field}")));
                true
            }
            ("object", Value::Object(object)) => {
                let values = &schema["additionalProperties"];
                if values.is_object() {
                    object
                        .values()
                        .for_each(|value| self.compare(value, values, &name, found));
                }
                true
            }
            ("array", Value::Array(list)) => {
                list.iter()
                    .for_each(|item| self.compare(item, &schema["items"], &name, found));
                true
            }
            ("integer", value) => value.is_i64() || value.is_u64(),
            ("number", value) => value.is_number(),
            ("string", value) => value.is_string(),
            ("boolean", value) => value.is_boolean(),
            ("", _) => true,
            _ => false,
        };
        if !fits {
            found
                .wrong
                .insert(format!("{name}: {value} is no {}", kind(schema)));
        }
    }

    /// Compares what we take with what the reference lets callers send: what it has and we refuse is missing, what we have is extra.
    pub(crate) fn compare_requests(
        &self,
        ours: &'a Value,
        reference: &Self,
        theirs: &'a Value,
        name: &str,
        found: &mut Findings,
    ) {
        let (theirs, name) = reference.target(theirs, name);
        let (ours, _) = self.target(ours, &name);
        found.reached.insert(name.clone());
        if kind(ours) != kind(theirs) && !kind(ours).is_empty() {
            found
                .wrong
                .insert(format!("{name}: {} is no {}", kind(ours), kind(theirs)));
            return;
        }
        if kind(theirs) == "array" {
            return self.compare_requests(&ours["items"], reference, &theirs["items"], &name, found);
        }
        let ((ours, needed), (theirs, _)) = (self.fields(ours), reference.fields(theirs));
        for (field, schema) in &theirs {
            let at = format!("{name}.{field}");
            match ours.get(field) {
                Some(own) => self.compare_requests(own, reference, schema, &at, found),
                None => _ = found.missing.insert(at),
            }
        }
        for field in ours.keys().filter(|field| !theirs.contains_key(*field)) {
            let at = format!("{name}.{field}");
            if needed.contains(field) {
                found
                    .wrong
                    .insert(format!("{at}: we need it, the reference does not have it"));
            }
            found.extra.insert(at);
        }
    }
}

/// The type, without `null`; `object` where only fields are given.
fn kind(schema: &Value) -> &str {
    let untyped = if schema["properties"].is_object() || schema["allOf"].is_array() {
        "object"
    } else {
        ""
    };
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(list) => list
            .iter()
            .filter_map(Value::as_str)
            .find(|kind| *kind != "null")
            .unwrap_or(""),
        _ => untyped,
    }
}

#[test]
fn a_schema_finds_what_does_not_fit() {
    let named = serde_json::json!({
        "Thing": {"required": ["id", "name"], "properties": {
            "id": {"type": "integer"}, "name": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#/x/Part"}},
            "more": {"type": "object", "additionalProperties": {"type": "string"}}}},
        "Part": {"allOf": [{"properties": {"on": {"type": "boolean"}}}, {"properties": {"at": {"type": ["string", "null"]}}}]},
    });
    let schemas = Schemas { named: &named };
    let value = serde_json::json!({"id": "1", "colour": 1, "more": {"a": 1}, "parts": [{"on": true, "at": null}, {"on": 1, "off": 0}]});
    let mut found = Findings::default();
    schemas.compare(&value, &serde_json::json!({"$ref": "#/x/Thing"}), "", &mut found);
    let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join("; ");
    assert_eq!(list(&found.extra), "Part.off; Thing.colour");
    assert_eq!(list(&found.missing), "Thing.name");
    assert_eq!(
        list(&found.wrong),
        "Part.on: 1 is no boolean; Thing.id: \"1\" is no integer; Thing.more: 1 is no string"
    );
    assert!(found.reached.contains("Part"));
}
