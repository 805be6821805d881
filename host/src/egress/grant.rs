//! What a caller of the outgoing client may reach, and which secrets it may have put in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use super::{Redactor, Secret};

/// Scheme, host and port, as `https://api.telegram.org`. Equal origins have equal texts: the scheme's own port is left
/// out, hosts are lower case and addresses in their usual form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(Box<str>);

/// A text that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an origin such as https://api.example.com or http://10.0.0.1:8081, without path or password"
)]
pub struct InvalidOrigin(String);

impl Origin {
    /// Where a URL leads.
    pub(crate) fn of(url: &Url) -> Self {
        Self(url.origin().ascii_serialization().into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        url.map(|url| Self::of(&url)).ok_or_else(|| InvalidOrigin(text.chars().take(120).collect()))
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[derive(Debug)]
enum Origins {
    /// Callbacks go where their URL says.
    Any,
    Only(BTreeSet<Origin>),
}

#[derive(Debug)]
struct Inner {
    name: String,
    /// Table of the configuration file that the operator would have to change.
    table: String,
    origins: Origins,
    networks: Vec<IpNet>,
    secrets: BTreeMap<String, (Secret, Redactor)>,
    /// Takes out all of them.
    redactor: Redactor,
}

/// What the operator grants to one caller. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Grant(Arc<Inner>);

impl Grant {
    /// What a plugin was granted: exactly these origins, addresses in private networks only if listed, and the secrets
    /// that it may name.
    pub fn plugin(
        name: &str,
        origins: impl IntoIterator<Item = Origin>,
        private_networks: Vec<IpNet>,
        secrets: BTreeMap<String, Secret>,
    ) -> Self {
        let table = format!("plugins.{name}");
        Self::new(name, table, Origins::Only(origins.into_iter().collect()), private_networks, secrets)
    }

    /// What callbacks to somebody's URL may reach: any origin, addresses in private networks only if listed in
    /// `callbacks.private_networks`.
    pub fn callbacks(private_networks: Vec<IpNet>) -> Self {
        Self::new("callbacks", "callbacks".to_owned(), Origins::Any, private_networks, BTreeMap::new())
    }

    fn new(
        name: &str,
        table: String,
        origins: Origins,
        mut networks: Vec<IpNet>,
        secrets: BTreeMap<String, Secret>,
    ) -> Self {
        networks.sort_unstable();
        networks.dedup();
        let redactor = Redactor::new(secrets.iter().map(|(name, secret)| (name.as_str(), secret)));
        let alone = |(name, secret): (String, Secret)| {
            let redactor = Redactor::new([(name.as_str(), &secret)]);
            (name, (secret, redactor))
        };
        let secrets = secrets.into_iter().map(alone).collect();
        Self(Arc::new(Inner { name: name.to_owned(), table, origins, networks, secrets, redactor }))
    }

    /// Who it was granted to; the label of its metrics.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A secret, if it was granted.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.0.secrets.get(name).map(|(secret, _)| secret)
    }

    /// Takes all granted secrets out of texts for people: the plugin's log, and what is said of errors.
    pub fn redactor(&self) -> &Redactor {
        &self.0.redactor
    }

    /// Takes one secret out of answers to requests that it was put into; none if it was not granted.
    pub(crate) fn redactor_of(&self, name: &str) -> Option<&Redactor> {
        self.0.secrets.get(name).map(|(_, redactor)| redactor)
    }

    /// Whether an origin was granted.
    pub fn reaches(&self, origin: &Origin) -> bool {
        match &self.0.origins {
            Origins::Any => true,
            Origins::Only(granted) => granted.contains(origin),
        }
    }

    /// Private networks that may be reached, sorted.
    pub(crate) fn networks(&self) -> &[IpNet] {
        &self.0.networks
    }

    /// Name of its table in `plugway.toml`, as `plugins.telegram`.
    pub(crate) fn table(&self) -> &str {
        &self.0.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_one_spelling() {
        let origin = |text: &str| text.parse::<Origin>().map(|origin| origin.to_string());
        assert_eq!(origin("https://API.Example.com:443/").unwrap(), "https://api.example.com");
        assert_eq!(origin("http://0x7f.1:8081").unwrap(), "http://127.0.0.1:8081");
        for text in ["ftp://a", "https://a/b", "https://a?b", "https://u:p@a", "api.example.com", "*"] {
            assert!(origin(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_grant_is_exact() {
        let grant = Grant::plugin("p", ["https://a.example".parse().unwrap()], Vec::new(), BTreeMap::new());
        let reaches = |text: &str| grant.reaches(&text.parse().unwrap());
        assert!(reaches("https://a.example") && reaches("https://a.example:443"));
        assert!(!reaches("http://a.example") && !reaches("https://a.example:8443"));
        assert!(!reaches("https://b.a.example") && !reaches("https://a.example.org"));
        assert!(Grant::callbacks(Vec::new()).reaches(&"https://anything.example".parse().unwrap()));
    }
}
