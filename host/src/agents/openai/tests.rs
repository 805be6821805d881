//! The agent against a server over TCP that streams, stalls, breaks and lies.

use serde_json::{Value, json};

use super::*;
use crate::domain::{SessionId, TaskId, TaskInput};
use crate::egress::testing::{Seen, Server, Step, answer};

fn agent(base: &str, more: Value) -> OpenAi {
    let mut config = json!({"base_url": format!("{base}/v1/"), "model": "m", "retry_delay": "1ms"});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    OpenAi::new("model", &serde_json::from_value(config).unwrap(), Tls::default()).unwrap()
}

fn turn() -> Turn {
    let document = r#"{"kind":"message","text":"hello"}"#;
    Turn {
        task: TaskId::new(),
        session: SessionId::fresh(""),
        attempt: 1,
        input: TaskInput::parse(document).unwrap(),
        document: document.into(),
        history: Vec::new(),
    }
}

/// Kinds and data of all events of one turn.
async fn run(agent: &OpenAi) -> Vec<(String, Value)> {
    let signals: Vec<AgentSignal> = agent.run(turn()).collect().await;
    let event = |signal: &AgentSignal| match signal {
        AgentSignal::Event(event) => {
            Some((event.kind().to_string(), serde_json::from_str(&event.data()).unwrap()))
        }
        AgentSignal::Framed(..) | AgentSignal::Alive => None,
    };
    signals.iter().filter_map(event).collect()
}

fn head(content_type: &str) -> Step {
    Step::Send(format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n"))
}

fn text(text: &str) -> Step {
    Step::Send(format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": text}}]})))
}

fn call(arguments: &str) -> Step {
    let call = json!({"index": 0, "id": "c", "function": {"name": "f", "arguments": arguments}});
    Step::Send(format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})))
}

fn finish(reason: &str) -> Step {
    Step::Send(format!(
        "data: {}\n\n",
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    ))
}

fn done() -> Step {
    Step::Send("data: [DONE]\n\n".to_owned())
}

async fn always(steps: Vec<Step>) -> Server {
    Server::start(move |_, _| steps.clone()).await
}

#[tokio::test]
async fn an_answer_is_streamed() {
    let usage = Step::Send("data: {\"choices\":[],\"usage\":{\"total_tokens\":9}}\n\n".to_owned());
    let steps = vec![
        head("text/event-stream"),
        Step::Send(": hi\n\n".to_owned()),
        text("Sal"),
        Step::Wait(Duration::from_millis(5)),
        text("ve"),
        finish("stop"),
        usage,
        done(),
        Step::Hang,
    ];
    let server = always(steps).await;
    let agent = agent(&server.origin(), json!({"api_key": "sk-key", "headers": {"x-title": "Plugway"}}));
    let events = run(&agent).await;
    let kinds: Vec<_> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["response_chunk", "response_chunk", "completed"]);
    let completed = &events[2].1;
    assert_eq!((&completed["text"], &completed["usage"]["total_tokens"]), (&"Salve".into(), &9.into()));
    let seen = &server.seen()[0];
    assert!(seen.head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{}", seen.head);
    assert_eq!(
        (seen.header("authorization"), seen.header("x-title")),
        (Some("Bearer sk-key"), Some("Plugway"))
    );
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(body["messages"], json!([{"role": "user", "content": "hello"}]));
    assert_eq!((&body["stream"], &body["stream_options"]["include_usage"]), (&true.into(), &true.into()));
}

#[tokio::test]
async fn each_piece_of_a_call_is_a_sign_of_life_and_a_comment_is_none() {
    let wait = || Step::Send(": still there\n\n".to_owned());
    let pieces = vec![
        head("text/event-stream"),
        wait(),
        call("{\"x\""),
        wait(),
        wait(),
        call(":1"),
        call("}"),
        wait(),
    ];
    let server = always([pieces, vec![finish("tool_calls"), done(), Step::Close]].concat()).await;
    let signals: Vec<AgentSignal> = agent(&server.origin(), json!({})).run(turn()).collect().await;
    let kinds = signals.iter().map(|signal| match signal {
        AgentSignal::Alive => "alive".to_owned(),
        AgentSignal::Event(event) | AgentSignal::Framed(event, _) => event.kind().to_string(),
    });
    assert_eq!(kinds.collect::<Vec<_>>(), ["alive", "alive", "alive", "alive", "tool_started", "completed"]);
}

#[tokio::test]
async fn a_stream_may_end_without_done_and_without_its_last_line() {
    let last = Step::Send(
        "data: {\"choices\":[{\"delta\":{\"content\":\"b\"},\"finish_reason\":\"length\"}]}".to_owned(),
    );
    let server = always(vec![head("text/event-stream"), text("a"), last, Step::Close]).await;
    let events = run(&agent(&server.origin(), json!({}))).await;
    let (kind, completed) = events.last().unwrap();
    assert_eq!(
        (kind.as_str(), &completed["text"], &completed["finish_reason"]),
        ("completed", &"ab".into(), &"length".into())
    );
}

#[tokio::test]
async fn a_server_that_forgets_to_close_is_not_waited_for() {
    let server = always(vec![head("text/event-stream"), text("a"), finish("stop"), Step::Hang]).await;
    let events = run(&agent(&server.origin(), json!({"end_timeout": "20ms"}))).await;
    assert_eq!(events.last().unwrap().0, "completed");
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_works_as_well() {
    let body = json!({
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "whole", "tool_calls": null}, "finish_reason": "stop"}],
        "usage": {"total_tokens": 3}
    });
    let whole = answer(200, "Content-Type: application/json; charset=utf-8\r\n", &body.to_string());
    let server = Server::answering(whole).await;
    let events = run(&agent(&server.origin(), json!({}))).await;
    assert_eq!(events[0], ("response_chunk".to_owned(), json!({"text": "whole"})));
    assert_eq!((&events[1].1["text"], &events[1].1["usage"]["total_tokens"]), (&"whole".into(), &3.into()));
    let empty = Server::answering(answer(200, "content-type: application/json\r\n", "{}")).await;
    let events = run(&agent(&empty.origin(), json!({}))).await;
    assert_eq!((events.len(), &events[0].1["error_type"]), (1, &"agent_error".into()));
}

#[tokio::test]
async fn nothing_is_repeated_once_something_was_told() {
    for end in [
        vec![Step::Close],
        vec![Step::Reset],
        vec![Step::Send("data: {\"error\":{\"message\":\"overloaded\",\"code\":503}}\n\n".to_owned())],
        vec![Step::Send("data: {\"choi\n\n".to_owned()), Step::Hang],
        vec![Step::Send("data: \u{1}\n".repeat(50_000)), Step::Hang],
    ] {
        let mut steps = vec![head("text/event-stream"), text("a")];
        // Time for the first piece to be read before a reset takes it away.
        steps.push(Step::Wait(Duration::from_millis(30)));
        steps.extend(end.clone());
        let server = always(steps).await;
        let events = run(&agent(&server.origin(), json!({"max_frame": "64KiB"}))).await;
        assert_eq!(events.len(), 2, "{events:?}");
        let (kind, failed) = &events[1];
        assert_eq!((kind.as_str(), &failed["error_type"]), ("failed", &"agent_error".into()), "{failed}");
        assert_eq!((&failed["recoverable"], &failed["retry_count"]), (&true.into(), &0.into()), "{failed}");
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn before_the_first_token_it_is_tried_again() {
    let failures: [Vec<Step>; 6] = [
        vec![Step::Send(answer(503, "retry-after: 0\r\n", "busy"))],
        vec![Step::Close],
        vec![Step::Reset],
        vec![head("text/event-stream"), Step::Close],
        vec![head("text/event-stream"), call("{"), Step::Close],
        vec![
            head("text/event-stream"),
            Step::Send("data: {\"error\":\"overloaded\"}\n\n".to_owned()),
            Step::Close,
        ],
    ];
    for failure in failures {
        let script = move |_: &Seen, before: usize| {
            if before < 2 {
                failure.clone()
            } else {
                vec![head("text/event-stream"), text("a"), finish("stop"), done(), Step::Close]
            }
        };
        let server = Server::start(script).await;
        let events = run(&agent(&server.origin(), json!({}))).await;
        assert_eq!(events.last().unwrap().0, "completed", "{events:?}");
        assert_eq!((events.len(), server.seen().len()), (2, 3));
    }
}

#[tokio::test]
async fn tries_run_out_and_some_failures_are_final() {
    for (status, tries, recoverable) in
        [(500, 3, true), (429, 3, true), (401, 1, false), (404, 1, false), (307, 1, false)]
    {
        let body =
            json!({"error": {"message": "Incorrect API key provided: sk-key-of-the-operator", "code": "x"}})
                .to_string();
        let server = Server::answering(answer(status, "location: http://127.0.0.1:1/\r\n", &body)).await;
        let events = run(&agent(&server.origin(), json!({"api_key": "sk-key-of-the-operator"}))).await;
        let (_, failed) = &events[0];
        assert_eq!((events.len(), server.seen().len()), (1, tries), "{status}");
        assert_eq!(
            (&failed["status"], &failed["recoverable"]),
            (&status.into(), &recoverable.into()),
            "{failed}"
        );
        assert_eq!(failed["retry_count"], tries - 1);
        let error = failed["error"].as_str().unwrap();
        assert!(
            error.contains("Incorrect API key provided: [secret:api_key]") && !error.contains("sk-key"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_server_that_asks_for_too_long_a_pause_is_left_alone() {
    let server = Server::answering(answer(429, "retry-after: 3600\r\n", "")).await;
    let events = run(&agent(&server.origin(), json!({}))).await;
    assert_eq!((events.len(), server.seen().len(), &events[0].1["recoverable"]), (1, 1, &true.into()));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let events = run(&agent("http://127.0.0.1:1", json!({}))).await;
    let (_, failed) = &events[0];
    assert_eq!(
        (&failed["error_type"], &failed["retry_count"]),
        (&"agent_unreachable".into(), &2.into()),
        "{failed}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_begin_is_silent() {
    for steps in
        [vec![Step::Hang], vec![head("text/event-stream"), Step::Send(": wait\n\n".to_owned()), Step::Hang]]
    {
        let server = always(steps).await;
        let events = run(&agent(&server.origin(), json!({"first_token_timeout": "50ms"}))).await;
        assert_eq!((events.len(), &events[0].1["error_type"]), (1, &"agent_silent".into()), "{events:?}");
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn dropping_the_stream_ends_the_request() {
    let server = always(vec![head("text/event-stream"), text("a"), Step::Hang]).await;
    let agent = agent(&server.origin(), json!({}));
    let mut stream = agent.run(turn());
    assert!(server.seen().is_empty());
    assert!(stream.next().await.is_some());
    assert_eq!(server.ended(), 0);
    drop(stream);
    server.ended_at_least(1).await;
}

#[test]
fn settings_that_make_no_sense_are_told() {
    let told = |more: Value| {
        let mut config = json!({"base_url": "http://127.0.0.1/v1", "model": "m"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = serde_json::from_value(config).unwrap();
        OpenAi::new("model", &config, Tls::default()).unwrap_err().to_string()
    };
    assert!(told(json!({"base_url": "ftp://x"})).starts_with("agents.model.base_url: "));
    assert!(told(json!({"base_url": "http://u:p@x"})).contains("headers"));
    assert!(told(json!({"headers": {"a b": "c"}})).starts_with("agents.model.headers.a b: "));
    assert!(told(json!({"parameters": {"stream": false}})).starts_with("agents.model.parameters.stream: "));
    let key = told(json!({"api_key": "a\nb"}));
    assert!(key.starts_with("agents.model.api_key: ") && !key.contains("a\nb"));
    assert!(told(json!({"api_key": "file:/does/not/exist"})).starts_with("agents.model: the secret file"));
    for size in ["max_frame", "max_answer"] {
        assert_eq!(told(json!({size: "0B"})), format!("agents.model.{size}: must be at least 1B"));
    }
}
