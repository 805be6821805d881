//! The host's own small routes: liveness, readiness, metrics, tasks.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::App;
use super::error::{ApiError, in_path};
use crate::domain::TaskId;
use crate::plugins::PluginState;
use crate::tasks::Tasks;

/// Alive: the process answers.
pub(super) async fn health(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": app.started.elapsed().as_secs(),
    }))
}

/// Ready: the store takes writes, and every plugin was looked at once.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let loaded = app.exchanges.catalogue().is_loaded();
    let draining = app.stop.is_cancelled();
    let store = app.store.probe().await;
    let ready = loaded && !draining && store.is_ok();
    let plugins: serde_json::Map<String, Value> = app
        .exchanges
        .catalogue()
        .status()
        .into_iter()
        .map(|plugin| {
            let state =
                json!({ "state": plugin.state, "generation": plugin.generation, "error": plugin.error });
            (plugin.name, state)
        })
        .collect();
    let filters: serde_json::Map<String, Value> = app
        .exchanges
        .catalogue()
        .filters()
        .named()
        .into_iter()
        .map(|(filter, absent)| {
            let error = absent.map(|absent| absent.to_string());
            let state = json!({ "policy": filter.policy, "is_there": error.is_none(), "error": error });
            (filter.name.to_string(), state)
        })
        .collect();
    let agents: Vec<&str> = app.tasks.agents().iter().map(|agent| agent.name.as_str()).collect();
    let body = json!({
        "status": if draining { "draining" } else if ready { "ready" } else { "not_ready" },
        "store": match store { Ok(()) => "ok".to_owned(), Err(error) => error.to_string() },
        "plugins_loaded": loaded,
        "plugins": plugins,
        "filters": filters,
        "agents": agents,
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

/// Prometheus text.
pub(super) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    app.auth.caller(&headers)?;
    let aside =
        app.exchanges.catalogue().status().iter().filter(|plugin| plugin.state == PluginState::Aside).count();
    metrics::gauge!("plugway_plugins_aside").set(aside as f64);
    let text = app.metrics.render();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// What is known about a task.
pub(super) async fn task(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    app.auth.caller(&headers)?;
    let task = in_path(path)?;
    let record = app.tasks.task(parse(&task)?).await?.ok_or_else(|| unknown(&task))?;
    Ok(Json(Tasks::document(&record)))
}

/// Asks a task to stop.
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    app.auth.caller(&headers)?;
    let task = in_path(path)?;
    let id = parse(&task)?;
    app.tasks.status(id).await?.ok_or_else(|| unknown(&task))?;
    let cancelled = app.tasks.cancel(id, "cancelled by request").await?;
    let status = if cancelled { "cancelling" } else { "ended" };
    Ok(Json(json!({ "task_id": id, "status": status })))
}

fn parse(task: &str) -> Result<TaskId, ApiError> {
    task.parse().map_err(|_| unknown(task))
}

fn unknown(task: &str) -> ApiError {
    ApiError::not_found(format!("no task {task:?}"))
}
