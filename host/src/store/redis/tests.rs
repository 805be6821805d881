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
