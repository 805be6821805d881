//! Which plugin has which routes, recorded so that a restart leaves them with those who had them.
//!
//! The record is a JSON file: a plugin's name, and its routes as "POST /webhook". One that is lost or can't be read costs
//! nothing but the order: then names decide.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Routes by plugin.
pub(super) type Routes = BTreeMap<String, Vec<String>>;

/// The record.
#[derive(Debug)]
pub(super) struct Claims {
    file: PathBuf,
    recorded: Routes,
}

impl Claims {
    /// What was recorded last.
    pub(super) fn open(file: PathBuf) -> Self {
        let recorded = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "can't read which plugin had which route; plugins that claim the same one are taken by name");
                Routes::new()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %file.display(), %error, "can't read which plugin had which route");
                }
                Routes::new()
            }
        };
        Self { file, recorded }
    }

    /// Whether the plugin had all of these routes.
    pub(super) fn has_all(&self, plugin: &str, routes: &[String]) -> bool {
        let recorded = self.recorded.get(plugin).map(Vec::as_slice).unwrap_or_default();
        routes.iter().all(|route| recorded.contains(route))
    }

    /// Takes down who has what now.
    pub(super) fn record(&mut self, routes: Routes) {
        if routes == self.recorded {
            return;
        }
        self.recorded = routes;
        if let Err(error) = self.save() {
            tracing::warn!(file = %self.file.display(), %error, "can't record which plugin has which route; after a restart another may have it");
        }
    }

    fn save(&self) -> io::Result<()> {
        let temporary = self.file.with_extension("json.tmp");
        fs::write(&temporary, serde_json::to_vec_pretty(&self.recorded)?)?;
        fs::rename(&temporary, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("routes.json");
        let route = |path: &str| format!("GET {path}");
        let mut claims = Claims::open(file.clone());
        claims.record(Routes::from([("a".to_owned(), vec![route("/x"), route("/y")])]));
        let claims = Claims::open(file.clone());
        assert!(claims.has_all("a", &[route("/y")]) && claims.has_all("b", &[]));
        assert!(!claims.has_all("a", &[route("/x"), route("/z")]) && !claims.has_all("b", &[route("/x")]));
        fs::write(&file, "half of").unwrap();
        assert!(!Claims::open(file).has_all("a", &[route("/x")]));
    }
}
