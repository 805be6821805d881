//! A browser's own `EventSource`: it shows events of another origin, goes on by itself where its connection was cut, and
//! is told nothing where its page isn't welcome.

use http::Method;
use plugway_tests::update::message;
use plugway_tests::{Answer, Builder, DEADLINE, Gateway, Page, RedisServer, Relay, eventually};
use serde_json::{Value, json};

fn builder() -> Builder {
    Gateway::builder().plugin("telegram").set("stream.retry", "100ms")
}

/// Reports every event of the stream at `url`, and closes it once the task has ended.
fn follow(url: &str) -> String {
    let url = Value::from(url);
    format!(
        r#"
const source = new EventSource({url});
source.addEventListener("progress", (event) => {{
  report({{ id: event.lastEventId, progress: JSON.parse(event.data) }});
  if (["completed", "failed"].includes(JSON.parse(event.data).progress_type)) source.close();
}});
source.addEventListener("heartbeat", (event) => report({{ heartbeat: event.lastEventId }}));
source.onerror = () => report({{ state: source.readyState }});
"#
    )
}

fn kinds(reports: &[Value]) -> Vec<&str> {
    reports.iter().filter_map(|report| report["progress"]["progress_type"].as_str()).collect()
}

/// Cuts the connections of a browser, and waits until it has come back.
async fn cut(relay: &Relay) {
    let connections = relay.beginnings().len();
    relay.cut();
    eventually(DEADLINE, || async {
        if relay.beginnings().len() > connections { Ok(()) } else { Err("it has not come back".to_owned()) }
    })
    .await;
}

/// The id that a request of a browser says to have seen last.
fn last_id(beginning: &str) -> Option<&str> {
    let mut headers = beginning.lines().filter_map(|line| line.split_once(": "));
    headers.find_map(|(name, value)| name.eq_ignore_ascii_case("last-event-id").then_some(value))
}

#[tokio::test]
async fn a_browser_goes_on_by_itself_where_its_connection_was_cut() {
    let mut page = Page::start().await;
    let gateway = builder()
        .set("cors.origins", vec![page.origin()])
        .set("agents.echo.chunk_delay", "10ms")
        .start()
        .await;
    let relay = Relay::start(gateway.host()).await;
    let task = gateway.accept(&message(1, 7, "/words 400")).await;
    page.open(&follow(&relay.url(&format!("/stream/{task}"))));
    for seen in [10, 50] {
        page.reports_when(|reports| kinds(reports).len() >= seen).await;
        cut(&relay).await;
    }
    let reports = page.reports_when(|reports| kinds(reports).contains(&"completed")).await;

    let words: Vec<_> = (1..=400).map(|number| format!("w{number}")).collect();
    let chunks = reports.iter().filter(|report| report["progress"]["progress_type"] == "response_chunk");
    let text: String = chunks.filter_map(|chunk| chunk["progress"]["data"]["text"].as_str()).collect();
    assert_eq!(text, words.join(" "), "each word once, in order");
    let kinds = kinds(&reports);
    assert_eq!(kinds.iter().filter(|kind| **kind == "started").count(), 1, "{kinds:?}");
    assert!(reports.iter().any(|report| report["state"] == 0), "the browser noticed nothing: {reports:#?}");
    // The last id is one that the page was shown, and the browser says it without being asked to.
    let beginnings = relay.beginnings();
    assert_eq!(beginnings.len(), 3, "{beginnings:#?}");
    assert_eq!(last_id(&beginnings[0]), None);
    for beginning in &beginnings[1..] {
        let id = last_id(beginning).unwrap_or_else(|| panic!("no last id in {beginning}"));
        assert!(reports.iter().any(|report| report["id"] == id), "{id} was not shown: {reports:#?}");
    }
}

#[tokio::test]
async fn a_browser_sees_heartbeats_of_a_stream_that_is_quiet() {
    let mut page = Page::start().await;
    let gateway =
        builder().set("cors.origins", vec![page.origin()]).set("stream.heartbeat", "200ms").start().await;
    let task = gateway.accept(&message(1, 7, "/silent")).await;
    page.open(&follow(&gateway.url(&format!("/stream/{task}"))));
    page.reports_when(|reports| {
        reports.iter().filter(|report| report.get("heartbeat").is_some()).count() >= 2
    })
    .await;
}

#[tokio::test]
async fn a_page_that_is_not_listed_is_shown_nothing() {
    let mut page = Page::start().await;
    let gateway = builder().set("cors.origins", vec!["https://chat.example.org"]).start().await;
    let task = gateway.accept(&message(1, 7, "for nobody's eyes")).await;
    gateway.ended(&task).await;
    page.open(&follow(&gateway.url(&format!("/stream/{task}"))));
    // 2: closed for good.
    let reports = page.reports_when(|reports| !reports.is_empty()).await;
    assert_eq!(reports, [json!({ "state": 2 })]);
}

#[tokio::test]
async fn a_browser_with_a_ticket_follows_the_feed_over_a_cut() {
    const KEY: &str = "a-key-of-the-test";
    let (mut page, redis) = (Page::start().await, RedisServer::start().await);
    let gateway = Gateway::builder()
        .set("auth.keys", vec![KEY])
        .set("cors.origins", vec![page.origin()])
        .set("stream.retry", "100ms")
        .set("feed.redis_url", redis.url())
        .start()
        .await;
    let relay = Relay::start(gateway.host()).await;
    let request = gateway.request(Method::POST, "/api/agent/ticket").bearer_auth(KEY).json(&json!({}));
    let answer = Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer");
    let ticket = answer.expect(200).json()["ticket"].as_str().expect("a ticket").to_owned();
    let url = Value::from(relay.url(&format!("/api/agent/stream?ticket={ticket}")));
    page.open(&format!(
        r#"
const source = new EventSource({url});
source.addEventListener("session_start", () => report({{ open: true }}));
source.addEventListener("signal", (event) => report({{ id: event.lastEventId, signal: JSON.parse(event.data).n }}));
"#
    ));
    page.reports_when(|reports| reports.iter().any(|report| report["open"] == true)).await;
    let publish = async |numbers: std::ops::RangeInclusive<u32>| {
        for number in numbers {
            let signal = json!({ "type": "signal", "n": number }).to_string();
            eventually(DEADLINE, || async {
                match redis.publish("channel:signals", &signal).await {
                    0 => Err("nobody is subscribed".to_owned()),
                    _ => Ok(()),
                }
            })
            .await;
        }
    };
    publish(1..=5).await;
    page.reports_when(|reports| reports.iter().any(|report| report["signal"] == 5)).await;
    // What is published while the browser is away is there when it comes back.
    relay.cut();
    publish(6..=10).await;
    cut(&relay).await;
    publish(11..=12).await;
    let reports = page.reports_when(|reports| reports.iter().any(|report| report["signal"] == 12)).await;

    let signals: Vec<_> = reports.iter().filter_map(|report| report["signal"].as_u64()).collect();
    assert_eq!(signals, (1..=12).collect::<Vec<u64>>(), "each signal once, in order: {reports:#?}");
    for beginning in &relay.beginnings()[1..] {
        let id = last_id(beginning).unwrap_or_else(|| panic!("no last id in {beginning}"));
        assert!(reports.iter().any(|report| report["id"] == id), "{id} was not shown: {reports:#?}");
    }
}

#[tokio::test]
async fn the_openai_sdk_works_in_a_page_that_is_listed() {
    const KEY: &str = "a-key-of-the-test";
    let mut page = Page::start().await;
    let gateway = Gateway::builder()
        .plugin("openai")
        .set("auth.keys", vec![KEY])
        .set("cors.origins", vec![page.origin()])
        .set("plugins.openai.config.requests_per_minute", 3)
        .start()
        .await;
    let (base, key) = (Value::from(gateway.url("/v1")), Value::from(KEY));
    page.open(&format!(
        r#"
(async () => {{
  const {{ default: OpenAI }} = await import("/modules/openai/index.mjs");
  const client = new OpenAI({{ baseURL: {base}, apiKey: {key}, dangerouslyAllowBrowser: true, maxRetries: 0 }});
  report({{ models: (await client.models.list()).data.map((model) => model.id) }});
  let text = "";
  const chunks = await client.chat.completions.create(
    {{ model: "echo", stream: true, messages: [{{ role: "user", content: "/words 50" }}] }});
  for await (const chunk of chunks) text += chunk.choices[0]?.delta?.content ?? "";
  report({{ chat: text }});
  const stream = client.responses.stream({{ model: "echo", input: "hello page" }}, {{ idempotencyKey: "one" }});
  const response = await stream.finalResponse();
  report({{ response: response.output_text }});
  const {{ response: raw }} = await client.responses.create({{ model: "echo", input: "again" }}).withResponse();
  report({{ left: raw.headers.get("x-ratelimit-remaining-requests"), id: raw.headers.get("x-request-id") !== null }});
  await client.responses.create({{ model: "echo", input: "too much" }}).catch((error) =>
    report({{ refused: error.status, after: Number(error.headers.get("retry-after")) > 0 }}));
  await client.models.retrieve("none").catch((error) => report({{ error: error.code }}));
}})().catch((error) => report({{ error: String(error) }}));
"#
    ));
    let reports =
        page.reports_when(|reports| reports.iter().any(|report| report.get("error").is_some())).await;
    let words: Vec<_> = (1..=50).map(|number| format!("w{number}")).collect();
    let expected = [
        json!({ "models": ["echo"] }),
        json!({ "chat": words.join(" ") }),
        json!({ "response": "hello page" }),
        json!({ "left": "0", "id": true }),
        json!({ "refused": 429, "after": true }),
        json!({ "error": "model_not_found" }),
    ];
    assert_eq!(reports, expected);
}
