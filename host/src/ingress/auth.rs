//! Who may come in: Bearer keys, compared in constant time.
//!
//! Invariant: without keys nobody but this machine gets in; with keys nobody without one does.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use crate::egress::{Secret, SecretRef};

/// Shortest key that is accepted, in characters.
const SHORTEST_KEY: usize = 16;

/// `[auth]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// Bearer keys of callers: "env:NAME", "file:PATH", or the key; at least 16 characters each.
    pub keys: Vec<SecretRef>,
    /// Bearer keys for `/admin`.
    pub admin_keys: Vec<SecretRef>,
}

/// The keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A key is too short, or its source can't be read.
    #[error("auth.{list}[{index}]: {reason}")]
    Key {
        /// `keys` or `admin_keys`.
        list: &'static str,
        /// Place in the list, from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// Everybody could come in.
    #[error(
        "listen = \"{0}\" is not a loopback address and auth.keys is empty, so anybody could use the agents; set auth.keys (or PLUGWAY__AUTH__KEYS='[\"…\"]'), or listen on 127.0.0.1"
    )]
    PublicWithoutKeys(SocketAddr),
}

/// Decides who may come in.
#[derive(Debug)]
pub(crate) struct Auth {
    keys: Vec<Secret>,
    admin_keys: Vec<Secret>,
    loopback: bool,
}

impl Auth {
    /// Reads the keys, and refuses an address that needs some where there are none.
    pub(crate) fn new(config: &AuthConfig, listen: SocketAddr) -> Result<Self, AuthError> {
        let auth = Self {
            keys: read_keys("keys", &config.keys)?,
            admin_keys: read_keys("admin_keys", &config.admin_keys)?,
            loopback: listen.ip().is_loopback(),
        };
        if !auth.loopback && auth.keys.is_empty() {
            return Err(AuthError::PublicWithoutKeys(listen));
        }
        Ok(auth)
    }

    /// Lets a caller in, and tells the name of the key that it showed; none where no keys are configured.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        match find(&self.keys, headers).or_else(|| find(&self.admin_keys, headers)) {
            Some(index) => Ok(Some(format!("key-{}", index + 1))),
            None => Err(ApiError::unauthorized()),
        }
    }

    /// Lets an operator in.
    pub(crate) fn admin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if !self.admin_keys.is_empty() {
            return find(&self.admin_keys, headers).map(|_| ()).ok_or_else(ApiError::unauthorized);
        }
        if !self.loopback {
            return Err(ApiError::forbidden("administration over a public address needs auth.admin_keys"));
        }
        if !self.keys.is_empty() {
            return self.caller(headers).map(|_| ());
        }
        // No keys at all, this machine only. A browser on it may still be led here by somebody's page.
        if names_loopback(headers) && !headers.contains_key(header::ORIGIN) {
            Ok(())
        } else {
            Err(ApiError::forbidden(
                "without auth.admin_keys, administration is for programs on this machine only",
            ))
        }
    }
}

fn read_keys(list: &'static str, sources: &[SecretRef]) -> Result<Vec<Secret>, AuthError> {
    let read = |(index, source): (usize, &SecretRef)| {
        let fault = |reason: String| AuthError::Key { list, index, reason };
        let key = source.resolve().map_err(|error| fault(error.to_string()))?;
        match key {
            None => Err(fault("its environment variable is not set".into())),
            Some(key) if key.expose().len() < SHORTEST_KEY => Err(fault(format!(
                "has {} characters, at least {SHORTEST_KEY} are needed",
                key.expose().len()
            ))),
            Some(key) => Ok(key),
        }
    };
    sources.iter().enumerate().map(read).collect()
}

/// Which of the keys the caller shows. All are compared, whichever fits.
fn find(keys: &[Secret], headers: &HeaderMap) -> Option<usize> {
    let shown = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, shown) = shown.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case("Bearer ") {
        return None;
    }
    let mut found = None;
    for (index, key) in keys.iter().enumerate() {
        if key.matches(shown) {
            found = Some(index);
        }
    }
    found
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
