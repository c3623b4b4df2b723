//! Writing data: five forms, and no raw control character from outside in any of the readable ones.

use std::io::{IsTerminal as _, Write};

use serde_json::Value;

use crate::cli::{Color, Format, Global};
use crate::error::CtlError;
use crate::table::{self, Columns};

/// Where data goes, and how.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    format: Format,
    headers: bool,
    color: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stdout().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        };
        Self {
            format: global.output,
            headers: !global.no_headers,
            color,
        }
    }

    pub(crate) const fn format(&self) -> Format {
        self.format
    }

    /// Whether people read it.
    pub(crate) const fn is_table(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// What a reader sees of an object: that differs when it changed.
    pub(crate) fn fingerprint(&self, item: &Value, columns: &Columns) -> String {
        if self.is_table() {
            table::row_line(item, columns, self.format == Format::Wide, false)
        } else {
            item.to_string()
        }
    }

    /// Writes what a list call answered; `field` is the name of the list in it.
    pub(crate) fn list(&self, answer: &Value, field: &str, columns: &Columns) -> Result<(), CtlError> {
        let empty = Vec::new();
        let items = answer.get(field).and_then(Value::as_array).unwrap_or(&empty);
        match self.format {
            Format::Json => self.line(&pretty(answer)?),
            Format::Yaml => self.raw(&yaml(answer)?),
            Format::Jsonl => items.iter().try_for_each(|item| self.line(&item.to_string())),
            Format::Name => items
                .iter()
                .try_for_each(|item| self.line(&escape(&table::cell(item, columns.name), false))),
            Format::Table | Format::Wide => self.line(&table::render(
                items,
                columns,
                self.format == Format::Wide,
                self.headers,
                self.color,
            )),
        }
    }

    /// Writes one object; in the table form its facts one under the other.
    pub(crate) fn object(&self, answer: &Value, field: &str, columns: &Columns) -> Result<(), CtlError> {
        let item = answer.get(field).unwrap_or(answer);
        match self.format {
            Format::Json => self.line(&pretty(answer)?),
            Format::Jsonl => self.line(&answer.to_string()),
            Format::Yaml => self.raw(&yaml(answer)?),
            Format::Name => self.line(&escape(&table::cell(item, columns.name), false)),
            Format::Table | Format::Wide => self.line(&table::render(
                std::slice::from_ref(item),
                columns,
                true,
                self.headers,
                self.color,
            )),
        }
    }

    /// One line of a stream.
    pub(crate) fn record(&self, item: &Value, columns: &Columns) -> Result<(), CtlError> {
        match self.format {
            Format::Json | Format::Jsonl => self.line(&item.to_string()),
            Format::Yaml => self.raw(&format!("---\n{}", yaml(item)?)),
            Format::Name => self.line(&escape(&table::cell(item, columns.name), false)),
            Format::Table | Format::Wide => self.line(&table::row_line(
                item,
                columns,
                self.format == Format::Wide,
                self.color,
            )),
        }
    }

    /// A table of what hangs on an object.
    pub(crate) fn table(&self, items: &[Value], columns: &Columns) -> String {
        table::render(
            items,
            columns,
            self.format == Format::Wide,
            self.headers,
            self.color,
        )
    }

    /// A line of text that is already fit to be seen.
    pub(crate) fn line(&self, text: &str) -> Result<(), CtlError> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", text.trim_end_matches('\n'))
            .and_then(|()| out.flush())
            .map_err(stdout_error)
    }

    fn raw(&self, text: &str) -> Result<(), CtlError> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(stdout_error)
    }
}

pub(crate) fn stdout_error(source: std::io::Error) -> CtlError {
    CtlError::Io {
        action: "cannot write to standard output".into(),
        source,
    }
}

/// A line for people, on standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", escape(text, true));
}

fn pretty(value: &Value) -> Result<String, CtlError> {
    serde_json::to_string_pretty(value)
        .map_err(|error| CtlError::Usage(format!("cannot write JSON: {error}")))
}

fn yaml(value: &Value) -> Result<String, CtlError> {
    serde_saphyr::to_string(value).map_err(|error| CtlError::Usage(format!("cannot write YAML: {error}")))
}

/// Makes text from outside fit to be seen: control characters and direction marks are written as escapes.
/// `lines` keeps line breaks.
pub(crate) fn escape(text: &str, lines: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if (c.is_control() && !(lines && c == '\n')) || hidden {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_and_direction_marks_do_not_get_through() {
        assert_eq!(
            escape("a\x1b[31mb\u{202e}c\nd", false),
            "a\\u{1b}[31mb\\u{202e}c\\nd"
        );
        assert_eq!(escape("a\nb", true), "a\nb");
        assert_eq!(escape("grüße", false), "grüße");
    }
}
