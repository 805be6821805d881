//! Tasks that a store accepts per second from 64 clients in this process, without a gateway around it: Redis, which puts
//! them on the disk each time or once a second, and SQLite on the same disk.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use plugway::domain::{NewTask, SessionId, TaskId};
use plugway::store::Store;
use plugway::store::redis::{Options as RedisOptions, RedisStore};
use plugway::store::sqlite::{Options as SqliteOptions, SqliteStore};
use plugway_figures::report::Row;
use plugway_figures::statistics::median;
use tokio::task::JoinSet;

use crate::workshop::Workshop;

const ROUNDS: usize = 5;
const LENGTH: Duration = Duration::from_secs(2);
const CLIENTS: usize = 64;
const QUEUE: u64 = 100_000_000;

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let home = tempfile::tempdir()?;
    let (always, each_second) =
        (Redis::start(home.path(), "always")?, Redis::start(home.path(), "everysec")?);
    let options = SqliteOptions { queue_limit: QUEUE, ..SqliteOptions::default() };
    let stores: [Arc<dyn Store>; 3] = [
        Arc::new(always.open().await?),
        Arc::new(each_second.open().await?),
        Arc::new(SqliteStore::open(&home.path().join("sqlite"), options)?),
    ];
    let length = workshop.length(LENGTH);
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..workshop.rounds(ROUNDS) {
        for (store, rates) in stores.iter().zip(&mut rates) {
            rates.push(round(store, length).await?);
        }
    }
    for store in &stores {
        store.close().await;
    }
    let [always, each_second, sqlite] = rates.map(|rates| format!("{:.0}/s", median(&rates)));
    Ok(vec![
        Row::new("accepts by the store alone, 64 clients: Redis, synced each time", always, "≥ 10,000/s"),
        Row::new("  Redis, synced once a second", each_second, "≥ 10,000/s"),
        Row::new("  SQLite", sqlite, ""),
    ])
}

/// Accepts per second.
async fn round(store: &Arc<dyn Store>, length: Duration) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let store = Arc::clone(store);
        clients.spawn(async move {
            let mut accepted = 0_u32;
            while began.elapsed() < length {
                let task = NewTask {
                    id: TaskId::new(),
                    adapter: "bench".into(),
                    agent: "echo".into(),
                    session: SessionId::new("bench", &format!("{client}-{}", accepted % 100))?,
                    input: r#"{"kind":"message","text":"What is the weather like in the mountains?"}"#.into(),
                    deliver: None,
                    idempotency_key: None,
                };
                ensure!(!store.submit(task).await?.duplicate, "a new task was known");
                accepted += 1;
            }
            anyhow::Ok(accepted)
        });
    }
    let mut accepted = 0;
    while let Some(client) = clients.join_next().await {
        accepted += client??;
    }
    Ok(f64::from(accepted) / began.elapsed().as_secs_f64())
}

/// A Redis on a unix socket, which ends with the measurement.
struct Redis {
    child: Child,
    url: String,
}

impl Redis {
    fn start(home: &Path, sync: &str) -> anyhow::Result<Self> {
        let dir = home.join(sync);
        std::fs::create_dir(&dir)?;
        let child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", sync, "--auto-aof-rewrite-percentage", "0"])
            .current_dir(&dir)
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server can't be started; apt-get install redis-server")?;
        Ok(Self { child, url: format!("unix://{}", dir.join("redis.sock").display()) })
    }

    async fn open(&self) -> anyhow::Result<RedisStore> {
        let options = RedisOptions { url: self.url.clone(), queue_limit: QUEUE, ..RedisOptions::default() };
        Ok(RedisStore::open(options).await?)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
