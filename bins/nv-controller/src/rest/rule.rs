//! Rules.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use nv_api::rest::{ErrorBody, RuleAction, RuleConfig, RuleConfigData, RuleData, RulesData};
use nv_controller_core::{Controller, RuleDraft, RulePatch};
use nv_types::RuleId;

use super::body::Body;
use super::error::ApiError;
use super::list::Page;
use super::{App, User, done, view};

fn draft(config: &RuleConfig) -> Result<RuleDraft, ApiError> {
    let needed = |field: &str, value: &Option<String>| {
        value
            .clone()
            .ok_or_else(|| ApiError::invalid(format!("rule {}: the field '{field}' is missing", config.id)))
    };
    Ok(RuleDraft {
        id: config.id,
        comment: config.comment.clone().unwrap_or_default(),
        from: needed("from", &config.from)?,
        to: needed("to", &config.to)?,
        ports: config.ports.clone().unwrap_or_default(),
        applications: config.applications.clone().unwrap_or_default(),
        action: needed("action", &config.action)?,
        disable: config.disable.unwrap_or_default(),
        after: None,
    })
}

/// A rule of a replacing list: an id alone keeps the rule that has it.
fn draft_or_known(core: &Controller, config: &RuleConfig) -> Result<RuleDraft, ApiError> {
    let only_id = config.from.is_none() && config.to.is_none() && config.action.is_none();
    match core
        .input()
        .rules
        .iter()
        .find(|rule| only_id && rule.id.0 == config.id)
    {
        None => draft(config),
        Some(rule) => Ok(RuleDraft {
            id: rule.id.0,
            comment: rule.comment.clone(),
            from: rule.from.to_string(),
            to: rule.to.to_string(),
            ports: rule.ports.to_string(),
            applications: rule
                .applications
                .iter()
                .map(|app| app.name().to_owned())
                .collect(),
            action: rule.action.to_string(),
            disable: rule.disable,
            after: None,
        }),
    }
}

fn rule_id(text: &str) -> Result<RuleId, ApiError> {
    text.parse()
        .map(RuleId)
        .map_err(|_error| ApiError::invalid(format!("'{text}' is no rule id")))
}

/// All rules, in the order in which they are tried.
#[utoipa::path(get, path = "/v1/policy/rule", params(Page), responses((status = 200, body = RulesData), (status = 400, body = ErrorBody)))]
pub(super) async fn list(State(app): State<App>, page: Page) -> Result<Json<RulesData>, ApiError> {
    let rules = {
        let core = app.engine.core();
        let rules = core.input().ordered_rules();
        rules.map(|rule| view::rule(&core, rule)).collect()
    };
    Ok(Json(RulesData {
        rules: page.cut(rules)?,
    }))
}

/// One rule.
#[utoipa::path(get, path = "/v1/policy/rule/{id}", responses((status = 200, body = RuleData), (status = 404, body = ErrorBody)))]
pub(super) async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<RuleData>, ApiError> {
    let id = rule_id(&id)?;
    let core = app.engine.core();
    let rule = core.input().rules.iter().find(|rule| rule.id == id);
    rule.map(|rule| view::rule(&core, rule))
        .map(|rule| Json(RuleData { rule }))
        .ok_or_else(|| ApiError::not_found(format!("there is no rule '{id}'")))
}

/// Insert, move, replace or delete rules; one of them a call.
#[utoipa::path(patch, path = "/v1/policy/rule", request_body = RuleAction, responses((status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn act(
    State(app): State<App>,
    user: User,
    Body(action): Body<RuleAction>,
) -> Result<Response, ApiError> {
    let asked = [
        action.insert.is_some(),
        action.moved.is_some(),
        action.rules.is_some(),
        action.delete.is_some(),
    ];
    if asked.iter().filter(|asked| **asked).count() != 1 {
        return Err(ApiError::invalid(
            "one of 'insert', 'move', 'rules' and 'delete' is needed",
        ));
    }
    let engine = &app.engine;
    let made = if let Some(insert) = action.insert {
        let drafts = insert.rules.iter().map(draft).collect::<Result<Vec<_>, _>>()?;
        engine
            .commit(user.asker(), |core, now| {
                core.insert_rules(insert.after, &drafts, now)
            })
            .await?
    } else if let Some(moved) = action.moved {
        engine
            .commit(user.asker(), |core, now| {
                core.move_rule(RuleId(moved.id), moved.after, now)
            })
            .await?
    } else if let Some(rules) = action.rules {
        let drafts = {
            let core = engine.core();
            // Learned rules are in what a list answers with; they are not the user's to replace.
            let own = rules.iter().filter(|rule| {
                rule.id == 0 || !matches!(RuleId(rule.id).tier(), Some(tier) if tier != nv_types::Tier::User)
            });
            own.map(|rule| draft_or_known(&core, rule))
                .collect::<Result<Vec<_>, _>>()?
        };
        engine
            .commit(user.asker(), |core, now| core.replace_rules(&drafts, now))
            .await?
    } else {
        let ids: Vec<_> = action
            .delete
            .unwrap_or_default()
            .into_iter()
            .map(RuleId)
            .collect();
        engine
            .commit(user.asker(), |core, now| core.delete_rules(&ids, now))
            .await?
    };
    Ok(done(&made))
}

/// Change a rule that a user made.
#[utoipa::path(patch, path = "/v1/policy/rule/{id}", request_body = RuleConfigData, responses((status = 200), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(super) async fn change(
    State(app): State<App>,
    user: User,
    Path(id): Path<String>,
    Body(body): Body<RuleConfigData>,
) -> Result<Response, ApiError> {
    let (id, config) = (rule_id(&id)?, body.config);
    if body.replicate {
        return Err(ApiError::invalid(
            "replicate: a rule is one rule; insert a second one for the other direction",
        ));
    }
    if config.id != 0 && config.id != id.0 {
        return Err(ApiError::invalid(format!(
            "config.id: {} is not the rule of the path, {id}",
            config.id
        )));
    }
    let patch = RulePatch {
        comment: config.comment,
        from: config.from,
        to: config.to,
        ports: config.ports,
        applications: config.applications,
        action: config.action,
        disable: config.disable,
    };
    let made = app
        .engine
        .commit(user.asker(), |core, now| core.patch_rule(id, &patch, now))
        .await?;
    Ok(done(&made))
}

/// Delete a rule.
#[utoipa::path(delete, path = "/v1/policy/rule/{id}", responses((status = 200), (status = 404, body = ErrorBody)))]
pub(super) async fn delete(
    State(app): State<App>,
    user: User,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let id = rule_id(&id)?;
    let made = app
        .engine
        .commit(user.asker(), |core, now| core.delete_rules(&[id], now))
        .await?;
    Ok(done(&made))
}
