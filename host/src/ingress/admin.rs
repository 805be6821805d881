//! `/admin`: what the operator sees of the plugins and dead letters, and does to them.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::HeaderMap;
use serde_json::{Value, json};

use super::App;
use super::error::{ApiError, in_path};
use crate::domain::rfc3339;
use crate::plugins::{Action, ActionError, PluginStatus};
use crate::store::{DeliveryId, DeliveryTarget};

/// Dead letters listed at most.
const DEAD_LETTERS: usize = 200;

/// All plugins.
pub(super) async fn plugins(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Json<Vec<PluginStatus>>, ApiError> {
    app.auth.admin(&headers)?;
    Ok(Json(app.exchanges.catalogue().status()))
}

/// Does something to a plugin.
pub(super) async fn act(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<PluginStatus>, ApiError> {
    app.auth.admin(&headers)?;
    let (plugin, action) = in_path(path)?;
    let action = match action.as_str() {
        "reload" => Action::Reload,
        "rollback" => Action::Rollback,
        "disable" => Action::Disable,
        "enable" => Action::Enable,
        other => {
            let message = format!("no action {other:?}; there are reload, rollback, disable, enable");
            return Err(ApiError::not_found(message));
        }
    };
    let catalogue = app.exchanges.catalogue();
    catalogue.act(&plugin, action).await.map_err(|error| match error {
        ActionError::Unknown(_) => ApiError::not_found(error.to_string()),
        ActionError::Refused(_) => ApiError::conflict(error.to_string()),
        ActionError::Stopped => ApiError::unavailable(error.to_string(), std::time::Duration::from_secs(5)),
    })?;
    let status = catalogue.status().into_iter().find(|status| status.name == plugin);
    status.map(Json).ok_or_else(|| ApiError::not_found(format!("no plugin `{plugin}`")))
}

/// Deliveries that were given up, the latest first.
pub(super) async fn dead_letters(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Json<Vec<Value>>, ApiError> {
    app.auth.admin(&headers)?;
    let letters = app.store.dead_letters(DEAD_LETTERS).await?;
    let shown = letters.into_iter().map(|letter| {
        let target = match letter.target {
            DeliveryTarget::Plugin { plugin, task, session, .. } => {
                json!({ "plugin": plugin, "task_id": task, "session": session.name() })
            }
            DeliveryTarget::Webhook { owner, key, url, .. } => {
                json!({ "owner": owner, "key": key, "url": url })
            }
        };
        json!({
            "id": letter.id.0,
            "target": target,
            "attempts": letter.attempts,
            "error": letter.error,
            "died_at": rfc3339(letter.died_ms),
        })
    });
    Ok(Json(shown.collect()))
}

/// Makes a dead letter due again.
pub(super) async fn replay(
    State(app): State<Arc<App>>,
    path: Result<Path<u64>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    app.auth.admin(&headers)?;
    let id = in_path(path)?;
    if app.store.replay(DeliveryId(id)).await? {
        Ok(Json(json!({ "id": id, "status": "queued" })))
    } else {
        Err(ApiError::not_found(format!("no dead letter {id}")))
    }
}
