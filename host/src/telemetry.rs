//! Logs and metrics: how they are set up. What is logged and counted stands where it happens.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

/// Seconds: from a tenth of a millisecond to ten minutes.
const SECONDS: [f64; 14] =
    [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 600.0];
/// Seconds of one call of a filter: from a microsecond to two seconds.
const FILTER_SECONDS: [f64; 12] =
    [0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.01, 0.1, 0.5, 2.0];
/// Bytes of a plugin's memory.
const BYTES: [f64; 7] =
    [131_072.0, 524_288.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0, 268_435_456.0];

/// Milliseconds: from a tenth of one to a second.
const MILLIS: [f64; 13] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0];

/// `[telemetry]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or directives as "info,plugway::delivery=debug".
    pub level: String,
    /// How.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Telemetry can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is none.
    #[error("telemetry.level: {0}")]
    Level(String),
    /// Something else in the process has set it up already.
    #[error("telemetry was set up already: {0}")]
    Twice(String),
}

/// Begins to log, to standard error.
///
/// # Errors
/// [`TelemetryError`].
pub fn init_logs(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let filter = filter(&config.level)?;
    let layer = match config.format {
        LogFormat::Text => fmt::layer()
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_writer(std::io::stderr)
            .boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .map_err(|error| TelemetryError::Twice(error.to_string()))
}

/// Checks the settings without beginning to log.
///
/// # Errors
/// [`TelemetryError::Level`].
pub fn check(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    filter(&config.level).map(|_| ())
}

/// A bare level is the gateway's and its plugins' own: what libraries say below a warning helps nobody. Any other bare
/// word would be taken for a module's name, and all that is not of this module be silent.
fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let level = level.trim().to_ascii_lowercase();
    let directives = match level.as_str() {
        "off" | "error" => level,
        "warn" | "info" | "debug" | "trace" => format!("warn,plugway={level},plugin={level}"),
        _ if level.contains(['=', ',', '[']) => level,
        _ => {
            return Err(TelemetryError::Level(format!(
                "{level:?} is no level; there are off, error, warn, info, debug, trace, and directives as \"info,plugway::delivery=debug\""
            )));
        }
    };
    EnvFilter::builder().parse(directives).map_err(|error| TelemetryError::Level(error.to_string()))
}

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Begins to count.
    ///
    /// # Errors
    /// [`TelemetryError::Twice`].
    pub fn install() -> Result<Self, TelemetryError> {
        let twice = |error: metrics_exporter_prometheus::BuildError| TelemetryError::Twice(error.to_string());
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .map_err(twice)?
            .set_buckets_for_metric(Matcher::Full("plugway_filter_call_seconds".into()), &FILTER_SECONDS)
            .map_err(twice)?
            .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)
            .map_err(twice)?
            .set_buckets_for_metric(Matcher::Suffix("_latency_ms".into()), &MILLIS)
            .map_err(twice)?
            .install_recorder()
            .map_err(twice)?;
        Ok(Self { handle })
    }

    /// The metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds what was counted since the last time into the histograms; to be called every few seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_and_not_taken_for_a_modules_name() {
        for level in
            ["off", "error", "INFO", " debug ", "info,plugway::delivery=debug", "plugway[delivery]=trace"]
        {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["inof", "verbose", "", "plugway=loud"] {
            let error = filter(level).unwrap_err().to_string();
            assert!(error.starts_with("telemetry.level: "), "{error}");
        }
    }
}
