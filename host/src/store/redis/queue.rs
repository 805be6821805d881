//! The task queue. A task is a hash; its input and its terminal event are keys of their own, so that a look at it reads
//! neither. Sorted sets hold what can be claimed (by acceptance) and what runs (by the end of its lease).

use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use redis::Value;
use tracing::warn;

use super::super::{CancelOutcome, Claim, Claimed, Lease, StoreError, Submitted, TaskQueue, Turn};
use super::failure::Failure;
use super::link::Again;
use super::reply::{Fields, Read, Words, misread, number, text};
use super::{Line, RedisStore, log, task_id};
use crate::domain::{
    Event, Kind, Moment, NewTask, Position, SessionId, TaskId, TaskRecord, TaskState, TaskStatus, millis,
};

/// Ids of a session that are read at once where they have to be looked through.
const PAGE: usize = 500;

/// Ends that are remembered as unsure; whoever gives up before an answer comes leaves one behind.
const MOST_UNSURE: usize = 65_536;

/// What a task's state is called in its hash.
mod state {
    pub(super) const READY: &str = "1";
    pub(super) const RUNNING: &str = "2";
    pub(super) const COMPLETED: &str = "3";
    pub(super) const FAILED: &str = "4";
    pub(super) const CANCELLED: &str = "5";
}

#[async_trait]
impl TaskQueue for RedisStore {
    async fn submit(&self, task: NewTask) -> Result<Submitted, StoreError> {
        let arguments = |cmd: &mut redis::Cmd| {
            // A key may be empty: what has one begins with a letter.
            let key = task.idempotency_key.as_ref().map(|key| format!("k{key}")).unwrap_or_default();
            let (moment, address) = match &task.deliver {
                Some(order) => (if order.at == Moment::Start { "0" } else { "1" }, &*order.address),
                None => ("", ""),
            };
            cmd.arg(self.queue_limit).arg(task.id.digits()).arg(&task.adapter).arg(&task.agent);
            cmd.arg(task.session.as_key()).arg(&*task.input).arg(key).arg(moment).arg(address);
        };
        let mut words = self.line.run(|scripts| &scripts.submit, arguments, Again::Yes).await?;
        self.line.understood(|| match &*words.text()? {
            "full" => Ok(Err(StoreError::QueueFull { queued: words.number()? })),
            outcome => Ok(Ok(Submitted {
                task: task_id(&words.text()?)?,
                session: log::session(&words.text()?)?,
                duplicate: outcome == "duplicate",
            })),
        })?
    }

    async fn claim(&self, limit: usize, lease: Duration) -> Result<Claimed<Claim>, StoreError> {
        // It may take over a run that has said something here a moment ago.
        self.appender.flush(None).await?;
        let mut calls = self.claims.calls.lock().await;
        calls.made += 1;
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(limit).arg(millis(lease)).arg(&*self.claims.node).arg(calls.made).arg(calls.heard);
        };
        let mut words = self.line.run(|scripts| &scripts.claim, arguments, Again::No).await?;
        let (next_due, claimed) = self.line.understood(|| Ok((words.text()?, words.words()?)))?;
        let next_due = self.line.understood(|| due(&next_due))?;
        let claimed = self.line.understood(|| {
            let claim = |claim: Value| {
                let mut claim = Words::of(claim)?;
                Ok((task_id(&claim.text()?)?, Fields::of(claim.value()?)?))
            };
            claimed.map(claim).collect::<Read<Vec<_>>>()
        })?;
        if claimed.is_empty() {
            calls.heard = calls.made;
            return Ok(Claimed { items: Vec::new(), next_due });
        }
        // Whoever waits for work beside this caller should look as well.
        if claimed.len() == limit {
            self.line.ready.wake(1);
        }
        let mut pipeline = redis::pipe();
        for (id, _) in &claimed {
            pipeline.cmd("GET").arg(self.line.key("i", &id.digits()));
        }
        let inputs = self.line.read(&pipeline).await?;
        calls.heard = calls.made;
        let mut items = Vec::with_capacity(claimed.len());
        for ((id, fields), input) in claimed.into_iter().zip(inputs) {
            let claim = self.line.understood(|| claim(id, fields, input));
            match claim {
                Ok(claim) => {
                    self.appender.began(claim.lease);
                    items.push(claim);
                }
                Err(failure) => warn!(task = %id, "a task can't be run: {failure}"),
            }
        }
        Ok(Claimed { items, next_due })
    }

    async fn task_ready(&self) {
        self.line.ready.tasks.notified().await;
    }

    async fn renew(&self, lease: Lease, length: Duration) -> Result<Option<String>, StoreError> {
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(lease.task.digits()).arg(lease.token).arg(millis(length));
        };
        let mut words = self.line.run(|scripts| &scripts.renew, arguments, Again::Yes).await?;
        self.held(&mut words).inspect_err(|_| self.appender.ended(lease))?;
        let reason = words.next().map(text).transpose();
        Ok(self.line.understood(|| Ok(reason?.flatten()))?)
    }

    async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        self.appender.flush(Some(lease.task)).await?;
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(lease.task.digits()).arg(lease.token);
        };
        let mut words = self.line.run(|scripts| &scripts.release, arguments, Again::No).await?;
        self.appender.ended(lease);
        self.held(&mut words)
    }

    async fn finish(&self, lease: Lease, terminal: Event) -> Result<(), StoreError> {
        self.appender.flush(Some(lease.task)).await?;
        let unsure = self.is_unsure(lease);
        let outcome = self.send_end(lease, &terminal, unsure).await;
        self.set_unsure(lease, outcome.as_ref().is_err_and(Failure::is_unsure));
        let mut words = outcome?;
        self.appender.ended(lease);
        self.held(&mut words)
    }

    async fn cancel(&self, task: TaskId, reason: &str) -> Result<CancelOutcome, StoreError> {
        self.appender.flush(Some(task)).await?;
        let data = serde_json::json!({ "reason": reason }).to_string();
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(task.digits()).arg(reason).arg(&data);
        };
        let mut words = self.line.run(|scripts| &scripts.cancel, arguments, Again::No).await?;
        Ok(self.line.understood(|| match &*words.text()? {
            "running" => Ok(CancelOutcome::Running),
            "ended" => Ok(CancelOutcome::Ended),
            "cancelled" => {
                let agent = words.text()?;
                let session = log::session(&words.text()?)?;
                let position = Position { attempt: words.number()?, seq: 1 };
                let (kind, at_ms) = (Kind::Cancelled, words.number()?);
                let event = Event { task, session, position, kind, at_ms, data: data.clone().into() };
                Ok(CancelOutcome::Cancelled { agent, event: Box::new(event) })
            }
            _ => Ok(CancelOutcome::Unknown),
        })?)
    }

    async fn status(&self, task: TaskId) -> Result<Option<TaskStatus>, StoreError> {
        let mut pipeline = redis::pipe();
        let fields = ["state", "adapter", "agent", "session", "end_attempt", "end_seq"];
        pipeline.cmd("HMGET").arg(self.line.key("t", &task.digits())).arg(&fields);
        let answers = self.line.read(&pipeline).await?;
        Ok(self.line.understood(|| {
            let mut words = Words::of(Value::Array(answers.collect()))?.words()?;
            let Some(state) = words.maybe_text()? else { return Ok(None) };
            Ok(Some(TaskStatus {
                adapter: words.text()?,
                agent: words.text()?,
                session: log::session(&words.text()?)?,
                state: task_state(&state),
                end: match words.maybe_number()? {
                    Some(attempt) => Some(Position { attempt, seq: words.number()? }),
                    None => None,
                },
            }))
        })?)
    }

    async fn task(&self, task: TaskId) -> Result<Option<TaskRecord>, StoreError> {
        let (line, id) = (&self.line, task.digits());
        let mut pipeline = redis::pipe();
        pipeline.cmd("HGETALL").arg(line.key("t", &id));
        pipeline.cmd("GET").arg(line.key("i", &id));
        pipeline.cmd("GET").arg(line.key("e", &id));
        let answers = line.read(&pipeline).await?;
        Ok(line.understood(|| {
            let mut words = Words::of(Value::Array(answers.collect()))?;
            let Some(mut fields) = Fields::of(words.value()?)? else { return Ok(None) };
            // Forgotten, or ended, between one answer and the next.
            let (Some(input), end) = (words.maybe_text()?, words.maybe_text()?) else { return Ok(None) };
            record(task, &mut fields, input, end).map(Some)
        })?)
    }

    async fn session_tasks(
        &self,
        session: &SessionId,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<TaskId>, StoreError> {
        let (line, set) = (&self.line, self.line.key("s", session.as_key()));
        let place = match after {
            Some(after) => score(line, &set, after).await?,
            None => Some("-inf".to_owned()),
        };
        if let Some(place) = place {
            let mut pipeline = redis::pipe();
            pipeline.cmd("ZRANGE").arg(&set).arg(format!("({place}")).arg("+inf").arg("BYSCORE");
            pipeline.arg("LIMIT").arg(0).arg(limit);
            return Ok(ids(line, &pipeline).await?);
        }
        // It is forgotten; ids sort by time, so those after it are the larger ones.
        let mut found = Vec::new();
        let mut from = 0;
        while found.len() < limit {
            let mut pipeline = redis::pipe();
            pipeline.cmd("ZRANGE").arg(&set).arg(from).arg(from + PAGE - 1);
            let page = ids(line, &pipeline).await?;
            from += page.len();
            let is_last = page.len() < PAGE;
            found.extend(
                page.into_iter().filter(|id| after.is_none_or(|after| id.to_bytes() > after.to_bytes())),
            );
            if is_last {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn last_task(&self, session: &SessionId) -> Result<Option<TaskId>, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZRANGE").arg(self.line.key("s", session.as_key())).arg(-1).arg(-1);
        Ok(ids(&self.line, &pipeline).await?.first().copied())
    }

    async fn open_tasks(
        &self,
        session: &SessionId,
        before: Option<TaskId>,
    ) -> Result<Vec<TaskId>, StoreError> {
        let line = &self.line;
        let end = match before {
            None => "+inf".to_owned(),
            Some(before) => match place(line, before).await? {
                Some((place, _)) => format!("({place}"),
                None => return Ok(Vec::new()),
            },
        };
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZRANGE").arg(line.key("so", session.as_key())).arg("-inf").arg(end).arg("BYSCORE");
        Ok(ids(line, &pipeline).await?)
    }

    async fn turns_before(
        &self,
        task: TaskId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<Turn>, StoreError> {
        let line = &self.line;
        let Some((place, session)) = place(line, task).await? else { return Ok(Vec::new()) };
        let mut pipeline = redis::pipe();
        let set = line.key("sc", &session);
        pipeline.cmd("ZRANGE").arg(set).arg(format!("({place}")).arg("-inf").arg("BYSCORE").arg("REV");
        pipeline.arg("LIMIT").arg(0).arg(limit);
        let turns = ids(line, &pipeline).await?;
        let turns = fitting(line, turns, max_bytes).await?;
        if turns.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for turn in &turns {
            pipeline.cmd("MGET").arg(line.key("i", &turn.digits())).arg(line.key("e", &turn.digits()));
        }
        let documents = line.read(&pipeline).await?;
        Ok(line.understood(|| {
            let mut read = Vec::with_capacity(turns.len());
            for (task, documents) in turns.into_iter().zip(documents).rev() {
                let mut documents = Words::of(documents)?;
                // What was forgotten in between is the oldest.
                let (Some(input), Some(end)) = (documents.maybe_text()?, documents.maybe_text()?) else {
                    continue;
                };
                let end = log::decode(task, &log::session(&session)?, Position::START, &end)?;
                read.push(Turn { task, input: input.into(), completed: end.data });
            }
            Ok(read)
        })?)
    }
}

impl RedisStore {
    /// Whether a script found that its lease was held.
    pub(super) fn held(&self, words: &mut Words) -> Result<(), StoreError> {
        let said = self.line.understood(|| words.text())?;
        if said == "held" { Ok(()) } else { Err(StoreError::LeaseLost) }
    }

    /// Ends a task. A connection that is lost on the way is no end of it: what was done then is known by its token.
    async fn send_end(&self, lease: Lease, terminal: &Event, unsure: bool) -> Result<Words, Failure> {
        let state = match terminal.kind {
            Kind::Completed => state::COMPLETED,
            Kind::Cancelled => state::CANCELLED,
            _ => state::FAILED,
        };
        let send = async |unsure: bool| {
            let arguments = |cmd: &mut redis::Cmd| {
                let Position { attempt, seq } = terminal.position;
                cmd.arg(lease.task.digits())
                    .arg(lease.token)
                    .arg(u8::from(unsure))
                    .arg(state)
                    .arg(terminal.at_ms);
                cmd.arg(attempt).arg(seq).arg(log::encode(terminal)).arg(terminal.data.len());
            };
            self.line.run(|scripts| &scripts.finish, arguments, Again::No).await
        };
        match send(unsure).await {
            Err(Failure::Away { .. }) => send(true).await,
            outcome => outcome,
        }
    }

    fn is_unsure(&self, lease: Lease) -> bool {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner).contains(&lease)
    }

    fn set_unsure(&self, lease: Lease, is: bool) {
        let mut unsure = self.unsure.lock().unwrap_or_else(PoisonError::into_inner);
        if !is {
            unsure.remove(&lease);
        } else if unsure.len() < MOST_UNSURE {
            unsure.insert(lease);
        }
    }
}

/// Calls that claim, one at a time. Redis notes what the last one took, so that the next one can give back what nobody
/// has heard of.
#[derive(Debug)]
pub(super) struct Claims {
    /// This process.
    pub(super) node: String,
    pub(super) calls: tokio::sync::Mutex<Calls>,
}

#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) made: u64,
    /// The last one whose answer arrived whole.
    pub(super) heard: u64,
}

impl Claims {
    pub(super) fn new() -> Self {
        Self { node: format!("{:032x}", rand::random::<u128>()), calls: tokio::sync::Mutex::default() }
    }
}

/// A length of time as scripts tell it; empty: there is none.
pub(super) fn due(text: &str) -> Read<Option<Duration>> {
    if text.is_empty() {
        return Ok(None);
    }
    let ms: f64 = number(text)?;
    Ok(Some(Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or(Duration::MAX)))
}

fn claim(id: TaskId, fields: Option<Fields>, input: Value) -> Read<Claim> {
    let mut fields = fields.ok_or_else(|| misread("it has no fields"))?;
    let input = text(input)?.ok_or_else(|| misread("its input is gone"))?;
    let lease = Lease { task: id, token: fields.number("token")? };
    let cancel = fields.maybe("cancel");
    Ok(Claim { lease, cancel, task: record(id, &mut fields, input, None)? })
}

fn record(id: TaskId, fields: &mut Fields, input: String, end: Option<String>) -> Read<TaskRecord> {
    let session = log::session(&fields.take("session")?)?;
    let end = match (fields.maybe_number("end_attempt")?, end) {
        (Some(attempt), Some(end)) => {
            Some(log::decode(id, &session, Position { attempt, seq: fields.number("end_seq")? }, &end)?)
        }
        (Some(_), None) => return Err(misread(format!("the end of {id} is gone"))),
        (None, _) => None,
    };
    Ok(TaskRecord {
        id,
        adapter: fields.take("adapter")?,
        agent: fields.take("agent")?,
        session,
        input: input.into(),
        state: task_state(&fields.take("state")?),
        attempt: fields.maybe_number("attempt")?.unwrap_or(0),
        deaths: fields.maybe_number("deaths")?.unwrap_or(0),
        created_ms: fields.number("created")?,
        started_ms: fields.maybe_number("started")?,
        ended_ms: fields.maybe_number("ended")?,
        end,
    })
}

fn task_state(state: &str) -> TaskState {
    match state {
        "0" | state::READY => TaskState::Queued,
        state::RUNNING => TaskState::Running,
        state::COMPLETED => TaskState::Completed,
        state::CANCELLED => TaskState::Cancelled,
        _ => TaskState::Failed,
    }
}

/// The ids that a query of one command lists.
async fn ids(line: &Line, query: &redis::Pipeline) -> Result<Vec<TaskId>, Failure> {
    let answers = line.read(query).await?;
    line.understood(|| {
        let listed = Words::of(Value::Array(answers.collect()))?.words()?.texts()?;
        listed.iter().map(|id| task_id(id)).collect()
    })
}

/// A task's score in a sorted set.
async fn score(line: &Line, set: &str, task: TaskId) -> Result<Option<String>, Failure> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("ZSCORE").arg(set).arg(task.digits());
    let answers = line.read(&pipeline).await?;
    line.understood(|| Words::of(Value::Array(answers.collect()))?.maybe_text())
}

/// A task's place in the order of acceptance, and its session.
async fn place(line: &Line, task: TaskId) -> Result<Option<(String, String)>, Failure> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("HMGET").arg(line.key("t", &task.digits())).arg("n").arg("session");
    let answers = line.read(&pipeline).await?;
    line.understood(|| {
        let mut words = Words::of(Value::Array(answers.collect()))?.words()?;
        Ok(words.maybe_text()?.zip(words.maybe_text()?))
    })
}

/// The first of these whose documents fit together.
async fn fitting(line: &Line, mut turns: Vec<TaskId>, max_bytes: usize) -> Result<Vec<TaskId>, Failure> {
    if turns.is_empty() {
        return Ok(turns);
    }
    let mut pipeline = redis::pipe();
    for turn in &turns {
        pipeline.cmd("HGET").arg(line.key("t", &turn.digits())).arg("size");
    }
    let sizes = line.read(&pipeline).await?;
    let mut left = max_bytes as u64;
    let mut count = 0;
    for size in sizes {
        let size = line.understood(|| text(size)?.map_or(Ok(u64::MAX), |size| number(&size)))?;
        let Some(rest) = left.checked_sub(size) else { break };
        left = rest;
        count += 1;
    }
    turns.truncate(count);
    Ok(turns)
}
