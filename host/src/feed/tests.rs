//! The feed over a real Redis: several nodes, and what happens when one of them or Redis itself goes away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::domain::{AgentEvent, Clock, Cursor, ErrorType, Event, NewTask, Position, TaskId};
use crate::hub::Hub;
use crate::store::redis::testing::{DEADLINE, RedisServer, eventually};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{EventLog as _, TaskQueue as _};

fn config() -> FeedConfig {
    FeedConfig {
        redis_url: SecretRef::Unset,
        channels: ["channel:signals", "channel:reasoning", "channel:tool-events", "agent_events"]
            .map(Into::into)
            .into(),
        agent: String::new(),
        payload: ByteSize::kib(4),
        query: ByteSize::kib(16),
        log_events: 1_000,
        log_bytes: ByteSize::mib(16),
        heard: ByteSize::mib(64),
        ring_events: 100,
        ring_bytes: ByteSize::mib(4),
        cached_signals: 3,
        session_timeout: Duration::from_secs(300),
        idle_sessions: 100,
        lease: Duration::from_millis(600),
        connections_per_address: 0,
        requests_per_minute: 0,
    }
}

/// One store, as nodes share it.
struct Office {
    _dir: TempDir,
    store: Arc<SqliteStore>,
    hub: Hub,
}

fn office() -> Office {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(dir.path(), Options::default()).unwrap());
    let hub = Hub::new(store.clone(), Default::default());
    Office { _dir: dir, store, hub }
}

struct Node {
    feed: Feed,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Node {
    fn start(office: &Office, redis: Option<&RedisServer>, config: FeedConfig) -> Self {
        let parts = Parts {
            prefix: "test".into(),
            redis: redis.map(|redis| Secret::new(&redis.url()).unwrap()),
            hub: office.hub.clone(),
            store: office.store.clone(),
            clock: Clock::System,
        };
        let feed = Feed::new(config, parts).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(feed.clone().run(stop.clone()));
        Self { feed, stop, running }
    }

    async fn linked(office: &Office, redis: &RedisServer, config: FeedConfig) -> Self {
        let node = Self::start(office, Some(redis), config);
        node.is(RedisState::Connected).await;
        node
    }

    async fn is(&self, state: RedisState) {
        eventually(&format!("{state:?}"), async || self.feed.redis() == state).await;
    }

    async fn open(&self, wish: Wish) -> Client {
        let mut client = Client { follower: self.feed.open(wish).await.unwrap(), shown: Default::default() };
        assert_eq!(client.next().await.name, "session_start");
        client
    }

    async fn after(&self, id: &str) -> Client {
        self.open(Wish { place: Some(id.parse().unwrap()), ..Wish::default() }).await
    }

    /// Waits until it has everything up to this signal, which is the last one.
    async fn has_all_to(&self, redis: &RedisServer, last: u64) {
        let mut connection = redis.connection().await;
        let mut command = redis::cmd("XREVRANGE");
        command.arg("{test}:feed").arg("+").arg("-").arg("COUNT").arg(1);
        let end = Instant::now() + DEADLINE;
        loop {
            let log: Vec<(String, Vec<String>)> = command.query_async(&mut connection).await.unwrap();
            let logged = log.first().is_some_and(|(_, fields)| fields.contains(&signal(last)));
            if logged && self.feed.inner.ring.last() == log[0].0.parse().ok() {
                return;
            }
            assert!(Instant::now() < end, "not in time: signal {last} on every node");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// It dies: nothing is given back.
    fn kill(&self) {
        self.running.abort();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        self.running.abort();
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Shown {
    id: String,
    name: String,
    data: Value,
}

struct Client {
    follower: Follower,
    shown: std::collections::VecDeque<Shown>,
}

impl Client {
    /// The next event; marks without one are passed over.
    async fn next(&mut self) -> Shown {
        loop {
            if let Some(shown) = self.shown.pop_front() {
                return shown;
            }
            let mut frames = Vec::new();
            let waited = tokio::time::timeout(DEADLINE, self.follower.next(&mut frames)).await;
            waited.expect("an event in time");
            for frame in frames {
                let text = String::from_utf8(frame.payload().to_vec()).unwrap();
                let field = |name: &str| {
                    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
                };
                let name = field("event: ");
                if !name.is_empty() {
                    let data = serde_json::from_str(&field("data: ")).unwrap();
                    self.shown.push_back(Shown { id: field("id: "), name, data });
                }
            }
        }
    }

    /// The next signals' numbers, until the one given, and the last one's id. Nothing else may come.
    async fn signals_to(&mut self, last: u64) -> (Vec<u64>, String) {
        let mut numbers = Vec::new();
        loop {
            let Shown { id, name, data } = self.next().await;
            assert_eq!(name, "signal", "{data}");
            numbers.push(data["n"].as_u64().unwrap());
            if numbers.last() == Some(&last) {
                return (numbers, id);
            }
        }
    }
}

fn signal(n: u64) -> String {
    json!({ "n": n }).to_string()
}

async fn publish(redis: &RedisServer, numbers: impl IntoIterator<Item = u64>) {
    let mut connection = redis.connection().await;
    for n in numbers {
        redis::cmd("PUBLISH")
            .arg("channel:signals")
            .arg(signal(n))
            .exec_async(&mut connection)
            .await
            .unwrap();
    }
}

fn range(from: u64, to: u64) -> Vec<u64> {
    (from..=to).collect()
}

#[tokio::test]
async fn an_event_has_the_same_id_on_every_node_and_a_client_moves_between_them() {
    let (office, redis) = (office(), RedisServer::start());
    let first = Node::linked(&office, &redis, config()).await;
    let second = Node::linked(&office, &redis, config()).await;
    let (mut here, mut there) = (first.open(Wish::default()).await, second.open(Wish::default()).await);
    publish(&redis, 1..=5).await;
    for _ in 1..=5 {
        assert_eq!(here.next().await, there.next().await);
    }
    publish(&redis, 6..=9).await;
    let mut id = here.signals_to(7).await.1;
    drop(here);
    for round in 0..10 {
        let node = if round % 2 == 0 { &second } else { &first };
        let mut client = node.after(&id).await;
        let (from, to) = (8 + round * 3, 10 + round * 3);
        publish(&redis, from + 2..=to + 2).await;
        let (numbers, last) = client.signals_to(to).await;
        assert_eq!(numbers, range(from, to));
        id = last;
    }
}

#[tokio::test]
async fn who_fell_off_the_ring_reads_on_from_the_log_and_who_fell_off_that_is_told() {
    let (office, redis) = (office(), RedisServer::start());
    let settings = FeedConfig { ring_events: 5, log_events: 150, ..config() };
    let node = Node::linked(&office, &redis, settings.clone()).await;
    let mut client = node.open(Wish::default()).await;
    publish(&redis, 1..=2).await;
    let (_, id) = client.signals_to(1).await;
    publish(&redis, 3..=120).await;
    node.has_all_to(&redis, 120).await;
    // It has not taken anything meanwhile.
    assert_eq!(client.signals_to(120).await.0, range(2, 120));
    let mut back = node.after(&id).await;
    assert_eq!(back.signals_to(120).await.0, range(2, 120));
    // A node that has just come knows the log as well.
    let another = Node::linked(&office, &redis, settings).await;
    assert_eq!(another.after(&id).await.signals_to(120).await.0, range(2, 120));

    publish(&redis, 121..=300).await;
    node.has_all_to(&redis, 300).await;
    another.has_all_to(&redis, 300).await;
    assert_eq!(client.next().await.name, "gap", "the log keeps 150");
    assert_eq!(client.signals_to(300).await.0, range(151, 300));
    let mut late = another.after(&id).await;
    let gap = late.next().await;
    assert_eq!((&*gap.name, &gap.data["after"]), ("gap", &json!(id)));
    assert_eq!(late.signals_to(300).await.0, range(151, 300));
    // Coming back with the gap's own id brings no other gap.
    assert_eq!(node.after(&gap.id).await.signals_to(300).await.0, range(151, 300));
}

#[tokio::test]
async fn who_wants_to_see_the_same_stands_at_the_same_place_though_it_was_shown_nothing() {
    let (office, redis) = (office(), RedisServer::start());
    let node = Node::linked(&office, &redis, config()).await;
    let filter = Filter { agents: vec!["nobody".into()], ..Filter::default() };
    let wish = Wish { filter, ..Wish::default() };
    let early = node.open(wish.clone()).await.follower;
    let mut shared = early.broadcast();
    assert_eq!(early.standing(), Some(shared.standing()));
    publish(&redis, 1..=20).await;
    node.has_all_to(&redis, 20).await;
    let late = node.open(wish).await.follower;
    let mut frames = Vec::new();
    while Some(shared.standing()) != late.standing() {
        tokio::time::timeout(DEADLINE, shared.next(&mut frames)).await.expect("it moves");
    }
    assert!(frames.is_empty(), "{frames:?}");
}

#[tokio::test]
async fn while_redis_is_away_clients_stay_and_new_ones_get_the_last_signals() {
    let (office, mut redis) = (office(), RedisServer::start());
    let node = Node::linked(&office, &redis, config()).await;
    let mut stays = node.open(Wish::default()).await;
    publish(&redis, 1..=5).await;
    redis.publish("channel:reasoning", r#"{"step":1}"#).await;
    assert_eq!(stays.signals_to(5).await.0, range(1, 5));
    let reasoning = stays.next().await;
    assert_eq!(reasoning.name, "reasoning");
    redis.stop();
    node.is(RedisState::Disconnected).await;

    let mut new = node.open(Wish::default()).await;
    let (numbers, cached) = new.signals_to(5).await;
    assert_eq!(numbers, range(3, 5));
    // Who was here before goes on where it was.
    let mut back = node.after(&reasoning.id).await;
    let mut from_cached = node.after(&cached).await;
    assert_eq!(from_cached.next().await, reasoning);

    redis.start_again();
    node.is(RedisState::Connected).await;
    publish(&redis, 6..=8).await;
    for client in [&mut stays, &mut new, &mut back, &mut from_cached] {
        assert_eq!(client.signals_to(8).await.0, range(6, 8));
    }
    assert_eq!(node.after(&reasoning.id).await.signals_to(8).await.0, range(6, 8));
}

#[tokio::test]
async fn a_node_that_starts_without_redis_begins_when_it_is_there() {
    let (office, mut redis) = (office(), RedisServer::start());
    redis.stop();
    let node = Node::start(&office, Some(&redis), config());
    let mut client = node.open(Wish::default()).await;
    redis.start_again();
    node.is(RedisState::Connected).await;
    publish(&redis, 1..=3).await;
    assert_eq!(client.signals_to(3).await.0, range(1, 3));
}

#[tokio::test]
async fn when_the_writer_dies_nothing_that_was_published_is_lost() {
    let (office, redis) = (office(), RedisServer::start());
    let writer = Node::linked(&office, &redis, config()).await;
    publish(&redis, [0]).await;
    let mut there = writer.open(Wish::default()).await;
    eventually("the first node writes", async || writer.feed.inner.ring.last() > Some(FeedId::START)).await;
    drop(there);
    let other = Node::linked(&office, &redis, config()).await;
    let third = Node::linked(&office, &redis, config()).await;
    let (mut client, mut another) = (other.open(Wish::default()).await, third.open(Wish::default()).await);
    there = writer.open(Wish::default()).await;
    publish(&redis, 1..=20).await;
    there.signals_to(20).await;
    let publishing = publish(&redis, 21..=400);
    let killing = async {
        tokio::task::yield_now().await;
        writer.kill();
    };
    tokio::join!(publishing, killing);
    let (numbers, id) = client.signals_to(400).await;
    assert_eq!(numbers, range(1, 400));
    assert_eq!(another.signals_to(400).await, (range(1, 400), id));
}

#[tokio::test]
async fn a_writer_that_leaves_hands_over_at_once() {
    let (office, redis) = (office(), RedisServer::start());
    // Nobody could wait for such a lease to run out.
    let settings = FeedConfig { lease: DEADLINE * 4, ..config() };
    let writer = Node::linked(&office, &redis, settings.clone()).await;
    let mut there = writer.open(Wish::default()).await;
    publish(&redis, [1]).await;
    there.signals_to(1).await;
    let other = Node::linked(&office, &redis, settings).await;
    let mut client = other.open(Wish::default()).await;
    // It has heard that the lease is taken.
    publish(&redis, [2]).await;
    client.signals_to(2).await;
    eventually("the node waits for the lease", async || {
        let mut connection = redis.connection().await;
        let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
        clients.matches("cmd=pttl").count() == 1
    })
    .await;
    writer.stop.cancel();
    publish(&redis, 3..=4).await;
    assert_eq!(client.signals_to(4).await.0, range(3, 4));
}

#[tokio::test]
async fn a_flush_is_survived_and_told_to_those_who_come_back() {
    let (office, redis) = (office(), RedisServer::start());
    let node = Node::linked(&office, &redis, config()).await;
    let mut client = node.open(Wish::default()).await;
    publish(&redis, 1..=3).await;
    let (_, id) = client.signals_to(2).await;
    client.signals_to(3).await;
    let mut connection = redis.connection().await;
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    publish(&redis, 4..=6).await;
    let (numbers, last) = client.signals_to(6).await;
    assert_eq!(numbers, range(4, 6));
    // This node remembers; one that has just come does not.
    assert_eq!(node.after(&id).await.signals_to(6).await.0, range(3, 6));
    let another = Node::linked(&office, &redis, config()).await;
    let mut back = another.after(&id).await;
    assert_eq!(back.next().await.name, "gap");
    assert_eq!(back.signals_to(6).await, (range(4, 6), last));
}

#[tokio::test]
async fn ids_grow_though_the_servers_clock_went_back_while_the_log_was_lost() {
    let (office, redis) = (office(), RedisServer::start());
    let node = Node::linked(&office, &redis, config()).await;
    let mut client = node.open(Wish::default()).await;
    publish(&redis, [1]).await;
    client.signals_to(1).await;
    // As if it had been written by a server of another time.
    let mut connection = redis.connection().await;
    let mut command = redis::cmd("XADD");
    command.arg("{test}:feed").arg("9000000000000-0").arg(&["t", "signal", "a", "", "d", r#"{"n":2}"#]);
    command.exec_async(&mut connection).await.unwrap();
    let (_, id) = client.signals_to(2).await;
    assert_eq!(id, "9000000000000-0");
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    publish(&redis, [3]).await;
    let (numbers, id) = client.signals_to(3).await;
    assert_eq!(numbers, [3]);
    assert!(id.starts_with("9000000000000-"), "{id}");

    // Who comes with an id that the log has not come to is not left waiting for it.
    let mut ahead = node.after("9900000000000-0").await;
    assert_eq!(ahead.next().await.name, "gap");
    publish(&redis, [4]).await;
    assert_eq!(ahead.signals_to(4).await.0, [4]);
}

#[tokio::test]
async fn who_has_lost_the_lease_writes_nothing() {
    let redis = RedisServer::start();
    let (connection, keys) = (redis.connection().await, Keys::new("p"));
    let second = Duration::from_secs(60);
    let ask = async |token: &str| {
        log::ask(connection.clone(), keys.clone(), token.into(), second, FeedId::START).await.unwrap()
    };
    let write = async |token: &str| {
        let event = event::Published { kind: Type::Signal, agent: None, data: "{}".into() };
        log::write(connection.clone(), keys.clone(), token.into(), (10, 1 << 20), false, vec![event])
            .await
            .unwrap()
    };
    assert!(!write("one").await);
    assert!(matches!(ask("one").await, log::Asked::Taken { up_to: None }));
    assert!(write("one").await);
    assert!(matches!(ask("two").await, log::Asked::Held(left) if !left.is_zero()));
    assert!(!write("two").await);
    assert!(!log::release(connection.clone(), keys.clone(), "two".into()).await.unwrap());
    assert!(log::release(connection.clone(), keys.clone(), "one".into()).await.unwrap());
    assert!(matches!(ask("two").await, log::Asked::Taken { up_to: Some(_) }));
    assert!(!write("one").await && write("two").await);
    assert!(!log::renew(connection.clone(), keys.clone(), "one".into(), second).await.unwrap());
    let shape = log::shape(&mut connection.clone(), &keys).await.unwrap();
    assert!(shape.whole && shape.last == Some(shape.given) && shape.first < shape.last);
}

/// An event of about so many bytes.
fn large(n: u64, bytes: usize) -> String {
    json!({ "n": n, "text": "x".repeat(bytes) }).to_string()
}

#[tokio::test]
async fn a_burst_larger_than_the_ring_loses_nothing() {
    let (office, redis) = (office(), RedisServer::start());
    let settings = FeedConfig { ring_bytes: ByteSize::kib(64), payload: ByteSize::kib(64), ..config() };
    let node = Node::linked(&office, &redis, settings).await;
    let mut client = node.open(Wish::default()).await;
    let mut connection = redis.connection().await;
    let mut burst = redis::pipe();
    for n in 1..=500 {
        burst.cmd("PUBLISH").arg("channel:signals").arg(large(n, 20_000)).ignore();
    }
    burst.exec_async(&mut connection).await.unwrap();
    assert_eq!(client.signals_to(500).await.0, range(1, 500));
}

#[tokio::test]
async fn what_can_neither_be_written_nor_kept_is_told_as_a_gap_on_every_node() {
    let (office, redis) = (office(), RedisServer::start());
    let settings = FeedConfig { heard: ByteSize::kib(16), ..config() };
    let writer = Node::linked(&office, &redis, settings.clone()).await;
    let mut client = writer.open(Wish::default()).await;
    publish(&redis, [1]).await;
    let (_, id) = client.signals_to(1).await;
    let other = Node::linked(&office, &redis, settings).await;
    let mut there = other.open(Wish { filter: only(Type::Signal), ..Wish::default() }).await;
    let mut connection = redis.connection().await;
    let mut limit = async |bytes: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("maxmemory").arg(bytes).exec_async(&mut connection).await.unwrap();
    };
    limit("1").await;
    for n in 2..=40 {
        redis.publish("channel:signals", &large(n, 1_000)).await;
    }
    // Writes were tried after all of it was there to be heard.
    let before = refused(&redis).await;
    eventually("redis refuses more", async || refused(&redis).await >= before + 4).await;
    limit("0").await;
    let mut shown = Vec::new();
    loop {
        let (here, there) = (client.next().await, there.next().await);
        assert_eq!(here, there);
        if here.data["n"] == 40 {
            break;
        }
        shown.push(here.name);
    }
    assert_eq!(shown.iter().filter(|name| *name == "gap").count(), 1, "{shown:?}");
    assert!(shown.len() < 30, "{shown:?}");
    // Who comes back gets it from the log.
    let mut back = other.after(&id).await;
    for name in shown {
        assert_eq!(back.next().await.name, name);
    }
}

/// How often the server had no memory for a command.
async fn refused(redis: &RedisServer) -> u64 {
    let mut connection = redis.connection().await;
    let info: String = redis::cmd("INFO").arg("errorstats").query_async(&mut connection).await.unwrap();
    let count = info.lines().find_map(|line| line.strip_prefix("errorstat_OOM:count="));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

fn only(kind: Type) -> Filter {
    Filter { types: vec![kind], agents: Vec::new() }
}

#[tokio::test]
async fn who_takes_over_tells_what_it_could_not_keep() {
    let (office, redis) = (office(), RedisServer::start());
    let settings = FeedConfig { heard: ByteSize::kib(8), lease: Duration::from_secs(2), ..config() };
    let node = Node::linked(&office, &redis, settings).await;
    let mut client = node.open(Wish::default()).await;
    // Somebody who writes nothing has the lease.
    let mut connection = redis.connection().await;
    let mut command = redis::cmd("SET");
    command
        .arg("{test}:feed:lease")
        .arg("dead")
        .arg("PX")
        .arg(1_500)
        .exec_async(&mut connection)
        .await
        .unwrap();
    for n in 1..=30 {
        redis.publish("channel:signals", &large(n, 1_000)).await;
    }
    assert_eq!(client.next().await.name, "gap");
    let (numbers, _) = client.signals_to(30).await;
    assert_eq!(numbers, range(numbers[0], 30));
    assert!(numbers[0] > 1);
}

#[tokio::test]
async fn the_log_keeps_so_many_bytes_and_counts_what_it_has_not_counted() {
    let redis = RedisServer::start();
    let (mut connection, keys) = (redis.connection().await, Keys::new("p"));
    let write = async |bytes: usize, count: usize| {
        let event = event::Published { kind: Type::Signal, agent: None, data: large(1, bytes).into() };
        let (connection, keys) = (redis.connection().await, keys.clone());
        let events = vec![event; count];
        assert!(log::write(connection, keys, "one".into(), (1_000, 10_000), false, events).await.unwrap());
    };
    let length = async || {
        let mut connection = redis.connection().await;
        redis::cmd("XLEN").arg(&keys.log).query_async::<u64>(&mut connection).await.unwrap()
    };
    log::ask(connection.clone(), keys.clone(), "one".into(), Duration::from_secs(60), FeedId::START)
        .await
        .unwrap();
    write(900, 20).await;
    assert_eq!(length().await, 10);
    write(100, 20).await;
    let mixed = length().await;
    assert!(mixed > 20, "{mixed}");
    redis::cmd("DEL").arg(&keys.bytes).exec_async(&mut connection).await.unwrap();
    write(900, 20).await;
    assert_eq!(length().await, 10);
    write(20_000, 1).await;
    assert_eq!(length().await, 1, "one is always kept");
    write(900, 1).await;
    assert_eq!(length().await, 1);
    write(900, 8).await;
    assert_eq!(length().await, 9);
}

#[tokio::test]
async fn a_page_of_the_log_is_bounded_by_bytes() {
    let redis = RedisServer::start();
    let (mut connection, keys) = (redis.connection().await, Keys::new("p"));
    log::ask(connection.clone(), keys.clone(), "one".into(), Duration::from_secs(60), FeedId::START)
        .await
        .unwrap();
    for bytes in [300_000, 100_000, 100_000, 100_000, 10] {
        let event = event::Published { kind: Type::Signal, agent: None, data: large(1, bytes).into() };
        let write =
            log::write(connection.clone(), keys.clone(), "one".into(), (99, 1 << 30), false, vec![event]);
        assert!(write.await.unwrap());
    }
    let (mut pages, mut after) = (Vec::new(), FeedId::START);
    loop {
        let page = log::behind(&mut connection, &keys, after).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.id;
        pages.push(page.len());
    }
    assert_eq!(pages, [1, 2, 2]);
}

#[tokio::test]
async fn who_came_with_an_id_of_the_future_while_redis_was_away_sees_what_comes() {
    let (office, mut redis) = (office(), RedisServer::start());
    let node = Node::linked(&office, &redis, config()).await;
    let mut client = node.open(Wish::default()).await;
    publish(&redis, [1]).await;
    client.signals_to(1).await;
    redis.stop();
    node.is(RedisState::Disconnected).await;
    let mut ahead = node.after("9900000000000-0").await;
    redis.start_again();
    node.is(RedisState::Connected).await;
    assert_eq!(ahead.next().await.name, "gap");
    publish(&redis, [2]).await;
    assert_eq!(ahead.signals_to(2).await.0, [2]);
}

#[tokio::test]
async fn rubbish_is_passed_over() {
    let (office, redis) = (office(), RedisServer::start());
    let node = Node::linked(&office, &redis, config()).await;
    let mut client = node.open(Wish::default()).await;
    let large = format!(r#"{{"n":"{}"}}"#, "x".repeat(5_000));
    for payload in ["", "no JSON", "[1]", "{", r#"{"type":"dance"}"#, r#"{"type":7}"#, &large] {
        redis.publish("channel:signals", payload).await;
    }
    redis.publish("agent_events", "{}").await;
    let mut connection = redis.connection().await;
    let bytes = redis::cmd("PUBLISH")
        .arg("channel:signals")
        .arg(b"{\"n\":\"\xff\"}")
        .exec_async(&mut connection)
        .await;
    bytes.unwrap();
    redis.publish("channel:signals", "{\n\"n\":\r1}").await;
    // Neither does what a newer gateway may have written.
    for fields in [["t", "dance", "d", "{}"], ["x", "y", "z", "{}"]] {
        let mut command = redis::cmd("XADD");
        command.arg("{test}:feed").arg("*").arg(&fields).exec_async(&mut connection).await.unwrap();
    }
    publish(&redis, [2]).await;
    assert_eq!(client.signals_to(2).await.0, [1, 2]);
}

#[tokio::test]
async fn filters_choose_types_and_agents() {
    let (office, redis) = (office(), RedisServer::start());
    let node = Node::linked(&office, &redis, config()).await;
    let filter = |types: &[Type], agents: &[&str]| Wish {
        filter: Filter { types: types.into(), agents: agents.iter().map(|name| (*name).into()).collect() },
        ..Wish::default()
    };
    let mut all = node.open(Wish::default()).await;
    let mut reasoning = node.open(filter(&[Type::Reasoning], &[])).await;
    let mut alpha = node.open(filter(&[], &["alpha", "gamma"])).await;
    let mut both = node.open(filter(&[Type::Error, Type::Reasoning], &["alpha"])).await;
    for (channel, payload) in [
        ("channel:signals", r#"{"n":1,"agent_name":"alpha"}"#),
        ("channel:reasoning", r#"{"n":2,"agent_name":"beta"}"#),
        ("channel:reasoning", r#"{"n":3}"#),
        ("agent_events", r#"{"type":"error","agent_name":"beta","data":{"n":4,"agent_name":"alpha"}}"#),
    ] {
        redis.publish(channel, payload).await;
    }
    let numbers = async |client: &mut Client, count: usize| {
        let mut numbers = Vec::new();
        for _ in 0..count {
            numbers.push(client.next().await.data["n"].as_u64().unwrap());
        }
        numbers
    };
    assert_eq!(numbers(&mut all, 4).await, [1, 2, 3, 4]);
    assert_eq!(numbers(&mut reasoning, 2).await, [2, 3]);
    assert_eq!(numbers(&mut alpha, 2).await, [1, 4]);
    assert_eq!(numbers(&mut both, 1).await, [4]);
}

impl Office {
    async fn submit(&self, session: &SessionId) -> TaskId {
        let task = NewTask {
            id: TaskId::new(),
            adapter: String::new(),
            agent: "a".into(),
            session: session.clone(),
            input: r#"{"kind":"command","query":"q"}"#.into(),
            deliver: None,
            idempotency_key: None,
        };
        let task = self.store.submit(task).await.unwrap().task;
        self.hub.session_grew(session);
        task
    }

    /// Runs the task that is next: a thought, and a failure.
    async fn run(&self, thought: &str) {
        let claim = self.store.claim(1, Duration::from_secs(60)).await.unwrap().items.pop().unwrap();
        let publisher = self.hub.publisher(claim.task.id);
        let event = |seq: u64, event: &AgentEvent| Event {
            task: claim.task.id,
            session: claim.task.session.clone(),
            position: Position { attempt: claim.task.attempt, seq },
            kind: event.kind(),
            at_ms: 0,
            data: event.data(),
        };
        let started = AgentEvent::Other { kind: "started".into(), data: Default::default() };
        let thought = AgentEvent::Thinking { thought: thought.into(), step: None };
        for (seq, told) in [(1, started), (2, thought)] {
            let event = Arc::new(event(seq, &told));
            publisher.publish(Arc::clone(&event));
            self.store.append(vec![event]).await.unwrap();
        }
        let end = event(3, &AgentEvent::failed(ErrorType::AgentError, "no luck"));
        self.store.finish(claim.lease, end.clone()).await.unwrap();
        publisher.publish(Arc::new(end));
        publisher.end();
    }
}

fn named(name: &str) -> SessionId {
    SessionId::new("", name).unwrap()
}

async fn turn(client: &mut Client, task: TaskId, thought: &str) -> String {
    let reasoning = client.next().await;
    assert_eq!((&*reasoning.name, &reasoning.data["content"]), ("reasoning", &json!(thought)));
    assert_eq!(reasoning.data["signal_id"], task.request_id());
    let error = client.next().await;
    assert_eq!((&*error.name, &error.data["message"]), ("error", &json!("no luck")));
    error.id
}

#[tokio::test]
async fn a_session_shows_its_turns_between_the_feeds_events_and_its_ids_hold_both_places() {
    let (office, redis) = (office(), RedisServer::start());
    let node = Node::linked(&office, &redis, config()).await;
    let mut client = node.open(Wish::default()).await;
    let session = client.follower.session().clone();
    let mut stranger = node.open(Wish::default()).await;

    let first = office.submit(&session).await;
    office.run("one").await;
    let id = turn(&mut client, first, "one").await;
    publish(&redis, [1]).await;
    let (_, both) = client.signals_to(1).await;
    let second = office.submit(&session).await;
    office.run("two").await;
    turn(&mut client, second, "two").await;
    // Its first id and its last lead to the same session, wherever they are shown.
    let another = Node::linked(&office, &redis, config()).await;
    let mut back = another.after(&id).await;
    assert_eq!(back.follower.session(), &session);
    let mut shown = [back.next().await, back.next().await, back.next().await].map(|shown| shown.name);
    shown.sort();
    assert_eq!(shown, ["error", "reasoning", "signal"]);
    let mut back = another.after(&both).await;
    turn(&mut back, second, "two").await;
    publish(&redis, [2]).await;
    assert_eq!(stranger.signals_to(2).await.0, [1, 2]);
}

#[tokio::test]
async fn who_names_a_session_gets_its_recent_turns_and_who_comes_back_at_once_finds_it_again() {
    let (office, redis) = (office(), RedisServer::start());
    let node = Node::linked(&office, &redis, config()).await;
    let task = office.submit(&named("desk")).await;
    office.run("one").await;
    let mut client = node.open(Wish { session: Some(named("desk")), ..Wish::default() }).await;
    turn(&mut client, task, "one").await;

    let follower = node.feed.open(Wish::default()).await.unwrap();
    let mut client = Client { follower, shown: Default::default() };
    let start = client.next().await;
    let session = client.follower.session().clone();
    assert_eq!(start.data["session_id"], session.name());
    drop(client);
    let task = office.submit(&session).await;
    office.run("two").await;
    let mut back = node.after(&start.id).await;
    assert_eq!(back.follower.session(), &session);
    turn(&mut back, task, "two").await;
}

#[tokio::test]
async fn no_replay_goes_to_another_session() {
    let (office, redis) = (office(), RedisServer::start());
    let node = Node::linked(&office, &redis, config()).await;
    let task = office.submit(&named("theirs")).await;
    office.run("secret").await;
    let theirs = Cursor { task, position: Position::START };
    let unknown = Cursor { task: TaskId::new(), position: Position::START };
    let place = |said: SessionPlace| Some(Place { feed: None, session: Some(said) });
    let open = async |said: SessionPlace, session: Option<&str>, bound: bool| {
        let wish = Wish { session: session.map(named), place: place(said), bound, ..Wish::default() };
        node.feed.open(wish).await
    };
    let of_theirs = [SessionPlace::Said(theirs), SessionPlace::Named(named("theirs"))];
    for said in of_theirs {
        let refused = open(said.clone(), Some("mine"), false).await;
        assert!(matches!(refused, Err(OpenError::OtherStream)), "{said:?}");
    }
    let refused = open(SessionPlace::Named(named("theirs")), Some("mine"), true).await;
    assert!(matches!(refused, Err(OpenError::OtherStream)));
    // A place that is only too old is none of somebody else's. Whoever may see one session alone is not told which it is.
    for (cursor, bound) in [(unknown, true), (unknown, false), (theirs, true)] {
        let follower = open(SessionPlace::Said(cursor), Some("mine"), bound).await.unwrap();
        let mut old = Client { follower, shown: Default::default() };
        assert_eq!(old.follower.session(), &named("mine"));
        assert_eq!([old.next().await.name, old.next().await.name], ["session_start", "gap"]);
    }
    // A plugin's tasks are not the feed's.
    let plugins = SessionId::new("telegram", "7").unwrap();
    let task = office.submit(&plugins).await;
    let said = SessionPlace::Said(Cursor { task, position: Position::START });
    assert!(matches!(open(said, None, false).await, Err(OpenError::OtherStream)));
}

#[tokio::test]
async fn without_redis_in_the_configuration_sessions_are_shown_all_the_same() {
    let office = office();
    let node = Node::start(&office, None, config());
    assert_eq!(node.feed.redis(), RedisState::NotConfigured);
    let mut client = node.open(Wish::default()).await;
    let session = client.follower.session().clone();
    let task = office.submit(&session).await;
    office.run("one").await;
    let id = turn(&mut client, task, "one").await;
    drop(client);
    assert_eq!(node.feed.connections(), 0);
    let task = office.submit(&session).await;
    office.run("two").await;
    turn(&mut node.after(&id).await, task, "two").await;
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_being_shown() {
    let office = office();
    for url in ["http://user:s3cret@host", "redis://:s3cret@", "rediss://:s3cret@host"] {
        let parts = Parts {
            prefix: "test".into(),
            redis: Secret::new(url),
            hub: office.hub.clone(),
            store: office.store.clone(),
            clock: Clock::System,
        };
        if let Err(error) = Feed::new(config(), parts) {
            let error = error.to_string();
            assert!(error.starts_with("feed.redis_url: ") && !error.contains("s3cret"), "{error}");
        } else {
            assert!(url.starts_with("rediss://"), "{url}");
        }
    }
}
