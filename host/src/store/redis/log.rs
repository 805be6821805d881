//! The event log: a stream for each task, whose entries are named by their places (`attempt-seq`). The terminal event is
//! a key of its own beside the task, and is read as the last of its events.

use std::sync::Arc;

use async_trait::async_trait;
use redis::Value;

use super::super::{EventLog, StoreError};
use super::failure::Failure;
use super::reply::{self, Read, Words, misread};
use super::{Line, RedisStore};
use crate::domain::{Event, Kind, Position, SessionId, TaskId};

/// Bytes of event data after which a read says what it has.
const PAGE_BYTES: usize = 1 << 20;
/// Events asked for at first, and at once at most. They may be large, and nobody knows before.
const FIRST: usize = 32;
const MOST: usize = 1_024;

#[async_trait]
impl EventLog for RedisStore {
    async fn append(&self, events: Vec<Arc<Event>>) -> Result<(), StoreError> {
        self.appender.append(events).await
    }

    async fn read(&self, task: TaskId, after: Position, limit: usize) -> Result<Vec<Event>, StoreError> {
        Ok(read(&self.line, task, after, limit).await?)
    }
}

async fn read(line: &Line, task: TaskId, after: Position, limit: usize) -> Result<Vec<Event>, Failure> {
    let id = task.digits();
    let mut events: Vec<Event> = Vec::new();
    let (mut at, mut bytes, mut count) = (after, 0, FIRST);
    loop {
        let wanted = count.min(limit - events.len());
        let mut pipeline = redis::pipe();
        // The task first: one that has ended by then has all its events in the log.
        pipeline.cmd("HMGET").arg(line.key("t", &id)).arg("session").arg("end_attempt").arg("end_seq");
        let from = format!("({}-{}", at.attempt, at.seq);
        pipeline.cmd("XRANGE").arg(line.key("l", &id)).arg(from).arg("+").arg("COUNT").arg(wanted);
        let answers = line.read(&pipeline).await?;
        let (session, end, page) = line.understood(|| {
            let mut answers = Words::of(Value::Array(answers.collect()))?;
            let mut found = answers.words()?;
            let session = found.maybe_text()?.map(|key| session(&key)).transpose()?;
            let end = match found.maybe_number()? {
                Some(attempt) => Some(Position { attempt, seq: found.number()? }),
                None => None,
            };
            let page = match &session {
                Some(session) => entries(task, session, answers.words()?)?,
                None => Vec::new(),
            };
            Ok((session, end, page))
        })?;
        let Some(session) = session else { return Ok(events) };
        let found = page.len();
        bytes += page.iter().map(|event| event.data.len()).sum::<usize>();
        at = page.last().map_or(at, |event| event.position);
        events.extend(page);
        if bytes >= PAGE_BYTES || events.len() >= limit {
            return Ok(events);
        }
        if found == wanted {
            count = (count * 4).min(MOST);
            continue;
        }
        // The terminal event's data holds the whole answer; it is read with the last page only.
        if let Some(end) = end
            && end > after
        {
            let mut pipeline = redis::pipe();
            pipeline.cmd("GET").arg(line.key("e", &id));
            let answers = line.read(&pipeline).await?;
            let event = line.understood(|| {
                let text = Words::of(Value::Array(answers.collect()))?.maybe_text()?;
                text.map(|text| decode(task, &session, end, &text)).transpose()
            })?;
            events.extend(event);
        }
        return Ok(events);
    }
}

fn entries(task: TaskId, session: &SessionId, entries: Words) -> Read<Vec<Event>> {
    let entry = |entry: Value| {
        let mut entry = Words::of(entry)?;
        let place = position(&entry.text()?)?;
        let mut fields = entry.words()?;
        fields.text()?;
        decode(task, session, place, &fields.text()?)
    };
    entries.map(entry).collect()
}

pub(super) fn session(key: &str) -> Read<SessionId> {
    SessionId::from_key(key).map_err(|error| misread(error.to_string()))
}

fn position(id: &str) -> Read<Position> {
    let (attempt, seq) = id.split_once('-').ok_or_else(|| misread(format!("{id:?} is no place")))?;
    Ok(Position { attempt: reply::number(attempt)?, seq: reply::number(seq)? })
}

/// An event as the log keeps it: what its place and its task do not tell.
pub(super) fn encode(event: &Event) -> String {
    let kind = event.kind.as_str();
    format!("{} {} {kind}{}", event.at_ms, kind.len(), event.data)
}

pub(super) fn decode(task: TaskId, session: &SessionId, position: Position, text: &str) -> Read<Event> {
    let mut parts = text.splitn(3, ' ');
    let (at, length, rest) = (parts.next(), parts.next(), parts.next());
    let (Some(at), Some(length), Some(rest)) = (at, length, rest) else {
        return Err(misread("an event is cut off"));
    };
    let (kind, data) =
        rest.split_at_checked(reply::number(length)?).ok_or_else(|| misread("an event is cut off"))?;
    Ok(Event {
        task,
        session: session.clone(),
        position,
        kind: Kind::from(kind),
        at_ms: reply::number(at)?,
        data: data.into(),
    })
}

/// The events of a message that a script published on a task's channel.
pub(super) fn published(task: TaskId, message: &str) -> Read<Vec<Event>> {
    fn next<'a>(rest: &mut &'a str) -> Read<&'a str> {
        let (word, left) = rest.split_once(' ').ok_or_else(|| misread("a notice is cut off"))?;
        *rest = left;
        Ok(word)
    }
    fn sized<'a>(rest: &mut &'a str) -> Read<&'a str> {
        let length = reply::number(next(rest)?)?;
        let (text, left) = rest.split_at_checked(length).ok_or_else(|| misread("a notice is cut off"))?;
        *rest = left;
        Ok(text)
    }
    let mut rest = message;
    let attempt = reply::number(next(&mut rest)?)?;
    let session = session(sized(&mut rest)?)?;
    let mut events = Vec::new();
    while !rest.is_empty() {
        let seq = reply::number(next(&mut rest)?)?;
        events.push(decode(task, &session, Position { attempt, seq }, sized(&mut rest)?)?);
    }
    Ok(events)
}
