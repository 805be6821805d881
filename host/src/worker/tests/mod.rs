//! What a worker makes of agents, leases, wishes and shutdowns. Time is virtual; the store is the real one.

mod agents;
mod leases;
mod pool;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Config, Lookup, Maintenance, RunnableAgent, Worker, maintain, run};
use crate::agents::{Agent, AgentSignal, AgentStream, Turn};
use crate::domain::{AgentEvent, Clock, ErrorType, Event, Kind, Position, TaskId, TaskRecord, TaskState};
use crate::filters::Filters;
use crate::hub::{Hub, Step};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{EventLog, Retention, Store, TaskQueue};
use crate::tasks::{AgentInfo, SubmitRequest, Tasks};

const SECOND: Duration = Duration::from_secs(1);

/// An agent that does what a test says.
struct Scripted<F>(F);

impl<F> fmt::Debug for Scripted<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

impl<F: Fn(Turn) -> AgentStream + Send + Sync> Agent for Scripted<F> {
    fn run(&self, turn: Turn) -> AgentStream {
        (self.0)(turn)
    }
}

fn chunk(text: &str) -> AgentSignal {
    AgentSignal::Event(AgentEvent::ResponseChunk { text: text.into() })
}

fn completed(text: &str) -> AgentSignal {
    AgentSignal::Event(AgentEvent::Completed {
        text: text.into(),
        messages: json!([{ "role": "assistant", "content": text }]),
        usage: Value::Null,
        finish_reason: "stop".into(),
    })
}

fn failed(error: &'static str) -> AgentSignal {
    AgentSignal::Event(AgentEvent::failed(ErrorType::AgentError, error))
}

fn other(kind: &str) -> AgentSignal {
    AgentSignal::Event(AgentEvent::Other { kind: kind.into(), data: Default::default() })
}

/// Says these things without a pause.
fn says(events: Vec<AgentSignal>) -> AgentStream {
    futures::stream::iter(events).boxed()
}

/// Says these things, then nothing more for ever.
fn hangs(events: Vec<AgentSignal>) -> AgentStream {
    futures::stream::iter(events).chain(futures::stream::pending()).boxed()
}

/// Becomes true when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A stream that tells when it is dropped.
fn watched(events: AgentStream, flag: &Arc<AtomicBool>) -> AgentStream {
    let guard = Dropped(Arc::clone(flag));
    let held = move |event| {
        let _held = &guard;
        event
    };
    events.map(held).boxed()
}

struct Gateway {
    _dir: TempDir,
    store: Arc<SqliteStore>,
    clock: Clock,
    hub: Hub,
    tasks: Tasks,
    worker: Worker,
    shutdown: CancellationToken,
    pool: Option<JoinHandle<()>>,
}

impl Gateway {
    fn new(agent: impl Fn(Turn) -> AgentStream + Send + Sync + 'static) -> Self {
        Self::with(agent, |_, _| {})
    }

    fn with(
        agent: impl Fn(Turn) -> AgentStream + Send + Sync + 'static,
        configure: impl FnOnce(&mut Config, &mut RunnableAgent),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(1_000_000);
        let options = Options { clock: clock.clone(), ..Options::default() };
        let store = Arc::new(SqliteStore::open(dir.path(), options).unwrap());
        let hub = Hub::new(store.clone(), Default::default());
        let info =
            |name: &str| AgentInfo { name: name.into(), summary: String::new(), default: name == "scripted" };
        let agents = vec![info("scripted"), info("gone")];
        let filters = Filters::none();
        let tasks = Tasks::new(store.clone(), hub.clone(), agents, filters.clone(), Default::default());
        let mut config = Config::default();
        let mut runnable = RunnableAgent {
            agent: Arc::new(Scripted(agent)),
            silence: Duration::from_secs(60),
            max_attempts: 3,
            retry_on_crash: true,
        };
        configure(&mut config, &mut runnable);
        let agents: Lookup = Arc::new(move |name| (name == "scripted").then(|| runnable.clone()));
        let worker = Worker {
            store: store.clone(),
            hub: hub.clone(),
            tasks: tasks.clone(),
            agents,
            filters,
            config,
            clock: clock.clone(),
        };
        Self { _dir: dir, store, clock, hub, tasks, worker, shutdown: CancellationToken::new(), pool: None }
    }

    fn start(&mut self) {
        self.pool = Some(tokio::spawn(run(self.worker.clone(), self.shutdown.clone())));
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        self.pool.take().unwrap().await.unwrap();
    }

    /// Lets the store's clock go with the virtual time.
    fn wind_clock(&self) {
        let clock = self.clock.clone();
        tokio::spawn(async move {
            loop {
                sleep(SECOND).await;
                clock.advance(SECOND);
            }
        });
    }

    async fn submit(&self, text: &str) -> TaskId {
        self.submit_to(None, None, text).await
    }

    async fn submit_to(&self, agent: Option<&str>, session: Option<&str>, text: &str) -> TaskId {
        let request = SubmitRequest {
            agent: agent.map(Into::into),
            session: session.map(Into::into),
            input: json!({ "kind": "message", "text": text }).to_string(),
            ..SubmitRequest::default()
        };
        self.tasks.submit("plug", request).await.unwrap().task
    }

    async fn record(&self, task: TaskId) -> TaskRecord {
        self.tasks.task(task).await.unwrap().unwrap()
    }

    /// All events of a task, heard live up to its end.
    async fn heard(&self, task: TaskId) -> Vec<Event> {
        let mut follower = self.hub.follow(task, Position::START);
        let mut entries = Vec::new();
        while follower.next(&mut entries, 100).await.unwrap() != Step::Ended {}
        entries.iter().map(|entry| Event::clone(entry.event())).collect()
    }

    async fn logged(&self, task: TaskId) -> Vec<Event> {
        self.store.probe().await.unwrap();
        let mut events: Vec<Event> = Vec::new();
        loop {
            let after = events.last().map_or(Position::START, |event| event.position);
            let more = self.store.read(task, after, 500).await.unwrap();
            if more.is_empty() {
                return events;
            }
            events.extend(more);
        }
    }

    /// The only terminal event of a task that ends, and its error type.
    async fn failure(&self, task: TaskId) -> (Event, String) {
        let events = self.heard(task).await;
        assert_eq!(events, self.logged(task).await);
        assert_eq!(events.iter().filter(|event| event.kind.is_terminal()).count(), 1);
        let end = events.into_iter().next_back().unwrap();
        assert_eq!(end.kind, Kind::Failed, "{end:?}");
        let data: Value = serde_json::from_str(&end.data).unwrap();
        (end, data["error_type"].as_str().unwrap().to_owned())
    }
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}
