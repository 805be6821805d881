//! `POST /v1/chat/completions`: a turn that is told everything, and forgotten when it is answered.

mod answer;
mod request;

use crate::{
    config::Config,
    failure::{self, Ended},
    fields::document,
    models,
    question::{idempotency_key, refused, session},
};
use answer::Answer;
use plugway_sdk::{Body, Error, EventKind, Events, Next, Reason, Reply, Request, Result, Submitted};
use request::ChatRequest;
use std::time::Duration;

/// How long an answer's first sign of life may decide what status it has; after that it is a stream.
const BEGIN: Duration = Duration::from_millis(500);

/// Answers one request.
pub(crate) fn complete(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let body = document(request, config)?;
    let ChatRequest { model, question, stream, include_usage, store } = ChatRequest::read(&body)?;
    let model = models::agent(model.as_deref(), config)?;
    let session = session(request, &question.metadata)?;
    let mut task = question.task(&model);
    if let Some(session) = session {
        task = task.session(session);
    }
    let key = idempotency_key(request, "chat")?;
    // Whoever gives a key means to come back.
    let stays = store || key.is_some();
    if let Some(key) = key {
        task = task.idempotency_key(key);
    }
    let task = task.submit().map_err(|error| refused(error, "messages"))?;
    let answer = Answer::new(&task.id, model.name);
    let told = if stream {
        tell(answer, task.events(), include_usage, config, reply)
    } else {
        match gather(answer, task.events()) {
            Ok(answer) => reply.json(200, &answer.whole()),
            Err(ended) => ended.answer(reply),
        }
    };
    if let Err(Error::Closed(reason)) = &told
        && !stays
    {
        give_up(&task, *reason)?;
    }
    told
}

/// Nobody waits for the answer any more.
fn give_up(task: &Submitted, reason: Reason) -> Result<()> {
    if matches!(reason, Reason::PeerGone | Reason::Deadline) {
        task.cancel()?;
    }
    Ok(())
}

/// Waits for the end.
fn gather(mut answer: Answer, events: Events) -> Result<Answer, Ended> {
    for event in events {
        match event?.kind {
            EventKind::Started(started) if started.attempt > 1 => answer.restart(),
            EventKind::Failed(failed) => return Err(failed.into()),
            EventKind::Cancelled(cancelled) => return Err(cancelled.into()),
            kind => answer.take(kind),
        }
    }
    Ok(answer)
}

/// Streams chunk by chunk. What goes wrong before the first one is an answer of its own.
fn tell(
    mut answer: Answer,
    mut events: Events,
    include_usage: bool,
    config: &Config,
    reply: Reply,
) -> Result<()> {
    answer.include_usage(include_usage);
    let mut reply = Some(reply);
    let mut body: Option<Body> = None;
    loop {
        let wait = if body.is_none() { BEGIN } else { config.keep_alive() };
        let next = match events.next_within(Some(wait)) {
            Ok(next) => next,
            Err(error) => return broken(reply, body, error.into()),
        };
        let kind = match next {
            Next::Ended => return Err(Error::internal("the task ended without a last event")),
            Next::Event(event) => event.kind,
            _ if body.is_none() => {
                begin(&mut reply, &mut body, &answer)?;
                continue;
            }
            _ => {
                if let Some(body) = &mut body {
                    body.write(": keep-alive\n\n")?;
                }
                continue;
            }
        };
        match kind {
            EventKind::Started(started) if started.attempt > 1 && answer.has_said() => {
                return broken(reply, body, Error::Restarted.into());
            }
            EventKind::Failed(failed) => return broken(reply, body, failed.into()),
            EventKind::Cancelled(cancelled) => return broken(reply, body, cancelled.into()),
            EventKind::Completed(_) => {
                begin(&mut reply, &mut body, &answer)?;
                let mut rest = answer.chunks(kind).unwrap_or_default();
                rest.push_str(&answer.last_chunks());
                if let Some(mut body) = body {
                    body.write(rest)?;
                }
                return Ok(());
            }
            kind => {
                if let Some(chunks) = answer.chunks(kind) {
                    begin(&mut reply, &mut body, &answer)?;
                    if let Some(body) = &mut body {
                        body.write(chunks)?;
                    }
                }
            }
        }
    }
}

/// Says who speaks, unless that is said.
fn begin(reply: &mut Option<Reply>, body: &mut Option<Body>, answer: &Answer) -> Result<()> {
    if let Some(reply) = reply.take() {
        let mut begun = reply.events();
        begun.write(answer.first_chunk())?;
        *body = Some(begun);
    }
    Ok(())
}

/// Tells an error where the answer stands: as the answer, or as its last frame.
fn broken(reply: Option<Reply>, body: Option<Body>, ended: Ended) -> Result<()> {
    match (reply, body) {
        (_, Some(mut body)) if !matches!(ended.error, Error::Closed(_)) => {
            plugway_sdk::warn!("a stream ends early: {}", ended.error.reason());
            body.write(format!("data: {}\n\n", failure::body(&ended.error)))?;
            body.finish()
        }
        (Some(reply), None) => ended.answer(reply),
        _ => Err(ended.error),
    }
}
