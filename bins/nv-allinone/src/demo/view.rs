//! What the demo shows: pure text, made of what REST told.

use super::rows::{Conversation, Rule, Service, Violation, Workload};

/// Everything on the screen.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// What happened so far, the newest last.
    pub(crate) story: Vec<Line>,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) services: Vec<Service>,
    pub(crate) conversations: Vec<Conversation>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) violations: Vec<Violation>,
}

/// One line of the story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What comes now.
    Chapter,
    /// A check that held.
    Good,
    /// Something to know.
    Note,
}

/// Lines of the story that stay on the screen.
const STORY_LINES: usize = 14;
const CONVERSATION_LINES: usize = 8;
const VIOLATION_LINES: usize = 4;

#[derive(Clone, Copy)]
enum Color {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

/// Text with or without colors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    /// Whether to color at all.
    pub(crate) colored: bool,
}

impl Paint {
    fn paint(self, color: Color, text: &str) -> String {
        if !self.colored {
            return text.to_owned();
        }
        let code = match color {
            Color::Bold => "1",
            Color::Dim => "2",
            Color::Green => "32",
            Color::Yellow => "33",
            Color::Red => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn verdict(self, verdict: &str) -> String {
        let color = match verdict {
            "allow" => Color::Green,
            "deny" => Color::Red,
            "alert" => Color::Yellow,
            _ => Color::Dim,
        };
        self.paint(color, verdict)
    }

    fn mode(self, mode: &str) -> String {
        let color = match mode {
            "Discover" => Color::Dim,
            "Monitor" => Color::Yellow,
            "Protect" => Color::Green,
            _ => Color::Bold,
        };
        self.paint(color, mode)
    }

    /// One line of the story.
    pub(crate) fn line(self, line: &Line) -> String {
        match line.kind {
            Kind::Chapter => self.paint(Color::Bold, &format!("== {}", line.text)),
            Kind::Good => format!("   {} {}", self.paint(Color::Green, "ok"), line.text),
            Kind::Note => format!("      {}", line.text),
        }
    }
}

impl View {
    /// The whole screen.
    pub(crate) fn render(&self, paint: Paint) -> Vec<String> {
        let mut lines = vec![paint.paint(
            Color::Bold,
            "nv demo    web -> app -> db    Ctrl-C ends it and removes everything",
        )];
        lines.push(String::new());
        lines.extend(self.tables(paint));
        lines.push(String::new());
        let skip = self.story.len().saturating_sub(STORY_LINES);
        lines.extend(self.story.iter().skip(skip).map(|line| paint.line(line)));
        lines
    }

    /// The tables alone.
    pub(crate) fn tables(&self, paint: Paint) -> Vec<String> {
        let mut lines = Vec::new();
        let head = |text: &str| paint.paint(Color::Dim, text);
        lines.push(head(&columns(
            &["WORKLOAD", "SERVICE", "MODE", "ADDRESSES"],
            &WORKLOAD,
        )));
        for workload in &self.workloads {
            let mode = self
                .services
                .iter()
                .find(|s| s.name == workload.service)
                .map_or("-", |s| s.mode.as_str());
            let text = columns(
                &[
                    &workload.name,
                    &workload.service,
                    mode,
                    &workload.addresses.join(" "),
                ],
                &WORKLOAD,
            );
            lines.push(swap(text, mode, &paint.mode(mode)));
        }
        lines.push(String::new());
        lines.push(head(&columns(
            &["CONVERSATION", "APPLICATION", "PORTS", "BYTES", "VERDICT"],
            &CONVERSATION,
        )));
        for item in self.conversations.iter().take(CONVERSATION_LINES) {
            let who = format!("{} -> {}", item.from, item.to);
            let text = columns(
                &[
                    &who,
                    &item.applications.join(","),
                    &item.ports.join(","),
                    &size(item.bytes),
                    &item.verdict,
                ],
                &CONVERSATION,
            );
            lines.push(swap(text, &item.verdict, &paint.verdict(&item.verdict)));
        }
        if !self.rules.is_empty() {
            lines.push(String::new());
            lines.push(head(&columns(
                &["RULE", "FROM", "TO", "APPLICATIONS", "ACTION"],
                &RULE,
            )));
            for rule in &self.rules {
                let id = rule.id.to_string();
                let text = columns(&[&id, &rule.from, &rule.to, &rule.what(), &rule.action], &RULE);
                lines.push(swap(text, &rule.action, &paint.verdict(&rule.action)));
            }
        }
        if !self.violations.is_empty() {
            lines.push(String::new());
            lines.push(head(&columns(
                &["VIOLATION", "PORT", "VERDICT", "SESSIONS"],
                &VIOLATION,
            )));
            for item in self.violations.iter().take(VIOLATION_LINES) {
                let who = format!("{} -> {}", item.client, item.server);
                let text = columns(
                    &[
                        &who,
                        &item.port.to_string(),
                        &item.verdict,
                        &item.sessions.to_string(),
                    ],
                    &VIOLATION,
                );
                lines.push(swap(text, &item.verdict, &paint.verdict(&item.verdict)));
            }
        }
        lines
    }
}

const WORKLOAD: [usize; 4] = [16, 16, 10, 0];
const CONVERSATION: [usize; 5] = [22, 14, 18, 10, 0];
const RULE: [usize; 5] = [8, 14, 14, 24, 0];
const VIOLATION: [usize; 4] = [22, 14, 10, 0];

fn columns(cells: &[&str], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line.push_str(&format!("{cell:<width$}"));
        if *width != 0 && cell.chars().count() >= *width {
            line.push(' ');
        }
    }
    line.trim_end().to_owned()
}

/// Colors come after the columns are made: their codes have no width. The last occurrence is the column.
fn swap(line: String, plain: &str, painted: &str) -> String {
    match line.rfind(plain) {
        Some(at) if !plain.is_empty() => {
            let (head, tail) = line.split_at(at);
            format!("{head}{painted}{}", tail.strip_prefix(plain).unwrap_or(tail))
        }
        _ => line,
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            story: vec![Line {
                kind: Kind::Good,
                text: "learned".into(),
            }],
            workloads: vec![Workload {
                name: "web".into(),
                service: "web".into(),
                addresses: vec!["198.18.77.11".into()],
            }],
            services: vec![Service {
                name: "web".into(),
                mode: "Protect".into(),
            }],
            conversations: vec![Conversation {
                from: "web".into(),
                to: "db".into(),
                applications: vec!["Redis".into()],
                ports: vec!["tcp/6379".into()],
                bytes: 12_345,
                verdict: "deny".into(),
            }],
            rules: vec![],
            violations: vec![],
        }
    }

    #[test]
    fn plain_text_has_no_codes_and_the_columns_stand_under_each_other() {
        let lines = view().render(Paint { colored: false });
        assert!(lines.iter().all(|line| !line.contains('\x1b')));
        let find = |text: &str| lines.iter().find(|line| line.contains(text)).unwrap();
        assert_eq!(find("MODE").find("MODE"), find("198.18").find("Protect"));
        assert_eq!(find("VERDICT").find("VERDICT"), find("web -> db").find("deny"));
        assert!(find("web -> db").contains("12 kB"));
        assert!(lines.last().unwrap().ends_with("ok learned"));
    }

    #[test]
    fn colors_are_put_around_the_verdict() {
        let lines = view().render(Paint { colored: true });
        assert!(lines.iter().any(|line| line.ends_with("\x1b[31mdeny\x1b[0m")));
    }
}
