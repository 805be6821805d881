//! The scripted agent: what it will say, and the log that this becomes.

use super::state::{Follow, State};
use crate::{
    ids::{SessionId, TaskId},
    sys::{millis64, raw},
    task::Moment,
};
use serde_json::{Value, json};
use std::time::Duration;

/// A task that an adapter submitted.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Submission {
    /// The id that it got.
    pub task: TaskId,
    /// Its session.
    pub session: SessionId,
    /// Agent that it named.
    pub agent: Option<String>,
    /// The input document.
    pub input: Value,
    /// The same, as it was written.
    pub document: String,
    /// When and where to deliver.
    pub deliver: Option<(Moment, Value)>,
    /// Its idempotency key.
    pub idempotency_key: Option<String>,
}

impl Submission {
    /// The text of a message; empty for other inputs.
    pub fn text(&self) -> &str {
        self.input["text"].as_str().unwrap_or_default()
    }
}

/// What the agent says about one task, and when.
///
/// ```
/// # use plugway_sdk::mock::Script;
/// # use std::time::Duration;
/// Script::new()
///     .started()
///     .thinking("let me see")
///     .every(Duration::from_millis(100))
///     .chunks(["Good ", "morn"])
///     .restart()                       // the worker died: a second attempt voids the first
///     .chunks(["Good ", "evening"])
///     .completed("Good evening");
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Script {
    steps: Vec<Step>,
    pace: Duration,
    pause: Duration,
    attempt: u32,
    lost_left: usize,
}

#[derive(Debug, Clone)]
struct Step {
    delay: Duration,
    attempt: u32,
    kind: String,
    data: Value,
    lost: bool,
}

impl Script {
    /// An agent that says nothing, for ever.
    pub fn new() -> Self {
        Self { attempt: 1, ..Self::default() }
    }

    /// The ordinary course: starts, says the chunks, and completes with all of them.
    pub fn reply<T: AsRef<str>>(chunks: impl IntoIterator<Item = T>) -> Self {
        let chunks: Vec<String> = chunks.into_iter().map(|chunk| chunk.as_ref().to_owned()).collect();
        Self::new().started().chunks(&chunks).completed(&chunks.concat())
    }

    /// From now on this much time passes before each event.
    pub fn every(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// This much time passes before the next event.
    pub fn wait(mut self, pause: Duration) -> Self {
        self.pause += pause;
        self
    }

    /// The next events are lost: in their place there is a gap.
    pub fn lost(mut self, events: usize) -> Self {
        self.lost_left = events;
        self
    }

    /// Any event.
    pub fn event(mut self, kind: &str, data: Value) -> Self {
        let delay = self.pace + std::mem::take(&mut self.pause);
        let lost = self.lost_left > 0;
        self.lost_left = self.lost_left.saturating_sub(1);
        self.steps.push(Step { delay, attempt: self.attempt, kind: kind.to_owned(), data, lost });
        self
    }

    /// `started`.
    pub fn started(self) -> Self {
        let attempt = self.attempt;
        self.event("started", json!({"agent": "mock", "attempt": attempt}))
    }

    /// The run dies, and the next one starts.
    pub fn restart(mut self) -> Self {
        self.attempt += 1;
        self.started()
    }

    /// `thinking`.
    pub fn thinking(self, thought: &str) -> Self {
        self.event("thinking", json!({"thought": thought}))
    }

    /// A `response_chunk` each.
    pub fn chunks<T: AsRef<str>>(self, chunks: impl IntoIterator<Item = T>) -> Self {
        chunks
            .into_iter()
            .fold(self, |script, chunk| script.event("response_chunk", json!({"text": chunk.as_ref()})))
    }

    /// `completed` with the whole answer.
    pub fn completed(self, text: &str) -> Self {
        self.event("completed", json!({"text": text, "messages": [], "usage": null, "finish_reason": "stop"}))
    }

    /// `failed`.
    pub fn failed(self, error: &str, error_type: &str) -> Self {
        let data = json!({"error": error, "error_type": error_type, "recoverable": false, "retry_count": 0});
        self.event("failed", data)
    }

    /// `cancelled`.
    pub fn cancelled(self, reason: &str) -> Self {
        self.event("cancelled", json!({"reason": reason}))
    }

    /// The default agent: the words of the text, white space kept.
    pub(super) fn echo(text: &str) -> Self {
        Self::reply(text.split_inclusive(' '))
    }

    /// The log of a turn that has not begun.
    pub(super) fn into_log(self, task: &str, session: &str, now_ms: u64) -> TaskLog {
        let (mut at_ms, mut attempt, mut seq) = (NEVER, 0, 0);
        let events = self.steps.into_iter().map(|step| {
            at_ms += millis64(step.delay);
            if step.attempt > attempt {
                (attempt, seq) = (step.attempt, 0);
            }
            seq += 1;
            let event = raw::types::Event {
                task: task.to_owned(),
                session: session.to_owned(),
                attempt,
                seq,
                cursor: format!("{task}.{attempt}.{seq}"),
                kind: step.kind,
                at_ms,
                data: step.data.to_string(),
            };
            Logged { event, lost: step.lost }
        });
        TaskLog {
            session: session.to_owned(),
            submitted_ms: now_ms,
            begins_ms: NEVER,
            events: events.collect(),
        }
    }
}

/// Later than everything that happens.
const NEVER: u64 = u64::MAX / 4;

/// Turns of one session run one after the other: each begins once it is submitted and the one before it has ended.
pub(super) fn schedule(state: &mut State, session: &str) {
    let (now_ms, mut free_ms) = (state.now_ms, 0);
    let turns = state.submissions.iter().filter(|turn| turn.session == *session);
    for turn in turns {
        let Some(log) = state.tasks.get_mut(turn.task.as_str()) else { continue };
        log.begin(log.submitted_ms.max(free_ms), now_ms);
        free_ms = log.ended_ms();
    }
}

/// Everything that will have been said about a task; what lies in the future has not happened yet.
pub(super) struct TaskLog {
    pub(super) session: String,
    submitted_ms: u64,
    /// [`NEVER`] while a turn before it has no end.
    begins_ms: u64,
    events: Vec<Logged>,
}

struct Logged {
    event: raw::types::Event,
    lost: bool,
}

fn terminal(event: &raw::types::Event) -> bool {
    matches!(event.kind.as_str(), "completed" | "failed" | "cancelled")
}

impl TaskLog {
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.last().is_some_and(|last| last.event.kind == "cancelled")
    }

    /// How it stands at a time, as a document.
    pub(super) fn describe(&self, task: &str, now_ms: u64) -> Value {
        let last = self.events.iter().take_while(|logged| logged.event.at_ms <= now_ms).last();
        let state = match last.map(|logged| logged.event.kind.as_str()) {
            None => "queued",
            Some(kind @ ("completed" | "failed" | "cancelled")) => kind,
            Some(_) => "running",
        };
        let result = last.filter(|logged| terminal(&logged.event));
        let result = result.and_then(|logged| serde_json::from_str::<Value>(&logged.event.data).ok());
        json!({"task_id": task, "session_id": self.session, "state": state, "result": result,
               "attempt": last.map_or(0, |logged| logged.event.attempt)})
    }

    /// Moves it to where it begins, unless it has begun.
    fn begin(&mut self, begins_ms: u64, now_ms: u64) {
        if self.begins_ms > now_ms {
            for logged in &mut self.events {
                logged.event.at_ms = logged.event.at_ms - self.begins_ms + begins_ms;
            }
            self.begins_ms = begins_ms;
        }
    }

    /// When the next turn may begin.
    fn ended_ms(&self) -> u64 {
        let last = self.events.last().filter(|last| terminal(&last.event));
        last.map_or(NEVER, |last| last.event.at_ms)
    }

    /// Cuts off what has not happened yet. False if it had ended.
    pub(super) fn cancel(&mut self, task: &str, now_ms: u64) -> bool {
        let happened = self.happened(now_ms);
        if self.events[..happened].last().is_some_and(|last| terminal(&last.event)) {
            return false;
        }
        self.events.truncate(happened);
        self.begins_ms = self.begins_ms.min(now_ms);
        let (attempt, seq) =
            self.events.last().map_or((1, 1), |last| (last.event.attempt, last.event.seq + 1));
        let event = raw::types::Event {
            task: task.to_owned(),
            session: self.session.clone(),
            attempt,
            seq,
            cursor: format!("{task}.{attempt}.{seq}"),
            kind: "cancelled".to_owned(),
            at_ms: now_ms,
            data: json!({"reason": "cancelled"}).to_string(),
        };
        self.events.push(Logged { event, lost: false });
        true
    }

    /// How many of its events have happened.
    pub(super) fn happened(&self, now_ms: u64) -> usize {
        self.events.iter().take_while(|logged| logged.event.at_ms <= now_ms).count()
    }

    /// Where a reader starts: after its cursor, or at the beginning of the present run if the cursor's run was voided.
    pub(super) fn start(&self, after: Option<&str>, now_ms: u64) -> usize {
        let happened = self.events.iter().take_while(|logged| logged.event.at_ms <= now_ms);
        let run = happened.last().map_or(0, |last| last.event.attempt);
        let begin = self.events.iter().position(|logged| logged.event.attempt >= run).unwrap_or(0);
        let known =
            after.and_then(|cursor| self.events.iter().position(|logged| logged.event.cursor == cursor));
        known.map_or(begin, |at| (at + 1).max(begin))
    }

    /// When the follower's next message is due.
    pub(super) fn due_ms(&self, follow: &Follow) -> Option<u64> {
        match self.events.get(follow.next) {
            Some(logged) => Some(logged.event.at_ms).filter(|at_ms| *at_ms < NEVER),
            None => {
                let last = self.events.last().filter(|last| terminal(&last.event))?;
                (!follow.ended && !follow.of_session).then_some(last.event.at_ms)
            }
        }
    }

    /// The follower's next message, which is due.
    pub(super) fn read(&self, follow: &mut Follow) -> raw::mailbox::Message {
        let Some(logged) = self.events.get(follow.next) else {
            follow.ended = true;
            return raw::mailbox::Message::Ended(follow.task.clone());
        };
        if !logged.lost {
            follow.next += 1;
            return raw::mailbox::Message::Event(logged.event.clone());
        }
        follow.next += self.events[follow.next..].iter().take_while(|logged| logged.lost).count();
        let last = &self.events[follow.next - 1];
        raw::mailbox::Message::Gap(raw::mailbox::Gap {
            task: follow.task.clone(),
            first: logged.event.seq,
            last: last.event.seq,
        })
    }
}

/// The next message of the exchange that is due by `until_ms`, and when it came.
pub(super) fn next_message(state: &mut State, until_ms: u64) -> Option<(u64, raw::mailbox::Message)> {
    let State { tasks, exchange, .. } = state;
    if let (Some((at_ms, reason)), true) = (exchange.closed, exchange.closed_told) {
        return Some((at_ms, raw::mailbox::Message::Closed(reason)));
    }
    let due = exchange.follows.iter_mut().filter_map(|follow| {
        let log = tasks.get(&follow.task)?;
        Some((log.due_ms(follow)?, log, follow))
    });
    let due = due.min_by_key(|(at_ms, ..)| *at_ms);
    let event_ms = due.as_ref().map_or(u64::MAX, |(at_ms, ..)| *at_ms);
    let frame_ms = exchange.frames.front().map_or(u64::MAX, |(at_ms, _)| *at_ms);
    let closed_ms = exchange.closed.map_or(u64::MAX, |(at_ms, _)| at_ms);
    let first_ms = event_ms.min(frame_ms).min(closed_ms);
    if first_ms > until_ms {
        return None;
    }
    let message = match (due, exchange.closed) {
        (Some((_, log, follow)), _) if event_ms == first_ms => log.read(follow),
        (_, Some((_, reason))) if frame_ms > first_ms => {
            exchange.closed_told = true;
            raw::mailbox::Message::Closed(reason)
        }
        _ => raw::mailbox::Message::Frame(exchange.frames.pop_front()?.1),
    };
    Some((first_ms, message))
}
