//! What the host knows and a plugin has to ask for: its configuration, secrets, the time, randomness; and the log.

use crate::{
    error::{Error, Result, from_json},
    sys::{self, raw},
};
use serde::de::DeserializeOwned;
use std::time::{Duration, SystemTime};

/// How loud a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For the author.
    Debug,
    /// Ordinary course.
    Info,
    /// Something that the operator may want to change.
    Warn,
    /// Something is broken.
    Error,
}

/// Writes a line into the plugin's log. The macros [`debug!`](crate::debug), [`info!`](crate::info), [`warn!`](crate::warn)
/// and [`error!`](crate::error!) are shorter.
pub fn log(level: Level, message: &str) {
    let level = match level {
        Level::Debug => raw::host::Level::Debug,
        Level::Info => raw::host::Level::Info,
        Level::Warn => raw::host::Level::Warn,
        Level::Error => raw::host::Level::Error,
    };
    sys::host::log(level, message);
}

/// Logs a line for the author; takes what `format!` takes.
#[macro_export]
macro_rules! debug {
    ($($line:tt)+) => { $crate::host::log($crate::host::Level::Debug, &::std::format!($($line)+)) };
}

/// Logs a line about the ordinary course; takes what `format!` takes.
#[macro_export]
macro_rules! info {
    ($($line:tt)+) => { $crate::host::log($crate::host::Level::Info, &::std::format!($($line)+)) };
}

/// Logs a line that the operator may want to act on; takes what `format!` takes.
#[macro_export]
macro_rules! warn {
    ($($line:tt)+) => { $crate::host::log($crate::host::Level::Warn, &::std::format!($($line)+)) };
}

/// Logs a line about something broken; takes what `format!` takes.
#[macro_export]
macro_rules! error {
    ($($line:tt)+) => { $crate::host::log($crate::host::Level::Error, &::std::format!($($line)+)) };
}

/// The operator's configuration for this plugin.
///
/// # Errors
/// [`Error::Internal`] that names the field; not after `check` has accepted it, which `export!` sees to.
///
/// ```
/// # use plugway_sdk::{host, mock::Mock};
/// #[derive(serde::Deserialize)]
/// struct Config { greeting: String }
///
/// # let mock = Mock::new();
/// mock.config(serde_json::json!({"greeting": "Hello"}));
/// assert_eq!(host::config::<Config>()?.greeting, "Hello");
/// mock.config(serde_json::json!({}));
/// assert_eq!(
///     host::config::<Config>().map(|config| config.greeting).unwrap_err().to_string(),
///     "configuration: greeting: missing field `greeting`",
/// );
/// # Ok::<(), plugway_sdk::Error>(())
/// ```
pub fn config<T: DeserializeOwned>() -> Result<T> {
    from_json(sys::host::config().as_bytes())
        .map_err(|(message, _)| Error::Internal(format!("configuration: {message}")))
}

/// Whether the operator granted this secret.
pub fn has_secret(name: &str) -> bool {
    sys::host::has_secret(name)
}

/// Compares in constant time, on the host's side. False if the secret is not granted.
pub fn secret_equals(name: &str, candidate: &str) -> bool {
    sys::host::secret_equals(name, candidate)
}

/// The time now.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(sys::host::now_ms())
}

/// Unpredictable bytes.
pub fn random(count: u32) -> Vec<u8> {
    sys::host::random(count)
}
