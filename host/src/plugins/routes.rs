//! Which plugin answers a path: all routes of all serving plugins in one table, rebuilt at every swap.
//!
//! Invariant: a method and a path belong to one plugin at most; the first that claimed them keeps them.

use std::sync::Arc;

use super::generation::Generation;
use super::manifest::{Access, RouteKind, is_reserved};
use super::plugin::Plugin;
use super::sandbox::Guest;

/// A route of a serving generation.
pub struct Endpoint<T: Guest> {
    /// The plugin.
    pub plugin: Arc<Plugin>,
    /// The generation that serves now.
    pub generation: Arc<Generation<T>>,
    /// What it speaks.
    pub kind: RouteKind,
    /// Who lets callers in.
    pub access: Access,
    /// The manifest's route, as the plugin declared it.
    pub route: Arc<str>,
    /// What it answers, upper case; `*`: any. One for `GET` answers `HEAD` too.
    pub method: String,
}

impl<T: Guest> Clone for Endpoint<T> {
    fn clone(&self) -> Self {
        Self {
            plugin: self.plugin.clone(),
            generation: self.generation.clone(),
            kind: self.kind,
            access: self.access,
            route: self.route.clone(),
            method: self.method.clone(),
        }
    }
}

impl<T: Guest> std::fmt::Debug for Endpoint<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} of {}", self.method, self.route, self.plugin.name())
    }
}

/// What a lookup found.
pub enum Found<'a, 'p, T: Guest> {
    /// The endpoint, and the path's parameters as they stand in the path (percent-encoded).
    Endpoint(&'a Endpoint<T>, Vec<(String, &'p str)>),
    /// The path has routes, but none for this method; these are its methods.
    MethodNotAllowed(Vec<&'a str>),
    /// No plugin has the path.
    None,
}

impl<T: Guest> std::fmt::Debug for Found<'_, '_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(endpoint, params) => write!(f, "{endpoint:?} with {params:?}"),
            Self::MethodNotAllowed(methods) => write!(f, "only {methods:?}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// All routes.
pub struct RouteTable<T: Guest> {
    /// Leads from a path to its place in `paths`.
    router: matchit::Router<usize>,
    paths: Vec<Path<T>>,
}

/// A path pattern, mount included, and who answers it by which method.
struct Path<T: Guest> {
    pattern: String,
    endpoints: Vec<Endpoint<T>>,
}

impl<T: Guest> std::fmt::Debug for RouteTable<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.paths.iter().map(|path| &path.pattern)).finish()
    }
}

impl<T: Guest> Default for RouteTable<T> {
    fn default() -> Self {
        Self { router: matchit::Router::new(), paths: Vec::new() }
    }
}

impl<T: Guest> RouteTable<T> {
    /// Adds all routes of a generation, those before the first that does not go with the others.
    ///
    /// # Errors
    /// A sentence that names the route and who has it.
    pub fn add(&mut self, plugin: &Arc<Plugin>, generation: &Arc<Generation<T>>) -> Result<(), String> {
        for route in &generation.manifest.routes {
            let pattern = format!("{}{}", plugin.settings.mount, route.path);
            if is_reserved(&pattern) {
                return Err(format!(
                    "route {} {pattern} is the gateway's own; choose another path or a `mount`",
                    route.method
                ));
            }
            let endpoint = Endpoint {
                plugin: plugin.clone(),
                generation: generation.clone(),
                kind: route.kind,
                access: route.access,
                route: route.path.as_str().into(),
                method: route.method.clone(),
            };
            self.add_endpoint(pattern, endpoint)?;
        }
        Ok(())
    }

    fn add_endpoint(&mut self, pattern: String, endpoint: Endpoint<T>) -> Result<(), String> {
        let method = endpoint.method.clone();
        let taken_by = |pattern: &str, owner: &str| {
            Err(format!(
                "route {method} {pattern} is taken by the plugin `{owner}`; give one of the two a `mount`"
            ))
        };
        if let Some(path) = self.paths.iter_mut().find(|path| path.pattern == pattern) {
            // The very same pattern may be shared, one method each.
            let clashes =
                |other: &&Endpoint<T>| other.method == method || other.method == "*" || method == "*";
            if let Some(other) = path.endpoints.iter().find(clashes) {
                return taken_by(&pattern, other.plugin.name());
            }
            path.endpoints.push(endpoint);
            return Ok(());
        }
        match self.router.insert(pattern.clone(), self.paths.len()) {
            Ok(()) => {
                self.paths.push(Path { pattern, endpoints: vec![endpoint] });
                Ok(())
            }
            Err(matchit::InsertError::Conflict { with }) => {
                let path = self.paths.iter().find(|path| path.pattern == with);
                let owner = path.and_then(|path| path.endpoints.first());
                taken_by(&pattern, owner.map_or("?", |endpoint| endpoint.plugin.name()))
            }
            Err(error) => Err(format!("route {method} {pattern}: {error}")),
        }
    }

    /// Looks a request up.
    pub fn find<'a, 'p>(&'a self, method: &str, path: &'p str) -> Found<'a, 'p, T> {
        let Ok(matched) = self.router.at(path) else { return Found::None };
        let Some(Path { endpoints, .. }) = self.paths.get(*matched.value) else { return Found::None };
        let fits = |endpoint: &&Endpoint<T>| endpoint.method == method || endpoint.method == "*";
        // A HEAD is answered by GET's route; hyper leaves the body out.
        let fits_head = |endpoint: &&Endpoint<T>| method == "HEAD" && endpoint.method == "GET";
        match endpoints.iter().find(fits).or_else(|| endpoints.iter().find(fits_head)) {
            Some(endpoint) => {
                let params = matched.params.iter().map(|(name, value)| (name.to_owned(), value)).collect();
                Found::Endpoint(endpoint, params)
            }
            None => {
                Found::MethodNotAllowed(endpoints.iter().map(|endpoint| endpoint.method.as_str()).collect())
            }
        }
    }
}
