//! What becomes of an exchange: answers whole, growing and cut off, errors, sockets.

use plugway_sdk::{host::Level, mock::Mock, mock::Script, prelude::*};
use serde_json::{Value, json};
use std::time::Duration;

struct Door;

impl HttpAdapter for Door {
    fn handle(&self, request: Request, reply: Reply) -> Result<()> {
        match request.param("what").unwrap_or_default() {
            "nothing" => Ok(()),
            "twice" => {
                let mut body = reply.header("x-kind", "stream").stream(200, "text/plain");
                body.write("one ")?;
                body.write("two")
            }
            "finished" => {
                let mut body = reply.stream(200, "text/plain");
                body.write("done")?;
                body.finish()?;
                Err(Error::internal("after the end"))
            }
            "broken" => {
                let mut body = reply.stream(200, "text/plain");
                body.write("half")?;
                Err(Error::internal("the other half"))
            }
            "events" => {
                let mut body = reply.events();
                body.event(Some("progress"), Some("c1"), "a\nb\r\nc\rd\n")?;
                assert!(body.event(Some("a\ndata: b"), None, "").is_err());
                assert!(body.event(None, Some("1\r2"), "").is_err());
                body.event(None, None, "")
            }
            "typed" => reply.header("Content-Type", "text/html").text(200, "<p>"),
            "odd" => reply.stream(99, "text/plain").write("x"),
            "missing" => Err(Error::NotFound("no such thing".into())),
            "internal" => Err(Error::internal("the secret reason")),
            "upstream" => Err(http::Error::Unreachable("db-7.internal:5432 refused".into()).into()),
            "model" => Err(Error::Other {
                status: 404,
                kind: "invalid_request_error",
                code: Some("model_not_found"),
                message: "no such model".into(),
                param: Some("model".into()),
            }),
            "unknown_agent" => Task::message("x").agent("nobody").submit().map(drop).map_err(Error::from),
            other => reply.text(200, format!("{other} {:?}", request.query("q"))),
        }
    }
}

impl SocketAdapter for Door {
    fn serve(&self, upgrade: Request, socket: Socket) -> Result<()> {
        let session = SessionId::from(upgrade.param("session").unwrap_or_default());
        plugway_sdk::follow_session(&session, plugway_sdk::Begin::Start)?;
        while let Some(message) = mailbox::next(None) {
            match message {
                Message::Frame(Frame::Text(text)) if text == "fail" => {
                    return Err(Error::internal("asked to"));
                }
                Message::Frame(Frame::Text(text)) if text == "bye" => {
                    socket.close(1000, "bye")?;
                    return Ok(());
                }
                Message::Frame(Frame::Text(text)) => drop(Task::message(text).session(&session).submit()?),
                Message::Event(event) => socket.json(&json!({"kind": event.name, "data": event.data}))?,
                Message::Closed(reason) => return Err(Error::Closed(reason)),
                _ => {}
            }
        }
        Ok(())
    }
}

plugway_sdk::export!(Door: http + socket, routes = ["POST /do/{what}", "WS /ws/{session}" by plugin]);

fn call(what: &str) -> plugway_sdk::mock::Answer {
    Mock::new().post(&format!("/do/{what}")).handle(&Door)
}

#[test]
fn a_body_ends_cleanly_when_the_handler_returns_ok() {
    let answer = call("twice");
    assert_eq!(
        (&*answer.text(), answer.cut_off, answer.header("X-Kind")),
        ("one two", false, Some("stream"))
    );
    assert_eq!(answer.pieces, ["one ", "two"]);
}

#[test]
fn a_body_is_cut_off_when_the_handler_fails() {
    let answer = call("broken");
    assert_eq!((&*answer.text(), answer.cut_off), ("half", true));
    assert_eq!(answer.error.as_deref(), Some("the other half"));
    assert!(!call("finished").cut_off, "what was finished before is whole");
}

#[test]
fn an_error_before_the_answer_becomes_the_answer() {
    let answer = call("missing");
    assert_eq!((answer.status, answer.error.clone()), (404, None));
    let error: Value = answer.parse().unwrap();
    let shape = json!({"message": "no such thing", "type": "not_found_error", "code": null, "param": null});
    assert_eq!(error, json!({"error": shape}));

    let error: Value = call("model").parse().unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["param"]),
        (&json!("model_not_found"), &json!("model"))
    );
    assert_eq!(call("unknown_agent").status, 404);
}

#[test]
fn an_internal_error_is_left_to_the_host_without_a_word_to_the_caller() {
    let answer = call("internal");
    assert_eq!((answer.status, answer.body.len()), (500, 0));
    assert_eq!(answer.error.as_deref(), Some("the secret reason"));
    assert!(!Error::internal("the secret reason").response().text().contains("secret"));
}

#[test]
fn what_is_unavailable_and_why_is_for_the_log_only() {
    let answer = call("upstream");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("temporarily unavailable") && !answer.text().contains("db-7"));
    assert_eq!(answer.error.as_deref(), Some("unreachable: db-7.internal:5432 refused"));
}

#[test]
fn no_answer_and_an_impossible_one_are_errors() {
    assert_eq!(call("nothing").error.as_deref(), Some("the handler returned without an answer"));
    assert!(call("odd").error.unwrap().contains("99"));
}

#[test]
fn server_sent_events_have_a_line_for_every_line() {
    let answer = call("events");
    assert_eq!(
        answer.text(),
        "event: progress\nid: c1\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\ndata: \n\n"
    );
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
}

#[test]
fn a_header_of_the_authors_takes_the_place_of_the_default_one() {
    let mock = Mock::new();
    let types = |headers: &[(String, String)]| {
        let types = headers.iter().filter(|(name, _)| name == "content-type");
        types.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(types(&mock.post("/do/typed").handle(&Door).headers), ["text/html"]);
    mock.outgoing(|_| Ok(Response::empty(204)));
    let post = || http::post("https://a.example/");
    post().json(&1).header("content-type", "application/ld+json").send().unwrap();
    post().header("Content-Type", "application/ld+json").json(&1).send().unwrap();
    for sent in mock.sent() {
        assert_eq!(types(&sent.headers), ["application/ld+json"]);
    }
}

#[test]
fn what_a_request_shows_of_itself_lets_nobody_in() {
    let mut request = Request::default();
    request.headers = vec![
        ("authorization".into(), "Bearer hunter2".into()),
        ("x-telegram-bot-api-secret-token".into(), "hunter2".into()),
        ("accept".into(), "text/html".into()),
    ];
    request.body = b"hunter2".to_vec();
    let shown = format!("{request:?}");
    assert!(
        !shown.contains("hunter2") && shown.contains("text/html") && shown.contains("7 bytes"),
        "{shown}"
    );
}

#[test]
fn a_client_that_leaves_ends_the_handler_and_is_no_failure() {
    let mock = Mock::new();
    let answer = mock.post("/do/twice").leaves_after(1).handle(&Door);
    assert_eq!((answer.pieces.len(), answer.error.clone()), (1, None));
}

#[test]
fn parameters_and_queries_are_decoded() {
    let answer = Mock::new().post("/do/x?a=1&q=a%20b%2Bc+d%zz").handle(&Door);
    assert_eq!(answer.text(), r#"x Some("a b+c d%zz")"#);
}

#[test]
fn a_socket_speaks_for_every_task_of_its_session() {
    let mock = Mock::new();
    mock.agent(|task| Script::new().wait(Duration::from_secs(1)).completed(task.text()));
    let served = mock
        .websocket("/ws/s1")
        .text("one")
        .wait(Duration::from_secs(5))
        .text("two")
        .wait(Duration::from_secs(5));
    let served = served.text("bye").serve(&Door);
    assert_eq!((served.frames.len(), served.closed, served.error), (2, Some((1000, "bye".into())), None));
    assert!(mock.submissions().iter().all(|submission| submission.session == "s1"));
}

#[test]
fn turns_of_a_session_run_one_after_the_other() {
    let mock = Mock::new();
    mock.agent(|task| match task.text() {
        "endless" => Script::new().started(),
        text => Script::new().wait(Duration::from_secs(10)).completed(text),
    });
    let turn = |text: &str| Task::message(text).session("s1").submit().unwrap();
    let (first, second, elsewhere) = (turn("one"), turn("two"), Task::message("else").submit().unwrap());
    let start = mock.now();
    assert_eq!(elsewhere.answer().as_deref(), Ok("else"));
    assert_eq!(mock.now().duration_since(start).unwrap(), Duration::from_secs(10));
    assert_eq!(second.answer().as_deref(), Ok("two"));
    assert_eq!(mock.now().duration_since(start).unwrap(), Duration::from_secs(20));
    assert_eq!(first.answer().as_deref(), Ok("one"));

    let (endless, waits, last) = (turn("endless"), turn("waits"), turn("last"));
    mock.advance(Duration::from_secs(60));
    assert_eq!(waits.describe().unwrap().unwrap()["state"], "queued");
    assert_eq!(waits.cancel(), Ok(true));
    assert_eq!(last.describe().unwrap().unwrap()["state"], "queued");
    let cancelled = mock.now();
    assert_eq!(endless.cancel(), Ok(true));
    assert_eq!(last.answer().as_deref(), Ok("last"));
    assert_eq!(mock.now().duration_since(cancelled).unwrap(), Duration::from_secs(10));
    assert!(waits.answer().is_err());
}

#[test]
fn a_peer_goes_after_the_frames_that_it_wants() {
    let mock = Mock::new();
    mock.agent(|_| Script::reply(["a", "b", "c"]));
    let connect = || mock.websocket("/ws/s1").query("after", "a b&c").text("one");
    let served = connect().leaves_after(2).serve(&Door);
    assert_eq!((served.frames.len(), &served.error), (2, &None));
    assert_eq!(served.json()[1], json!({"kind": "response_chunk", "data": "{\"text\":\"a\"}"}));
    assert_eq!(connect().leaves_after(0).serve(&Door).texts(), Vec::<&str>::new());
}

#[test]
fn a_socket_that_fails_is_closed_with_1011_and_one_that_drains_with_1012() {
    let mock = Mock::new();
    let served = mock.websocket("/ws/s1").text("fail").serve(&Door);
    assert_eq!(
        (served.closed.map(|(code, _)| code), served.error.as_deref()),
        (Some(1011), Some("asked to"))
    );

    mock.close_after(Duration::from_secs(9), Reason::Draining);
    let served = mock.websocket("/ws/s1").serve(&Door);
    assert_eq!((served.closed.map(|(code, _)| code), served.error), (Some(1012), None));

    let served = mock.websocket("/ws/s1").wait(Duration::from_secs(1)).leave().serve(&Door);
    assert_eq!((served.closed, served.error), (None, None));
}

#[test]
fn the_manifest_has_routes_of_both_kinds() {
    let manifest = Door::manifest();
    let routes: Vec<_> = manifest
        .routes
        .iter()
        .map(|route| (route.method.as_str(), route.path.as_str(), route.websocket, route.by_plugin))
        .collect();
    assert_eq!(routes, [("POST", "/do/{what}", false, false), ("GET", "/ws/{session}", true, true)]);
    assert_eq!(
        (manifest.name.as_str(), manifest.version.as_str()),
        (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(Door::check("{}"), Ok(()));
    assert_eq!(Door::check(r#"{"a":1}"#), Err("this plugin takes no configuration".into()));
}

#[test]
fn log_lines_have_their_level() {
    let mock = Mock::new();
    info!("one {}", 1);
    warn!("two");
    assert_eq!(mock.logs(), [(Level::Info, "one 1".to_owned()), (Level::Warn, "two".to_owned())]);
}
