//! `plugway plugin list`: what a running gateway serves.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;

use super::ListArgs;
use crate::egress::{self, Egress, EgressRequest, Grant, Tls};
use crate::plugins::{PluginState, PluginStatus};

/// How long the gateway may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the gateway and prints its answer.
pub(super) fn list(args: &ListArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let plugins = runtime.block_on(ask(args))?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&plugins)?);
        return Ok(());
    }
    if plugins.is_empty() {
        say!("no plugins: drop a .wasm into the plugin directory");
    }
    for plugin in plugins {
        let state = serde_json::to_value(plugin.state)?;
        say!(
            "{}  {}  generation {}  {}  [{}]",
            plugin.name,
            plugin.version.as_deref().unwrap_or("-"),
            plugin.generation,
            state.as_str().unwrap_or_default(),
            plugin.roles.join(", "),
        );
        for route in &plugin.routes {
            say!("    {route}");
        }
        for want in &plugin.wants {
            let granted = plugin.granted.contains(want);
            say!("    wants {want}{}", if granted { "" } else { " (not granted)" });
        }
        if let Some(error) = &plugin.error {
            let word = if plugin.state == PluginState::Missing { "named as a filter" } else { "refused" };
            say!("    {word}: {error}");
        }
    }
    Ok(())
}

async fn ask(args: &ListArgs) -> anyhow::Result<Vec<PluginStatus>> {
    let url = format!("{}/admin/plugins", args.url.trim_end_matches('/'));
    // The operator's own gateway may be anywhere.
    let anywhere = Grant::callbacks(vec!["0.0.0.0/0".parse()?, "::/0".parse()?]);
    let egress = Egress::new(egress::Config::default(), Tls::default(), tokio::runtime::Handle::current());
    let headers = args.key.iter().map(|key| ("authorization".to_owned(), format!("Bearer {key}"))).collect();
    let request = EgressRequest {
        method: "GET".into(),
        url: url.clone(),
        headers,
        body: Bytes::new(),
        timeout: TIMEOUT,
    };
    let response =
        egress.send(&anywhere, request).await.with_context(|| format!("no gateway answers at {url}"))?;
    if matches!(response.status, 401 | 403) {
        bail!("{url} wants another key: give one of its auth.admin_keys with --key or PLUGWAY_ADMIN_KEY");
    }
    if response.status != 200 {
        bail!("{url} answered {}: {}", response.status, String::from_utf8_lossy(&response.body));
    }
    serde_json::from_slice(&response.body).with_context(|| format!("{url} is no plugway gateway"))
}
