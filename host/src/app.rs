//! Wiring: the one place that knows all modules, and the order in which they start and stop.
//!
//! Stopping: nothing new is accepted or run; running tasks get `drain`, and are streamed and delivered meanwhile; then
//! leases go back, streams and exchanges are told to end, and the store is closed last.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agents::{Agents, Pipelines};
use crate::config::{Config, StoreKind};
use crate::delivery::{self, Callbacks, PluginDelivery, Webhooks};
use crate::domain::Clock;
use crate::egress::{Egress, Tls};
use crate::exchanges::{self, Exchange, Exchanges};
use crate::feed::{self, Feed};
use crate::filters::{Chains, Filters};
use crate::hub::{self, Hub};
use crate::ingress::{self, Ingress};
use crate::plugins::{ArtefactCache, Catalogue, Compiler, Engine, Keeper, KeeperConfig, Loader, Settings};
use crate::store::redis::{self as shared_store, RedisStore};
use crate::store::sqlite::{self as embedded_store, SqliteStore};
use crate::store::{Retention, Store};
use crate::tasks::{self, AgentInfo, Tasks};
use crate::telemetry::Metrics;
use crate::worker::{self, Maintenance, RunnableAgent};

/// How often metrics are folded into their histograms.
const UPKEEP: Duration = Duration::from_secs(5);
/// What a plugin's exchanges get beside `drain` to notice that they are told to end.
const LAST_WORD: Duration = Duration::from_secs(2);

/// A gateway that is wired and bound to its address, not yet serving.
#[derive(Debug)]
pub struct Gateway {
    ingress: Ingress,
    catalogue: Catalogue<Exchange>,
    exchanges: Exchanges,
    tasks: Tasks,
    store: Arc<dyn Store>,
    background: TaskTracker,
    workers: tokio::task::JoinHandle<()>,
    /// Ends acceptance: no new connections, no new tasks run.
    stop: CancellationToken,
    /// Running tasks have had their time: streams, exchanges and deliveries come to an end.
    wrap_up: CancellationToken,
    /// Ends what is left.
    finish: CancellationToken,
    /// A part has ended that should not have.
    broken: CancellationToken,
    drain: Duration,
    /// What deliveries under way get at the end.
    delivery_drain: Duration,
}

impl Gateway {
    /// Opens the store, builds every module and binds the address. Background work begins at once: plugins are loaded,
    /// accepted tasks are run. Components are compiled by `compiler`.
    ///
    /// # Errors
    /// Whatever keeps the gateway from serving, in words for the operator.
    pub async fn start(config: Config, metrics: Metrics, compiler: Compiler) -> anyhow::Result<Self> {
        let clock = Clock::System;
        let [stop, wrap_up, finish, broken] = std::array::from_fn(|_| CancellationToken::new());
        let background = TaskTracker::new();

        let chains = chains(&config)?;
        let settings = Settings::resolve(config.plugin_defaults.clone(), &config.plugins)?;
        let settings = settings.with_filters(chains.names(), chains.filtered());
        let callbacks = Callbacks::new(config.callbacks.clone())?;
        let tls = Tls::default();
        let pipelines = pipelines(&config)?;
        let agents = Agents::new(&config.agents, &config.default_agent, &tls, &pipelines)?;
        check_feed(&config)?;
        let store = open_store(&config, &clock).await?;
        let hub_config = hub::Config {
            ring_events: config.stream.ring_events,
            ring_bytes: bytes(config.stream.ring_bytes),
            ..hub::Config::default()
        };
        let hub = Hub::new(store.clone(), hub_config);
        let (engine, catalogue, keeper) = open_plugins(&config, settings, compiler, clock.clone())?;
        let filters = Filters::new(chains, catalogue.filters().clone());
        let tasks = new_tasks(&config, &agents, &store, &hub, &filters);
        let feed = {
            let (hub, store, clock) = (hub.clone(), store.clone(), clock.clone());
            Feed::new(
                config.feed.clone(),
                feed::Parts { redis: pipelines.url, prefix: config.store.prefix.clone(), hub, store, clock },
            )?
        };
        let egress = Egress::new(config.egress.clone(), tls, tokio::runtime::Handle::current());

        let parts = exchanges::Parts {
            tasks: tasks.clone(),
            hub: hub.clone(),
            store: store.clone(),
            egress: egress.clone(),
            webhooks: Webhooks::new(store.clone(), callbacks.clone()),
            clock: clock.clone(),
        };
        let exchanges = Exchanges::new(engine, catalogue.clone(), parts, wrap_up.clone());

        let ingress = {
            let config = ingress::Config {
                listen: config.listen,
                auth: config.auth.clone(),
                limits: config.limits.clone(),
                cors: config.cors.clone(),
                stream: config.stream.clone(),
                websocket: config.websocket.clone(),
            };
            let parts = ingress::Parts {
                exchanges: exchanges.clone(),
                tasks: tasks.clone(),
                hub: hub.clone(),
                feed: feed.clone(),
                store: store.clone(),
                metrics: metrics.clone(),
                clock: clock.clone(),
            };
            Ingress::bind(config, parts, stop.clone(), wrap_up.clone()).await?
        };

        let part =
            |name, until: &CancellationToken| Part { name, until: until.clone(), broken: broken.clone() };
        background.spawn(part("the plugins' keeper", &stop).run(keeper.run(stop.clone())));
        // Clients hear of what is under way until the end.
        background.spawn(part("the feed", &wrap_up).run(feed.run(wrap_up.clone())));
        let pool = worker(&config, &agents, &store, &hub, (&tasks, filters), &clock);
        if let Some(notices) = store.notices() {
            let listen = tasks.clone().listen(notices, wrap_up.clone());
            background.spawn(part("the ear for other nodes", &wrap_up).run(listen));
        }
        let workers = background.spawn(part("the worker pool", &stop).run(worker::run(pool, stop.clone())));
        let outbox = delivery_worker(&config, &store, egress, callbacks, &exchanges, &clock);
        let deliver = delivery::run(outbox, wrap_up.clone());
        background.spawn(part("the outbox worker", &wrap_up).run(deliver));
        let maintenance = Maintenance {
            retention: Retention { events: config.store.event_retention, tasks: config.store.task_retention },
            sweep_every: config.store.sweep_every,
            ..Maintenance::default()
        };
        let maintain = worker::maintain(store.clone(), maintenance, stop.clone());
        background.spawn(part("maintenance", &stop).run(maintain));
        background.spawn(fold_metrics(metrics, finish.clone()));
        Ok(Self {
            ingress,
            catalogue,
            exchanges,
            tasks,
            store,
            background,
            workers,
            stop,
            wrap_up,
            finish,
            broken,
            drain: config.drain,
            delivery_drain: config.delivery.drain,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.ingress.address()
    }

    /// The plugins.
    pub fn catalogue(&self) -> &Catalogue<Exchange> {
        &self.catalogue
    }

    /// Serves until `until` resolves, then stops in good order.
    ///
    /// # Errors
    /// A part of the gateway ended by itself: the rest was stopped in good order.
    pub async fn serve(self, until: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            ingress,
            exchanges,
            tasks,
            store,
            background,
            workers,
            stop,
            wrap_up,
            finish,
            broken,
            drain,
            delivery_drain,
            catalogue: _,
        } = self;
        let part = Part { name: "the listener", until: stop.clone(), broken: broken.clone() };
        let serving = tokio::spawn(part.run(ingress.serve()));
        tokio::select! {
            () = until => {}
            () = broken.cancelled() => {}
        }
        tracing::info!(drain = %humantime::format_duration(drain), "stopping: what is under way may end");
        tasks.stop_accepting();
        stop.cancel();
        let until = tokio::time::Instant::now() + drain;
        // The pool bounds its own end by `drain`.
        let _ = workers.await;
        // Those who wait for a task hear its end; others may be waiting for something else.
        let _ = tokio::time::timeout_at(until, exchanges.idle()).await;
        wrap_up.cancel();
        let _ = serving.await;
        let left = exchanges.drain(LAST_WORD).await;
        if left > 0 {
            tracing::warn!(left, "exchanges did not end and are dropped");
        }
        finish.cancel();
        background.close();
        let patience = drain.max(delivery_drain) + LAST_WORD;
        if tokio::time::timeout(patience, background.wait()).await.is_err() {
            tracing::warn!(left = background.len(), "background work did not end in time");
        }
        store.close().await;
        tracing::info!("stopped");
        anyhow::ensure!(!broken.is_cancelled(), "a part of the gateway ended by itself; the log says which");
        Ok(())
    }
}

/// A part that the gateway is nothing without.
struct Part {
    name: &'static str,
    /// It may end after this.
    until: CancellationToken,
    broken: CancellationToken,
}

impl Part {
    /// Runs it. One that ends before its time ends the gateway: half of one serves nobody, and a whole one is started
    /// again by whatever watches the process.
    async fn run(self, part: impl Future<Output = ()>) {
        let result = AssertUnwindSafe(part).catch_unwind().await;
        if result.is_err() || !self.until.is_cancelled() {
            tracing::error!("{} ended by itself: the gateway stops", self.name);
            self.broken.cancel();
        }
    }
}

async fn open_store(config: &Config, clock: &Clock) -> anyhow::Result<Arc<dyn Store>> {
    let (queue_limit, clock) = (config.workers.queue, clock.clone());
    match config.store.kind {
        StoreKind::Sqlite => {
            let options =
                embedded_store::Options { queue_limit, clock, ..embedded_store::Options::default() };
            let store = SqliteStore::open(&config.data_dir, options)
                .with_context(|| format!("can't open the store in {}", config.data_dir.display()))?;
            Ok(Arc::new(store))
        }
        StoreKind::Redis => {
            let options = shared_store::Options {
                url: redis_url(config)?,
                prefix: config.store.prefix.clone(),
                timeout: config.store.timeout,
                connect_timeout: config.store.connect_timeout,
                queue_limit,
                log_events: config.store.log_events,
                pending_bytes: bytes(config.store.pending),
                notice_bytes: bytes(config.store.notices),
                clock,
            };
            let store = RedisStore::open(options).await.context("can't open the store in Redis")?;
            Ok(Arc::new(store))
        }
    }
}

/// The URL of Redis, from where the configuration says that it is.
fn redis_url(config: &Config) -> anyhow::Result<String> {
    let url = config.store.url.resolve().context("store.url")?;
    let url = url.with_context(|| format!("store.url: {} is not set", config.store.url))?;
    Ok(url.expose().to_owned())
}

/// Checks what can be checked of the store without opening it.
///
/// # Errors
/// The URL of Redis is not given, or none.
pub fn check_store(config: &Config) -> anyhow::Result<()> {
    match config.store.kind {
        StoreKind::Sqlite => Ok(()),
        StoreKind::Redis => Ok(shared_store::check_url(&redis_url(config)?)?),
    }
}

/// What agents of kind `redis` take from the feed's settings.
///
/// # Errors
/// The URL can't be read from where it is said to be.
pub fn pipelines(config: &Config) -> anyhow::Result<Pipelines> {
    let own = config.feed.redis_url.resolve().context("feed.redis_url")?;
    let url = match config.store.kind {
        StoreKind::Redis if own.is_none() => config.store.url.resolve().context("store.url")?,
        _ => own,
    };
    Ok(Pipelines { url, channels: config.feed.channels.clone(), payload: config.feed.payload })
}

/// Checks what the feed's settings say of other parts.
///
/// # Errors
/// `feed.agent` names none.
pub fn check_feed(config: &Config) -> anyhow::Result<()> {
    let agent = &config.feed.agent;
    let known = agent.is_empty() || config.agents.contains_key(agent);
    anyhow::ensure!(known, "feed.agent: there is no agent `{agent}`; add it as [agents.{agent}]");
    Ok(())
}

/// Which filters the configuration names for which tasks.
///
/// # Errors
/// A list of filters is wrong: names the setting.
pub fn chains(config: &Config) -> anyhow::Result<Chains> {
    let chains = Chains {
        for_all: config.filters.clone(),
        agents: config.agents.iter().map(|(name, agent)| (name.clone(), agent.filters.clone())).collect(),
        adapters: config
            .plugins
            .iter()
            .map(|(name, plugin)| (name.clone(), plugin.filters.clone()))
            .collect(),
    };
    chains.check().map_err(anyhow::Error::msg)?;
    Ok(chains)
}

/// As many bytes as memory can have.
fn bytes(size: bytesize::ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

fn new_tasks(
    config: &Config,
    agents: &Agents,
    store: &Arc<dyn Store>,
    hub: &Hub,
    filters: &Filters,
) -> Tasks {
    let infos = agents.iter().map(|agent| AgentInfo {
        name: agent.name.clone(),
        summary: agent.summary.clone(),
        default: agent.name == agents.default_name(),
    });
    let settings = tasks::Config {
        max_input: bytes(config.workers.input),
        history_turns: config.workers.history_turns,
        history_bytes: bytes(config.workers.history),
        on_busy: config.workers.on_busy,
        ..tasks::Config::default()
    };
    Tasks::new(store.clone(), hub.clone(), infos.collect(), filters.clone(), settings)
}

/// The engine, the catalogue, and the task that keeps it true.
fn open_plugins(
    config: &Config,
    settings: Settings,
    compiler: Compiler,
    clock: Clock,
) -> anyhow::Result<(Engine, Catalogue<Exchange>, Keeper<Exchange>)> {
    let largest =
        usize::try_from(settings.largest_memory()).context("plugin_defaults.memory is too large")?;
    let filters = u32::try_from(settings.filter_instances())
        .context("the limits.filter_instances of all filters are too many")?;
    let engine = Engine::new(&config.engine, largest, filters)?;
    let loader = loader(&engine, &config.data_dir, compiler)?;
    let keeper_config = KeeperConfig {
        dir: config.plugins_dir.clone(),
        claims: config.data_dir.join("routes.json"),
        first_load: config.engine.first_load,
    };
    let (catalogue, keeper) = Keeper::open(keeper_config, loader, settings, clock)
        .with_context(|| format!("can't open the plugin directory {}", config.plugins_dir.display()))?;
    Ok((engine, catalogue, keeper))
}

/// What loads components, with its cache in the data directory.
///
/// # Errors
/// The cache's directory can't be created.
pub fn loader(engine: &Engine, data_dir: &Path, compiler: Compiler) -> anyhow::Result<Loader<Exchange>> {
    let dir = data_dir.join("artefacts");
    let artefacts = ArtefactCache::open(dir.clone())
        .with_context(|| format!("can't open the cache {}", dir.display()))?;
    Loader::new(engine.clone(), artefacts, compiler).map_err(anyhow::Error::from)
}

fn worker(
    config: &Config,
    agents: &Agents,
    store: &Arc<dyn Store>,
    hub: &Hub,
    (tasks, filters): (&Tasks, Filters),
    clock: &Clock,
) -> worker::Worker {
    let (agents, max_attempts) = (agents.clone(), config.workers.max_attempts);
    let lookup = move |name: &str| {
        agents.get(name).map(|agent| RunnableAgent {
            agent: agent.backend.clone(),
            silence: agent.stream_timeout,
            max_attempts: agent.max_attempts.unwrap_or(max_attempts),
            retry_on_crash: agent.on_crash == crate::agents::OnCrash::Retry,
        })
    };
    worker::Worker {
        store: store.clone(),
        hub: hub.clone(),
        tasks: tasks.clone(),
        agents: Arc::new(lookup),
        filters,
        config: worker::Config {
            count: config.workers.count,
            lease: config.workers.lease,
            task_deadline: config.workers.task_deadline,
            drain: config.drain,
            ..worker::Config::default()
        },
        clock: clock.clone(),
    }
}

fn delivery_worker(
    config: &Config,
    store: &Arc<dyn Store>,
    egress: Egress,
    callbacks: Callbacks,
    exchanges: &Exchanges,
    clock: &Clock,
) -> delivery::Worker {
    let exchanges = exchanges.clone();
    let deliver = move |delivery: PluginDelivery| {
        let exchanges = exchanges.clone();
        let call: futures::future::BoxFuture<'static, _> =
            Box::pin(async move { exchanges.deliver(delivery).await });
        call
    };
    delivery::Worker {
        outbox: store.clone(),
        egress,
        callbacks,
        deliver: Arc::new(deliver),
        config: config.delivery.clone(),
        clock: clock.clone(),
        seed: rand::random(),
    }
}

async fn fold_metrics(metrics: Metrics, finish: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            () = finish.cancelled() => return,
            _ = ticks.tick() => metrics.upkeep(),
        }
    }
}
