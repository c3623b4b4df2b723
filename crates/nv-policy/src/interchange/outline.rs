//! Where documents and their fields stand in a text.

use std::collections::BTreeMap;

use super::yaml::{Content, Documents, Place};

/// A document and the fields of its map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Where the document begins.
    pub place: Place,
    /// Where the value of each field stands.
    pub fields: BTreeMap<String, Place>,
}

impl Outline {
    /// The place of a field, or of the document if it has none of this name.
    #[must_use]
    pub fn of(&self, field: &str) -> Place {
        self.fields.get(field).copied().unwrap_or(self.place)
    }
}

/// The outline of every document that is not empty, up to the first that cannot be read.
#[must_use]
pub fn outline(text: &str) -> Vec<Outline> {
    Documents::new(text)
        .map_while(Result::ok)
        .map(|node| Outline {
            place: node.place,
            fields: match node.value {
                Content::Map(entries) => {
                    let place = |entry: super::yaml::Entry<'_>| (entry.key.into_owned(), entry.node.place);
                    entries.into_iter().map(place).collect()
                }
                Content::Null | Content::Text { .. } | Content::List(_) => BTreeMap::new(),
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_places() {
        let found = outline("kind: Rule\nfrom: a\nports:   80\n---\n\n{kind: Group,\n name: web}\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].of("ports"), Place { line: 3, column: 10 });
        assert_eq!(found[0].of("nothing"), found[0].place);
        assert_eq!(found[1].of("name"), Place { line: 7, column: 8 });
    }
}
