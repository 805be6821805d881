//! The conformance suite over Redis, and what only this store promises.

use std::sync::Arc;

use super::super::Store;
use super::super::conformance::{Fixture, conformance_suite};
use super::server::Server;
use super::{Options, RedisStore};
use crate::domain::Clock;

conformance_suite!(Shared);

/// A Redis of its own, and one node.
struct Shared {
    server: Server,
    options: Options,
    store: Option<Arc<RedisStore>>,
}

impl Shared {
    async fn open(options: Options) -> Self {
        let server = Server::start(&[]);
        let options = Options { url: server.url(), ..options };
        let store = RedisStore::open(options.clone()).await.unwrap();
        Self { server, options, store: Some(Arc::new(store)) }
    }

    fn take(&mut self) -> RedisStore {
        Arc::into_inner(self.store.take().unwrap()).expect("another handle is in use")
    }

    async fn reopened(&mut self) {
        self.store = Some(Arc::new(RedisStore::open(self.options.clone()).await.unwrap()));
    }
}

impl Fixture for Shared {
    async fn new(queue_limit: u64) -> Self {
        let clock = Clock::manual(1_700_000_000_000);
        Self::open(Options { queue_limit, clock, ..Options::default() }).await
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    fn clock(&self) -> Clock {
        self.options.clock.clone()
    }

    async fn reopen(&mut self) {
        let store = self.take();
        store.close().await;
        drop(store);
        self.reopened().await;
    }

    async fn crash(&mut self) {
        drop(self.take());
        self.reopened().await;
    }
}

/// Two nodes on one Redis.
async fn two() -> (Server, RedisStore, RedisStore) {
    let server = Server::start(&[]);
    let options = Options { url: server.url(), ..Options::default() };
    let (a, b) = tokio::try_join!(RedisStore::open(options.clone()), RedisStore::open(options)).unwrap();
    (server, a, b)
}

#[tokio::test]
async fn rates_and_pauses_hold_over_all_nodes() {
    use std::time::Duration;

    use super::super::{Pace as _, Rate};

    let (_server, a, b) = two().await;
    let rate = |key: &str, count| Rate { key: key.into(), count, per: Duration::from_secs(60) };
    let both = [rate("chat", 2), rate("all", 100)];
    assert_eq!(a.reserve("bot", &both, Duration::ZERO).await.unwrap(), Some(Duration::ZERO));
    assert_eq!(b.reserve("bot", &both, Duration::ZERO).await.unwrap(), Some(Duration::ZERO));
    assert_eq!(a.reserve("bot", &both, Duration::from_secs(50)).await.unwrap(), None, "the window is full");
    assert_eq!(
        b.reserve("other", &both, Duration::ZERO).await.unwrap(),
        Some(Duration::ZERO),
        "of another owner"
    );
    let wait = b.reserve("bot", &both, Duration::from_secs(61)).await.unwrap().unwrap();
    assert!(wait > Duration::from_secs(55), "{wait:?}");
    let free = [rate("free", 5)];
    b.pause("bot", "free", Duration::from_secs(40)).await.unwrap();
    b.pause("bot", "free", Duration::from_secs(1)).await.unwrap();
    assert!(a.is_paused("bot", &free).await.unwrap() && !a.is_paused("bot", &both).await.unwrap());
    assert_eq!(a.reserve("bot", &free, Duration::from_secs(20)).await.unwrap(), None);
    let wait = a.reserve("bot", &free, Duration::from_secs(41)).await.unwrap().unwrap();
    assert!(wait > Duration::from_secs(35), "{wait:?}");
}
