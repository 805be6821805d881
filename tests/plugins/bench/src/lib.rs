//! What the benchmark asks of a plugin: each route is one figure's smallest honest case.

mod dialogue;

use std::hint::black_box;
use std::time::Duration;

use plugway_sdk::prelude::*;
use plugway_sdk::{host, mailbox};

use dialogue::Question;

/// Rounds of computing between two looks at the clock, about a millisecond.
const ROUNDS: u32 = 1_000_000;

struct Bench;

impl HttpAdapter for Bench {
    fn handle(&self, request: Request, reply: Reply) -> Result<()> {
        match request.route.as_str() {
            "/bench/answer" => reply.json(200, &request.json::<Question>()?.answer()),
            "/bench/submit" => reply.text(200, submit(&request)?.id.as_str()),
            "/bench/stream" => stream(&request, reply),
            "/bench/hold" => hold(reply),
            "/bench/spin/{ms}" => {
                spin(&request)?;
                reply.text(200, "done")
            }
            route => Err(Error::NotFound(format!("{route} is not served"))),
        }
    }
}

/// The body is what the agent is told.
fn submit(request: &Request) -> Result<Submitted> {
    let mut task = Task::message(request.text()?);
    if let Some(agent) = request.query("agent") {
        task = task.agent(&*agent);
    }
    Ok(task.submit()?)
}

/// Renders every event of the task as it comes.
fn stream(request: &Request, reply: Reply) -> Result<()> {
    let task = submit(request)?;
    let mut body = reply.events();
    for event in task.events() {
        let event = event?;
        body.event(Some(&event.name), Some(event.cursor.as_str()), &event.data)?;
    }
    Ok(())
}

/// Begins a stream and says nothing more.
fn hold(reply: Reply) -> Result<()> {
    let mut body = reply.events();
    body.event(Some("held"), None, "")?;
    loop {
        if let Some(mailbox::Message::Closed(reason)) = mailbox::next(None) {
            return Err(Error::Closed(reason));
        }
    }
}

/// Computes for as long as it is told, without ever waiting.
fn spin(request: &Request) -> Result<()> {
    let ms = request.param("ms").and_then(|ms| ms.parse().ok());
    let end = host::now() + Duration::from_millis(ms.ok_or_else(|| Error::field("ms", "is no number"))?);
    let mut seed = 1_u64;
    while host::now() < end {
        for _ in 0..ROUNDS {
            seed = black_box(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    Ok(())
}

plugway_sdk::export!(
    Bench: http,
    routes = [
        "POST /bench/answer" by plugin,
        "POST /bench/submit" by plugin,
        "POST /bench/stream" by plugin,
        "POST /bench/hold" by plugin,
        "POST /bench/spin/{ms}" by plugin
    ]
);
