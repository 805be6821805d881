//! A plugin that does what it should: others are watched by whether this one is served as ever.

use std::time::Duration;

use plugway_sdk::prelude::*;
use plugway_sdk::{kv, mailbox};

struct Steady;

impl HttpAdapter for Steady {
    fn handle(&self, request: Request, reply: Reply) -> Result<()> {
        match (request.method.as_str(), request.route.as_str()) {
            (_, "/steady/echo" | "/steady/locked") => reply.text(200, request.text()?),
            (_, "/steady/caller") => reply.text(200, request.caller.as_deref().unwrap_or("nobody")),
            (_, "/steady/json") => {
                let value: serde_json::Value = request.json()?;
                reply.json(200, &value)
            }
            ("PUT", "/steady/kv/{key}") => {
                kv::put(key(&request)?, &request.body, None)?;
                reply.text(200, "kept")
            }
            (_, "/steady/kv/{key}") => match kv::get(key(&request)?)? {
                Some(entry) => reply.text(200, String::from_utf8_lossy(&entry.value)),
                None => Err(Error::NotFound("nothing under that key".into())),
            },
            (_, "/steady/slow") => slow(&request, reply),
            (_, "/steady/tasks/{session}") => submit(&request, reply),
            (_, route) => Err(Error::NotFound(format!("{route} is not served"))),
        }
    }
}

fn key(request: &Request) -> Result<&str> {
    request.param("key").ok_or_else(|| Error::field("key", "is missing"))
}

/// A line every 20 ms, as many as asked for, and a last one.
fn slow(request: &Request, reply: Reply) -> Result<()> {
    let lines = request.query("lines").and_then(|lines| lines.parse::<u32>().ok());
    let lines = lines.ok_or_else(|| Error::field("lines", "is no number"))?;
    let mut body = reply.stream(200, "text/plain; charset=utf-8");
    for line in 1..=lines {
        body.write(format!("line {line}\n"))?;
        if let Some(mailbox::Message::Closed(reason)) = mailbox::next(Some(Duration::from_millis(20))) {
            return Err(Error::Closed(reason));
        }
    }
    body.write("end\n")
}

/// Submits the body as a turn of the session.
fn submit(request: &Request, reply: Reply) -> Result<()> {
    let input: serde_json::Map<String, serde_json::Value> = request.json()?;
    let session = request.param("session").ok_or_else(|| Error::field("session", "is missing"))?;
    let kind = input.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default();
    let task = Task::of_kind(kind).session(session);
    let submitted = input.iter().fold(task, |task, (field, content)| task.input(field, content)).submit()?;
    reply.json(202, &serde_json::json!({ "task_id": submitted.id.to_string() }))
}

plugway_sdk::export!(
    Steady: http,
    routes = [
        "POST /steady/echo" by plugin,
        "POST /steady/json" by plugin,
        "GET /steady/slow" by plugin,
        "PUT /steady/kv/{key}" by plugin,
        "GET /steady/kv/{key}" by plugin,
        "POST /steady/tasks/{session}" by plugin,
        "POST /steady/locked",
        "GET /steady/caller"
    ]
);
