//! The conformance suite over Redis, and what only this store promises.

mod nodes;
mod trouble;

use std::sync::Arc;

use super::super::conformance::{Fixture, conformance_suite, session, task};
use super::super::{Claim, Kv, NewWebhook, Store};
use super::testing::{RedisServer, eventually};
use super::{Options, RedisStore};
use crate::domain::{Clock, DeliveryOrder, Event, Kind, Moment, NewTask, Position};

conformance_suite!(Shared);

/// A Redis of its own, and one node.
struct Shared {
    _server: RedisServer,
    options: Options,
    store: Option<Arc<RedisStore>>,
}

impl Shared {
    async fn open(options: Options) -> Self {
        let server = RedisServer::start();
        let options = Options { url: server.url(), ..options };
        let store = RedisStore::open(options.clone()).await.unwrap();
        Self { _server: server, options, store: Some(Arc::new(store)) }
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

fn options(server: &RedisServer) -> Options {
    Options { url: server.url(), ..Options::default() }
}

async fn node(server: &RedisServer) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(options(server)).await.unwrap())
}

fn event(claim: &Claim, seq: u64, kind: Kind) -> Event {
    Event {
        task: claim.task.id,
        session: claim.task.session.clone(),
        position: Position { attempt: claim.task.attempt, seq },
        kind,
        at_ms: 1_000 + seq,
        data: format!(r#"{{"text":"grüße {seq}"}}"#).into(),
    }
}

fn webhook(key: &str) -> NewWebhook {
    let (owner, url, origin) = ("plug".into(), "https://example.org/x".into(), "https://example.org".into());
    NewWebhook { owner, key: key.into(), url, origin, lane: key.into(), body: "{}".into() }
}
