//! Opening the store: connecting, and looking at how Redis is set up.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use redis::{Client, IntoConnectionInfo as _, ProtocolVersion, Value};
use tracing::warn;

use super::super::StoreError;
use super::appender::Appender;
use super::failure::Failure;
use super::link::{Again, Link};
use super::queue::Claims;
use super::reply::{Fields, Words};
use super::subscriber::Subscriber;
use super::{Line, Options, Ready, RedisStore, background};

/// Version of the keys; what Redis holds has its own in `meta`.
const FORMAT: u32 = 1;

impl RedisStore {
    /// Connects to Redis, and looks whether it can hold what the store puts there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the URL is none, Redis was not reached within `connect_timeout`, does not let the
    /// user in, or is too old. [`StoreError::Corrupt`]: a newer gateway has written there.
    pub async fn open(options: Options) -> Result<Self, StoreError> {
        let client = client(&options.url)?;
        let link = Link::open(client, options.timeout, options.connect_timeout).await?;
        let at = Arc::clone(link.at());
        match link.read(&examination()).await {
            Ok(answers) => examine(&at, answers),
            // Who may not ask is not told.
            Err(Failure::Refused { .. }) => {}
            Err(failure) => return Err(failure.into()),
        }

        let (stop, guard) = background();
        let line = Arc::new(Line {
            base: format!("{{{}}}", options.prefix),
            steady: options.clock.steady(),
            clock: options.clock,
            ready: Ready::default(),
            link,
        });
        check_format(&line).await?;
        line.ready.wake(3);
        tokio::spawn(line.link.clone().keep(stop.clone()));
        let appender =
            Appender::start(Arc::clone(&line), options.log_events, options.pending_bytes, stop.clone());
        let subscriber = Subscriber::start(Arc::clone(&line), options.notice_bytes, stop);
        Ok(Self {
            line,
            appender,
            subscriber,
            queue_limit: options.queue_limit,
            claims: Claims::new(),
            deliveries: Claims::new(),
            unsure: Mutex::new(HashSet::new()),
            _background: guard,
        })
    }
}

/// Checks a URL without connecting.
///
/// # Errors
/// A sentence without the URL, which may hold a password.
pub fn check_url(url: &str) -> Result<(), StoreError> {
    client(url).map(drop)
}

fn client(url: &str) -> Result<Client, StoreError> {
    let wrong = |why: &str| {
        let wanted = "redis://[user:password@]host[:port][/database], rediss://… or unix:///path";
        StoreError::Unavailable(format!("store.url is not usable: {why}; it has to be {wanted}").into())
    };
    let info = url.into_connection_info().map_err(|error| wrong(&error.to_string()))?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    Client::open(info.set_redis_settings(settings)).map_err(|error| wrong(&error.to_string()))
}

fn examination() -> redis::Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.cmd("CONFIG").arg("GET").arg("save").arg("appendonly").arg("maxmemory-policy");
    pipeline
}

/// Warns of settings by which Redis loses what it was given.
fn examine(at: &Arc<str>, answers: Vec<Value>) {
    let config = answers.into_iter().next().map(Fields::of);
    let Some(Ok(Some(mut config))) = config else { return };
    let is = |setting: Option<String>, value: &str| setting.is_some_and(|setting| setting == value);
    if is(config.maybe("appendonly"), "no") {
        if is(config.maybe("save"), "") {
            warn!(redis = %at, "redis keeps nothing on disk: what was accepted is gone when it restarts; set appendonly yes");
        } else {
            warn!(redis = %at, "redis keeps snapshots alone: what was accepted since the last one is gone when it dies; set appendonly yes");
        }
    }
    let policy = config.maybe("maxmemory-policy").unwrap_or_default();
    if !policy.is_empty() && policy != "noeviction" {
        warn!(
            redis = %at,
            %policy,
            "redis may throw tasks away when its memory is full; set maxmemory-policy noeviction"
        );
    }
}

/// Refuses what a newer gateway has written, and marks what is new.
async fn check_format(line: &Line) -> Result<(), StoreError> {
    let meta = format!("{}:meta", line.base);
    let mut pipeline = redis::pipe();
    pipeline.cmd("HGET").arg(&meta).arg("format");
    let found = line.read(&pipeline).await?;
    let found: Option<u32> = line.understood(|| Words::of(Value::Array(found.collect()))?.maybe_number())?;
    match found {
        Some(found) if found > FORMAT => Err(StoreError::Corrupt(format!(
            "written by a newer plugway (keys of version {found}, this one knows {FORMAT}); give this one another store.prefix"
        ))),
        Some(_) => Ok(()),
        None => {
            let mut mark = redis::cmd("HSETNX");
            mark.arg(&meta).arg("format").arg(FORMAT);
            match line.link.call(&mark, Again::Yes, true).await {
                // One that is full for now is marked by whoever comes next.
                Ok(_) | Err(Failure::Refused { .. }) => Ok(()),
                Err(failure) => Err(failure.into()),
            }
        }
    }
}
