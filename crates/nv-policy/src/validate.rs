//! Checks before something enters the policy. Each error names the field.

use std::collections::BTreeSet;

use nv_types::{Application, Group, GroupKind, GroupName, Rule, reserved};

use crate::criteria::{InvalidCriterion, Selector};
use crate::group::MAX_CRITERIA;
use crate::input::PolicyInput;

/// Longest comment, in bytes.
const MAX_COMMENT: usize = 1024;

/// A group that cannot enter the policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidGroup {
    /// The name is reserved by the system.
    #[error("name: '{0}' is reserved")]
    Reserved(GroupName),
    /// The name begins like names that the system gives.
    #[error("name: '{0}' begins like a name that the system gives (nv., fed., Host:, Workload:)")]
    Prefix(GroupName),
    /// A criterion.
    #[error("criteria[{index}]: {problem}")]
    Criterion {
        /// Its place.
        index: usize,
        /// What is wrong.
        #[source]
        problem: InvalidCriterion,
    },
    /// Too many criteria.
    #[error("criteria: {0} are more than {MAX_CRITERIA}")]
    TooMany(usize),
    /// No criteria at all.
    #[error("criteria: at least one is needed: a group without criteria matches nobody")]
    Empty,
    /// The comment is too long.
    #[error("comment: longer than {MAX_COMMENT} bytes")]
    Comment,
    /// Kind and criteria disagree.
    #[error("kind: {0}")]
    Kind(&'static str),
}

/// A rule that cannot enter the policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRule {
    /// A group that does not exist.
    #[error("{field}: there is no group '{name}'")]
    UnknownGroup {
        /// `from` or `to`.
        field: &'static str,
        /// Group.
        name: GroupName,
    },
    /// Both sides are addresses: nobody could enforce it.
    #[error("from, to: at least one side must be a group of workloads")]
    NoWorkloads,
    /// A group that can only be on the other side.
    #[error("to: '{0}' can only stand in from")]
    OnlyFrom(GroupName),
    /// An application twice.
    #[error("applications: '{0}' is there twice")]
    DuplicateApplication(Application),
    /// The comment is too long.
    #[error("comment: longer than {MAX_COMMENT} bytes")]
    Comment,
}

/// Checks a group that a user makes.
///
/// # Errors
/// [`InvalidGroup`] of the first field that is wrong.
pub fn validate_group(group: &Group) -> Result<(), InvalidGroup> {
    let name = group.name.as_str();
    if reserved::ALL.contains(&name) {
        return Err(InvalidGroup::Reserved(group.name.clone()));
    }
    if ["nv.", "fed.", "Host:", "Workload:"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
    {
        return Err(InvalidGroup::Prefix(group.name.clone()));
    }
    if group.comment.len() > MAX_COMMENT {
        return Err(InvalidGroup::Comment);
    }
    if group.criteria.is_empty() {
        return Err(InvalidGroup::Empty);
    }
    if group.criteria.len() > MAX_CRITERIA {
        return Err(InvalidGroup::TooMany(group.criteria.len()));
    }
    for (index, criterion) in group.criteria.iter().enumerate() {
        Selector::new(std::slice::from_ref(criterion))
            .map_err(|problem| InvalidGroup::Criterion { index, problem })?;
    }
    let selector = Selector::new(&group.criteria).map_err(|problem| InvalidGroup::Criterion {
        index: group.criteria.len() - 1,
        problem,
    })?;
    match (group.kind, selector.addresses()) {
        (GroupKind::Container, Some(_)) => {
            Err(InvalidGroup::Kind("a group of workloads has no address criteria"))
        }
        (GroupKind::Address, None) => Err(InvalidGroup::Kind("an address group has only address criteria")),
        (GroupKind::Container | GroupKind::Address, _) => Ok(()),
        (GroupKind::IpService | GroupKind::External | GroupKind::Node, _) => Err(InvalidGroup::Kind(
            "only groups of workloads and of addresses can be made",
        )),
    }
}

/// Checks a rule against the groups that there are.
///
/// # Errors
/// [`InvalidRule`] of the first field that is wrong.
pub fn validate_rule(rule: &Rule, input: &PolicyInput) -> Result<(), InvalidRule> {
    let from = side(&rule.from, "from", input)?;
    let to = side(&rule.to, "to", input)?;
    if rule.to.as_str() == reserved::INGRESS {
        return Err(InvalidRule::OnlyFrom(rule.to.clone()));
    }
    if !from && !to {
        return Err(InvalidRule::NoWorkloads);
    }
    if rule.comment.len() > MAX_COMMENT {
        return Err(InvalidRule::Comment);
    }
    let mut seen = BTreeSet::new();
    match rule.applications.iter().find(|app| !seen.insert(**app)) {
        Some(app) => Err(InvalidRule::DuplicateApplication(*app)),
        None => Ok(()),
    }
}

/// Whether the group is one of workloads.
fn side(name: &GroupName, field: &'static str, input: &PolicyInput) -> Result<bool, InvalidRule> {
    match name.as_str() {
        reserved::CONTAINERS => Ok(true),
        reserved::EXTERNAL | reserved::NODES | reserved::INGRESS => Ok(false),
        _ => match input.groups.get(name) {
            Some(group) => Ok(group.kind == GroupKind::Container),
            None => Err(InvalidRule::UnknownGroup {
                field,
                name: name.clone(),
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criteria::tests::criterion;
    use crate::input::rule;
    use nv_types::{Action, Tier};

    fn group(name: &str, kind: GroupKind, criteria: Vec<nv_types::Criterion>) -> Group {
        Group {
            name: name.parse().unwrap(),
            kind,
            origin: Some(Tier::User),
            comment: String::new(),
            domain: String::new(),
            criteria,
        }
    }

    #[test]
    fn groups_are_checked_by_field() {
        let web = || vec![criterion("app", "=", "web")];
        assert_eq!(validate_group(&group("web", GroupKind::Container, web())), Ok(()));
        for (bad, field) in [
            (group("external", GroupKind::Container, web()), "name"),
            (group("nv.web", GroupKind::Container, web()), "name"),
            (group("web", GroupKind::Container, vec![]), "criteria"),
            (
                group(
                    "web",
                    GroupKind::Container,
                    vec![criterion("a", "=", "b"), criterion("image", "regex", "(")],
                ),
                "criteria[1]",
            ),
            (group("web", GroupKind::Address, web()), "kind"),
            (
                group(
                    "web",
                    GroupKind::Container,
                    vec![criterion("address", "=", "1.2.3.4")],
                ),
                "kind",
            ),
            (group("web", GroupKind::Node, web()), "kind"),
        ] {
            let error = validate_group(&bad).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn rules_are_checked_by_field() {
        let mut input = PolicyInput::default();
        let addresses = group(
            "net",
            GroupKind::Address,
            vec![criterion("address", "=", "10.0.0.0/8")],
        );
        input.groups.insert(addresses.name.clone(), addresses);
        let check =
            |from: &str, to: &str| validate_rule(&rule(1, from, to, "any", Action::Allow).unwrap(), &input);
        assert_eq!(check("containers", "net"), Ok(()));
        assert!(check("nobody", "net").unwrap_err().to_string().contains("nobody"));
        assert_eq!(check("external", "net"), Err(InvalidRule::NoWorkloads));
        assert!(matches!(
            check("containers", "Workload:ingress"),
            Err(InvalidRule::OnlyFrom(_))
        ));
        let mut twice = rule(1, "containers", "net", "any", Action::Allow).unwrap();
        twice.applications = vec![Application::HTTP, Application::SSH, Application::HTTP];
        assert_eq!(
            validate_rule(&twice, &input),
            Err(InvalidRule::DuplicateApplication(Application::HTTP))
        );
    }
}
