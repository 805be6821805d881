//! What the contract takes and what it refuses: a list that runs as a component on the gateway, and natively on the mock.

use std::time::Duration;

use plugway_sdk::prelude::*;
use plugway_sdk::{Begin, bounds, follow_session, http, kv, pacing, webhooks};

/// Name of the case, what is expected, what came of it.
pub(crate) type Outcome = (String, &'static str, String);

const SECOND: Duration = Duration::from_secs(1);
const ORIGIN: &str = "http://127.0.0.1:9";

fn word<T, E>(result: Result<T, E>, error: impl FnOnce(E) -> &'static str) -> String {
    result.map_or_else(error, |_| "taken").to_owned()
}

fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// Runs all cases.
///
/// # Errors
/// A task can't be submitted.
pub(crate) fn run() -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut case = |name: &str, expected, got| outcomes.push((name.to_owned(), expected, got));
    storage(&mut case);
    rates(&mut case);
    requests(&mut case);
    callbacks(&mut case);
    tasks(&mut case)?;
    Ok(outcomes)
}

type Report<'a> = &'a mut dyn FnMut(&str, &'static str, String);

fn storage(case: Report) {
    let said = |error| match error {
        kv::Error::TooLarge(_) => "too large",
        _ => "something else",
    };
    let mut put = |name: &str, expected, key: usize, value: usize| {
        case(name, expected, word(kv::put(&long(key), &vec![0; value], None), said));
    };
    put("an empty key", "too large", 0, 1);
    put("the longest key", "taken", bounds::KV_KEY, 1);
    put("a longer key", "too large", bounds::KV_KEY + 1, 1);
    put("the largest value", "taken", 1, bounds::KV_VALUE);
    put("a larger value", "too large", 1, bounds::KV_VALUE + 1);
    case("the most keys", "taken", word(kv::keys("", None, bounds::KV_KEYS), said));
    case("more keys", "too large", word(kv::keys("", None, bounds::KV_KEYS + 1), said));
}

fn rates(case: Report) {
    let said = |error| match error {
        pacing::Error::Invalid(_) => "invalid",
        _ => "something else",
    };
    let window = Duration::from_millis(bounds::PACING_WINDOW_MS.into());
    let longest_pause = Duration::from_millis(bounds::PACING_PAUSE_MS.into());
    let over = Duration::from_millis(1);
    let mut acquire = |name: &str, expected, rates: &[(&str, u32, Duration)], wait| {
        case(name, expected, word(pacing::acquire_all(rates, wait), said));
    };
    let key = long(bounds::PACING_KEY);
    acquire("the largest rate", "taken", &[(&key, bounds::PACING_COUNT, window)], window);
    acquire("a longer pacing key", "invalid", &[(&long(bounds::PACING_KEY + 1), 1, SECOND)], SECOND);
    acquire("no grants", "invalid", &[("k", 0, SECOND)], SECOND);
    acquire("more grants", "invalid", &[("k", bounds::PACING_COUNT + 1, SECOND)], SECOND);
    acquire("a longer window", "invalid", &[("k", 1, window + over)], SECOND);
    acquire("a longer wait", "invalid", &[("k", 1, SECOND)], window + over);
    acquire("a key twice", "invalid", &[("k", 1, SECOND), ("k", 2, SECOND)], SECOND);
    acquire("no rate", "invalid", &[], SECOND);
    let keys: Vec<String> = (0..=bounds::PACING_RATES).map(|n| format!("k{n}")).collect();
    let rates: Vec<_> = keys.iter().map(|key| (key.as_str(), 1, SECOND)).collect();
    acquire("the most rates", "taken", &rates[1..], SECOND);
    acquire("more rates", "invalid", &rates, SECOND);
    let mut room = |name: &str, expected, key: &str, count, per| {
        case(name, expected, word(pacing::peek(key, count, per), said));
    };
    room("the largest rate's room", "taken", &key, bounds::PACING_COUNT, window);
    room("a longer key's room", "invalid", &long(bounds::PACING_KEY + 1), 1, SECOND);
    room("the room of no grants", "invalid", "k", 0, SECOND);
    room("a longer window's room", "invalid", "k", 1, window + over);
    case("the longest pause", "taken", word(pacing::pause("paused", longest_pause), said));
    case("a longer pause", "invalid", word(pacing::pause("paused", longest_pause + over), said));
}

fn requests(case: Report) {
    let mut send = |name: &str, call: http::Call| {
        let said = |error| match error {
            http::Error::Denied(_) => "denied",
            _ => "something else",
        };
        case(name, "denied", word(call.send(), said));
    };
    send("an origin that is not granted", http::get("http://127.0.0.1:10/"));
    send("a scheme that is not spoken", http::get("ftp://127.0.0.1:9/"));
    send("a password in the URL", http::get("http://u:p@127.0.0.1:9/"));
    send("a secret in the query", http::get(format!("{ORIGIN}/?token={{secret:token}}")));
    send("a secret that is not granted", http::get(format!("{ORIGIN}/{{secret:other}}")));
    send("a URL that is too long", http::get(format!("{ORIGIN}/{}", long(bounds::HTTP_URL))));
    send("a method that nobody knows", http::call("BREW", ORIGIN));
    send("a header with a line end", http::get(ORIGIN).header("x-a", "b\r\nc: d"));
    for header in bounds::HTTP_OWN_HEADERS {
        send(&format!("the header {header}"), http::get(ORIGIN).header(header, "1"));
    }
    let many = (0..=bounds::HTTP_HEADERS)
        .fold(http::get(ORIGIN), |call, number| call.header(&format!("x-{number}"), "1"));
    send("too many headers", many);
    send("headers that are too large", http::get(ORIGIN).header("x-a", long(bounds::HTTP_HEADER_BYTES)));
}

fn callbacks(case: Report) {
    let said = |error| match error {
        webhooks::Error::UnacceptableUrl(_) => "unacceptable URL",
        webhooks::Error::TooLarge(_) => "too large",
        webhooks::Error::Invalid(_) => "invalid",
        _ => "something else",
    };
    let url = "https://callbacks.invalid/hook";
    for bad in ["ftp://callbacks.invalid/", "https://u:p@callbacks.invalid/", "nonsense", ""] {
        case(&format!("checking {bad:?}"), "unacceptable URL", word(webhooks::check(bad), said));
        let posted = webhooks::post(Some(bad), &1, "bad");
        case(&format!("posting to {bad:?}"), "unacceptable URL", word(posted, said));
    }
    case("checking a URL", "taken", word(webhooks::check(url), said));
    let long_url = format!("{url}/{}", long(bounds::WEBHOOK_URL));
    case("a longer URL", "too large", word(webhooks::post(Some(&long_url), &1, "long"), said));
    let mut post = |name: &str, expected, key: usize, body: usize| {
        case(name, expected, word(webhooks::post(Some(url), &long(body), &long(key)), said));
    };
    post("no key for a callback", "invalid", 0, 1);
    post("a longer key for a callback", "too large", bounds::WEBHOOK_KEY + 1, 1);
    post("a callback that is too large", "too large", 1, 1 << 20);
}

fn tasks(case: Report) -> Result<()> {
    let said = |error| match error {
        Error::NotFound(_) => "not found",
        Error::BadRequest { .. } => "invalid",
        _ => "something else",
    };
    let (one, other) = (Task::message("one").submit()?, Task::message("other").submit()?);
    let cursor = one.events().next().transpose()?.map(|event| event.cursor);
    let follow = |task: &TaskRef, after| task.follow(after).next().transpose();
    case("following from a cursor", "taken", word(follow(&one, cursor.clone()), said));
    case("a cursor of another task", "invalid", word(follow(&other, cursor.clone()), said));
    case("a cursor that is none", "invalid", word(follow(&one, Some("nonsense".into())), said));
    case("a task that is not there", "not found", word(follow(&TaskRef::new("nobody"), None), said));
    let session = |name: String| SessionId::from(name);
    let of_session = |name, begin| follow_session(&session(name), begin);
    case("a session to come", "taken", word(of_session("to come".to_owned(), Begin::Start), said));
    case(
        "what a session does from now on",
        "taken",
        word(of_session("to come".to_owned(), Begin::Now), said),
    );
    case("a session without a name", "invalid", word(of_session(String::new(), Begin::Start), said));
    let longer = long(bounds::SESSION_NAME + 1);
    case("a longer name of a session", "invalid", word(of_session(longer.clone(), Begin::Now), said));
    let foreign = of_session("to come".to_owned(), Begin::Task(&one.id));
    case("a task of another session", "invalid", word(foreign, said));
    let foreign = of_session("to come".to_owned(), Begin::After(cursor.as_ref().expect("a cursor")));
    case("a cursor of another session", "invalid", word(foreign, said));
    let mut submit = |name: &str, expected, task: Task| {
        let said = |error| match error {
            SubmitError::Invalid(_) => "invalid",
            SubmitError::UnknownAgent(_) => "unknown agent",
            _ => "something else",
        };
        case(name, expected, word(task.submit(), said));
    };
    let task = || Task::message("x");
    submit("a task of a longer session", "invalid", task().session(longer));
    submit("an empty idempotency key", "invalid", task().idempotency_key(""));
    submit("a longer idempotency key", "invalid", task().idempotency_key(long(bounds::TASK_KEY + 1)));
    let address = long(bounds::TASK_ADDRESS);
    submit("an address that is too long", "invalid", task().deliver(&address, Moment::End));
    submit("an agent that is not there", "unknown agent", task().agent("nobody"));
    Ok(())
}
