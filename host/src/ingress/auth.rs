//! Who may come in: Bearer keys, compared in constant time.
//!
//! Invariant: without keys nobody but programs of this machine get in, nor a page that a browser on it shows; with keys
//! nobody without one does. No key reaches a plugin.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use crate::egress::{Secret, SecretRef};
use crate::plugins::Access;

/// Shortest key that is accepted, in characters.
const SHORTEST_KEY: usize = 16;
/// What proxies add to a request that they pass on, beside `x-forwarded-…`.
const OF_PROXIES: [&str; 3] = ["forwarded", "via", "x-real-ip"];
/// What browsers tell of the page that a request comes from.
const SEC_FETCH_SITE: http::HeaderName = http::HeaderName::from_static("sec-fetch-site");

/// `[auth]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// Bearer keys of callers: "env:NAME", "file:PATH", or the key; at least 16 characters each.
    pub keys: Vec<SecretRef>,
    /// Bearer keys for `/admin`.
    pub admin_keys: Vec<SecretRef>,
    /// How long a stream ticket opens its session's streams.
    #[serde(with = "humantime_serde")]
    pub ticket_ttl: Duration,
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
    /// Pages that may call where there are no keys.
    origins: Vec<String>,
}

impl Auth {
    /// Reads the keys, and refuses an address that needs some where there are none.
    pub(crate) fn new(
        config: &AuthConfig,
        listen: SocketAddr,
        origins: &[String],
    ) -> Result<Self, AuthError> {
        let auth = Self {
            keys: read_keys("keys", &config.keys)?,
            admin_keys: read_keys("admin_keys", &config.admin_keys)?,
            loopback: listen.ip().is_loopback(),
            origins: origins.to_vec(),
        };
        if !auth.loopback && auth.keys.is_empty() {
            return Err(AuthError::PublicWithoutKeys(listen));
        }
        Ok(auth)
    }

    /// Callers' keys.
    pub(crate) fn keys(&self) -> &[Secret] {
        &self.keys
    }

    /// Lets a caller in, and tells the name of the key that it showed; none where no keys are configured.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
        if self.keys.is_empty() {
            return self.local(headers).map(|()| None);
        }
        let named = |list: &[Secret], name: &str| {
            find(list, headers).map(|index| Some(format!("{name}-{}", index + 1)))
        };
        named(&self.keys, "key")
            .or_else(|| named(&self.admin_keys, "admin"))
            .ok_or_else(ApiError::unauthorized)
    }

    /// Lets a request through to a plugin that looks at it itself. Without keys, not one of somebody's page: no platform
    /// sends what a browser does.
    pub(crate) fn platform(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.keys.is_empty() { self.page(headers) } else { Ok(()) }
    }

    /// Lets an operator in.
    pub(crate) fn admin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if !self.admin_keys.is_empty() {
            return match (find(&self.admin_keys, headers), find(&self.keys, headers)) {
                (Some(_), _) => Ok(()),
                (None, Some(_)) => Err(ApiError::forbidden("administration needs one of auth.admin_keys")),
                (None, None) => Err(ApiError::unauthorized()),
            };
        }
        if !self.loopback || !self.keys.is_empty() {
            return Err(ApiError::forbidden(
                "administration needs a key of its own: set auth.admin_keys, and send one of them",
            ));
        }
        // No keys at all, this machine only. A browser on it may still be led here by somebody's page, and a proxy on it
        // by anybody.
        let by_browser = headers.contains_key(header::ORIGIN) || headers.contains_key(SEC_FETCH_SITE);
        if names_loopback(headers) && !by_browser && !forwarded(headers) {
            Ok(())
        } else {
            Err(ApiError::forbidden(
                "without auth.admin_keys, administration is for programs on this machine only",
            ))
        }
    }

    /// Whether a value of the header `Authorization` is the gateway's own business, and none of a plugin's: what opened
    /// a route, or any key.
    pub(crate) fn is_own(&self, access: Access, value: &HeaderValue) -> bool {
        if access == Access::Key && !self.keys.is_empty() {
            return true;
        }
        let Ok(value) = value.to_str() else { return false };
        let shown = value.split_once(' ').map_or(value, |(_, shown)| shown).trim();
        // All are compared, whichever fits.
        let all = self.keys.iter().chain(&self.admin_keys);
        all.fold(false, |found, key| found | key.matches(shown) | key.matches(value))
    }

    /// Lets programs of this machine in, where there are no keys. A browser on it may be led here by anybody's page: by
    /// a name that resolves to this machine, or by a request from that page. A proxy on it lets anybody in.
    fn local(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if !names_loopback(headers) {
            return Err(ApiError::forbidden(
                "without auth.keys, the gateway is for this machine: call it as 127.0.0.1 or localhost, or set auth.keys",
            ));
        }
        if forwarded(headers) {
            return Err(ApiError::forbidden(
                "a proxy passed this on, and anybody may be behind it: set auth.keys, and let callers send one of them",
            ));
        }
        self.page(headers)
    }

    /// Refuses what a browser sends for a page that is neither this machine's own nor a known one.
    fn page(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
        let (origin, host) = (text(header::ORIGIN), text(header::HOST));
        // A page of another name is not this machine's own, though that name may lead here.
        let own = host.filter(|_| names_loopback(headers));
        match (origin, text(SEC_FETCH_SITE)) {
            (Some(origin), _) if self.origins.iter().any(|known| known == origin) => Ok(()),
            (Some(origin), _)
                if own.is_some_and(|own| origin.eq_ignore_ascii_case(&format!("http://{own}"))) =>
            {
                Ok(())
            }
            (Some(origin), _) => Err(ApiError::forbidden(format!(
                "pages of {origin:?} may not call; list it in cors.origins, or set auth.keys"
            ))),
            (None, None | Some("none")) => Ok(()),
            (None, Some("same-origin")) if own.is_some() => Ok(()),
            (None, Some(_)) => {
                Err(ApiError::forbidden("pages of other sites may not call; set auth.keys if they should"))
            }
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

/// Whether a proxy says that it passed the request on. Not all do.
fn forwarded(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| OF_PROXIES.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-"))
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "a-key-of-callers-0123456789";
    const ADMIN_KEY: &str = "a-key-of-the-operator-0123456789";

    fn auth(keys: &[&str], admin_keys: &[&str]) -> Auth {
        let refs = |keys: &[&str]| keys.iter().map(|key| SecretRef::parse(key).unwrap()).collect();
        let config = AuthConfig { keys: refs(keys), admin_keys: refs(admin_keys), ..AuthConfig::default() };
        Auth::new(&config, "127.0.0.1:8080".parse().unwrap(), &["https://chat.example.org".into()]).unwrap()
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn without_keys_only_programs_of_this_machine_and_known_pages_come_in() {
        let auth = auth(&[], &[]);
        for host in ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:8080", "127.0.0.1"] {
            assert_eq!(auth.caller(&headers(&[("host", host)])).unwrap(), None, "{host}");
        }
        for host in ["rebound.example.org", "192.168.1.2:8080", "127.0.0.1.example.org", ""] {
            assert!(auth.caller(&headers(&[("host", host)])).is_err(), "{host}");
        }
        assert!(auth.caller(&HeaderMap::new()).is_err());
        let from = |origin| auth.caller(&headers(&[("host", "localhost:8080"), ("origin", origin)]));
        assert!(from("http://localhost:8080").is_ok() && from("https://chat.example.org").is_ok());
        for origin in ["https://evil.example.org", "null", "http://localhost:3000", "https://localhost:8080"]
        {
            assert!(from(origin).is_err(), "{origin}");
        }
    }

    #[test]
    fn without_keys_nobody_comes_in_through_a_proxy() {
        let auth = auth(&[], &[]);
        let local = ("host", "127.0.0.1:8080");
        assert!(auth.admin(&headers(&[local])).is_ok() && auth.caller(&headers(&[local])).is_ok());
        for name in ["forwarded", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "origin"] {
            let passed_on = headers(&[local, (name, "203.0.113.7")]);
            assert!(auth.admin(&passed_on).is_err() && auth.caller(&passed_on).is_err(), "{name}");
        }
    }

    #[test]
    fn without_keys_platforms_reach_plugins_and_pages_of_others_do_not() {
        let auth = auth(&[], &[]);
        let sent = |fields: &[(&'static str, &str)]| auth.platform(&headers(fields)).is_ok();
        let public = ("host", "bot.example.org");
        let local = ("host", "127.0.0.1:8080");
        assert!(sent(&[public]) && sent(&[public, ("x-forwarded-for", "203.0.113.7")]));
        assert!(sent(&[public, ("origin", "https://chat.example.org"), ("sec-fetch-site", "cross-site")]));
        assert!(sent(&[local, ("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")]));
        assert!(
            sent(&[local, ("sec-fetch-site", "same-origin")]) && sent(&[public, ("sec-fetch-site", "none")])
        );
        for host in [public, local] {
            assert!(!sent(&[host, ("origin", "https://evil.example")]));
            assert!(!sent(&[host, ("sec-fetch-site", "cross-site")]));
            assert!(!sent(&[host, ("sec-fetch-site", "same-site")]));
        }
        // A name that was made to lead here.
        assert!(!sent(&[("host", "evil.example"), ("origin", "http://evil.example")]));
        assert!(!sent(&[("host", "evil.example"), ("sec-fetch-site", "same-origin")]));
        let keyed = super::tests::auth(&[KEY], &[]);
        assert!(keyed.platform(&headers(&[public, ("origin", "https://evil.example")])).is_ok());
    }

    #[test]
    fn callers_keys_do_not_administer() {
        let bearer =
            |key: &str| headers(&[("host", "localhost"), ("authorization", &format!("Bearer {key}"))]);
        let without = auth(&[KEY], &[]);
        let refused = without.admin(&bearer(KEY)).unwrap_err();
        assert_eq!(refused.status(), http::StatusCode::FORBIDDEN);
        let with = auth(&[KEY], &[ADMIN_KEY]);
        assert!(with.admin(&bearer(KEY)).is_err() && with.admin(&bearer(ADMIN_KEY)).is_ok());
        assert_eq!(with.caller(&bearer(KEY)).unwrap().as_deref(), Some("key-1"));
        assert_eq!(with.caller(&bearer(ADMIN_KEY)).unwrap().as_deref(), Some("admin-1"));
    }

    #[test]
    fn the_gateways_keys_are_its_own_business() {
        let auth = auth(&[KEY], &[ADMIN_KEY]);
        let own = |access, value: &str| auth.is_own(access, &HeaderValue::from_str(value).unwrap());
        for value in [format!("Bearer {KEY}"), format!("bearer  {ADMIN_KEY}"), KEY.to_owned()] {
            assert!(own(Access::Plugin, &value) && own(Access::Key, &value), "{value}");
        }
        assert!(own(Access::Key, "Basic Zm9vOmJhcg=="));
        assert!(!own(Access::Plugin, "Basic Zm9vOmJhcg==") && !own(Access::Plugin, "Bearer of-the-platform"));
    }
}
