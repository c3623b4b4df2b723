//! Settings under NeuVector's names.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use nv_api::rest::{
    ErrorBody, ModeAutoConfig, NetServiceConfig, NewServiceConfig, SystemConfig, SystemConfigChange,
    SystemConfigData,
};
use nv_controller_core::SettingsDraft;
use nv_types::{Contention, Mode, PolicySettings};
use serde_json::{Value, json};

use super::body::Body;
use super::error::ApiError;
use super::{App, User, done};

fn config(settings: &PolicySettings) -> SystemConfig {
    SystemConfig {
        new_svc: NewServiceConfig {
            new_service_policy_mode: Some(settings.new_service_mode.to_string()),
        },
        net_svc: NetServiceConfig {
            net_service_status: Some(settings.network_mode.is_some()),
            net_service_policy_mode: settings.network_mode.map(|mode| mode.to_string()),
            strict_group_mode: Some(settings.contention == Contention::Restrictive),
        },
        mode_auto: ModeAutoConfig {
            mode_auto_d2m: Some(settings.mode_auto_d2m),
            mode_auto_d2m_duration: Some(settings.mode_auto_d2m_duration),
            mode_auto_m2p: Some(settings.mode_auto_m2p),
            mode_auto_m2p_duration: Some(settings.mode_auto_m2p_duration),
        },
    }
}

fn mode(field: &str, text: &str) -> Result<Value, ApiError> {
    let mode: Mode = text
        .parse()
        .map_err(|error: nv_types::ParseModeError| ApiError::invalid(format!("{field}: {error}")))?;
    Ok(json!(mode.to_string()))
}

/// The settings that a change comes to.
fn draft(change: &SystemConfigChange, before: &PolicySettings) -> Result<SettingsDraft, ApiError> {
    let mut draft = SettingsDraft::new();
    if let Some(text) = &change.config_v2.svc_cfg.new_service_policy_mode {
        let mode = mode("config_v2.svc_cfg.new_service_policy_mode", text)?;
        draft.insert("new_service_mode".into(), mode);
    }
    let net = &change.net_config;
    let asked = net
        .net_service_policy_mode
        .as_deref()
        .filter(|text| !text.is_empty());
    match (net.net_service_status, asked) {
        (Some(false), _) => {
            draft.insert("network_mode".into(), Value::Null);
        }
        (Some(true), Some(text)) => {
            draft.insert(
                "network_mode".into(),
                mode("net_config.net_service_policy_mode", text)?,
            );
        }
        (Some(true), None) if before.network_mode.is_some() => {}
        (Some(true), None) => {
            return Err(ApiError::invalid(
                "net_config.net_service_policy_mode: say which mode holds for all services",
            ));
        }
        (None, Some(text)) if before.network_mode.is_some() => {
            draft.insert(
                "network_mode".into(),
                mode("net_config.net_service_policy_mode", text)?,
            );
        }
        (None, Some(_)) => {
            return Err(ApiError::invalid(
                "net_config.net_service_policy_mode: it has a meaning only with net_service_status true",
            ));
        }
        (None, None) => {}
    }
    if let Some(strict) = net.strict_group_mode {
        let contention = if strict { "restrictive" } else { "basic" };
        draft.insert("contention".into(), json!(contention));
    }
    let auto = &change.atmo_config;
    for (name, value) in [
        ("mode_auto_d2m", auto.mode_auto_d2m.map(Value::from)),
        (
            "mode_auto_d2m_duration",
            auto.mode_auto_d2m_duration.map(Value::from),
        ),
        ("mode_auto_m2p", auto.mode_auto_m2p.map(Value::from)),
        (
            "mode_auto_m2p_duration",
            auto.mode_auto_m2p_duration.map(Value::from),
        ),
    ] {
        if let Some(value) = value {
            draft.insert(name.into(), value);
        }
    }
    Ok(draft)
}

/// Settings of policy: new services, one mode for all, modes that go on by themselves.
#[utoipa::path(get, path = "/v2/system/config", responses((status = 200, body = SystemConfigData)))]
pub(super) async fn show(State(app): State<App>) -> Json<SystemConfigData> {
    Json(SystemConfigData {
        config: config(&app.engine.core().input().settings),
    })
}

/// Change these settings; what is left out stays.
#[utoipa::path(patch, path = "/v2/system/config", request_body = SystemConfigChange, responses((status = 200), (status = 400, body = ErrorBody)))]
pub(super) async fn change(
    State(app): State<App>,
    user: User,
    Body(body): Body<SystemConfigChange>,
) -> Result<Response, ApiError> {
    let draft = {
        let core = app.engine.core();
        draft(&body, &core.input().settings)?
    };
    let made = app
        .engine
        .commit(user.asker(), |core, now| core.patch_settings(&draft, now))
        .await?;
    Ok(done(&made))
}
