//! The OpenAI API: the official SDKs before the gateway, alone and in front of another one, and what must survive.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::future::join_all;
use plugway_tests::{Builder, DEADLINE, Gateway, eventually, within};
use serde_json::{Value, json};

const KEY: &str = "sk-test-0123456789abcdef";

fn builder() -> Builder {
    Gateway::builder().plugin("openai").set("auth.keys", vec![KEY])
}

/// As the suites want it: so few workers that a test can fill them.
fn suited() -> Builder {
    builder().set("workers.count", 8).set("workers.queue", 16).set("agents.echo.chunk_delay", "5ms")
}

/// A gateway that has an agent `through`, which is the echo agent of another one.
fn before(model: &Gateway) -> Builder {
    suited()
        .set("agents.through.kind", "openai")
        .set("agents.through.base_url", model.url("/v1"))
        .set("agents.through.model", "echo")
        .set("agents.through.api_key", KEY)
        .set("default_agent", "through")
}

async fn succeeds(mut command: Command, gateway: &Gateway) {
    command.env("PLUGWAY_URL", gateway.url("")).env("PLUGWAY_KEY", KEY).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it does not panic");
    let output = output.expect("the suite starts: run ./tests/run, which installs what it needs");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
}

fn python() -> Command {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let mut command = Command::new(directory.join(".venv/bin/python"));
    command.args(["-m", "unittest", "discover"]).env("PLUGWAY_CAPACITY", "24").current_dir(directory);
    command
}

fn node(arguments: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("node"));
    command
}

fn node_suite() -> Command {
    let all = ["", ".ai-sdk", ".events", ".retry", ".told"].map(|part| format!("openai{part}.test.mjs"));
    let mut arguments = vec!["--test", "--test-concurrency=1"];
    arguments.extend(all.iter().map(String::as_str));
    node(&arguments)
}

async fn post(gateway: &Gateway, path: &str, body: &Value) -> plugway_tests::Answer {
    let request = gateway.request(http::Method::POST, path).bearer_auth(KEY).json(body);
    plugway_tests::Answer::read(within("an answer", request.send()).await.expect("it answers"))
        .await
        .expect("the answer is whole")
}

async fn get(gateway: &Gateway, path: &str) -> plugway_tests::Answer {
    let request = gateway.request(http::Method::GET, path).bearer_auth(KEY);
    plugway_tests::Answer::read(within("an answer", request.send()).await.expect("it answers"))
        .await
        .expect("the answer is whole")
}

#[tokio::test]
async fn the_python_sdk_finds_all_that_it_needs() {
    let gateway = suited().start().await;
    succeeds(python(), &gateway).await;
}

#[tokio::test]
async fn the_node_sdk_finds_all_that_it_needs() {
    let gateway = suited().start().await;
    succeeds(node_suite(), &gateway).await;
}

#[tokio::test]
async fn the_sdks_find_the_same_through_two_gateways() {
    let model = suited().start().await;
    let gateway = before(&model).start().await;
    let through = |mut command: Command| {
        command.env("PLUGWAY_MODEL", "through").env("PLUGWAY_IN_FRONT", "1").env("PLUGWAY_CIRCLE", "1");
        command
    };
    succeeds(through(python()), &gateway).await;
    succeeds(through(node_suite()), &gateway).await;
}

#[tokio::test]
async fn rubbish_is_refused_by_name_and_breaks_nothing() {
    let gateway = suited().start().await;
    succeeds(node(&["openai.fuzz.mjs"]), &gateway).await;
    let broken = gateway.log().into_iter().filter(|line| line.contains(" ERROR ")).collect::<Vec<_>>();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[tokio::test]
async fn responses_and_conversations_outlive_the_gateway() {
    let mut gateway = builder().start().await;
    let conversation = post(&gateway, "/v1/conversations", &json!({})).await.json()["id"].clone();
    let asked = json!({"model": "echo", "input": "one", "conversation": conversation});
    let kept = post(&gateway, "/v1/responses", &asked).await.json();
    let slow =
        json!({"model": "echo", "input": "/sleep 1s", "background": true, "conversation": conversation});
    let under_way = post(&gateway, "/v1/responses", &slow).await.json();
    gateway.kill();
    gateway.start_again().await;
    let path = |response: &Value| format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
    assert_eq!(get(&gateway, &path(&kept)).await.json()["output"], kept["output"]);
    let slept = eventually(DEADLINE, || async {
        let response = get(&gateway, &path(&under_way)).await.json();
        if response["status"] == "completed" { Ok(response) } else { Err(response.to_string()) }
    })
    .await;
    let said = slept["output"].as_array().and_then(|output| output.last()).expect("an item");
    assert_eq!(said["content"][0]["text"], "slept");
    let goes_on = json!({"model": "echo", "input": "two", "conversation": conversation});
    post(&gateway, "/v1/responses", &goes_on).await.expect(200);
    let path = format!("/v1/conversations/{}/items?order=asc", conversation.as_str().expect("an id"));
    let items = get(&gateway, &path).await.json();
    let texts = items["data"].as_array().expect("a list").iter().filter(|item| item["type"] == "message");
    let texts: Vec<_> = texts.map(|item| item["content"][0]["text"].clone()).collect();
    assert_eq!(texts, ["one", "one", "/sleep 1s", "slept", "two", "two"]);
}

#[tokio::test]
async fn turns_of_one_conversation_that_come_together_are_all_taken_one_by_one() {
    let gateway = builder().start().await;
    let turns = (0..8).map(|turn| {
        let body = json!({"model": "echo", "input": format!("turn {turn}"), "conversation": "table"});
        let gateway = &gateway;
        async move { post(gateway, "/v1/responses", &body).await.expect(200).json() }
    });
    join_all(turns).await;
    let items = get(&gateway, "/v1/conversations/table/items?order=asc&limit=100").await.json();
    let messages: Vec<_> =
        items["data"].as_array().expect("a list").iter().filter(|item| item["type"] == "message").collect();
    let text = |item: &Value| item["content"][0]["text"].as_str().expect("a text").to_owned();
    assert_eq!(messages.len(), 16);
    for pair in messages.chunks(2) {
        assert_eq!((pair[0]["role"].as_str(), pair[1]["role"].as_str()), (Some("user"), Some("assistant")));
        assert_eq!(text(pair[0]), text(pair[1]), "each is answered before the next");
    }
    let mut all: Vec<_> = messages.iter().step_by(2).map(|item| text(item)).collect();
    all.sort_unstable();
    assert_eq!(all, (0..8).map(|turn| format!("turn {turn}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_leaves_stops_the_agent_within_a_second_unless_the_answer_is_kept() {
    // Without keys, since its figures are asked for.
    let gateway = Gateway::builder().plugin("openai").start().await;
    let chat = json!([{"role": "user", "content": "/sleep 1m"}]);
    let stopped = |path: &'static str, body: Value, stops: bool| {
        let gateway = &gateway;
        async move {
            let before = gateway.metrics().await.sum("plugway_tasks_ended_total", &["state=\"cancelled\""]);
            let request = gateway.request(http::Method::POST, path).bearer_auth(KEY).json(&body);
            let leaving = tokio::time::timeout(Duration::from_millis(700), request.send());
            if let Ok(response) = leaving.await {
                drop(response);
            }
            let left = Instant::now();
            while left.elapsed() < Duration::from_secs(1) {
                let now = gateway.metrics().await.sum("plugway_tasks_ended_total", &["state=\"cancelled\""]);
                if now > before {
                    assert!(stops, "{path} {body} was stopped");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(!stops, "{path} {body} was not stopped within a second");
        }
    };
    for stream in [false, true] {
        stopped("/v1/chat/completions", json!({"model": "echo", "stream": stream, "messages": chat}), true)
            .await;
        stopped(
            "/v1/responses",
            json!({"model": "echo", "stream": stream, "store": false, "input": "/sleep 1m"}),
            true,
        )
        .await;
    }
    stopped("/v1/chat/completions", json!({"model": "echo", "store": true, "messages": chat}), false).await;
    stopped("/v1/responses", json!({"model": "echo", "input": "/sleep 1m"}), false).await;
    stopped("/v1/responses", json!({"model": "echo", "background": true, "input": "/sleep 1m"}), false).await;
}

/// How many are stored; 100,000 take some four minutes.
fn stored() -> usize {
    std::env::var("PLUGWAY_STORED").map_or(2_000, |count| count.parse().expect("PLUGWAY_STORED: a number"))
}

#[tokio::test]
async fn stored_responses_keep_to_the_quota_and_expire_by_their_time() {
    const AGE: Duration = Duration::from_secs(10);
    const AT_ONCE: usize = 20;
    let quota = 200 * stored() as u64;
    // Without keys, since its figures are asked for.
    let gateway = Gateway::builder().plugin("openai").set("agents.echo.chunk_delay", "0s");
    let gateway = gateway.set("plugins.openai.config.keep_seconds", AGE.as_secs() as i64);
    let gateway = gateway.set("plugins.openai.limits.kv", i64::try_from(quota).expect("a size"));
    let gateway = gateway.set("store.sweep_every", "1s").start().await;
    let ask = async |number: usize| {
        let body = json!({"model": "echo", "input": number.to_string()});
        let response = post(&gateway, "/v1/responses", &body).await.expect(200).json();
        response["id"].as_str().expect("an id").to_owned()
    };
    let used =
        async || gateway.metrics().await.sum("plugway_plugin_storage_bytes", &["plugin=\"openai\""]) as u64;
    let status = async |id: &str| get(&gateway, &format!("/v1/responses/{id}")).await.status;
    let (mut ids, mut most) = (Vec::new(), 0);
    for first in (0..stored()).step_by(AT_ONCE) {
        ids.extend(join_all((first..first + AT_ONCE).map(ask)).await);
        most = most.max(used().await);
        assert_eq!(status(ids.last().expect("one")).await, 200, "what was just stored is there");
    }
    assert!(most > quota / 2 && most <= quota, "at most {most} of {quota} bytes were used");
    assert_eq!(status(&ids[0]).await, 404, "the first one has gone");
    let all_gone = async || match used().await {
        0 => Ok(()),
        bytes => Err(format!("{bytes} bytes are still stored")),
    };
    eventually(DEADLINE, all_gone).await;
    assert_eq!(status(ids.last().expect("one")).await, 404);
}
