//! Policies from and to other forms: NeuVector's custom resources, Kubernetes `NetworkPolicy`, Cilium's policies (layers 3 and 4).
//!
//! ```
//! use nv_policy::interchange::{Form, Selection, export, import};
//! # let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec:\n  podSelector: {matchLabels: {app: web}}\n  ingress:\n    - ports: [{port: 80}]\n";
//! let imported = import(text, None).unwrap();
//! for note in &imported.notes {
//!     eprintln!("{note}");
//! }
//! let exported = export(&imported.to_input(), Form::Kubernetes, &Selection::all());
//! assert!(exported.text.contains("kind: NetworkPolicy"));
//! ```
//!
//! Nothing is dropped silently. A [`Note`] names the object, the path and the line of whatever could not be carried over, and says
//! what became of it. An object that cannot be read at all is refused and named, and the others stay ([`ImportOptions::strict`]: none do).
//! A part of an allow rule that cannot be carried over takes the rule with it, so that an import never allows more than its source;
//! where it does (an L7 condition, for example), the note says so. Not noted are fields that say nothing about policy: `status`, and all of
//! `metadata` but name and namespace.
//!
//! **Tier.** Everything that is imported is of the custom-resource tier ([`Tier::Ground`]), ids from 110 000 on, in the order in which it
//! applies. Ids, times of rules, and the tier that they had are not part of any of the forms.
//!
//! **Kubernetes and Cilium.** There, a policy isolates the pods that it selects, and a flow must pass on both sides. Here, the first
//! rule that matches decides for both. An import therefore makes rules in layers, of all policies of the text together): explicit denials;
//! flows between two isolated sides that both allow; denial of the others between them; what one isolated side allows; denial of everything
//! else to or from an isolated pod; what the selected pods may do in the direction in which they are not isolated. The result decides as the
//! policies do, with two differences: nodes always reach pods and pods nodes (there: only the pod's own node), and denials are enforced only when the
//! service of the selected pods is in Protect. With [`ImportOptions::workloads`], the services are found and [`Imported::modes`] says so.
//! A pod of such a service that no policy selects is noted. `contention = basic` would let a peer in Discover in; keep `restrictive`.

mod cilium;
mod cursor;
mod ends;
mod kubernetes;
mod layers;
mod neuvector;
mod note;
mod objects;
mod outline;
mod select;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use nv_types::{Group, GroupName, Mode, Rule, RuleId, Tier, Timestamp, Workload, WorkloadId};

pub use note::{Note, Reason, Severity};
pub use yaml::Place;

use crate::input::PolicyInput;
use objects::{Importer, Meta};
pub use outline::{Outline, outline};

/// A form that policies are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// NeuVector's `NvSecurityRule`, `NvClusterSecurityRule` and `NvGroupDefinition`.
    NeuVector,
    /// `NetworkPolicy` of networking.k8s.io/v1.
    Kubernetes,
    /// `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`.
    Cilium,
}

impl Form {
    const KINDS: &'static str = "NvSecurityRule, NvClusterSecurityRule, NvGroupDefinition, NetworkPolicy, CiliumNetworkPolicy, \
                                 CiliumClusterwideNetworkPolicy and List are read";

    /// All of them.
    pub const ALL: [Self; 3] = [Self::NeuVector, Self::Kubernetes, Self::Cilium];

    /// Its name in options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NeuVector => "neuvector",
            Self::Kubernetes => "kubernetes",
            Self::Cilium => "cilium",
        }
    }

    /// The form that an object is of.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split('/').next().unwrap_or_default();
        match (group, kind) {
            ("neuvector.com", "NvSecurityRule" | "NvClusterSecurityRule" | "NvGroupDefinition") => {
                Some(Self::NeuVector)
            }
            ("networking.k8s.io", "NetworkPolicy") => Some(Self::Kubernetes),
            ("cilium.io", "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy") => Some(Self::Cilium),
            _ => None,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that is no form's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown form '{0}': use neuvector, kubernetes or cilium")]
pub struct UnknownForm(pub String);

impl FromStr for Form {
    type Err = UnknownForm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|form| form.name() == text)
            .ok_or_else(|| UnknownForm(text.to_owned()))
    }
}

/// How to import.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportOptions<'a> {
    /// The only form that is read; `None`: each object's own.
    pub form: Option<Form>,
    /// One object that is refused makes the whole text refused.
    pub strict: bool,
    /// Workloads that are known, to find the services that Kubernetes and Cilium policies select.
    pub workloads: Option<&'a BTreeMap<WorkloadId, Workload>>,
}

/// What a text held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Groups, by name. Learned groups of services that are referred to are among them.
    pub groups: Vec<Group>,
    /// Rules in the order in which they apply.
    pub rules: Vec<Rule>,
    /// Modes of services and nodes.
    pub modes: BTreeMap<GroupName, Mode>,
    /// What was not carried over as it was.
    pub notes: Vec<Note>,
}

impl Imported {
    /// The policy by itself, without workloads.
    #[must_use]
    pub fn to_input(&self) -> PolicyInput {
        PolicyInput {
            groups: self
                .groups
                .iter()
                .map(|group| (group.name.clone(), group.clone()))
                .collect(),
            rules: self.rules.clone(),
            modes: self.modes.clone(),
            ..PolicyInput::default()
        }
    }

    /// Whether an object was refused.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.notes.iter().any(|note| note.severity == Severity::Refused)
    }
}

/// Why nothing was imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Too long.
    #[error("the text has {0} bytes, more than {max} are not read", max = yaml::MAX_BYTES)]
    TooLong(usize),
    /// No object in it.
    #[error("the text holds no object")]
    Empty,
    /// An object was refused and the import is strict.
    #[error("{} refused, so nothing was imported (strict); the first: {}", count(.0.len()), first(.0))]
    Refused(Vec<Note>),
}

fn count(objects: usize) -> String {
    if objects == 1 {
        "one object was".to_owned()
    } else {
        format!("{objects} objects were")
    }
}

fn first(notes: &[Note]) -> String {
    notes.first().map(ToString::to_string).unwrap_or_default()
}

/// Reads a text of one or many objects. See [`import_with`] for the options.
///
/// # Errors
/// [`ImportError`] when there is nothing in it that could be read at all.
pub fn import(text: &str, form: Option<Form>) -> Result<Imported, ImportError> {
    import_with(
        text,
        &ImportOptions {
            form,
            ..ImportOptions::default()
        },
    )
}

/// Reads a text of one or many objects.
///
/// # Errors
/// [`ImportError`] when there is nothing in it that could be read at all, or when an object was refused and the import is strict.
pub fn import_with(text: &str, options: &ImportOptions<'_>) -> Result<Imported, ImportError> {
    if text.len() > yaml::MAX_BYTES {
        return Err(ImportError::TooLong(text.len()));
    }
    let mut importer = Importer::default();
    let mut any = false;
    for (index, document) in yaml::Documents::new(text).enumerate() {
        let number = index + 1;
        match document {
            Ok(node) if node.is_empty() => {}
            Ok(node) => {
                any = true;
                importer.document(number, &node, options);
            }
            Err(error) => {
                any = true;
                importer.notes.push(Note {
                    document: Some(number),
                    place: Some(error.place),
                    ..Note::general(Severity::Refused, Reason::Yaml(error.problem))
                });
            }
        }
    }
    if !any {
        return Err(ImportError::Empty);
    }
    let imported = importer.finish(options);
    if options.strict && imported.is_refused() {
        let refused = imported
            .notes
            .into_iter()
            .filter(|note| note.severity == Severity::Refused);
        return Err(ImportError::Refused(refused.collect()));
    }
    Ok(imported)
}

/// Which part of a policy is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Rules of these tiers.
    pub tiers: BTreeSet<Tier>,
    /// Only rules that have one of these groups as an end; `None`: all.
    pub groups: Option<BTreeSet<GroupName>>,
    /// Disabled rules as well, where the form can say it (none of the three can: they are noted).
    pub disabled: bool,
}

impl Selection {
    fn of(tiers: &[Tier]) -> Self {
        Self {
            tiers: tiers.iter().copied().collect(),
            groups: None,
            disabled: true,
        }
    }

    /// Rules that somebody made: federated, custom-resource and user rules.
    #[must_use]
    pub fn made() -> Self {
        Self::of(&[Tier::Federal, Tier::Ground, Tier::User])
    }

    /// Learned rules.
    #[must_use]
    pub fn learned() -> Self {
        Self::of(&[Tier::Learned])
    }

    /// Every rule.
    #[must_use]
    pub fn all() -> Self {
        Self::of(&[Tier::Federal, Tier::Ground, Tier::User, Tier::Learned])
    }

    fn has(&self, rule: &Rule) -> bool {
        self.tiers.contains(&rule.tier())
            && self
                .groups
                .as_ref()
                .is_none_or(|groups| groups.contains(&rule.from) || groups.contains(&rule.to))
            && (self.disabled || !rule.disable)
    }

    /// Whether a group that no exported rule names is exported.
    fn has_group(&self, group: &Group) -> bool {
        match (&self.groups, group.origin) {
            (Some(groups), _) => groups.contains(&group.name),
            (None, Some(tier)) => self.tiers.contains(&tier),
            (None, None) => false,
        }
    }
}

/// A policy in another form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Objects, with `---` between them.
    pub text: String,
    /// What the form cannot say.
    pub notes: Vec<Note>,
}

/// Writes a part of a policy in another form. Rules are written in the order in which they are tried; what the form cannot say is in
/// the notes.
#[must_use]
pub fn export(input: &PolicyInput, form: Form, what: &Selection) -> Exported {
    let mut notes = Vec::new();
    let rules: Vec<&Rule> = input.ordered_rules().filter(|rule| what.has(rule)).collect();
    let rules: Vec<&Rule> = rules
        .into_iter()
        .filter(|rule| {
            if rule.disable {
                let reason = Reason::RuleLeftOut("it is disabled, which the form cannot say".to_owned());
                notes.push(Note::of_rule(Severity::Lost, rule.id, reason));
            }
            !rule.disable
        })
        .collect();
    for rule in rules.iter().filter(|rule| !rule.comment.is_empty()) {
        let reason = Reason::NotCarried("comments of rules have no place in the form");
        notes.push(Note::of_rule(Severity::Lost, rule.id, reason));
    }
    let documents = match form {
        Form::NeuVector => neuvector::write(input, &rules, what, &mut notes),
        Form::Kubernetes => layers::write(input, &rules, what, &mut notes, &kubernetes::Writer),
        Form::Cilium => layers::write(input, &rules, what, &mut notes, &cilium::Writer),
    };
    Exported {
        text: yaml::write(&documents),
        notes,
    }
}

/// A rule without id and times.
fn plain_rule(from: GroupName, to: GroupName, ports: nv_types::PortSet, action: nv_types::Action) -> Rule {
    Rule {
        id: RuleId::IMPLICIT,
        comment: String::new(),
        from,
        to,
        ports,
        applications: Vec::new(),
        action,
        disable: false,
        created: Timestamp(0),
        modified: Timestamp(0),
    }
}
