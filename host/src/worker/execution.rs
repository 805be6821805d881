//! One run of one task: from `started` to its terminal event, or to the return of its lease.
//!
//! Every event of the agent passes the task's filters. What comes out is numbered first, then fanned out, then handed to
//! the log; the terminal one is logged before anyone sees it. An agent that is faster than the filters or the log waits
//! for them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use metrics::{counter, gauge, histogram};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{RunnableAgent, Worker};
use crate::agents::{AgentSignal, AgentStream, Turn};
use crate::domain::{
    AgentEvent, ErrorType, Event, HistoryMessage, Kind, Position, RawFrame, TaskInput, TaskState, back_off,
};
use crate::filters::{Broken, Chain, Draft};
use crate::hub::Publisher;
use crate::store::{Claim, StoreError};
use crate::tasks::{Beginning, Run, beginning, count_ended, failure};

/// Events that are fanned out before they are handed to the log together, at most.
const BURST: usize = 16;

/// How a run comes to its end.
enum Stop {
    /// By this event of its agent, which may have come as this frame, or of the gateway in its place.
    Ended(AgentEvent, Option<RawFrame>),
    /// By somebody's wish.
    Cancelled(String),
    /// By the shutdown: another run will end the task, if it may have one.
    Released,
}

/// Runs a claimed task. Returns when it has ended, was given back, or the lease turns out to be lost; dropping it stops
/// the agent and writes nothing.
pub(super) async fn execute(
    worker: &Worker,
    claim: &Claim,
    run: &Run,
    permit: OwnedSemaphorePermit,
    release: &CancellationToken,
) {
    let began = Instant::now();
    let _running = Running::new();
    let mut execution = Execution {
        worker,
        claim,
        publisher: worker.hub.publisher(claim.task.id),
        chain: None,
        seq: 0,
        unlogged: Vec::new(),
    };
    let agent = (worker.agents)(&claim.task.agent);
    let limits = agent.as_ref().map(RunnableAgent::limits);
    let stop = match (beginning(&claim.task, claim.cancel.as_deref(), limits), agent) {
        (Beginning::Run(input), Some(agent)) => execution.turn(agent, *input, run, release).await,
        (Beginning::Fail(event), _) => Stop::Ended(event, None),
        (Beginning::Cancel { reason }, _) => Stop::Cancelled(reason),
        (Beginning::Run(_), None) => Stop::Ended(execution.internal("the agent has gone"), None),
    };
    // The agent is done with: the next task may have its place while this one's end is being committed.
    drop(permit);
    let stop = match stop {
        Stop::Released if limits.is_some_and(|limits| !limits.retry_on_crash) && execution.has_started() => {
            let error = "the gateway stopped".to_owned();
            Stop::Ended(failure(&claim.task, ErrorType::Abandoned, error), None)
        }
        stop => stop,
    };
    execution.conclude(stop, began.elapsed()).await;
}

struct Execution<'a> {
    worker: &'a Worker,
    claim: &'a Claim,
    publisher: Publisher,
    /// The filters that the agent's events pass; none where the task has none, or nothing may pass any more.
    chain: Option<Chain>,
    /// Number of the last event of this run.
    seq: u64,
    /// Events that were fanned out and not yet handed to the log, in order.
    unlogged: Vec<Arc<Event>>,
}

impl Execution<'_> {
    /// Lets the agent do the turn.
    async fn turn(
        &mut self,
        agent: RunnableAgent,
        input: TaskInput,
        run: &Run,
        release: &CancellationToken,
    ) -> Stop {
        let mut asked = pin!(async {
            tokio::select! {
                biased;
                reason = run.interrupted() => Stop::Cancelled(reason.to_owned()),
                () = release.cancelled() => Stop::Released,
            }
        });
        let history = tokio::select! {
            biased;
            stop = &mut asked => return stop,
            history = self.history(&input) => history,
        };
        let task = &self.claim.task;
        let chain = tokio::select! {
            biased;
            stop = &mut asked => return stop,
            chain = self.worker.filters.begin(task) => chain,
        };
        match chain {
            Ok(chain) => self.chain = chain,
            Err(broken) => return Stop::Ended(self.unfiltered(&broken), None),
        }
        let data = json!({ "agent": task.agent, "attempt": task.attempt }).to_string();
        self.say(Kind::Started, data.into());
        let turn = Turn {
            task: task.id,
            session: task.session.clone(),
            attempt: task.attempt,
            input,
            document: task.input.clone(),
            history,
        };
        let mut events = begin(&agent, turn).ready_chunks(BURST);
        let limit = self.worker.config.task_deadline;
        let mut deadline = pin!(sleep(limit));
        let mut silence = pin!(sleep(agent.silence));
        let late = |task| {
            let error = format!("the task took longer than {}", humantime::format_duration(limit));
            Stop::Ended(failure(task, ErrorType::Deadline, error), None)
        };
        // What the agent said and the filters have not judged, and its end after that.
        let mut said = VecDeque::new();
        let mut end = None;
        loop {
            tokio::select! {
                biased;
                stop = &mut asked => return stop,
                () = self.log() => {}
            }
            if !said.is_empty() {
                tokio::select! {
                    biased;
                    stop = &mut asked => return stop,
                    () = &mut deadline => return late(&self.claim.task),
                    () = std::future::ready(()) => {}
                }
                match self.filter(said).await {
                    Ok(rest) => said = rest,
                    Err(broken) => return Stop::Ended(self.unfiltered(&broken), None),
                }
                silence.as_mut().reset(Instant::now() + agent.silence);
                continue;
            }
            if let Some(end) = end {
                return end;
            }
            tokio::select! {
                biased;
                stop = &mut asked => return stop,
                () = &mut deadline => return late(&self.claim.task),
                burst = events.next() => {
                    for heard in burst.unwrap_or_default() {
                        end = self.hear(heard, &mut said);
                        if end.is_some() {
                            break;
                        }
                    }
                    silence.as_mut().reset(Instant::now() + agent.silence);
                }
                () = &mut silence => {
                    let length = humantime::format_duration(agent.silence);
                    let error = format!("nothing heard from the agent for {length}");
                    return Stop::Ended(failure(&self.claim.task, ErrorType::AgentSilent, error), None);
                }
            }
        }
    }

    /// The turns before. A store that does not answer is asked again for as long as the lease is kept.
    async fn history(&self, input: &TaskInput) -> Vec<HistoryMessage> {
        let mut failures = 0;
        loop {
            match self.worker.tasks.history(&self.claim.task, input).await {
                Ok(history) => return history,
                Err(StoreError::Corrupt(error)) => {
                    warn!(error, "the turns before can't be read, the agent is told of none");
                    return Vec::new();
                }
                Err(_) => {
                    failures += 1;
                    sleep(back_off(failures)).await;
                }
            }
        }
    }

    /// Takes a signal of the agent; some: that was the end. What is to be filtered is added to `said`.
    fn hear(&mut self, heard: Heard, said: &mut VecDeque<Draft>) -> Option<Stop> {
        let (event, frame) = match heard {
            Heard::Signal(AgentSignal::Event(event)) => (event, None),
            Heard::Signal(AgentSignal::Framed(event, frame)) => (event, Some(frame)),
            Heard::Signal(AgentSignal::Alive) => return None,
            Heard::Nothing => {
                return Some(Stop::Ended(self.internal("the agent ended without a result"), None));
            }
            Heard::Panic => return Some(Stop::Ended(self.internal("the agent panicked"), None)),
        };
        match (&event, event.kind()) {
            (AgentEvent::Completed { .. } | AgentEvent::Failed { .. }, _) => Some(Stop::Ended(event, frame)),
            (_, kind) if kind == Kind::Started || kind.is_terminal() => {
                debug!(%kind, "an agent can't report this");
                None
            }
            (_, kind) if self.chain.is_some() => {
                let data = data(&event, frame.as_ref()).into();
                said.push_back(Draft { kind: kind.as_str().to_owned(), data });
                None
            }
            (_, kind) => {
                self.say(kind, data(&event, frame.as_ref()));
                None
            }
        }
    }

    /// Lets what the agent said pass the filters, and says what comes out. Returns what they have not come to yet.
    async fn filter(&mut self, said: VecDeque<Draft>) -> Result<VecDeque<Draft>, Broken> {
        let Some(chain) = &mut self.chain else { return Ok(VecDeque::new()) };
        let passed = chain.pass(said).await;
        for draft in passed.events {
            self.say(Kind::from(draft.kind.as_str()), draft.data.into());
        }
        passed.broken.map_or(Ok(passed.rest), Err)
    }

    /// The terminal event as the filters leave it; what they let go of before it is said.
    async fn filter_end(&mut self, kind: Kind, data: Box<str>) -> (Kind, Box<str>) {
        let Some(chain) = &mut self.chain else { return (kind, data) };
        let end = Draft { kind: kind.as_str().to_owned(), data: data.into() };
        let mut passed = chain.pass(VecDeque::from([end])).await;
        // After a fault, what came out before the end is as good as ever; the end itself did not.
        let end = if passed.broken.is_none() { passed.events.pop() } else { None };
        for draft in passed.events {
            self.say(Kind::from(draft.kind.as_str()), draft.data.into());
        }
        self.log().await;
        match end {
            Some(end) => (Kind::from(end.kind.as_str()), end.data.into()),
            None => {
                let broken = passed.broken.unwrap_or(Broken { reason: "a filter failed".to_owned() });
                (Kind::Failed, self.unfiltered(&broken).data())
            }
        }
    }

    /// The end of a task whose events can't be filtered.
    fn unfiltered(&mut self, broken: &Broken) -> AgentEvent {
        self.chain = None;
        failure(&self.claim.task, ErrorType::Filter, broken.reason.clone())
    }

    /// Whether the agent was begun with.
    fn has_started(&self) -> bool {
        self.seq > 0
    }

    fn internal(&self, error: &str) -> AgentEvent {
        failure(&self.claim.task, ErrorType::Internal, error.into())
    }

    /// Numbers an event.
    fn number(&mut self, kind: Kind, data: Box<str>) -> Event {
        self.seq += 1;
        counter!("plugway_events_total", "kind" => label(&kind)).increment(1);
        let task = &self.claim.task;
        Event {
            task: task.id,
            session: task.session.clone(),
            position: Position { attempt: task.attempt, seq: self.seq },
            kind,
            at_ms: self.worker.clock.now_ms(),
            data,
        }
    }

    /// Numbers an event and shows it to everybody.
    fn say(&mut self, kind: Kind, data: Box<str>) {
        let event = Arc::new(self.number(kind, data));
        self.publisher.publish(Arc::clone(&event));
        self.unlogged.push(event);
    }

    /// Hands what was said to the log, waiting while that has too much already. Cancel safe: what was not taken stays.
    async fn log(&mut self) {
        let mut failures = 0;
        while !self.unlogged.is_empty() {
            if self.worker.store.append(self.unlogged.clone()).await.is_ok() {
                self.unlogged.clear();
                return;
            }
            failures += 1;
            sleep(back_off(failures)).await;
        }
    }

    /// Ends the task, or gives it back. Goes on trying for as long as the lease is kept.
    async fn conclude(mut self, stop: Stop, took: Duration) {
        self.log().await;
        let (kind, data) = match stop {
            Stop::Released => return self.give_back().await,
            Stop::Cancelled(reason) => (Kind::Cancelled, json!({ "reason": reason }).to_string().into()),
            Stop::Ended(event, frame) => {
                let failed = matches!(event, AgentEvent::Failed { .. });
                (if failed { Kind::Failed } else { Kind::Completed }, data(&event, frame.as_ref()))
            }
        };
        let (kind, data) = self.filter_end(kind, data).await;
        let (state, failed) = match kind {
            Kind::Cancelled => (TaskState::Cancelled, None),
            Kind::Failed => (TaskState::Failed, Some(Failed::read(&data))),
            _ => (TaskState::Completed, None),
        };
        let event = self.number(kind, data);
        let mut failures = 0;
        loop {
            match self.worker.store.finish(self.claim.lease, event.clone()).await {
                Ok(()) => break,
                Err(StoreError::LeaseLost) => {
                    warn!(
                        attempt = self.claim.task.attempt,
                        "the lease was lost before the end could be written"
                    );
                    return;
                }
                Err(error) => {
                    if failures == 0 {
                        warn!(%error, "the end can't be written yet");
                    }
                    failures += 1;
                    sleep(back_off(failures)).await;
                }
            }
        }
        self.publisher.publish(Arc::new(event));
        let agent = &self.claim.task.agent;
        count_ended(agent, state, failed.as_ref().map_or("", |failed| failed.error_type.as_str()));
        histogram!("plugway_task_seconds", "agent" => agent.clone()).record(took.as_secs_f64());
        let (attempt, state) = (self.claim.task.attempt, state.as_str());
        let seconds = took.as_secs_f64();
        match failed {
            // In the words that the filters left.
            Some(Failed { error_type, error }) => {
                warn!(attempt, state, error_type = error_type.as_str(), error, seconds, "task ended");
            }
            None => info!(attempt, state, seconds, "task ended"),
        }
    }

    async fn give_back(self) {
        match self.worker.store.release(self.claim.lease).await {
            Ok(()) => info!(attempt = self.claim.task.attempt, "task given back"),
            Err(error) => warn!(%error, "the task could not be given back"),
        }
    }
}

/// Why a task failed, as its last event says.
#[derive(serde::Deserialize)]
struct Failed {
    error_type: ErrorType,
    #[serde(default)]
    error: String,
}

impl Failed {
    fn read(data: &str) -> Self {
        serde_json::from_str(data)
            .unwrap_or_else(|_| Self { error_type: ErrorType::Internal, error: String::new() })
    }
}

/// What comes from an agent.
enum Heard {
    Signal(AgentSignal),
    /// The stream ended.
    Nothing,
    Panic,
}

/// Begins a turn. Whatever the agent does, the stream says how it ended.
fn begin(agent: &RunnableAgent, turn: Turn) -> stream::BoxStream<'static, Heard> {
    let begun: Result<AgentStream, _> = catch_unwind(AssertUnwindSafe(|| agent.agent.run(turn)));
    match begun {
        Ok(events) => AssertUnwindSafe(events)
            .catch_unwind()
            .map(|signal| signal.map_or(Heard::Panic, Heard::Signal))
            .chain(stream::once(async { Heard::Nothing }))
            .boxed(),
        Err(_) => stream::once(async { Heard::Panic }).boxed(),
    }
}

/// An event's data, with the agent's own frame where it came as one.
fn data(event: &AgentEvent, frame: Option<&RawFrame>) -> Box<str> {
    match frame {
        Some(frame) => event.data_with(frame),
        None => event.data(),
    }
}

/// A metric's label: agents may invent kinds, and a label must not grow with them.
fn label(kind: &Kind) -> &'static str {
    match kind {
        Kind::Started => "started",
        Kind::Thinking => "thinking",
        Kind::ToolStarted => "tool_started",
        Kind::ToolCompleted => "tool_completed",
        Kind::Progress => "progress",
        Kind::ResponseChunk => "response_chunk",
        Kind::Completed => "completed",
        Kind::Failed => "failed",
        Kind::Cancelled => "cancelled",
        Kind::Other(_) => "other",
    }
}

/// Counts a run for as long as it lasts.
struct Running;

impl Running {
    fn new() -> Self {
        gauge!("plugway_tasks_running").increment(1.0);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        gauge!("plugway_tasks_running").decrement(1.0);
    }
}
