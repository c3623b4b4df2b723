//! What can be asked for: drafts, as they come from outside, and how they are read.

use std::collections::BTreeSet;

use nv_types::{
    Action, Application, Criterion, Group, GroupKind, GroupName, PortSet, Rule, RuleId, Tier, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::CommandError;

/// A group as somebody wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupDraft {
    /// Name.
    pub name: String,
    /// Free text.
    #[serde(default)]
    pub comment: String,
    /// Conditions.
    #[serde(default)]
    pub criteria: Vec<CriterionDraft>,
}

/// A criterion as somebody wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriterionDraft {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// Operator.
    pub op: String,
}

/// A rule as somebody wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleDraft {
    /// Id; 0 or none: the next free one.
    #[serde(default)]
    pub id: u32,
    /// Free text.
    #[serde(default)]
    pub comment: String,
    /// Group of the client.
    pub from: String,
    /// Group of the server.
    pub to: String,
    /// Ports; empty: any.
    #[serde(default)]
    pub ports: String,
    /// Names of applications; empty or `any`: any.
    #[serde(default)]
    pub applications: Vec<String>,
    /// `allow` or `deny`.
    pub action: String,
    /// Whether it matches nothing for now.
    #[serde(default)]
    pub disable: bool,
    /// Place in the list: none the end, 0 the start, `n` after rule n, `-n` before rule n.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
}

impl Default for RuleDraft {
    fn default() -> Self {
        Self {
            id: 0,
            comment: String::new(),
            from: String::new(),
            to: String::new(),
            ports: String::new(),
            applications: Vec::new(),
            action: "allow".into(),
            disable: false,
            after: None,
        }
    }
}

/// Fields of a rule to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePatch {
    /// Free text.
    pub comment: Option<String>,
    /// Group of the client.
    pub from: Option<String>,
    /// Group of the server.
    pub to: Option<String>,
    /// Ports.
    pub ports: Option<String>,
    /// Applications.
    pub applications: Option<Vec<String>>,
    /// Action.
    pub action: Option<String>,
    /// Disabled.
    pub disable: Option<bool>,
}

/// Settings to change: the JSON form of [`nv_types::PolicySettings`], with only the fields that change.
pub type SettingsDraft = serde_json::Map<String, Value>;

/// One document of a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// A group, made or replaced.
    Group(GroupDraft),
    /// A rule, made, or replaced when its id is there.
    Rule(RuleDraft),
    /// A service's mode.
    ServiceMode {
        /// Service or its group.
        service: String,
        /// Mode.
        mode: String,
    },
    /// Settings.
    Settings(SettingsDraft),
}

impl GroupDraft {
    pub(crate) fn read(&self) -> Result<Group, CommandError> {
        let criteria: Vec<Criterion> = self
            .criteria
            .iter()
            .enumerate()
            .map(|(at, draft)| draft.read(at))
            .collect::<Result<_, _>>()?;
        let kind = if criteria.iter().any(|criterion| criterion.key == "address") {
            GroupKind::Address
        } else {
            GroupKind::Container
        };
        Ok(Group {
            name: name("name", &self.name)?,
            kind,
            origin: Some(Tier::User),
            comment: self.comment.clone(),
            domain: String::new(),
            criteria,
        })
    }
}

impl CriterionDraft {
    fn read(&self, at: usize) -> Result<Criterion, CommandError> {
        let op = self
            .op
            .parse()
            .map_err(|error: nv_types::ParseCriterionOpError| CommandError::Field {
                field: format!("criteria[{at}].op"),
                problem: error.to_string(),
            })?;
        Ok(Criterion {
            key: self.key.clone(),
            value: self.value.clone(),
            op,
        })
    }
}

impl RuleDraft {
    pub(crate) fn read(&self, id: RuleId, now: Timestamp) -> Result<Rule, CommandError> {
        Ok(Rule {
            id,
            comment: self.comment.clone(),
            from: name("from", &self.from)?,
            to: name("to", &self.to)?,
            ports: self.ports.parse()?,
            applications: applications(&self.applications)?,
            action: action(&self.action)?,
            disable: self.disable,
            created: now,
            modified: now,
        })
    }
}

impl RulePatch {
    pub(crate) fn change(&self, rule: &mut Rule) -> Result<(), CommandError> {
        if let Some(text) = &self.comment {
            rule.comment.clone_from(text);
        }
        if let Some(text) = &self.from {
            rule.from = name("from", text)?;
        }
        if let Some(text) = &self.to {
            rule.to = name("to", text)?;
        }
        if let Some(text) = &self.ports {
            rule.ports = text.parse::<PortSet>()?;
        }
        if let Some(list) = &self.applications {
            rule.applications = applications(list)?;
        }
        if let Some(text) = &self.action {
            rule.action = action(text)?;
        }
        if let Some(disable) = self.disable {
            rule.disable = disable;
        }
        Ok(())
    }
}

pub(crate) fn name(field: &str, text: &str) -> Result<GroupName, CommandError> {
    GroupName::try_new(text).map_err(|problem| CommandError::Name {
        field: field.to_owned(),
        problem,
    })
}

fn action(text: &str) -> Result<Action, CommandError> {
    match text {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        _ => Err(CommandError::Field {
            field: "action".into(),
            problem: format!("'{text}' is neither 'allow' nor 'deny'"),
        }),
    }
}

fn applications(names: &[String]) -> Result<Vec<Application>, CommandError> {
    if names.iter().any(|name| name.eq_ignore_ascii_case("any")) {
        return Ok(Vec::new());
    }
    let field = |problem| CommandError::Field {
        field: "applications".into(),
        problem,
    };
    let mut seen = BTreeSet::new();
    names
        .iter()
        .map(|name| {
            let app: Application = name
                .parse()
                .map_err(|_unknown| field(format!("unknown application '{name}'")))?;
            if app == Application::UNKNOWN {
                return Err(field(
                    "'unknown' cannot be asked for: a rule without applications holds it".into(),
                ));
            }
            if !seen.insert(app) {
                return Err(field(format!("'{app}' is there twice")));
            }
            Ok(app)
        })
        .collect()
}
