//! Secrets: where the operator keeps them, and their values, which never appear in a log, an error or a dump.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// A secret's value. It can be compared and put on the wire, not printed.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Least length of a secret that a plugin is granted, in bytes: a shorter one is soon guessed, and taking it out of
    /// logs and answers would take out what only looks like it.
    pub const LEAST: usize = 8;

    /// A value; none if it is empty, since an empty secret protects nothing.
    pub fn new(value: &str) -> Option<Self> {
        (!value.is_empty()).then(|| Self(value.into()))
    }

    /// The value itself. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the candidate is the secret. The time that it takes tells neither how much of it agrees nor how long
    /// the secret is.
    pub fn matches(&self, candidate: &str) -> bool {
        let (ours, theirs) = (Sha256::digest(self.0.as_bytes()), Sha256::digest(candidate.as_bytes()));
        ours.as_slice().ct_eq(theirs.as_slice()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// A secret that can't be had, though the configuration says where it is.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read, or is no UTF-8.
    #[error("the secret file {path} can't be read: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The variable holds something that is no UTF-8.
    #[error("the environment variable {0} holds no UTF-8")]
    Variable(String),
}

/// Where the configuration says that a secret is: `env:NAME`, `file:PATH`, or the value itself. It is written out as it
/// was read, except for a value, which is hidden.
#[derive(Clone)]
pub enum SecretRef {
    /// In an environment variable.
    Env(String),
    /// In a file, without the line feed at its end.
    File(PathBuf),
    /// In the configuration itself.
    Literal(Secret),
    /// Nowhere: the empty text.
    Unset,
}

impl SecretRef {
    /// Reads the configuration's text.
    ///
    /// # Errors
    /// `env:` or `file:` without a name: a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", "")) => Err("`env:` needs the name of an environment variable".to_owned()),
            Some(("file", "")) => Err("`file:` needs a path".to_owned()),
            Some(("env", name)) => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) => Ok(Self::File(path.into())),
            _ => Ok(Secret::new(text).map_or(Self::Unset, Self::Literal)),
        }
    }

    /// The value, looked up in the process's environment. None where the variable is unset or the value empty: then the
    /// secret counts as not given.
    ///
    /// # Errors
    /// [`SecretError`]: there is something, and it can't be used.
    pub fn resolve(&self) -> Result<Option<Secret>, SecretError> {
        self.resolve_in(&|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(SecretError::Variable(name.to_owned())),
        })
    }

    /// The value, with environment variables looked up by the given function.
    ///
    /// # Errors
    /// As [`SecretRef::resolve`].
    pub fn resolve_in(
        &self,
        variable: &dyn Fn(&str) -> Result<Option<String>, SecretError>,
    ) -> Result<Option<Secret>, SecretError> {
        match self {
            Self::Unset => Ok(None),
            Self::Literal(secret) => Ok(Some(secret.clone())),
            Self::Env(name) => Ok(variable(name)?.and_then(|value| Secret::new(&value))),
            Self::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| SecretError::File { path: path.clone(), source })?;
                Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
            }
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Literal(_) => f.write_str("[hidden]"),
            Self::Unset => Ok(()),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for SecretRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_where_the_configuration_says() {
        let read = |text: &str| {
            let secret = SecretRef::parse(text).unwrap();
            let found = secret.resolve_in(&|name| Ok((name == "TOKEN").then(|| "s3cret".to_owned())));
            found.unwrap().map(|secret| secret.expose().to_owned())
        };
        assert_eq!(read("env:TOKEN").as_deref(), Some("s3cret"));
        assert_eq!(read("env:OTHER"), None);
        assert_eq!(read(""), None);
        assert_eq!(read("123:abc").as_deref(), Some("123:abc"));

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file\n").unwrap();
        assert_eq!(read(&format!("file:{}", file.path().display())).as_deref(), Some("from a file"));
        assert!(SecretRef::parse("file:/does/not/exist").unwrap().resolve().is_err());
        assert!(SecretRef::parse("env:").is_err());
    }

    #[test]
    fn a_value_is_neither_dumped_nor_written_out() {
        let literal: SecretRef = serde_json::from_str("\"hunter2\"").unwrap();
        let Some(value) = literal.resolve().unwrap() else { panic!("no value") };
        assert_eq!(format!("{value:?} {literal:?} {literal}"), "[hidden] [hidden] [hidden]");
        assert_eq!(serde_json::to_string(&literal).unwrap(), "\"[hidden]\"");
        let variable: SecretRef = serde_json::from_str("\"env:TOKEN\"").unwrap();
        assert_eq!(serde_json::to_string(&variable).unwrap(), "\"env:TOKEN\"");
    }

    #[test]
    fn comparing_takes_the_whole_value() {
        let secret = Secret::new("hunter2").unwrap();
        assert!(secret.matches("hunter2"));
        assert!(!secret.matches("hunter") && !secret.matches("hunter22") && !secret.matches(""));
    }
}
