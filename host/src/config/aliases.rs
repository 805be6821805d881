//! Names of the environment that the specifications gave, and the settings that they are.
//!
//! Invariant: a name that is set and can't be used stops the start; none is read and ignored.

use std::net::SocketAddr;
use std::time::Duration;

use figment::Figment;
use figment::providers::Serialized;
use url::Url;

use super::ConfigError;

/// Puts what the environment says by those names over the figment. `listen` is what that says so far; `own`, what the
/// gateway's own names will say over all of it.
///
/// # Errors
/// [`ConfigError::Setting`] with the name.
pub(super) fn merge(
    mut figment: Figment,
    own: &Figment,
    listen: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Figment, ConfigError> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let flag = |name: &str| match variable(name) {
        None => Ok(None),
        Some(value) => match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Some(true)),
            "false" | "0" | "no" | "off" => Ok(Some(false)),
            _ => Err(wrong(name, &value, "true or false")),
        },
    };
    let ports = ["WEBHOOK_PORT", "API_SERVER_PORT"].map(|name| (name, variable(name)));
    let mut port: Option<(&str, u16)> = None;
    for (name, value) in ports {
        let Some(value) = value else { continue };
        let read = value.parse().map_err(|_| wrong(name, &value, "a port, 0 to 65535"))?;
        match port {
            Some((other, port)) if port != read => {
                let wanted = format!("{other}={port}: the gateway listens on one port");
                return Err(wrong(name, &value, &wanted));
            }
            _ => port = Some((name, read)),
        }
    }
    let host = variable("API_SERVER_HOST");
    if port.is_some() || host.is_some() {
        let mut address: SocketAddr =
            listen.parse().map_err(|_| wrong("listen", listen, "an address, as 127.0.0.1:8080"))?;
        if let Some((_, port)) = port {
            address.set_port(port);
        }
        if let Some(host) = host {
            let ip = if host == "localhost" { "127.0.0.1" } else { &host };
            address.set_ip(ip.parse().map_err(|_| wrong("API_SERVER_HOST", &host, "an IP address"))?);
        }
        figment = figment.merge(Serialized::default("listen", address.to_string()));
    }
    if variable("API_SERVER_KEY").is_some() {
        let mut keys = figment.extract_inner::<Vec<String>>("auth.keys").unwrap_or_default();
        keys.push("env:API_SERVER_KEY".to_owned());
        figment = figment.merge(Serialized::default("auth.keys", keys));
    }
    if let Some(enabled) = flag("API_SERVER_ENABLED")? {
        figment = figment.merge(Serialized::default("plugins.openai.enabled", enabled));
    }
    if let Some(url) = variable("CALLBACK_URL") {
        figment = figment.merge(Serialized::default("callbacks.result_url", url));
    }
    if let Some(count) = variable("MAX_WORKERS") {
        let count: usize = count.parse().map_err(|_| wrong("MAX_WORKERS", &count, "a number"))?;
        figment = figment.merge(Serialized::default("workers.count", count));
    }
    if let Some(enabled) = flag("ENABLE_SSE")? {
        figment = figment.merge(Serialized::default("stream.enabled", enabled));
    }
    for (name, key) in [
        ("TELEGRAM_REPLY_TO_MODE", "plugins.telegram.config.reply_to_mode"),
        ("TELEGRAM_ALLOWED_USERS", "plugins.telegram.config.allowed_users"),
    ] {
        if let Some(value) = variable(name) {
            figment = figment.merge(Serialized::default(key, value));
        }
    }
    if let Some(level) = variable("GATEWAY__LOG_LEVEL") {
        // The names that Python has for them, too.
        let level = match level.to_ascii_lowercase().as_str() {
            "warning" => "warn".to_owned(),
            "critical" | "fatal" => "error".to_owned(),
            _ => level,
        };
        figment = figment.merge(Serialized::default("telemetry.level", level));
    }
    runtime(figment, own, &variable)
}

/// The agent `runtime`, which becomes the default one where its URL is given.
fn runtime(
    mut figment: Figment,
    own: &Figment,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Figment, ConfigError> {
    let merge = |figment: Figment, key: &str, value: String| figment.merge(Serialized::default(key, value));
    if let Some(url) = variable("GATEWAY__AGENT_URL") {
        if Url::parse(&url).is_err() {
            let told = "GATEWAY__AGENT_URL: must be a URL, as http://127.0.0.1:8001";
            return Err(ConfigError::Setting(told.to_owned()));
        }
        figment = merge(figment, "agents.runtime.kind", "http".to_owned());
        figment = merge(figment, "agents.runtime.url", url);
        figment = merge(figment, "default_agent", "runtime".to_owned());
    }
    let kind = figment.clone().merge(own).extract_inner::<String>("agents.runtime.kind").unwrap_or_default();
    for (name, setting) in [
        ("GATEWAY__INTERNAL_API_KEY", "internal_api_key"),
        ("GATEWAY__AGENT_STREAM_TIMEOUT", "stream_timeout"),
        ("GATEWAY__REQUEST_TIMEOUT", "request_timeout"),
    ] {
        let Some(value) = variable(name) else { continue };
        let told = match kind.as_str() {
            "http" => None,
            "" => {
                Some("which is not there: set GATEWAY__AGENT_URL, or agents.runtime.kind and .url".to_owned())
            }
            kind => Some(format!("which is of kind {kind:?} here, and would have to be of kind \"http\"")),
        };
        if let Some(told) = told {
            return Err(ConfigError::Setting(format!("{name} is of the agent `runtime`, {told}")));
        }
        let value = match setting {
            "internal_api_key" => format!("env:{name}"),
            _ => seconds(&value).ok_or_else(|| wrong(name, &value, "a time, as 60.0 (seconds) or 1m"))?,
        };
        figment = merge(figment, &format!("agents.runtime.{setting}"), value);
    }
    Ok(figment)
}

/// A time in seconds, as the specifications have it, or with its unit.
fn seconds(text: &str) -> Option<String> {
    let time = match text.trim().parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    time.filter(|time| !time.is_zero()).map(|time| humantime::format_duration(time).to_string())
}

fn wrong(name: &str, value: &str, wanted: &str) -> ConfigError {
    ConfigError::Setting(format!("{name}={value:?}: must be {wanted}"))
}

#[cfg(test)]
mod tests {
    use figment::providers::{Format as _, Toml};

    use super::super::{Config, DEFAULTS};
    use super::*;
    use crate::agents::Backend;

    fn read(file: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        read_with(file, "", variables)
    }

    /// `own` is what the gateway's own names say.
    fn read_with(file: &str, own: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let own = Figment::from(Toml::string(own));
        let figment = Figment::from(Toml::string(DEFAULTS)).merge(Toml::string(file));
        let environment = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let figment =
            merge(figment, &own, "127.0.0.1:8080", &environment).map_err(|error| error.to_string())?;
        figment.merge(own).extract().map_err(|error| error.to_string())
    }

    #[test]
    fn a_runtime_that_the_environment_names_is_the_default_agent() {
        let variables = [
            ("GATEWAY__AGENT_URL", "http://agent:8001/api"),
            ("GATEWAY__INTERNAL_API_KEY", "the-internal-key"),
            ("GATEWAY__AGENT_STREAM_TIMEOUT", "90.5"),
            ("GATEWAY__REQUEST_TIMEOUT", "2m"),
            ("GATEWAY__LOG_LEVEL", "WARNING"),
        ];
        let file = "[agents.runtime]\nkind = \"http\"\nurl = \"http://other\"\nmax_retries = 7";
        for (file, retries) in [("", 2), (file, 7)] {
            let config = read(file, &variables).unwrap();
            assert_eq!((config.default_agent.as_str(), config.telemetry.level.as_str()), ("runtime", "warn"));
            let agent = &config.agents["runtime"];
            assert_eq!(agent.stream_timeout, Duration::from_millis(90_500));
            let Backend::Http(http) = &agent.backend else { panic!("{agent:?}") };
            assert_eq!((http.url.as_str(), http.max_retries), ("http://agent:8001/api", retries));
            assert_eq!(http.request_timeout, Duration::from_secs(120));
            assert!(!toml::to_string(&config).unwrap().contains("the-internal-key"));
            assert!(toml::to_string(&config).unwrap().contains("env:GATEWAY__INTERNAL_API_KEY"));
        }
        let config = read("", &[("GATEWAY__AGENT_URL", "")]).unwrap();
        assert_eq!(config.default_agent, "echo");
        let config = read(file, &[("GATEWAY__REQUEST_TIMEOUT", "5")]).unwrap();
        assert_eq!(config.default_agent, "echo", "the file's runtime stays what it was");
    }

    #[test]
    fn a_runtime_of_the_gateways_own_names_is_one_too() {
        let own = "[agents.runtime]\nkind = \"http\"\nurl = \"http://own:1\"\nrequest_timeout = \"7s\"";
        let variables =
            [("GATEWAY__INTERNAL_API_KEY", "the-internal-key"), ("GATEWAY__REQUEST_TIMEOUT", "5")];
        let config = read_with("", own, &variables).unwrap();
        let Backend::Http(http) = &config.agents["runtime"].backend else { panic!("{config:?}") };
        assert_eq!((http.url.as_str(), http.request_timeout), ("http://own:1/", Duration::from_secs(7)));
        assert!(http.internal_api_key.is_some());
        let file = "[agents.runtime]\nkind = \"http\"\nurl = \"http://file\"";
        let error = read_with(file, "[agents.runtime]\nkind = \"echo\"", &variables).unwrap_err();
        assert!(error.contains("of kind \"echo\" here"), "{error}");
    }

    #[test]
    fn what_can_not_be_used_is_named() {
        let url = ("GATEWAY__AGENT_URL", "http://agent:8001");
        let told = |variables: &[(&str, &str)]| read("", variables).unwrap_err();
        assert!(told(&[("GATEWAY__AGENT_URL", "agent")]).starts_with("GATEWAY__AGENT_URL: must be a URL"));
        assert!(told(&[("GATEWAY__INTERNAL_API_KEY", "hush-hush")]).contains("set GATEWAY__AGENT_URL"));
        assert!(!told(&[("GATEWAY__INTERNAL_API_KEY", "hush-hush")]).contains("hush-hush"));
        for time in ["0", "-1", "soon", "1e300", "NaN", "60 parsecs"] {
            let error = told(&[url, ("GATEWAY__AGENT_STREAM_TIMEOUT", time)]);
            assert!(error.starts_with(&format!("GATEWAY__AGENT_STREAM_TIMEOUT={time:?}: must be a time")));
        }
    }
}
