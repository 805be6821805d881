//! `/v1/responses`: turns that are kept, and can be gone on from, come back to and followed again.

mod growth;
pub(crate) mod items;
mod object;
pub(crate) mod record;
mod request;

use crate::{
    config::Config,
    conversations::{self, Joined},
    failure::Ended,
    fields::{self, document},
    lists,
    models::{self, Model},
    question::{self, Question, idempotency_key, session},
    silence::Silence,
};
use growth::Growth;
use object::{Base, Outcome};
use plugway_sdk::TaskRef;
use plugway_sdk::prelude::*;
use record::Record;
use request::ResponseRequest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a delivery looks out for the record of its response.
const RECORDED: u64 = 60;

/// What the delivery of a response is given.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Address {
    /// Seconds since the Unix epoch at which the task was about to be submitted.
    at: u64,
    conversation: Option<String>,
}

/// `POST /v1/responses`.
pub(crate) fn create(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let body = document(request, config)?;
    let asked = ResponseRequest::read(&body)?;
    let model = models::agent(asked.model.as_deref(), config)?;
    let (stream, store, background) = (asked.stream, asked.store, asked.background);
    // Whoever gives a key means to come back.
    let stays = store || request.header("idempotency-key").is_some();
    let record = submit(request, config, asked, &model)?;
    let told = if stream {
        tell(&record, None, None, config, reply)
    } else if background {
        let outcome = record.outcome(config)?;
        reply.json(200, &record.base.shown(&outcome))
    } else {
        match gather(&record) {
            Ok(outcome) => reply.json(200, &record.base.shown(&outcome)),
            Err(ended) => ended.answer(reply),
        }
    };
    if matches!(told, Err(Error::Closed(_))) && !stays {
        // Nobody waits for it any more.
        record.task().cancel()?;
    }
    told
}

/// Hands the turn over. Returns its record, which is kept if it is to be.
fn submit(request: &Request, config: &Config, asked: ResponseRequest, model: &Model) -> Result<Record> {
    let session = session(request, &asked.metadata)?;
    let key = idempotency_key(request, "responses")?;
    let ResponseRequest { input, mut instructions, previous, conversation, store, truncate, .. } = asked;
    let mut fields = asked.asked;
    fields.insert("model".to_owned(), model.name.as_str().into());

    let mut joined = None;
    let mut before = match (&previous, &conversation) {
        (Some(id), _) => {
            let (items, carried) = chain(id, truncate, config)?;
            instructions = instructions.or(carried);
            fields.insert("instructions".to_owned(), json!(instructions));
            Some(items)
        }
        (None, Some(name)) => {
            let turn = conversations::join(name, &input, config)?;
            joined.insert(turn).items(truncate, config)?
        }
        (None, None) => Some(Vec::new()),
    };
    let outcome = (|| {
        let known = before.as_deref().unwrap_or_default();
        let input = items::resolve(input, known, |id| stored_item(id, config))?;
        if before.is_some()
            && let Some((at, call)) = items::unknown_call(known, &input)
        {
            return Err(Error::field(
                format!("input[{at}].call_id"),
                format_args!("no call {call:?} was made before"),
            ));
        }
        let mut messages = before.take().map(|items| items::messages(&items)).unwrap_or_default();
        messages.extend(items::messages(&input));
        if messages.is_empty() {
            return Err(Error::field("input", "there is nothing to answer"));
        }
        limit(&mut messages, items::messages(&input).len(), truncate, config)?;
        let question = Question {
            instructions: instructions.iter().filter(|text| !text.is_empty()).cloned().collect(),
            messages,
            tools: asked.tools,
            tool_choice: asked.tool_choice,
            parameters: asked.parameters,
            metadata: asked.metadata,
        };
        let told_history = joined.as_ref().is_none_or(Joined::knows_all);
        let mut task = if told_history { question.task(model) } else { question.turn(model) };
        if let Some(session) = joined.as_ref().map(Joined::session).or(session) {
            task = task.session(session);
        }
        if store {
            let address = Address { at: object::now(), conversation: conversation.clone() };
            task = task.deliver(&address, Moment::End);
        }
        let task = question::submit(task, key, "input")?;
        let base = Base::new(&task.id, &model.agent, fields);
        if task.duplicate
            && let Some(record) = Record::of(base.key())?
        {
            return Ok((record, true));
        }
        let previous = previous.as_deref().and_then(object::key_of).map(str::to_owned);
        let record = Record { base, input, previous, instructions };
        if store && let Err(error) = record.keep(config) {
            // Nobody would find it.
            if !task.duplicate {
                task.cancel()?;
            }
            return Err(error);
        }
        // Whoever asked first has died before it was kept, or is about to keep the same.
        Ok((record, false))
    })();
    if let Some(joined) = joined {
        // A repeated request is in the line already, or has left it.
        let new = outcome.as_ref().ok().filter(|(_, duplicate)| !duplicate);
        joined.submitted(new.map(|(record, _)| record.base.key()), config)?;
    }
    outcome.map(|(record, _)| record)
}

/// Keeps what agents are told of within bounds. The last `new` messages are the turn's own.
fn limit(messages: &mut Vec<Value>, new: usize, truncate: bool, config: &Config) -> Result<()> {
    let most = if truncate { config.truncated_to } else { config.max_messages };
    let size = |message: &Value| message.to_string().len() as u64 + 1;
    let sizes: Vec<u64> = messages.iter().map(size).collect();
    let (mut fit, mut bytes) = (0, 0);
    for size in sizes.iter().rev().take(most) {
        bytes += size;
        if bytes > config.max_input_bytes && fit >= new {
            break;
        }
        fit += 1;
    }
    if fit >= messages.len() {
        return Ok(());
    }
    if !truncate {
        let problem = format!(
            "the turns before have more than {most} messages or {} bytes: ask for auto",
            config.max_input_bytes
        );
        return Err(Error::field("truncation", problem));
    }
    let cut = messages.len() - fit;
    // A result without its call is refused by models: the cut goes back to where the calls were made, or on to what
    // follows them where that does not fit.
    let back = messages[..=cut].iter().rposition(|message| message["role"] != "tool").unwrap_or(cut);
    let fits_back = sizes[back..].iter().sum::<u64>() <= config.max_input_bytes;
    let on = messages[cut..].iter().position(|message| message["role"] != "tool").map_or(back, |at| cut + at);
    messages.drain(..if fits_back { back } else { on });
    Ok(())
}

/// An item that a response said, whichever one: its id tells.
fn stored_item(id: &str, config: &Config) -> Result<Option<Value>> {
    let key =
        id.split_once('_').and_then(|(_, rest)| rest.len().checked_sub(4).and_then(|end| rest.get(..end)));
    let Some(record) = key.filter(|key| object::is_key(key)).map(Record::of).transpose()?.flatten() else {
        return Ok(None);
    };
    let outcome = record.outcome(config)?;
    Ok(outcome.output.into_iter().find(|item| item["id"] == id))
}

/// All items of the responses up to this one, in order, and the instructions that carry over.
fn chain(id: &str, truncate: bool, config: &Config) -> Result<(Vec<Value>, Option<String>)> {
    const FIELD: &str = "previous_response_id";
    let last = Record::find(FIELD, id)?;
    if !last.outcome(config)?.has_ended() {
        return Err(Error::field(FIELD, "is still under way"));
    }
    let instructions = last.instructions.clone();
    let (mut turns, mut next) = (Vec::new(), Some(last));
    let (mut items, mut bytes) = (0, 0);
    while let Some(record) = next {
        let (outcome, size) = record.outcome_weighed(config)?;
        items += record.input.len() + outcome.output.len();
        bytes += size + weight(&record.input);
        // The items are kept as messages of about the same number: more are not told, or not taken.
        let enough = if truncate { 2 * config.truncated_to } else { config.max_messages };
        if bytes > config.max_context_bytes {
            if truncate {
                break;
            }
            return Err(too_large(config));
        }
        // What was deleted or has grown too old is not told any more.
        next = match &record.previous {
            Some(key) if items <= enough => Record::of(key)?,
            _ => None,
        };
        turns.push((record.input, outcome.output));
    }
    let items = turns.into_iter().rev().flat_map(|(input, output)| input.into_iter().chain(output));
    Ok((items.collect(), instructions))
}

/// About how many bytes of an instance items take.
fn weight(items: &[Value]) -> u64 {
    serde_json::to_vec(items).map_or(0, |json| fields::weight(&json))
}

/// The turns before are more than an instance could hold.
pub(crate) fn too_large(config: &Config) -> Error {
    let most = config.max_context_bytes;
    Error::field("truncation", format_args!("the turns before have more than {most} bytes: ask for auto"))
}

/// Waits for the end, though nothing is kept.
fn gather(record: &Record) -> Result<Outcome, Ended> {
    let mut growth = Growth::untold(&record.base);
    for event in record.task().events() {
        let event = event?;
        match &event.kind {
            EventKind::Started(started) => growth.restart(started.attempt),
            EventKind::Failed(failed) => return Err(failed.clone().into()),
            EventKind::Cancelled(cancelled) if record.base.asked("background") != true => {
                return Err(cancelled.clone().into());
            }
            _ => {}
        }
        if let Some(outcome) = growth.take(event, &mut |_, _, _| Ok(()))? {
            return Ok(outcome);
        }
    }
    Err(Error::internal("the task ended without a last event").into())
}

/// Streams a response from behind a number. What has come of it already, if that is known, is told where its events are
/// gone.
fn tell(
    record: &Record,
    after: Option<u64>,
    known: Option<&Outcome>,
    config: &Config,
    reply: Reply,
) -> Result<()> {
    let mut body = reply.events();
    let mut growth = Growth::behind(&record.base, after);
    // Its log is forgotten: fewer events are left than were told.
    let mut forgotten = true;
    let mut lost = false;
    let mut silence = Silence::begin(config.keep_alive());
    let write = |body: &mut Body, number: u64, name: &str, event: &str| match after {
        Some(after) if number <= after => Ok(()),
        _ => body.event(Some(name), None, event),
    };
    growth.begin(&mut |number, name, event| write(&mut body, number, name, event))?;
    let mut events = record.task().events();
    loop {
        let event = match events.next_within(Some(silence.left())) {
            Ok(Next::Event(event)) => event,
            Ok(Next::Ended) => break,
            Ok(_) => {
                body.write(": keep-alive\n\n")?;
                silence.broken();
                continue;
            }
            Err(Error::Gap { .. }) => {
                lost = true;
                continue;
            }
            Err(Error::NotFound(_)) if known.is_some() => break,
            Err(error) => return Err(error),
        };
        if let EventKind::Started(started) = &event.kind {
            forgotten = false;
            if started.attempt > 1 && growth.has_said() {
                return broken(body, &growth, &Error::Restarted);
            }
            growth.restart(started.attempt);
        }
        // What is known has more than a last event alone.
        if event.is_terminal() && (forgotten || lost) && known.is_some() {
            break;
        }
        let mut told = |number: u64, name: &str, event: &str| {
            silence.broken();
            write(&mut body, number, name, event)
        };
        if growth.take(event, &mut told)?.is_some() {
            return Ok(());
        }
    }
    match known {
        Some(outcome) => {
            growth.last(outcome, &mut |number, name, event| write(&mut body, number, name, event))
        }
        None => Err(Error::internal("the task ended without a last event")),
    }
}

/// The stream can't go on: what was told is void. Whoever comes back for the response gets the new answer.
fn broken(mut body: Body, growth: &Growth<'_>, error: &Error) -> Result<()> {
    plugway_sdk::warn!("a stream ends early: {}", error.reason());
    let event = json!({
        "type": "error", "sequence_number": growth.next_number(), "code": "server_error",
        "message": error.to_string(), "param": null,
    });
    body.event(Some("error"), None, &event.to_string())?;
    body.finish()
}

/// `GET /v1/responses/{id}`, whole or as a stream.
pub(crate) fn retrieve(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let record = find(request)?;
    let outcome = record.outcome(config)?;
    if !request.flag("stream") {
        return reply.json(200, &record.base.shown(&outcome));
    }
    let after = match request.query("starting_after") {
        None => None,
        Some(number) => {
            Some(number.parse().map_err(|_| Error::field("starting_after", "must be a whole number"))?)
        }
    };
    tell(&record, after, outcome.has_ended().then_some(&outcome), config, reply)
}

fn find(request: &Request) -> Result<Record> {
    Record::find("response_id", request.param("id").unwrap_or_default())
}

/// `POST /v1/responses/{id}/cancel`. Of one that has ended: what came of it.
pub(crate) fn cancel(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let record = find(request)?;
    let mut outcome = record.outcome(config)?;
    if !outcome.has_ended() {
        record.task().cancel()?;
        outcome = record.settle(config)?;
    }
    reply.json(200, &record.base.shown(&outcome))
}

/// `DELETE /v1/responses/{id}`. One that is under way is stopped.
pub(crate) fn delete(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let record = find(request)?;
    record.task().cancel()?;
    if let Some(conversation) = record.base.asked("conversation")["id"].as_str() {
        // Its items are the conversation's, which keeps them first.
        conversations::settle(conversation, config)?;
    }
    Record::forget(record.base.key())?;
    reply.json(
        200,
        &json!({"id": format!("resp_{}", record.base.key()), "object": "response", "deleted": true}),
    )
}

/// `GET /v1/responses/{id}/input_items`.
pub(crate) fn input_items(request: &Request, reply: Reply) -> Result<()> {
    let record = find(request)?;
    reply.json(200, &lists::page(request, std::iter::once(Ok(record.input)))?)
}

/// Keeps what came of a response, though nobody waited for it.
pub(crate) fn deliver(task: &TaskRef, address: &Address, config: &Config) -> Result<(), Failure> {
    let key = task.id.as_str().trim_start_matches("task_");
    match Record::of(key)? {
        Some(record) => {
            record.settle(config)?;
        }
        // Whoever submitted it is about to write it.
        None if object::now().saturating_sub(address.at) < RECORDED => {
            return Err(Failure::retry(Duration::from_secs(2), "the response is not recorded yet"));
        }
        // It was deleted.
        None => {}
    }
    if let Some(name) = &address.conversation {
        conversations::settle(name, config)?;
    }
    Ok(())
}
