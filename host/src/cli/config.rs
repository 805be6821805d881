//! `plugway config check`.

use anyhow::Context as _;

use super::{ServeArgs, serve};
use crate::agents::Agents;
use crate::app;
use crate::delivery::Callbacks;
use crate::egress::Tls;
use crate::plugins::Settings;

/// Checks everything that can be checked without serving, and prints the effective configuration.
pub(super) fn check(args: &ServeArgs) -> anyhow::Result<()> {
    let config = serve::load(args)?;
    Settings::resolve(config.plugin_defaults.clone(), &config.plugins)?;
    app::chains(&config)?;
    Callbacks::new(config.callbacks.clone())?;
    app::check_store(&config)?;
    let pipelines = app::pipelines(&config)?;
    Agents::new(&config.agents, &config.default_agent, &Tls::default(), &pipelines)?;
    app::check_feed(&config)?;
    if let Some(url) = &pipelines.url {
        crate::feed::check_url(url)?;
    }
    crate::telemetry::check(&config.telemetry)?;
    crate::ingress::check(&config.auth, config.listen, &config.limits, &config.websocket, &config.cors)?;
    let shown = toml::to_string(&config).context("the configuration can't be printed")?;
    say!("{}", shown.trim_end());
    Ok(())
}
