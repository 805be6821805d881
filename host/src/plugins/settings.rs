//! The operator's word on every plugin, resolved: defaults merged, secrets looked up, configuration as the JSON
//! that the plugin will see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::config::{Limits, PluginConfig, Policy};
use crate::egress::{Grant, Secret};

/// What one plugin may do and how it is configured.
#[derive(Clone, Debug)]
pub struct PluginSettings {
    /// The file's stem: grants, kv, metrics and logs go by it.
    pub name: Arc<str>,
    /// Whether it is served at all.
    pub enabled: bool,
    /// Put before its routes; empty, or begins with `/` and does not end with one.
    pub mount: String,
    /// Its configuration, a JSON object.
    pub config_json: Arc<str>,
    /// What becomes of what it can't judge, where it is a filter.
    pub policy: Policy,
    /// Its limits.
    pub limits: Limits,
    /// What it may reach, and the secrets that are put in for it.
    pub grant: Grant,
}

/// Settings of all plugins, those included that have no table of their own.
#[derive(Clone, Debug)]
pub struct Settings {
    defaults: Limits,
    plugins: BTreeMap<String, Arc<PluginSettings>>,
    filters: BTreeSet<String>,
    filtered: BTreeSet<String>,
}

/// A plugin's table is wrong.
#[derive(Debug, thiserror::Error)]
#[error("plugins.{plugin}.{key}: {reason}")]
pub struct InvalidSettings {
    plugin: String,
    key: &'static str,
    reason: String,
}

impl Settings {
    /// Resolves the configuration. A secret whose environment variable is unset counts as not granted.
    ///
    /// # Errors
    /// An origin, a secret's file, or a mount that can't be: names the key.
    pub fn resolve(
        defaults: Limits,
        configs: &BTreeMap<String, PluginConfig>,
    ) -> Result<Self, InvalidSettings> {
        let plugins = configs
            .iter()
            .map(|(name, config)| Ok((name.clone(), Arc::new(resolve(name, config, &defaults)?))))
            .collect::<Result<_, _>>()?;
        Ok(Self { defaults, plugins, filters: BTreeSet::new(), filtered: BTreeSet::new() })
    }

    /// The same, where these plugins are named as filters, and those have filters of their own.
    pub fn with_filters(
        mut self,
        names: impl IntoIterator<Item = String>,
        filtered: impl IntoIterator<Item = String>,
    ) -> Self {
        self.filters = names.into_iter().collect();
        self.filtered = filtered.into_iter().collect();
        self
    }

    /// Names of the plugins whose tasks pass filters of their own.
    pub(super) fn filtered(&self) -> &BTreeSet<String> {
        &self.filtered
    }

    /// Settings of the plugins that are named as filters, loaded or not.
    pub(super) fn filters(&self) -> impl Iterator<Item = Arc<PluginSettings>> {
        self.filters.iter().map(|name| self.of(name))
    }

    /// Instances that all filters together may have.
    pub fn filter_instances(&self) -> usize {
        self.filters().map(|filter| filter.limits.filter_instances).sum()
    }

    /// Settings of the plugin of that name; one without a table gets the default limits and no grants.
    pub fn of(&self, name: &str) -> Arc<PluginSettings> {
        let without_table = || PluginSettings {
            name: name.into(),
            enabled: true,
            mount: String::new(),
            config_json: "{}".into(),
            policy: Policy::default(),
            limits: self.defaults.clone(),
            grant: Grant::plugin(name, [], Vec::new(), BTreeMap::new()),
        };
        self.plugins.get(name).cloned().unwrap_or_else(|| Arc::new(without_table()))
    }

    /// The largest memory that any plugin may have, in bytes: the size of the engine's slots.
    pub fn largest_memory(&self) -> u64 {
        let own = self.plugins.values().map(|plugin| plugin.limits.memory.as_u64()).max().unwrap_or(0);
        own.max(self.defaults.memory.as_u64())
    }

    /// Says which plugins may have more exchanges than the engine carries.
    pub(super) fn warn_beyond(&self, slots: usize) {
        let warn = |key: &str, exchanges: usize| {
            if exchanges > slots {
                tracing::warn!(
                    exchanges,
                    slots,
                    "{key}.exchanges is more than all plugins together can have (engine.exchanges): calls will wait for each other"
                );
            }
        };
        warn("plugin_defaults", self.defaults.exchanges);
        for (name, plugin) in &self.plugins {
            if plugin.limits.exchanges != self.defaults.exchanges {
                warn(&format!("plugins.{name}.limits"), plugin.limits.exchanges);
            }
        }
    }
}

fn resolve(name: &str, config: &PluginConfig, defaults: &Limits) -> Result<PluginSettings, InvalidSettings> {
    let invalid =
        |key: &'static str, reason: String| InvalidSettings { plugin: name.to_owned(), key, reason };
    if !is_name(name) {
        return Err(invalid("", format!("{name:?} is no plugin name: {NAME_RULE}")));
    }
    let mount = config.mount.clone().unwrap_or_default();
    let mount = mount.trim_end_matches('/').to_owned();
    if !mount.is_empty() && (!mount.starts_with('/') || mount.contains(['{', '}', '?', '#', ' '])) {
        return Err(invalid("mount", format!("{mount:?} is no path prefix, as \"/second\"")));
    }
    let mut secrets = BTreeMap::new();
    for (secret, reference) in &config.secrets {
        let value = reference.resolve().map_err(|error| invalid("secrets", format!("{secret}: {error}")))?;
        if let Some(value) = value.as_ref().filter(|value| value.expose().len() < Secret::LEAST) {
            let (length, least) = (value.expose().len(), Secret::LEAST);
            let reason =
                format!("{secret}: has {length} characters, at least {least} are needed (from {reference})");
            return Err(invalid("secrets", reason));
        }
        secrets.extend(value.map(|value| (secret.clone(), value)));
    }
    let grant = Grant::plugin(name, config.origins.iter().cloned(), config.private_networks.clone(), secrets);
    let limits = defaults.with(&config.limits);
    limits.check().map_err(|(key, reason)| invalid("limits", format!("{key}: {reason}")))?;
    Ok(PluginSettings {
        name: name.into(),
        enabled: config.enabled.unwrap_or(true),
        mount,
        config_json: serde_json::Value::Object(config.config.clone()).to_string().into(),
        policy: config.policy.unwrap_or_default(),
        limits,
        grant,
    })
}

/// What a plugin may be called.
pub(crate) const NAME_RULE: &str =
    "lower-case letters, digits, `-` and `_`, at most 64 of them, a letter or digit first";

/// Whether a file's stem can be a plugin's name.
pub(crate) fn is_name(stem: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=64).contains(&stem.len())
        && stem.bytes().all(fits)
        && stem.as_bytes().first().is_some_and(|first| first.is_ascii_alphanumeric())
}

#[cfg(test)]
pub(super) mod tests {
    use bytesize::ByteSize;

    use super::*;
    use crate::egress::SecretRef;

    fn limits() -> Limits {
        let seconds = std::time::Duration::from_secs;
        Limits {
            memory: ByteSize::mib(16),
            memory_total: ByteSize::mib(64),
            cpu_per_step: seconds(1),
            exchange_timeout: seconds(10),
            drain_timeout: seconds(10),
            exchanges: 2,
            waiting: 2,
            waiting_timeout: seconds(10),
            old_generations: 3,
            log: ByteSize::kib(64),
            requests: 10,
            kv: ByteSize::mib(1),
            traps: 5,
            trap_window: seconds(10),
            file: ByteSize::mib(1),
            filter_timeout: seconds(1),
            filter_state: ByteSize::kib(1),
            filter_events: 4,
            filter_bytes: ByteSize::kib(4),
            filter_instances: 2,
            filter_calls: 100,
        }
    }

    /// Settings of a plugin without a table of its own.
    pub(in crate::plugins) fn settings(name: &str) -> PluginSettings {
        let settings = Settings::resolve(limits(), &BTreeMap::new()).unwrap();
        PluginSettings::clone(&settings.of(name))
    }

    fn resolve_secret(value: &str) -> Result<PluginSettings, String> {
        let secrets = [("webhook_secret".to_owned(), SecretRef::parse(value).unwrap())].into();
        let config = PluginConfig { secrets, ..PluginConfig::default() };
        resolve("telegram", &config, &limits()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_that_is_too_short_is_refused_by_the_name_of_its_setting() {
        let told = resolve_secret("1234567").unwrap_err();
        assert!(told.starts_with("plugins.telegram.secrets: webhook_secret: has 7 characters"), "{told}");
        assert!(!told.contains("1234567"), "{told}");
        assert!(resolve_secret("12345678").unwrap().grant.secret("webhook_secret").is_some());
        assert!(resolve_secret("").unwrap().grant.secret("webhook_secret").is_none(), "it is not granted");
    }
}
