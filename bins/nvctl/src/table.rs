//! Tables: how a cell is made of JSON, and rows of cells.

mod columns;

use std::cmp::Ordering;

use serde_json::Value;

use crate::output::escape;

pub(crate) use columns::*;

/// The text of a cell: alternatives, then the value's own form.
pub(crate) fn cell(item: &Value, path: &str) -> String {
    let (found, form) = find(item, path);
    found.map_or_else(String::new, |value| shape(value, form))
}

/// The first alternative that is there, and the form that it is to be shown in.
fn find<'a, 'p>(item: &'a Value, path: &'p str) -> (Option<&'a Value>, &'p str) {
    let (paths, form) = match path.find(['@', '#']) {
        Some(at) => path.split_at(at),
        None => (path, ""),
    };
    let found = paths.split('|').find_map(|path| {
        let value = path.split('.').try_fold(item, |value, part| value.get(part))?;
        (!value.is_null() && value.as_str() != Some("")).then_some(value)
    });
    (found, form)
}

/// Whether an object has something there.
pub(crate) fn has(item: &Value, path: &str) -> bool {
    find(item, path).0.is_some()
}

/// Which of two objects comes first: numbers by size, all else by its text.
pub(crate) fn order(a: &Value, b: &Value, path: &str) -> Ordering {
    let number = |item| match find(item, path) {
        (Some(value), "" | "@size" | "@time") => value.as_f64(),
        (Some(value), "#count" | "@sum") => shape(value, path.get(path.find(['@', '#'])?..)?).parse().ok(),
        _ => None,
    };
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => cell(a, path).cmp(&cell(b, path)),
    }
}

/// Path of the column that is called so, in any case and with '-' for a blank.
pub(crate) fn column(columns: &Columns, title: &str) -> Option<&'static str> {
    let title = title.replace('-', " ");
    let mut list = columns.list.iter();
    list.find(|column| column.title.eq_ignore_ascii_case(&title))
        .map(|column| column.path)
}

fn shape(value: &Value, form: &str) -> String {
    match form {
        "#12" => plain(value).chars().take(12).collect(),
        "#count" => value
            .as_array()
            .map_or_else(|| plain(value), |list| list.len().to_string()),
        "@size" => value.as_u64().map_or_else(|| plain(value), size),
        "@sum" => value.as_object().map_or_else(
            || plain(value),
            |map| map.values().filter_map(Value::as_u64).sum::<u64>().to_string(),
        ),
        "@time" => value.as_i64().and_then(time).unwrap_or_else(|| plain(value)),
        "@ids" => value.as_array().map_or_else(|| plain(value), |list| ids(list)),
        "@ip" => addresses(value),
        "@criterion" => value
            .as_array()
            .map_or_else(|| plain(value), |list| criteria(list)),
        _ => plain(value),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| format!("{key}={}", plain(value)))
            .collect::<Vec<_>>()
            .join(","),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Numbers of rules, which a list has as such and a single object as whole rules.
fn ids(list: &[Value]) -> String {
    let ids = list.iter().map(|rule| plain(rule.get("id").unwrap_or(rule)));
    ids.collect::<Vec<_>>().join(",")
}

fn criteria(list: &[Value]) -> String {
    list.iter()
        .map(|entry| {
            let (key, op, value) = (cell(entry, "key"), cell(entry, "op"), cell(entry, "value"));
            if op.starts_with(['=', '!']) && op.len() <= 2 {
                format!("{key}{op}{value}")
            } else {
                format!("{key} {op} {value}")
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// NeuVector's form: `{eth0: [{ip, ip_prefix}]}`.
fn addresses(value: &Value) -> String {
    let Some(map) = value.as_object() else {
        return plain(value);
    };
    map.values()
        .filter_map(Value::as_array)
        .flatten()
        .map(|entry| cell(entry, "ip"))
        .filter(|ip| !ip.is_empty() && !ip.starts_with("fe80"))
        .collect::<Vec<_>>()
        .join(",")
}

/// Seconds since the epoch, or nanoseconds when the number is too large for that.
fn time(number: i64) -> Option<String> {
    let stamp = if number > 100_000_000_000 {
        jiff::Timestamp::from_nanosecond(i128::from(number)).ok()?
    } else {
        jiff::Timestamp::from_second(number).ok()?
    };
    Some(stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut whole = bytes;
    let mut rest = 0;
    let mut unit = "B";
    for next in UNITS {
        if whole < 1024 {
            break;
        }
        rest = whole % 1024;
        whole /= 1024;
        unit = next;
    }
    format!("{whole}.{} {unit}", rest * 10 / 1024)
}

/// A table without borders, in columns as wide as they must be.
pub(crate) fn render(items: &[Value], columns: &Columns, all: bool, headers: bool, color: bool) -> String {
    let shown: Vec<_> = columns.list.iter().filter(|column| all || !column.wide).collect();
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if headers {
        table.set_header(shown.iter().map(|column| column.title));
    }
    for item in items {
        table.add_row(shown.iter().map(|column| {
            let text = escape(&cell(item, column.path), false);
            let text = if text.is_empty() { "-".to_owned() } else { text };
            paint(comfy_table::Cell::new(&text), &text, color)
        }));
    }
    // Who wants colours has been asked already, and may have said it of a pipe.
    if color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn paint(cell: comfy_table::Cell, text: &str, color: bool) -> comfy_table::Cell {
    use comfy_table::Color::{Green, Red, Yellow};
    let tint = match text {
        "deny" | "Deny" => Red,
        "alert" | "violate" | "Monitor" => Yellow,
        "allow" | "Protect" => Green,
        _ => return cell,
    };
    if color { cell.fg(tint) } else { cell }
}

/// One object as one line, for streams: cells with two blanks between them.
pub(crate) fn row_line(item: &Value, columns: &Columns, all: bool, color: bool) -> String {
    columns
        .list
        .iter()
        .filter(|column| all || !column.wide)
        .map(|column| {
            let text = escape(&cell(item, column.path), false);
            let text = if text.is_empty() { "-".to_owned() } else { text };
            match (color, text.as_str()) {
                (true, "deny") => format!("\x1b[31m{text}\x1b[0m"),
                (true, "alert") => format!("\x1b[33m{text}\x1b[0m"),
                (true, "allow") => format!("\x1b[32m{text}\x1b[0m"),
                _ => text,
            }
        })
        .collect::<Vec<_>>()
        .join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_take_alternatives_and_forms() {
        let item = json!({"name": "", "id": "0123456789abcdef", "bytes": 1536, "members": [1, 2],
            "interfaces": {"eth0": [{"ip": "10.0.0.2", "ip_prefix": 24}, {"ip": "fe80::1"}]},
            "criteria": [{"key": "app", "op": "=", "value": "web"}, {"key": "image", "op": "contains", "value": "x"}],
            "lost": {"ring": 2, "queue": 3}, "t": 0});
        assert_eq!(cell(&item, "name|id#12"), "0123456789ab");
        assert_eq!(cell(&item, "bytes@size"), "1.5 KiB");
        assert_eq!(cell(&item, "members#count"), "2");
        assert_eq!(cell(&item, "interfaces@ip"), "10.0.0.2");
        assert_eq!(cell(&item, "criteria@criterion"), "app=web image contains x");
        assert_eq!(cell(&item, "lost@sum"), "5");
        assert_eq!(cell(&item, "t@time"), "1970-01-01T00:00:00Z");
        assert_eq!(cell(&item, "nothing"), "");
        let rules = json!({"list": [1, 2], "one": [{"id": 1, "from": "web"}, {"id": 2}]});
        assert_eq!(cell(&rules, "list@ids"), "1,2");
        assert_eq!(cell(&rules, "one@ids"), "1,2");
    }

    #[test]
    fn objects_are_sorted_by_what_a_column_is_made_of() {
        let objects = [
            json!({"name": "b", "bytes": 9, "members": [1, 2], "lost": {"a": 100}}),
            json!({"name": "a", "bytes": 10_000, "members": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "lost": {"a": 20, "b": 3}}),
        ];
        let [first, second] = &objects;
        for (path, expected) in [
            ("name", Ordering::Greater),
            ("bytes@size", Ordering::Less),
            ("members#count", Ordering::Less),
            ("lost@sum", Ordering::Greater),
            ("nothing", Ordering::Equal),
        ] {
            assert_eq!(order(first, second, path), expected, "{path}");
        }
        assert_eq!(column(&NODES, "in-force"), Some("revision"));
        assert_eq!(column(&NODES, "colour"), None);
    }

    #[test]
    fn a_table_shows_wide_columns_only_when_asked() {
        let rules = [
            json!({"id": 1, "from": "web", "to": "app", "ports": "tcp/80", "action": "allow", "comment": "c"}),
        ];
        let narrow = render(&rules, &RULES, false, true, false);
        assert!(narrow.contains("FROM") && !narrow.contains("COMMENT"), "{narrow}");
        assert!(render(&rules, &RULES, true, false, false).contains('c'));
        assert!(!render(&rules, &RULES, false, false, false).contains("FROM"));
    }

    #[test]
    fn names_from_outside_cannot_drive_the_terminal() {
        let rules = [json!({"id": 1, "from": "\x1b[2Jweb"})];
        assert!(!render(&rules, &RULES, false, true, false).contains('\x1b'));
    }
}
