//! A plugin that does one bad thing a route: whatever it is, only its own exchange may suffer.

use std::hint::black_box;
use std::time::Duration;

use plugway_sdk::prelude::*;
use plugway_sdk::{Draft, host, http, info, kv, mailbox, pacing};

const SECOND: Duration = Duration::from_secs(1);

struct Hostile;

impl HttpAdapter for Hostile {
    fn handle(&self, request: Request, reply: Reply) -> Result<()> {
        let url = || request.query("url").map(String::from).ok_or_else(|| Error::field("url", "is missing"));
        match request.param("deed").unwrap_or_default() {
            "nothing" => reply.text(200, "done"),
            "loop" => spin(),
            "poll" => loop {
                black_box(mailbox::next(Some(Duration::ZERO)));
            },
            "clock" => loop {
                black_box(host::now());
            },
            "cancel" => loop {
                black_box(TaskRef::new("no task at all").cancel().is_ok());
            },
            "callback" => loop {
                black_box(plugway_sdk::webhooks::post(None, &"nowhere", "key").is_ok());
            },
            "headers" => {
                let headers = (0..40_000).fold(reply, |reply, n| reply.header(&format!("x-{n}"), "value"));
                headers.text(200, "done")
            }
            "pace" => {
                let pace = |n: &i32| pacing::acquire(&n.to_string(), 1, 60 * SECOND, Duration::ZERO);
                let refused = (0..50_000).find(|n| pace(n) != Ok(true));
                reply.text(200, format!("{refused:?}"))
            }
            "hold" => {
                let held = vec![1_u8; 8 << 20];
                mailbox::next(Some(60 * SECOND));
                reply.text(200, black_box(held).len().to_string())
            }
            "recurse" => reply.text(200, recurse(0).to_string()),
            "recurse-wide" => reply.text(200, recurse_wide(0).to_string()),
            "allocate" => allocate(),
            "panic" => panic!("on purpose, with a \"reason\""),
            "log" => loop {
                info!("a line of the log that is written without end");
            },
            "stdout" => loop {
                println!("a line of the output that is written without end");
            },
            "one-line" => loop {
                print!("no end of this line ");
            },
            "write" => write(reply),
            "wait" => {
                let hour = Duration::from_secs(3_600);
                while pacing::acquire(&request.exchange, 1, hour, hour)? {}
                reply.text(200, "it did not wait")
            }
            "ignore-the-end" => loop {
                black_box(mailbox::next(None));
            },
            "half" => {
                reply.stream(200, "text/plain").write("half of an answer")?;
                panic!("in the middle of an answer")
            }
            "no-answer" => Ok(()),
            "error" => Err(Error::internal("details that no caller may see")),
            "bad-header" => reply.header("x-\nbad", "value").text(200, "done"),
            "bad-status" => reply.text(7, "done"),
            "dial" => reply.text(200, said(http::get(url()?).send())),
            "dial-without-end" => loop {
                black_box(http::get(url()?).send().is_ok());
            },
            "secret" => reply.text(200, said(http::get(url()?).header("x-stolen", "{secret:theirs}").send())),
            "own-secret" => {
                let call = http::post(url()?).header("x-key", "{secret:own}").body("{secret:own}");
                reply.text(200, said(call.send()))
            }
            "guess-secret" => reply.text(200, host::secret_equals("own", "a guess").to_string()),
            "kv" => fill_kv(reply),
            "kv-value" => reply.text(200, format!("{:?}", kv::put("big", &vec![0; 8 << 20], None))),
            deed => Err(Error::field("deed", format!("{deed} is none that it knows"))),
        }
    }
}

fn said(answer: std::result::Result<Response, http::Error>) -> String {
    match answer {
        Ok(response) => format!("{} {}", response.status, response.text()),
        Err(error) => error.to_string(),
    }
}

fn spin() -> ! {
    loop {
        black_box(());
    }
}

/// Goes deep without keeping anything in memory: only the stack of calls grows.
fn recurse(depth: usize) -> usize {
    const WAYS: [fn(usize) -> usize; 2] = [recurse, recurse];
    WAYS[depth % WAYS.len()](depth + 1).rotate_left(3) ^ depth
}

/// Goes deep with much on the stack that is kept in memory.
#[expect(unconditional_recursion, reason = "that is the deed")]
fn recurse_wide(depth: u64) -> u64 {
    let here = black_box([depth; 64]);
    recurse_wide(depth + 1) + black_box(here)[3]
}

fn allocate() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1_u8; 1 << 20]));
    }
}

fn write(reply: Reply) -> Result<()> {
    let mut body = reply.stream(200, "application/octet-stream");
    loop {
        body.write([b'x'; 64])?;
    }
}

fn fill_kv(reply: Reply) -> Result<()> {
    for number in 0_u32.. {
        if let Err(error) = kv::put(&format!("key{number}"), &[7; 16 << 10], None) {
            return reply.text(200, format!("{number} {error}"));
        }
    }
    Ok(())
}

impl Filter for Hostile {
    fn apply(&self, _task: &str, _state: &mut Vec<u8>, event: Draft) -> Vec<Draft> {
        if event.data.contains("ask kv") {
            // As a filter it has none.
            black_box(kv::get("x").is_ok());
        }
        vec![event]
    }
}

plugway_sdk::export!(
    Hostile: http + filter,
    routes = ["GET /hostile/{deed}" by plugin],
    origins = ["http://never.granted.example"],
    secrets = ["own", "theirs"]
);
