//! A browser's own `EventSource`: it shows events of another origin, goes on by itself where its connection was cut, and
//! is told nothing where its page isn't welcome.

use plugway_tests::update::message;
use plugway_tests::{Builder, Gateway, Page, Relay};
use serde_json::Value;

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
        let connections = relay.beginnings().len();
        relay.cut();
        plugway_tests::eventually(plugway_tests::DEADLINE, || async {
            if relay.beginnings().len() > connections {
                Ok(())
            } else {
                Err("it has not come back".to_owned())
            }
        })
        .await;
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
    let last_id = |beginning: &String| {
        let lines = beginning.lines();
        lines
            .filter_map(|line| line.split_once(": "))
            .find_map(|(name, value)| name.eq_ignore_ascii_case("last-event-id").then(|| value.to_owned()))
    };
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
    assert_eq!(reports, [serde_json::json!({ "state": 2 })]);
}
