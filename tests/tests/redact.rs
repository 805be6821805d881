//! The bundled filter `redact` before everything that hears of a task: what it keeps in gets out on no channel.

use futures::future::join_all;
use http::Method;
use plugway_tests::{Answer, Builder, Gateway, overwrite_bytes, plugin, salted};
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
