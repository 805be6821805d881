//! The bundled filter `redact` before everything that hears of a task: what it keeps in gets out on no channel.

use futures::future::join_all;
use http::Method;
use plugway_tests::{Answer, Builder, Gateway, INTERNAL_KEY, Runtime, overwrite_bytes, plugin, salted};
use serde_json::{Value, json};

/// The echo agent splits it over chunks, a word each.
const SAID: &str =
    "my card 4111 1111 1111 1111 and mail ann@example.org and key sk-abcdefghijklmnopqrstuvwx123456 end";
/// Nothing that an id could hold by chance.
const SECRETS: [&str; 4] = ["4111 1", "1 1111", "ann@", "ghijklmnop"];

fn builder() -> Builder {
    Gateway::builder().plugin("redact").plugin("openai").set("filters", vec!["redact"])
}

fn assert_kept_in(channel: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} got out by {channel}: {text}");
    }
}

async fn post(gateway: &Gateway, path: &str, body: &Value) -> String {
    let response = gateway.request(Method::POST, path).json(body).send().await.expect("an answer");
    Answer::read(response).await.expect("a whole answer").expect(200).text()
}

/// The text of a chat stream.
fn spoken(stream: &str) -> String {
    let chunks = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let chunks = chunks.filter_map(|chunk| serde_json::from_str::<Value>(chunk).ok());
    chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

/// Before a runtime.
fn before(runtime: &Runtime) -> Builder {
    builder()
        .set("default_agent", "runtime")
        .set("agents.runtime.kind", "http")
        .set("agents.runtime.url", runtime.url())
        .set("agents.runtime.internal_api_key", INTERNAL_KEY)
}

/// A chunk of the runtime's.
fn chunk(chunk: &Value) -> String {
    format!("/send {chunk}")
}

/// What the gateway shows of a turn in which the runtime does as it is told: the data of its events behind the first.
async fn shown(gateway: &Gateway, script: &[String]) -> Vec<Value> {
    let body = json!({"query": script.join("\n")});
    let accepted = gateway.post("/api/agent/command", &body).await.expect(200).json();
    let task = accepted["request_id"].as_str().expect("an id").replacen("req-", "task_", 1);
    let events = gateway.stream(&format!("/stream/{task}")).await.rest().await;
    events[1..].iter().map(|event| event.json()["data"].clone()).collect()
}

/// The text that a field of all of them makes together.
fn together(shown: &[Value], field: &str) -> String {
    shown.iter().filter_map(|data| data[field].as_str()).collect()
}

#[tokio::test]
async fn half_of_a_surrogate_pair_hides_nothing() {
    let runtime = Runtime::start().await;
    let gateway = before(&runtime).start().await;
    let card = r#"{"type":"tool_call","call_id":"c","tool_name":"pay","arguments":{"card":"4111 1111 1111 1111 \ud83d"}}"#;
    let text = |frame: &str| format!("/text {}", Value::from(format!("data: {frame}\n\n")));
    let shown = shown(&gateway, &[text(card), "/done".to_owned()]).await;
    let all = Value::from(shown).to_string();
    assert!(all.contains("[CARD]"), "{all}");
    assert_kept_in("a tool call", &all);
}

#[tokio::test]
async fn what_is_cut_in_thoughts_and_other_streams_gets_out_nowhere() {
    let runtime = Runtime::start().await;
    let gateway = before(&runtime).start().await;
    let between = [
        json!({"type": "tool_call", "call_id": "c", "tool_name": "t", "arguments": {}}),
        json!({"type": "assistant_message", "token": "so "}),
    ];
    for (kind, field) in [("thinking", "thought"), ("thinking", "token")] {
        for between in &between {
            let piece = |text: &str| chunk(&json!({"type": kind, field: text}));
            let script =
                [piece("card 4111 1111 "), chunk(between), piece("1111 1111 it is "), "/done".to_owned()];
            let shown = shown(&gateway, &script).await;
            let all = Value::from(shown.clone()).to_string();
            assert_kept_in(kind, &all);
            assert!(!all.contains("4111"), "{all}");
            assert!(together(&shown, field).contains("card [CARD] it is"), "{all}");
        }
    }
}

#[tokio::test]
async fn a_turn_that_breaks_off_shows_no_half_of_what_is_kept_in() {
    let runtime = Runtime::start().await;
    let gateway = before(&runtime).set("agents.runtime.stream_timeout", "2s").start().await;
    for (half, kept) in [
        ("card 4111 1111 1111 111", "card [CARD]"),
        ("key sk-proj-ABCDEFGH1234567", "key [SECRET]"),
        ("mail ann@example", "mail [EMAIL]"),
    ] {
        for end in ["/cut", "/silent"] {
            let script = [chunk(&json!({"type": "assistant_message", "token": half})), end.to_owned()];
            let shown = shown(&gateway, &script).await;
            assert!(shown.last().is_some_and(|data| data["error"].is_string()), "{shown:?}");
            assert_eq!(together(&shown, "text"), kept, "{end}");
        }
    }
}

#[tokio::test]
async fn messages_keep_their_ends() {
    let runtime = Runtime::start().await;
    let gateway = before(&runtime).start().await;
    let script = ["/say Hello dear world.", "/say Second message.", "/done"].map(str::to_owned);
    let shown = shown(&gateway, &script).await;
    let is_end =
        |data: &&Value| data["raw"]["type"] == "assistant_message" && data["raw"]["is_final"] == true;
    assert_eq!(shown.iter().filter(is_end).count(), 2, "{shown:#?}");
    let first = shown.iter().position(|data| is_end(&data)).expect("an end");
    assert_eq!(together(&shown[..=first], "text").trim_end(), "Hello dear world.");
}

#[tokio::test]
async fn texts_of_numbers_are_read_within_a_calls_limits() {
    let runtime = Runtime::start().await;
    let gateway = before(&runtime).start().await;
    for piece in ["4 1 2 0 ", "17 42 ", "_", "eyJ-", "sk-a-", "a_"] {
        let note = chunk(&json!({"type": "note", "x": piece.repeat(300_000 / piece.len())}));
        let script = [note, "/say fine".to_owned(), "/done".to_owned()].join("\n");
        let chat = json!({"model": "runtime", "messages": [{"role": "user", "content": script}]});
        let answer = post(&gateway, "/v1/chat/completions", &chat).await;
        assert!(answer.contains("fine"), "{piece}: {answer}");
    }
}

#[tokio::test]
async fn what_is_kept_in_gets_out_on_no_channel() {
    let gateway = builder().start().await;
    let chat = |stream: bool| json!({"stream": stream, "messages": [{"role": "user", "content": SAID}]});
    let streamed = post(&gateway, "/v1/chat/completions", &chat(true)).await;
    assert_kept_in("a chat stream", &streamed);
    assert_eq!(spoken(&streamed), "my card [CARD] and mail [EMAIL] and key [SECRET] end");
    let whole = post(&gateway, "/v1/chat/completions", &chat(false)).await;
    assert_kept_in("a chat completion", &whole);
    let response: Value =
        serde_json::from_str(&post(&gateway, "/v1/responses", &json!({"input": SAID})).await).expect("JSON");
    assert_kept_in("a response", &response["output"].to_string());
    let task = response["id"].as_str().expect("an id").replacen("resp_", "task_", 1);
    let log: Vec<_> = gateway.stream(&format!("/stream/{task}")).await.rest().await;
    let log: String = log.iter().map(|event| event.json().to_string()).collect();
    assert!(log.contains("[CARD]"), "{log}");
    assert_kept_in("the task's stream", &log);
    let described = gateway.get(&format!("/tasks/{task}")).await.expect(200).json();
    assert_kept_in("the task's result", &described["result"].to_string());
    let again = gateway.get(&format!("/v1/responses/{}", response["id"].as_str().expect("an id"))).await;
    assert_kept_in("a stored response", &again.expect(200).json()["output"].to_string());
}

#[tokio::test]
async fn reloads_of_the_filter_let_nothing_pass_unfiltered() {
    let gateway = builder().set("agents.echo.chunk_delay", "2ms").start().await;
    let chat = json!({"stream": true, "messages": [{"role": "user", "content": SAID}]});
    let clients = (0..8).map(|_| async {
        for _ in 0..15 {
            let streamed = post(&gateway, "/v1/chat/completions", &chat).await;
            assert_kept_in("a chat stream", &streamed);
            assert_eq!(spoken(&streamed), "my card [CARD] and mail [EMAIL] and key [SECRET] end");
        }
    });
    let reloads = async {
        for salt in 1..=10 {
            overwrite_bytes(&gateway.plugins_dir(), "redact", &salted(&plugin("redact"), salt));
            gateway.plugin_when("redact", |plugin| plugin["generation"] == u64::from(salt) + 1).await;
        }
    };
    tokio::join!(join_all(clients), reloads);
}
