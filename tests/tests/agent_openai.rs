//! The `openai` agent against a model server that speaks the official shapes and fails by script.

use std::time::Duration;

use plugway_tests::model::{Asked, Model, Turn};
use plugway_tests::update::message;
use plugway_tests::{Builder, DEADLINE, Event, Gateway, eventually, fixture};
use serde_json::{Value, json};

const KEY: &str = "sk-a-key-that-no-log-may-show";

fn builder(base_url: &str) -> Builder {
    Gateway::builder()
        .plugin("telegram")
        .set("default_agent", "model")
        .set("agents.model.kind", "openai")
        .set("agents.model.base_url", base_url)
        .set("agents.model.model", "llama3.2")
        .set("agents.model.api_key", "env:MODEL_API_KEY")
        .set("agents.model.max_retries", 4)
        .set("agents.model.retry_delay", "10ms")
        .env("MODEL_API_KEY", KEY)
}

async fn gateway(model: &Model) -> Gateway {
    builder(&model.base_url()).start().await
}

/// Who speaks in the messages of a request, beside the system.
fn roles(asked: &Asked) -> Vec<&str> {
    asked
        .messages()
        .iter()
        .filter_map(|message| message["role"].as_str())
        .filter(|role| *role != "system")
        .collect()
}

async fn events(gateway: &Gateway, task: &str) -> Vec<Event> {
    gateway.stream(&format!("/stream/{task}")).await.rest().await
}

#[tokio::test]
async fn an_answer_is_streamed_as_the_model_writes_it() {
    let model = Model::start([Turn::Says(vec!["Good ", "morning", ", Ada."])]).await;
    let gateway = gateway(&model).await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let events = events(&gateway, &task).await;
    let chunks: Vec<_> = events.iter().filter(|event| event.progress() == "response_chunk").collect();
    let texts: Vec<_> = chunks.iter().map(|event| event.json()["data"]["text"].clone()).collect();
    assert_eq!(texts, ["Good ", "morning", ", Ada."]);

    let result = gateway.ended(&task).await["result"].clone();
    assert_eq!(result["text"], "Good morning, Ada.");
    assert_eq!(result["finish_reason"], "stop");
    assert_eq!(result["usage"]["total_tokens"], 10, "in {result}");
}

#[tokio::test]
async fn the_model_is_asked_in_the_official_shape() {
    let model = Model::start([]).await;
    let gateway = gateway(&model).await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    gateway.ended(&task).await;
    let asked = model.asked_at_least(1).await;
    assert_eq!(asked.body["model"], "llama3.2");
    assert_eq!(asked.body["stream"], true);
    assert_eq!(asked.body["stream_options"]["include_usage"], true);
    let authorization = asked.headers.get("authorization").and_then(|value| value.to_str().ok());
    assert_eq!(authorization, Some(format!("Bearer {KEY}").as_str()));
    let last = asked.messages().last().expect("there is a message");
    assert_eq!((last["role"].as_str(), last["content"].as_str()), (Some("user"), Some("hello")));
}

#[tokio::test]
async fn a_session_remembers_what_was_said() {
    let model = Model::start([Turn::Says(vec!["I am ", "well"]), Turn::Says(vec!["blue"])]).await;
    let gateway = gateway(&model).await;
    gateway.accept(&message(1, 7, "how are you?")).await;
    // Accepted before the first has ended, and yet it knows the first one's answer.
    let second = gateway.accept(&message(2, 7, "your colour?")).await;
    gateway.ended(&second).await;
    let asked = model.asked_at_least(2).await;
    let said: Vec<_> = asked
        .messages()
        .iter()
        .filter(|message| message["role"] != "system")
        .map(|message| json!([message["role"], message["content"]]))
        .collect();
    assert_eq!(
        said,
        [json!(["user", "how are you?"]), json!(["assistant", "I am well"]), json!(["user", "your colour?"])]
    );
    // Another chat is another session.
    let other = gateway.accept(&message(3, 8, "hello")).await;
    gateway.ended(&other).await;
    let asked = model.asked_at_least(3).await;
    assert_eq!(asked.messages().iter().filter(|message| message["role"] != "system").count(), 1);
}

#[tokio::test]
async fn a_tool_call_is_reported() {
    let model = Model::start([Turn::Calls("weather", vec!["{\"city\":", "\"Bern\"}"])]).await;
    let gateway = gateway(&model).await;
    let task = gateway.accept(&message(1, 7, "how is the weather?")).await;
    let events = events(&gateway, &task).await;
    let tool = events.iter().find(|event| event.progress() == "tool_started").expect("the call is reported");
    assert_eq!(tool.json()["data"]["tool_name"], "weather");
    assert_eq!(gateway.ended(&task).await["result"]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_tool_call_that_takes_long_to_write_is_not_silence() {
    let pieces = [vec!["{\"city\":\""], vec!["B"; 10], vec!["\"}"]].concat();
    let model = Model::start([Turn::CallsSlowly("weather", pieces, Duration::from_millis(250))]).await;
    let gateway = builder(&model.base_url()).set("agents.model.stream_timeout", "1500ms").start().await;
    let task = gateway.accept(&message(1, 7, "how is the weather?")).await;
    let ended = gateway.ended(&task).await;
    assert_eq!(ended["result"]["finish_reason"], "tool_calls", "in {ended}");
}

#[tokio::test]
async fn a_user_who_goes_on_without_answering_a_call_is_answered() {
    let model = Model::start([Turn::Calls("weather", vec!["{}"]), Turn::Says(vec!["as you like"])]).await;
    let gateway = gateway(&model).await;
    gateway.accept(&message(1, 7, "how is the weather?")).await;
    let second = gateway.accept(&message(2, 7, "never mind")).await;
    let ended = gateway.ended(&second).await;
    assert_eq!(ended["result"]["text"], "as you like", "in {ended}");
    assert_eq!(roles(&model.asked_at_least(2).await), ["user", "assistant", "tool", "user"]);
}

#[tokio::test]
async fn results_of_tools_come_back_to_the_model_that_called_them() {
    let script = [
        Turn::Calls("weather", vec!["{\"city\":", "\"Bern\"}"]),
        Turn::Says(vec!["It is sunny."]),
        Turn::Says(vec!["You are welcome."]),
    ];
    let model = Model::start(script).await;
    let gateway = builder(&model.base_url()).component("steady", &fixture("steady")).start().await;
    let submit = async |input: Value| {
        let answer = gateway.post("/steady/tasks/s", &input).await;
        let task = answer.expect(202).json()["task_id"].as_str().expect("it is accepted").to_owned();
        gateway.ended(&task).await["result"].clone()
    };
    let called = submit(json!({ "kind": "message", "text": "how is the weather?" })).await;
    assert_eq!(called["finish_reason"], "tool_calls", "in {called}");
    let results = json!([{ "call_id": "call_1", "result": { "sky": "clear" } }]);
    let answered = submit(json!({ "kind": "tool_result", "results": results })).await;
    assert_eq!(answered["text"], "It is sunny.", "in {answered}");
    let asked = model.asked_at_least(2).await;
    assert_eq!(roles(&asked), ["user", "assistant", "tool"]);
    let call = &asked.messages()[1]["tool_calls"][0];
    assert_eq!(call["function"]["arguments"], "{\"city\":\"Bern\"}", "in {call}");
    assert_eq!(asked.messages()[2]["content"], "{\"sky\":\"clear\"}");
    let thanks = submit(json!({ "kind": "message", "text": "thanks" })).await;
    assert_eq!(thanks["text"], "You are welcome.", "in {thanks}");
    let asked = model.asked_at_least(3).await;
    assert_eq!(roles(&asked), ["user", "assistant", "tool", "assistant", "user"]);

    let results = json!([{ "call_id": "call_9", "result": 1 }]);
    let refused = submit(json!({ "kind": "tool_result", "results": results })).await;
    assert_eq!(refused["error_type"], "invalid_input", "in {refused}");
}

#[tokio::test]
async fn a_model_that_is_busy_or_broken_is_asked_again_before_its_first_word() {
    let script = [
        Turn::Fails(429, "slow down"),
        Turn::Fails(503, "overloaded"),
        Turn::Cuts(vec![]),
        Turn::Says(vec!["at last"]),
    ];
    let model = Model::start(script).await;
    let gateway = gateway(&model).await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let ended = gateway.ended(&task).await;
    assert_eq!(ended["state"], "completed", "in {ended}");
    assert_eq!(ended["result"]["text"], "at last");
    assert_eq!(model.asked().len(), 4);
    assert_eq!(ended["attempt"], 1, "the run went on");
}

#[tokio::test]
async fn a_model_that_breaks_off_is_not_asked_again() {
    let model = Model::start([Turn::Cuts(vec!["half an "]), Turn::Says(vec!["a whole answer"])]).await;
    let gateway = gateway(&model).await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let mut stream = gateway.stream(&format!("/stream/{task}")).await;
    stream.until(|event| event.progress() == "response_chunk").await;
    model.cut();
    let rest = stream.rest().await;
    assert_eq!(rest.last().map(Event::progress).as_deref(), Some("failed"));
    assert_eq!(gateway.ended(&task).await["state"], "failed");
    assert_eq!(model.asked().len(), 1);
}

#[tokio::test]
async fn a_refusal_of_the_model_is_told_with_its_status_and_not_tried_again() {
    for status in [400, 401, 404, 422] {
        let model = Model::start([Turn::Fails(status, "no, and this is why")]).await;
        let gateway = gateway(&model).await;
        let task = gateway.accept(&message(1, 7, "hello")).await;
        let ended = gateway.ended(&task).await;
        let result = &ended["result"];
        assert_eq!(
            (&result["error_type"], &result["status"]),
            (&json!("agent_error"), &json!(status)),
            "in {ended}"
        );
        assert!(
            result["error"].as_str().is_some_and(|error| error.contains("no, and this is why")),
            "in {ended}"
        );
        assert_eq!(model.asked().len(), 1);
        assert!(gateway.log().iter().all(|line| !line.contains(KEY)));
    }
}

#[tokio::test]
async fn a_model_that_never_recovers_is_given_up() {
    let model = Model::start(vec![Turn::Fails(500, "broken"); 50]).await;
    let gateway = gateway(&model).await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let ended = gateway.ended(&task).await;
    assert_eq!(ended["result"]["error_type"], "agent_error", "in {ended}");
    assert_eq!(ended["result"]["retry_count"], 4, "in {ended}");
    let asked = model.asked().len();
    assert_eq!(asked, 5, "once, and four times more");
}

#[tokio::test]
async fn a_model_that_is_not_there_is_unreachable() {
    let model = Model::start([]).await;
    let base_url = model.base_url();
    drop(model);
    let gateway = builder(&base_url).start().await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let ended = gateway.ended(&task).await;
    assert_eq!(ended["result"]["error_type"], "agent_unreachable", "in {ended}");
}

#[tokio::test]
async fn a_cancelled_turn_drops_the_connection_to_the_model() {
    let model = Model::start([Turn::Hangs(vec!["once ", "upon "])]).await;
    let gateway = gateway(&model).await;
    let task = gateway.accept(&message(1, 7, "a story")).await;
    let mut stream = gateway.stream(&format!("/stream/{task}")).await;
    stream.until(|event| event.progress() == "response_chunk").await;
    assert!(!model.asked_at_least(1).await.is_gone());
    let cancelled = gateway.post(&format!("/tasks/{task}/cancel"), &Value::Null).await;
    assert!((200..300).contains(&cancelled.status), "{cancelled:?}");
    eventually(DEADLINE, || async {
        if model.asked()[0].is_gone() { Ok(()) } else { Err("the connection is open still".to_owned()) }
    })
    .await;
    assert_eq!(gateway.ended(&task).await["state"], "cancelled");
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_the_model() {
    let model = Model::start([Turn::Says(vec!["one ", "two ", "three"])]).await;
    let gateway = gateway(&model).await;
    let task = gateway.accept(&message(1, 7, "count")).await;
    drop(gateway.stream(&format!("/stream/{task}")).await);
    assert_eq!(gateway.ended(&task).await["result"]["text"], "one two three");
}

#[tokio::test]
async fn a_model_that_falls_silent_fails_the_task() {
    let model = Model::start([Turn::Hangs(vec!["well"])]).await;
    let gateway = builder(&model.base_url()).set("agents.model.stream_timeout", "300ms").start().await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let ended = gateway.ended(&task).await;
    assert_eq!(ended["result"]["error_type"], "agent_silent", "in {ended}");
}
