//! What the operator is told about a plugin, in `GET /admin/plugins` and `plugway plugin list`.

use serde::{Deserialize, Serialize};

use super::catalogue::Entry;
use super::sandbox::Guest;
use crate::domain::rfc3339;

/// Where a plugin is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// A generation serves (`error` is set where a newer file was refused).
    Serving,
    /// No generation serves: the file was refused.
    Refused,
    /// It failed too often and rests for a while.
    Aside,
    /// The operator took it out.
    Disabled,
    /// The configuration names it as a filter, and it has no file.
    Missing,
}

/// A plugin, as the operator sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PluginStatus {
    /// The file's stem.
    pub name: String,
    /// The author's version.
    pub version: Option<String>,
    /// Contract that it was built against, as "0.1".
    pub contract: Option<String>,
    /// How often it was loaded since the start.
    pub generation: u64,
    /// Where it is in its life.
    pub state: PluginState,
    /// Roles that it exports.
    pub roles: Vec<String>,
    /// Its routes, as "POST /webhook", mount included.
    pub routes: Vec<String>,
    /// Origins and secrets that it asks for, as "origin https://…" and "secret bot_token".
    pub wants: Vec<String>,
    /// Those of them that it has.
    pub granted: Vec<String>,
    /// What was wrong with the last load.
    pub error: Option<String>,
    /// When the serving generation was loaded, RFC 3339.
    pub loaded_at: Option<String>,
}

impl PluginStatus {
    /// A filter that is named and has no file.
    pub(super) fn missing(name: &str, error: String) -> Self {
        Self {
            name: name.to_owned(),
            version: None,
            contract: None,
            generation: 0,
            state: PluginState::Missing,
            roles: Vec::new(),
            routes: Vec::new(),
            wants: Vec::new(),
            granted: Vec::new(),
            error: Some(error),
            loaded_at: None,
        }
    }

    /// Reads it off a snapshot's entry.
    pub fn of<T: Guest>(entry: &Entry<T>) -> Self {
        let settings = &entry.plugin.settings;
        let serving = entry.serving.as_deref();
        let manifest = serving.map(|generation| &generation.manifest);
        let mut wants = Vec::new();
        let mut granted = Vec::new();
        if let Some(manifest) = manifest {
            for origin in &manifest.origins {
                let want = format!("origin {origin}");
                if settings.grant.reaches(origin) {
                    granted.push(want.clone());
                }
                wants.push(want);
            }
            for secret in &manifest.secrets {
                let want = format!("secret {secret}");
                if settings.grant.secret(secret).is_some() {
                    granted.push(want.clone());
                }
                wants.push(want);
            }
        }
        let routes = manifest.map(|manifest| manifest.routes_under(&settings.mount));
        let role_name =
            |role| serde_json::to_value(role).ok().and_then(|value| value.as_str().map(str::to_owned));
        Self {
            name: settings.name.to_string(),
            version: manifest.map(|manifest| manifest.version.clone()),
            contract: serving.map(|generation| generation.contract.clone()),
            generation: serving.map_or(0, |generation| generation.number),
            state: entry.state(),
            roles: serving
                .map(|generation| generation.exported.iter().filter_map(role_name).collect())
                .unwrap_or_default(),
            routes: routes.unwrap_or_default(),
            wants,
            granted,
            error: entry.error.clone(),
            loaded_at: serving.map(|generation| rfc3339(generation.loaded_ms)),
        }
    }
}
