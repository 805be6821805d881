//! `POST /v1/chat/completions`: a turn that is told everything, and forgotten when it is answered.

mod answer;
mod request;

use crate::{
    config::Config,
    failure::{self, Ended},
    fields::document,
    models,
    question::{self, idempotency_key, session},
    silence::Silence,
};
use answer::Answer;
use plugway_sdk::{Body, Error, EventKind, Events, Next, Reply, Request, Result};
use request::ChatRequest;
use std::time::Duration;

/// How long an answer's first sign of life may decide what status it has; after that it is a stream.
const BEGIN: Duration = Duration::from_millis(500);

/// Answers one request.
pub(crate) fn complete(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let body = document(request, config)?;
    let ChatRequest { model, question: asked, stream, include_usage, store } = ChatRequest::read(&body)?;
    let model = models::agent(model.as_deref(), config)?;
    let session = session(request, &asked.metadata)?;
    let mut task = asked.task(&model);
    if let Some(session) = session {
        task = task.session(session);
    }
    let key = idempotency_key(request, "chat")?;
    // Whoever gives a key means to come back.
    let stays = store || key.is_some();
    let task = question::submit(task, key, "messages")?;
    let answer = Answer::new(&task.id, model.name);
    let told = if stream {
        tell(answer, task.events(), include_usage, config, reply)
    } else {
        match gather(answer, task.events()) {
            Ok(answer) => reply.json(200, &answer.whole()),
            Err(ended) => ended.answer(reply),
        }
    };
    if matches!(told, Err(Error::Closed(_))) && !stays {
        // Nobody waits for the answer any more.
        task.cancel()?;
    }
    told
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
    let mut silence = Silence::begin(BEGIN);
    loop {
        let next = match events.next_within(Some(silence.left())) {
            Ok(next) => next,
            Err(error) => return broken(reply, body, error.into()),
        };
        let kind = match next {
            Next::Ended => return Err(Error::internal("the task ended without a last event")),
            Next::Event(event) => event.kind,
            _ => {
                match &mut body {
                    Some(body) => body.write(": keep-alive\n\n")?,
                    None => {
                        begin(&mut reply, &mut body, &answer)?;
                        silence = Silence::begin(config.keep_alive());
                    }
                }
                silence.broken();
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
                    if body.is_none() {
                        begin(&mut reply, &mut body, &answer)?;
                        silence = Silence::begin(config.keep_alive());
                    }
                    silence.broken();
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
