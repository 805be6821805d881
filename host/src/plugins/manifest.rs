//! What a plugin says of itself, read once and checked: routes that make sense, names that are names.

use serde::Serialize;

use crate::egress::Origin;

use super::bindings::exports::plugway::gateway::plugin as wit;

/// First segments of paths that are the host's own.
pub(super) const RESERVED: [&str; 10] =
    ["health", "ready", "metrics", "stream", "chat", "callbacks", "admin", "tasks", "console", "api/agent"];

/// What a route speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// HTTP requests.
    Http,
    /// WebSocket connections.
    Websocket,
}

/// Who decides whether a caller may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// The host, by a Bearer key.
    Key,
    /// The plugin, by what the platform sends.
    Plugin,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// What it speaks.
    pub kind: RouteKind,
    /// Who lets callers in.
    pub access: Access,
    /// Upper case; `*` for any.
    pub method: String,
    /// As the plugin declared it, as `/v1/responses/{id}`, without the mount.
    pub path: String,
}

/// A plugin's description of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// The author's name for it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence for people.
    pub summary: String,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Origins that it wants to reach.
    pub origins: Vec<Origin>,
    /// Secrets that it wants.
    pub secrets: Vec<String>,
    /// JSON Schema of its configuration.
    pub config_schema: String,
}

impl Manifest {
    /// Takes over what `describe` returned.
    ///
    /// # Errors
    /// A sentence for the author that names what is wrong.
    pub fn read(raw: wit::Manifest) -> Result<Self, String> {
        if raw.name.is_empty() {
            return Err("describe: `name` is empty".into());
        }
        check_sizes(&raw)?;
        let routes = raw.routes.into_iter().map(Route::read).collect::<Result<Vec<_>, _>>()?;
        let origins = raw.origins.iter().map(|origin| origin.parse()).collect::<Result<Vec<Origin>, _>>();
        let origins = origins.map_err(|error| format!("describe: `origins`: {error}"))?;
        if !raw.config_schema.is_empty() {
            serde_json::from_str::<serde_json::Value>(&raw.config_schema)
                .map_err(|error| format!("describe: `config-schema` is not JSON: {error}"))?;
        }
        Ok(Self {
            name: raw.name,
            version: raw.version,
            summary: raw.summary,
            routes,
            origins,
            secrets: raw.secrets,
            config_schema: raw.config_schema,
        })
    }
}

impl Manifest {
    /// Its routes with the mount before them, as "POST /second/webhook" or "WS /second/ws/{id}".
    pub(super) fn routes_under(&self, mount: &str) -> Vec<String> {
        self.routes.iter().map(|route| format!("{} {mount}{}", route.word(), route.path)).collect()
    }
}

impl Route {
    /// Its method, or that it is a WebSocket, as authors write it.
    pub fn word(&self) -> &str {
        match self.kind {
            RouteKind::Http => &self.method,
            RouteKind::Websocket => "WS",
        }
    }

    fn read(raw: wit::Route) -> Result<Self, String> {
        let method_fits = raw.method == "*"
            || (!raw.method.is_empty() && raw.method.bytes().all(|byte| byte.is_ascii_uppercase()));
        if !method_fits {
            return Err(format!("describe: `routes`: {:?} is no method; upper case, or \"*\"", raw.method));
        }
        if !raw.path.starts_with('/') || raw.path.contains(['?', '#', ' ']) {
            return Err(format!(
                "describe: `routes`: {:?} is no path; it begins with \"/\" and has no query",
                raw.path
            ));
        }
        let kind = match raw.kind {
            wit::RouteKind::Http => RouteKind::Http,
            wit::RouteKind::Websocket => RouteKind::Websocket,
        };
        if kind == RouteKind::Websocket && raw.method != "GET" {
            return Err(format!(
                "describe: `routes`: the WebSocket route {:?} must have the method GET",
                raw.path
            ));
        }
        let access = match raw.access {
            wit::Access::Key => Access::Key,
            wit::Access::Plugin => Access::Plugin,
        };
        Ok(Self { kind, access, method: raw.method, path: raw.path })
    }
}

/// What a description may hold: it is looked through at every change of any plugin.
fn check_sizes(raw: &wit::Manifest) -> Result<(), String> {
    const ENTRIES: usize = 256;
    const TEXT: usize = 1_024;
    const SCHEMA: usize = 256 << 10;
    let lists =
        [("routes", raw.routes.len()), ("origins", raw.origins.len()), ("secrets", raw.secrets.len())];
    if let Some((name, len)) = lists.into_iter().find(|(_, len)| *len > ENTRIES) {
        return Err(format!("describe: `{name}` has {len} entries, at most {ENTRIES} are allowed"));
    }
    let routes = raw.routes.iter().flat_map(|route| [("routes", &route.path), ("routes", &route.method)]);
    let named = [("name", &raw.name), ("version", &raw.version), ("summary", &raw.summary)].into_iter();
    let origins = raw.origins.iter().map(|origin| ("origins", origin));
    let secrets = raw.secrets.iter().map(|secret| ("secrets", secret));
    let mut texts = named.chain(routes).chain(origins).chain(secrets);
    if let Some((name, text)) = texts.find(|(_, text)| text.len() > TEXT) {
        return Err(format!(
            "describe: `{name}` has a text of {} bytes, at most {TEXT} are allowed",
            text.len()
        ));
    }
    if raw.config_schema.len() > SCHEMA {
        return Err(format!("describe: `config-schema` has more than {SCHEMA} bytes"));
    }
    Ok(())
}

/// Whether a path, mount included, is the host's own.
pub(crate) fn is_reserved(path: &str) -> bool {
    let path = path.trim_start_matches('/');
    RESERVED
        .iter()
        .any(|own| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_paths_are_reserved_and_look_alikes_are_not() {
        for path in ["/health", "/stream/{id}", "/api/agent/stream", "/admin"] {
            assert!(is_reserved(path), "{path}");
        }
        for path in ["/healthy", "/streams", "/api/agents", "/webhook", "/"] {
            assert!(!is_reserved(path), "{path}");
        }
    }
}
