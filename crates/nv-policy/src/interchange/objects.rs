//! Objects of a text, each to the reader of its kind.

use std::collections::BTreeSet;

use nv_types::RuleId;

use super::cursor::{At, Fields, Notes, Problem};
use super::note::{Note, Reason, Severity};
use super::yaml::Node;
use super::{Form, ImportOptions, Imported, cilium, kubernetes, layers, neuvector};

/// What an object says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Meta {
    pub(super) kind: String,
    pub(super) api_version: String,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
}

impl Meta {
    fn title(&self) -> String {
        match (&self.namespace, self.name.as_str()) {
            (_, "") => self.kind.clone(),
            (Some(namespace), name) => format!("{} {namespace}/{name}", self.kind),
            (None, name) => format!("{} {name}", self.kind),
        }
    }
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Importer {
    pub(super) notes: Vec<Note>,
    neuvector: neuvector::Reader,
    network: layers::Policies,
    names: BTreeSet<String>,
}

impl Importer {
    /// Reads a document of the text.
    pub(super) fn document(&mut self, number: usize, node: &Node<'_>, options: &ImportOptions<'_>) {
        let at = At {
            node,
            path: String::new(),
        };
        self.object(number, &at, options, 0);
    }

    /// Reads an object; when it is refused, that is all that is said about it.
    fn object(&mut self, document: usize, at: &At<'_>, options: &ImportOptions<'_>, level: usize) {
        let before = self.notes.len();
        let mut meta = Meta::default();
        if let Err(problem) = self.try_object(document, at, options, level, &mut meta) {
            self.notes.truncate(before);
            self.notes.push(Note {
                document: Some(document),
                object: meta.title(),
                path: problem.path,
                place: Some(problem.place),
                ..Note::general(Severity::Refused, problem.reason)
            });
        }
    }

    fn try_object(
        &mut self,
        document: usize,
        at: &At<'_>,
        options: &ImportOptions<'_>,
        level: usize,
        meta: &mut Meta,
    ) -> Result<(), Problem> {
        let mut fields = at.fields()?;
        let kind = fields.need("kind")?;
        kind.text()?.clone_into(&mut meta.kind);
        let api_version = match fields.take("apiVersion") {
            Some(at) => at.text()?,
            None => "",
        };
        api_version.clone_into(&mut meta.api_version);
        if meta.kind.ends_with("List") && level == 0 {
            return self.list(document, fields, options);
        }
        read_metadata(&mut fields, meta)?;
        check_kind(meta, &kind, options)?;
        let title = meta.title();
        if !self.names.insert(title.clone()) {
            return Err(kind.problem(Reason::Conflict(format!(
                "there is another {title} before this one"
            ))));
        }
        let mut notes = Notes {
            document,
            object: title,
            all: &mut self.notes,
        };
        match Form::of(&meta.api_version, &meta.kind) {
            Some(Form::NeuVector) => self.neuvector.object(&mut fields, meta, &mut notes)?,
            Some(Form::Kubernetes) => kubernetes::read(&mut fields, meta, &mut notes, &mut self.network)?,
            Some(Form::Cilium) => cilium::read(&mut fields, meta, &mut notes, &mut self.network)?,
            None => {}
        }
        fields.ignore(&["status"]);
        fields.finish(&mut notes);
        Ok(())
    }

    fn list(
        &mut self,
        document: usize,
        mut fields: Fields<'_>,
        options: &ImportOptions<'_>,
    ) -> Result<(), Problem> {
        let items = fields.need("items")?.items()?;
        fields.ignore(&["metadata"]);
        let mut notes = Notes {
            document,
            object: "List".to_owned(),
            all: &mut self.notes,
        };
        fields.finish(&mut notes);
        for item in items {
            self.object(document, &item, options, 1);
        }
        Ok(())
    }

    /// Everything together; rules get their ids.
    pub(super) fn finish(mut self, options: &ImportOptions<'_>) -> Imported {
        let (mut groups, mut rules, mut modes) = self.neuvector.finish(&mut self.notes);
        self.network
            .finish(options, &mut groups, &mut rules, &mut modes, &mut self.notes);
        let (first, last) = RuleId::GROUND;
        let room = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        if rules.len() > room {
            let text = format!(
                "{} rules are more than the {room} that have an id; nothing was imported",
                rules.len()
            );
            self.notes
                .push(Note::general(Severity::Refused, Reason::Limit(text)));
            (groups, rules, modes) = Default::default();
        }
        for (rule, id) in rules.iter_mut().zip(first..) {
            rule.id = RuleId(id);
        }
        Imported {
            groups: groups.into_values().collect(),
            rules,
            modes,
            notes: self.notes,
        }
    }
}

fn read_metadata(fields: &mut Fields<'_>, meta: &mut Meta) -> Result<(), Problem> {
    let Some(at) = fields.take("metadata") else {
        return Ok(());
    };
    let mut metadata = at.fields()?;
    if let Some(name) = metadata.take("name") {
        name.text()?.clone_into(&mut meta.name);
    }
    if let Some(namespace) = metadata.take("namespace") {
        meta.namespace = Some(namespace.text()?.to_owned()).filter(|text| !text.is_empty());
    }
    Ok(())
}

/// Refuses what is not read, with the reason.
fn check_kind(meta: &Meta, kind: &At<'_>, options: &ImportOptions<'_>) -> Result<(), Problem> {
    let group = meta.api_version.split('/').next().unwrap_or_default();
    match (Form::of(&meta.api_version, &meta.kind), options.form) {
        (Some(form), Some(wanted)) if form != wanted => Err(kind.problem(Reason::OtherForm {
            kind: meta.kind.clone(),
            wanted,
        })),
        (Some(_), _) if meta.name.is_empty() => Err(kind.problem(Reason::Missing("metadata.name"))),
        (Some(_), _) => Ok(()),
        (None, _) if group == "neuvector.com" && meta.kind.starts_with("Nv") => {
            Err(kind.problem(Reason::OtherKind(meta.kind.clone())))
        }
        (None, _) => Err(kind.problem(Reason::Kind {
            kind: meta.kind.clone(),
            api_version: meta.api_version.clone(),
        })),
    }
}
