//! `plugway plugin check` and `plugway plugin inspect`: the loading transaction without serving.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::{CheckArgs, ServeArgs, serve};
use crate::app;
use crate::exchanges::Exchange;
use crate::plugins::{
    Checked, Compiler, Engine, EngineConfig, Generation, NAME_RULE, PluginSettings, RouteTable, Settings,
    is_name, read_component,
};
use crate::telemetry::{self, TelemetryConfig};

/// A component that was loaded, and what the operator says of it.
struct Loaded {
    settings: Arc<PluginSettings>,
    generation: Generation<Exchange>,
    checked: Checked,
    size: u64,
}

/// Loads the component, and says whether it would serve.
pub(super) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let Loaded { settings, generation, .. } = match load(args).and_then(|loaded| would_serve(args, loaded)) {
        Ok(loaded) => loaded,
        Err(error) if args.json => {
            say!("{}", serde_json::json!({ "ok": false, "error": format!("{error:#}") }));
            std::process::exit(1);
        }
        Err(error) => return Err(error),
    };
    let missing = missing_grants(&settings, &generation);
    if args.json {
        say!("{}", serde_json::json!({ "ok": true, "name": settings.name, "not_granted": missing }));
        return Ok(());
    }
    say!("{}: ok, would serve as `{}`", args.file.display(), settings.name);
    for want in missing {
        say!("  wants {want} (not granted)");
    }
    Ok(())
}

/// Loads the component, and prints what it says of itself.
pub(super) fn inspect(args: &CheckArgs) -> anyhow::Result<()> {
    let Loaded { settings, generation, checked, size } = load(args)?;
    let manifest = &generation.manifest;
    if args.json {
        let schema: serde_json::Value = serde_json::from_str(&manifest.config_schema).unwrap_or_default();
        let shown = serde_json::json!({
            "name": manifest.name,
            "version": manifest.version,
            "summary": manifest.summary,
            "contract": generation.contract,
            "roles": generation.exported,
            "routes": manifest.routes,
            "wants": { "origins": manifest.origins, "secrets": manifest.secrets },
            "not_granted": missing_grants(&settings, &generation),
            "config_schema": schema,
            "size_bytes": size,
            "check": checked.as_ref().err(),
        });
        say!("{}", serde_json::to_string_pretty(&shown)?);
        return Ok(());
    }
    say!("name      {}", manifest.name);
    say!("version   {}", manifest.version);
    say!("summary   {}", manifest.summary);
    say!("contract  plugway:gateway {}", generation.contract);
    let roles: Vec<String> =
        generation.exported.iter().map(|role| format!("{role:?}").to_lowercase()).collect();
    say!("roles     {}", roles.join(", "));
    for route in &manifest.routes {
        say!("route     {} {} (access: {:?})", route.word(), route.path, route.access);
    }
    for origin in &manifest.origins {
        say!("wants     origin {origin}");
    }
    for secret in &manifest.secrets {
        say!("wants     secret {secret}");
    }
    say!("size      {}", bytesize::ByteSize(size));
    say!("check     {}", checked.err().unwrap_or_else(|| "ok".to_owned()));
    Ok(())
}

/// What keeps the gateway from serving a file that is a plugin.
fn would_serve(args: &CheckArgs, loaded: Loaded) -> anyhow::Result<Loaded> {
    let file = args.file.display();
    if let Err(reason) = &loaded.checked {
        bail!("{file}: {reason}");
    }
    if args.file.extension().is_none_or(|extension| extension != "wasm") {
        bail!("{file}: the gateway looks at files that end in .wasm only");
    }
    if !is_name(&loaded.settings.name) {
        bail!("{file}: {:?} is no plugin name: {NAME_RULE}", loaded.settings.name);
    }
    if !loaded.settings.enabled {
        bail!("{file}: disabled by the configuration (plugins.{}.enabled = false)", loaded.settings.name);
    }
    // Its routes must go together, and none may be the host's own.
    let Loaded { settings, generation, checked, size } = loaded;
    let plugin = Arc::new(crate::plugins::Plugin::new(settings.clone()));
    let generation = Arc::new(generation);
    let routes = RouteTable::default().add(&plugin, &generation);
    routes.map_err(|reason| anyhow::anyhow!("{file}: {reason}"))?;
    let generation = Arc::into_inner(generation).context("the component is still in use")?;
    Ok(Loaded { settings, generation, checked, size })
}

/// Runs the transaction up to the swap, as the gateway would.
fn load(args: &CheckArgs) -> anyhow::Result<Loaded> {
    let name = args.file.file_stem().and_then(|stem| stem.to_str()).context("the file has no name")?;
    let serve_args =
        ServeArgs { config: args.config.clone(), listen: None, data_dir: None, plugins_dir: None };
    let config = serve::load(&serve_args)?;
    // What the plugin itself says while it is loaded, a panic's message above all, belongs to the answer.
    telemetry::init_logs(&TelemetryConfig { level: "warn".into(), ..config.telemetry.clone() })?;
    let settings = Settings::resolve(config.plugin_defaults.clone(), &config.plugins)?.of(name);
    let named = |reason: String| anyhow::anyhow!("{}: {reason}", args.file.display());
    let (bytes, hash) = read_component(&args.file, settings.limits.file.as_u64()).map_err(named)?;
    let size = bytes.len() as u64;
    let engine = Engine::new(
        &EngineConfig { exchanges: 4, threads: 1, ..config.engine.clone() },
        usize::try_from(settings.limits.memory.as_u64()).context("limits.memory is too large")?,
        1,
    )?;
    let cache = TempDir::new()?;
    let loader = app::loader(&engine, &cache.0, Compiler::child(&config.engine))?;
    let examined = serve::run(async { Ok(loader.examine(&settings, 1, hash, bytes, 0).await) })?;
    drop(cache);
    let (generation, checked) = examined.map_err(named)?;
    Ok(Loaded { settings, generation, checked, size })
}

/// A directory of this user's own, for an artefact that nobody keeps. What lies in it is run as machine code, so nobody
/// else may have made it, or write to it.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("plugway-check-{:032x}", rand::random::<u128>()));
        let created = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        created
            .with_context(|| format!("can't create {}; set TMPDIR to a folder of yours", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What is left is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn missing_grants(settings: &PluginSettings, generation: &Generation<Exchange>) -> Vec<String> {
    let manifest = &generation.manifest;
    let mut missing: BTreeMap<String, ()> = BTreeMap::new();
    for origin in manifest.origins.iter().filter(|origin| !settings.grant.reaches(origin)) {
        missing.insert(format!("origin {origin}"), ());
    }
    for secret in manifest.secrets.iter().filter(|secret| settings.grant.secret(secret).is_none()) {
        missing.insert(format!("secret {secret}"), ());
    }
    missing.into_keys().collect()
}
