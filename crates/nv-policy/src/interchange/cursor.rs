//! Walks through a document: every field is either read, or named as not known.

use super::note::{Note, Reason, Severity};
use super::yaml::{Content, Entry, Node, Place};

/// What makes an object unusable.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) reason: Reason,
}

/// A value with its path.
#[derive(Clone, Debug)]
pub(crate) struct At<'n> {
    pub(crate) node: &'n Node<'n>,
    pub(crate) path: String,
}

/// Collects what one object could not carry over.
#[derive(Debug)]
pub(crate) struct Notes<'a> {
    pub(crate) document: usize,
    pub(crate) object: String,
    pub(crate) all: &'a mut Vec<Note>,
}

impl Notes<'_> {
    pub(crate) fn add(&mut self, severity: Severity, at: &At<'_>, reason: Reason) {
        self.at(severity, at.path.clone(), at.node.place, reason);
    }

    pub(crate) fn lost(&mut self, at: &At<'_>, reason: Reason) {
        self.add(Severity::Lost, at, reason);
    }

    pub(crate) fn changed(&mut self, at: &At<'_>, text: impl Into<String>) {
        self.add(Severity::Changed, at, Reason::Differs(text.into()));
    }

    pub(crate) fn at(&mut self, severity: Severity, path: String, place: Place, reason: Reason) {
        self.all.push(Note {
            severity,
            document: Some(self.document),
            object: self.object.clone(),
            path,
            place: Some(place),
            rule: None,
            group: None,
            reason,
        });
    }
}

impl<'n> At<'n> {
    pub(crate) fn problem(&self, reason: Reason) -> Problem {
        Problem {
            path: self.path.clone(),
            place: self.node.place,
            reason,
        }
    }

    pub(crate) fn invalid(&self, text: impl ToString) -> Problem {
        self.problem(Reason::Value(text.to_string()))
    }

    fn wrong(&self, wanted: &'static str) -> Problem {
        self.problem(Reason::Type {
            wanted,
            found: match &self.node.value {
                Content::Text { text, .. } => format!("'{}'", text.chars().take(60).collect::<String>()),
                _ => self.node.what().to_owned(),
            },
        })
    }

    pub(crate) fn text(&self) -> Result<&'n str, Problem> {
        match &self.node.value {
            Content::Text { text, .. } => Ok(text),
            _ => Err(self.wrong("text")),
        }
    }

    pub(crate) fn bool(&self) -> Result<bool, Problem> {
        match &self.node.value {
            Content::Text { text, plain: true } if text == "true" => Ok(true),
            Content::Text { text, plain: true } if text == "false" => Ok(false),
            _ => Err(self.wrong("true or false")),
        }
    }

    pub(crate) fn number(&self, wanted: &'static str) -> Result<u32, Problem> {
        match &self.node.value {
            Content::Text { text, .. } if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map_err(|_| self.wrong(wanted))
            }
            _ => Err(self.wrong(wanted)),
        }
    }

    /// The items of a list; nothing is an empty one.
    pub(crate) fn items(&self) -> Result<Vec<Self>, Problem> {
        match &self.node.value {
            Content::Null => Ok(Vec::new()),
            Content::List(list) => Ok(list
                .iter()
                .enumerate()
                .map(|(index, node)| At {
                    node,
                    path: format!("{}[{index}]", self.path),
                })
                .collect()),
            _ => Err(self.wrong("a list")),
        }
    }

    /// The fields of a map; nothing is an empty one.
    pub(crate) fn fields(&self) -> Result<Fields<'n>, Problem> {
        let entries = match &self.node.value {
            Content::Null => &[][..],
            Content::Map(map) => map.as_slice(),
            _ => return Err(self.wrong("a map")),
        };
        Ok(Fields {
            here: self.clone(),
            seen: vec![false; entries.len()],
            entries,
        })
    }

    /// The entries of a map from text to text.
    pub(crate) fn texts(&self) -> Result<Vec<(&'n str, &'n str, Self)>, Problem> {
        let fields = self.fields()?;
        fields
            .entries
            .iter()
            .map(|entry| {
                let at = fields.child(entry);
                Ok((entry.key.as_ref(), at.text()?, at))
            })
            .collect()
    }
}

/// The fields of a map, each taken at most once; what nobody took is named by [`Fields::finish`].
#[derive(Debug)]
pub(crate) struct Fields<'n> {
    pub(crate) here: At<'n>,
    entries: &'n [Entry<'n>],
    seen: Vec<bool>,
}

impl<'n> Fields<'n> {
    fn child(&self, entry: &'n Entry<'n>) -> At<'n> {
        let path = if self.here.path.is_empty() {
            entry.key.to_string()
        } else if entry.key.contains(['.', '/', '[']) {
            format!("{}[{}]", self.here.path, entry.key)
        } else {
            format!("{}.{}", self.here.path, entry.key)
        };
        At {
            node: &entry.node,
            path,
        }
    }

    /// The field, if it is there and not null.
    pub(crate) fn take(&mut self, key: &str) -> Option<At<'n>> {
        self.take_any(key)
            .filter(|at| !matches!(at.node.value, Content::Null))
    }

    /// The field, if it is there, null included.
    pub(crate) fn take_any(&mut self, key: &str) -> Option<At<'n>> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        if let Some(seen) = self.seen.get_mut(index) {
            *seen = true;
        }
        self.entries.get(index).map(|entry| self.child(entry))
    }

    pub(crate) fn need(&mut self, key: &'static str) -> Result<At<'n>, Problem> {
        self.take(key)
            .ok_or_else(|| self.here.problem(Reason::Missing(key)))
    }

    /// A field that must be there and may be empty or null.
    pub(crate) fn need_any(&mut self, key: &'static str) -> Result<At<'n>, Problem> {
        self.take_any(key)
            .ok_or_else(|| self.here.problem(Reason::Missing(key)))
    }

    /// Fields that say nothing about policy.
    pub(crate) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            let _ = self.take_any(key);
        }
    }

    /// Fields that nv has nothing for: named when they say something.
    pub(crate) fn leave(&mut self, keys: &[&str], why: &'static str, notes: &mut Notes<'_>) -> bool {
        let mut any = false;
        for key in keys {
            if let Some(at) = self.take(key)
                && !at.node.is_empty()
            {
                notes.lost(&at, Reason::NotCarried(why));
                any = true;
            }
        }
        any
    }

    /// Names the fields that nobody took, and says whether there were any.
    pub(crate) fn finish(self, notes: &mut Notes<'_>) -> bool {
        let mut any = false;
        for (entry, _) in self.entries.iter().zip(&self.seen).filter(|(_, seen)| !**seen) {
            notes.at(
                Severity::Lost,
                self.child(entry).path,
                entry.place,
                Reason::UnknownField,
            );
            any = true;
        }
        any
    }
}
