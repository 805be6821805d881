//! One run of one task: from `started` to its terminal event, or to the return of its lease.
//!
//! Every event is numbered first, then fanned out, then handed to the log; the terminal one is logged before anyone
//! sees it. An agent that is faster than the log waits for it.

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
        loop {
            tokio::select! {
                biased;
                stop = &mut asked => return stop,
                () = self.log() => {}
            }
            tokio::select! {
                biased;
                stop = &mut asked => return stop,
                () = &mut deadline => {
                    let error = format!("the task took longer than {}", humantime::format_duration(limit));
                    return Stop::Ended(failure(&self.claim.task, ErrorType::Deadline, error), None);
                }
                burst = events.next() => {
                    for event in burst.unwrap_or_default() {
                        if let Some(end) = self.hear(event) {
                            return end;
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

    /// Takes a signal of the agent; some: that was the end.
    fn hear(&mut self, heard: Heard) -> Option<Stop> {
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
            (_, kind) => {
                self.say(kind, data(&event, frame.as_ref()));
                None
            }
        }
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
        let (kind, data, state, error_type) = match stop {
            Stop::Released => return self.give_back().await,
            Stop::Cancelled(reason) => {
                let data = json!({ "reason": reason }).to_string().into();
                (Kind::Cancelled, data, TaskState::Cancelled, "")
            }
            Stop::Ended(event, frame) => {
                let data = data(&event, frame.as_ref());
                match event {
                    AgentEvent::Failed { error_type, .. } => {
                        (Kind::Failed, data, TaskState::Failed, error_type.as_str())
                    }
                    _ => (Kind::Completed, data, TaskState::Completed, ""),
                }
            }
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
        count_ended(agent, state, error_type);
        histogram!("plugway_task_seconds", "agent" => agent.clone()).record(took.as_secs_f64());
        let (attempt, state) = (self.claim.task.attempt, state.as_str());
        info!(attempt, state, error_type, seconds = took.as_secs_f64(), "task ended");
    }

    async fn give_back(self) {
        match self.worker.store.release(self.claim.lease).await {
            Ok(()) => info!(attempt = self.claim.task.attempt, "task given back"),
            Err(error) => warn!(%error, "the task could not be given back"),
        }
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
