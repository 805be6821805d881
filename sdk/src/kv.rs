//! The plugin's own durable storage: bytes or JSON under a key, with a version for compare-and-set and an optional age.

use crate::{
    error::Error as Answer,
    sys::{self, millis64, raw::kv as wit},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, time::Duration};

/// What is stored, and the version to change it with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// What is stored.
    pub value: T,
    /// Changes with every write; 0 stands for "absent" in [`cas`].
    pub version: u64,
}

/// Reads an entry.
///
/// # Errors
/// [`Error::Unavailable`].
pub fn get(key: &str) -> Result<Option<Versioned<Vec<u8>>>, Error> {
    let entry = sys::kv::get(key).map_err(Error::from_raw)?;
    Ok(entry.map(|entry| Versioned { value: entry.value, version: entry.version }))
}

/// Stores, whatever is there. `age` is how long it is kept; none is for ever. Returns the new version.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::Full`], [`Error::Unavailable`].
pub fn put(key: &str, value: &[u8], age: Option<Duration>) -> Result<u64, Error> {
    sys::kv::put(key, value, None, age.map(millis64)).map_err(Error::from_raw)
}

/// Stores if the entry still has this version (0: if there is none). Returns the new version.
///
/// # Errors
/// [`Error::Conflict`] with the version that it has, else as [`put`].
pub fn cas(key: &str, value: &[u8], version: u64, age: Option<Duration>) -> Result<u64, Error> {
    sys::kv::put(key, value, Some(version), age.map(millis64)).map_err(Error::from_raw)
}

/// Removes an entry, if it is there.
///
/// # Errors
/// [`Error::Unavailable`].
pub fn delete(key: &str) -> Result<(), Error> {
    sys::kv::delete(key).map_err(Error::from_raw)
}

/// Keys with the prefix, in order, after the given one.
///
/// # Errors
/// [`Error::Unavailable`].
pub fn keys(prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, Error> {
    sys::kv::keys(prefix, after, limit).map_err(Error::from_raw)
}

/// Reads an entry that was stored as JSON.
///
/// # Errors
/// [`Error::Malformed`] if it is something else, [`Error::Unavailable`].
///
/// ```
/// # use plugway_sdk::{kv, mock::Mock};
/// # let _mock = Mock::new();
/// kv::put_json("counter", &1, None)?;
/// let counter = kv::get_json::<u32>("counter")?.unwrap();
/// kv::cas_json("counter", &(counter.value + 1), counter.version, None)?;
/// assert!(matches!(kv::cas_json("counter", &9, counter.version, None), Err(kv::Error::Conflict { .. })));
/// # Ok::<(), kv::Error>(())
/// ```
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<Versioned<T>>, Error> {
    let Some(Versioned { value, version }) = get(key)? else { return Ok(None) };
    let value = serde_json::from_slice(&value).map_err(|error| Error::Malformed(error.to_string()))?;
    Ok(Some(Versioned { value, version }))
}

/// Stores a value as JSON, whatever is there.
///
/// # Errors
/// As [`put`], and [`Error::Malformed`] if it can't be written as JSON.
pub fn put_json<T: Serialize + ?Sized>(key: &str, value: &T, age: Option<Duration>) -> Result<u64, Error> {
    put(key, &json(value)?, age)
}

/// Stores a value as JSON if the entry still has this version.
///
/// # Errors
/// As [`cas`], and [`Error::Malformed`] if it can't be written as JSON.
pub fn cas_json<T: Serialize + ?Sized>(
    key: &str,
    value: &T,
    version: u64,
    age: Option<Duration>,
) -> Result<u64, Error> {
    cas(key, &json(value)?, version, age)
}

/// Reads, changes and stores, again and again until nobody came in between. An absent entry starts as the default.
/// Returns what was stored.
///
/// # Errors
/// As [`get_json`] and [`put`].
pub fn update<T>(key: &str, age: Option<Duration>, change: impl Fn(&mut T)) -> Result<T, Error>
where
    T: Default + Serialize + DeserializeOwned,
{
    loop {
        let (mut value, version) =
            get_json(key)?.map_or_else(|| (T::default(), 0), |entry| (entry.value, entry.version));
        change(&mut value);
        match cas_json(key, &value, version, age) {
            Err(Error::Conflict { .. }) => {}
            stored => return stored.map(|_| value),
        }
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Malformed(error.to_string()))
}

/// Why storage did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else wrote in between.
    Conflict {
        /// The version that the entry has now.
        version: u64,
    },
    /// Key, value or number of keys: which, and its bound.
    TooLarge(String),
    /// The plugin's quota leaves no room: what is used, and the quota.
    Full(String),
    /// The store does not answer.
    Unavailable(String),
    /// The value is not the JSON that was asked for.
    Malformed(String),
}

impl Error {
    fn from_raw(raw: wit::Error) -> Self {
        match raw {
            wit::Error::Conflict(version) => Self::Conflict { version },
            wit::Error::TooLarge(what) => Self::TooLarge(what),
            wit::Error::Full(what) => Self::Full(what),
            wit::Error::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { version } => write!(out, "changed in between: the version is {version}"),
            Self::TooLarge(what) => write!(out, "too large: {what}"),
            Self::Full(what) => write!(out, "no room: {what}"),
            Self::Unavailable(why) => write!(out, "storage is unavailable: {why}"),
            Self::Malformed(why) => write!(out, "the stored value is malformed: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(_) => Self::unavailable(error),
            other => Self::internal(format!("kv: {other}")),
        }
    }
}
