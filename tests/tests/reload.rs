//! Plugins are replaced, refused, rolled back, disabled and removed while the gateway serves; nobody notices.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use http::Method;
use plugway_tests::bot_api::BotApi;
use plugway_tests::update::message;
use plugway_tests::{
    Answer, Builder, DEADLINE, Gateway, eventually, fixture, install, overwrite_bytes, plugin, salted,
    with_contract_version,
};
use serde_json::{Value, json};

const CLIENTS: usize = 64;
const OVERWRITES: u64 = 100;

fn telegram() -> Builder {
    Gateway::builder().plugin("telegram")
}

/// The plugin serves: a new update is accepted.
async fn assert_serves(gateway: &Gateway, path: &str, update: i64) {
    let answer = gateway.post(path, &message(update, update, "hello")).await.expect(200).json();
    assert_eq!(answer["status"], "accepted", "{path}");
}

async fn generation(gateway: &Gateway) -> u64 {
    let plugin = gateway.plugin_when("telegram", |plugin| plugin["generation"].is_u64()).await;
    plugin["generation"].as_u64().expect("it was looked at")
}

/// Waits until the newer file was refused with a sentence that has all of `parts`, while the old generation serves on.
async fn assert_refused(gateway: &Gateway, parts: &[&str]) {
    let plugin = gateway.plugin_when("telegram", |plugin| plugin["error"].is_string()).await;
    let error = plugin["error"].as_str().expect("it was looked at");
    for part in parts {
        assert!(error.contains(part), "{part:?} in {error:?}");
    }
    assert_eq!(
        (plugin["state"].as_str(), plugin["generation"].as_u64()),
        (Some("serving"), Some(1)),
        "{plugin}"
    );
    assert_serves(gateway, "/webhook", 900).await;
    gateway.logged(&["telegram", parts[0]]).await;
}

#[tokio::test]
async fn overwriting_a_plugin_a_hundred_times_under_load_fails_no_request() {
    let builder = telegram().set("workers.queue", 1_000_000).set("workers.count", 8);
    let gateway = builder.set("agents.echo.chunk_delay", "0ms").start().await;
    let variants: Vec<_> = (0..4).map(|salt| salted(&plugin("telegram"), salt)).collect();
    let (next, stop, sent) = (AtomicI64::new(1), AtomicBool::new(false), AtomicU64::new(0));
    let client = || async {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let answer = gateway.post("/webhook", &message(number, number, "hello")).await;
            assert_eq!(answer.status, 200, "update {number}: {}", answer.text());
            sent.fetch_add(1, Ordering::Relaxed);
            // Leaves the machine to the compiler now and then; what is shown is not speed.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let overwrite = async {
        for round in 0..OVERWRITES {
            let variant = &variants[usize::try_from(round).expect("it is small") % variants.len()];
            overwrite_bytes(&gateway.plugins_dir(), "telegram", variant);
            // The first one loaded was the file at the start.
            gateway.plugin_when("telegram", |plugin| plugin["generation"].as_u64() >= Some(round + 2)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let clients = futures::future::join_all((0..CLIENTS).map(|_| client()));
    tokio::join!(clients, overwrite);
    assert!(sent.load(Ordering::Relaxed) > OVERWRITES, "{sent:?} requests");
    assert_eq!(generation(&gateway).await, OVERWRITES + 1);
}

#[tokio::test]
async fn an_answer_that_began_on_the_old_generation_ends_on_it() {
    let gateway = Gateway::builder().component("steady", &fixture("steady")).start().await;
    let slow = gateway.request(Method::GET, "/steady/slow?lines=100").send().await.expect("an answer begins");
    let mut body = slow.bytes_stream();
    let mut text = Vec::from(body.next().await.expect("a first piece").expect("it is whole"));
    for salt in 0..2_u8 {
        overwrite_bytes(&gateway.plugins_dir(), "steady", &salted(&fixture("steady"), salt));
        gateway.plugin_when("steady", |plugin| plugin["generation"] == 2 + u64::from(salt)).await;
    }
    while let Some(piece) = body.next().await {
        text.extend_from_slice(&piece.expect("the answer is not cut off"));
    }
    let text = String::from_utf8(text).expect("it is text");
    assert_eq!(text.lines().count(), 101);
    assert!(text.ends_with("line 100\nend\n"), "{text}");
}

#[tokio::test]
async fn a_delivery_waits_while_a_build_without_the_role_is_in_place() {
    let bot = BotApi::start().await;
    let gateway =
        bot.gateway(|builder| builder.set("workers.count", 1).set("telemetry.level", "debug")).await;
    bot.says(1, "/sleep 4s").await;
    bot.says(2, "hello").await;
    let other = fs::read(fixture("strict")).expect("the fixture is there");
    overwrite_bytes(&gateway.plugins_dir(), "telegram", &other);
    gateway.plugin_when("telegram", |plugin| plugin["generation"] == 2).await;
    gateway.logged(&["a delivery waits", "no delivery role"]).await;
    let letters = gateway.get("/admin/dead-letters").await.expect(200).json();
    assert_eq!(letters, json!([]), "nothing is lost");
    overwrite_bytes(&gateway.plugins_dir(), "telegram", &salted(&plugin("telegram"), 1));
    let chat = bot.settled(2).await;
    assert_eq!(chat.last().map(|message| message.text.as_str()), Some("hello"));
    bot.close().await;
}

#[tokio::test]
async fn a_corrupt_file_is_refused_and_the_old_generation_serves_on() {
    let gateway = telegram().start().await;
    let whole = fs::read(plugin("telegram")).expect("the plugin is there");
    overwrite_bytes(&gateway.plugins_dir(), "telegram", &whole[..whole.len() / 2]);
    assert_refused(&gateway, &["component"]).await;
    overwrite_bytes(&gateway.plugins_dir(), "telegram", b"#!/bin/sh\necho hello\n");
    gateway
        .plugin_when("telegram", |plugin| {
            plugin["error"].as_str().is_some_and(|text| text.contains("not a WebAssembly file"))
        })
        .await;
    overwrite_bytes(&gateway.plugins_dir(), "telegram", b"");
    assert_refused(&gateway, &["not a WebAssembly file"]).await;
    // A good one heals it.
    overwrite_bytes(&gateway.plugins_dir(), "telegram", &salted(&plugin("telegram"), 1));
    let healed = gateway.plugin_when("telegram", |plugin| plugin["generation"] == 2).await;
    assert!(healed["error"].is_null(), "{healed}");
}

#[tokio::test]
async fn another_version_of_the_contract_is_refused_with_both_versions_named() {
    let gateway = telegram().start().await;
    let other = with_contract_version(&plugin("telegram"), "0.1.0", "0.9.0");
    overwrite_bytes(&gateway.plugins_dir(), "telegram", &other);
    assert_refused(&gateway, &["plugway:gateway 0.9", "0.1", "rebuild"]).await;
}

#[tokio::test]
async fn a_component_that_traps_when_it_is_described_is_refused() {
    let gateway = telegram().start().await;
    install(&gateway.plugins_dir(), "telegram", &fixture("broken"));
    assert_refused(&gateway, &["describe"]).await;
    // What it said before it died is in the log.
    gateway.logged(&["I do not know my own name"]).await;
}

#[tokio::test]
async fn a_configuration_that_the_plugin_refuses_is_said_with_its_field() {
    let gateway = telegram().set("plugins.telegram.config.edit_interval_ms", "soon").start().await;
    let plugin = gateway.plugin_when("telegram", |plugin| plugin["error"].is_string()).await;
    assert!(plugin["error"].as_str().is_some_and(|error| error.contains("edit_interval_ms")), "{plugin}");
    assert_eq!(plugin["state"], "refused");
    gateway.post("/webhook", &message(1, 7, "hello")).await.expect(404).error();
}

#[tokio::test]
async fn a_plugin_that_claims_a_taken_route_is_refused_by_name() {
    let gateway = telegram().start().await;
    install(&gateway.plugins_dir(), "second", &plugin("telegram"));
    let second = gateway.plugin_when("second", |plugin| plugin["error"].is_string()).await;
    let error = second["error"].as_str().expect("it was looked at");
    assert!(error.contains("/webhook") && error.contains("telegram") && error.contains("mount"), "{error:?}");
    assert_eq!(second["state"], "refused");
    assert_serves(&gateway, "/webhook", 1).await;
    // Once the first is gone, the second has its turn.
    fs::remove_file(gateway.plugins_dir().join("telegram.wasm")).expect("the file can be removed");
    gateway.plugin_when("second", |plugin| plugin["state"] == "serving").await;
    assert_serves(&gateway, "/webhook", 2).await;
}

#[tokio::test]
async fn one_component_under_two_names_is_two_plugins() {
    let builder = telegram().component("second", &plugin("telegram")).set("plugins.second.mount", "/second");
    let builder = builder.set("plugins.second.secrets.webhook_secret", "env:SECOND_SECRET");
    let gateway = builder.env("SECOND_SECRET", "the secret of the second").start().await;
    assert_serves(&gateway, "/webhook", 1).await;
    // It has a configuration of its own.
    gateway.post("/second/webhook", &message(1, 1, "hello")).await.expect(401).error();
    let request = gateway.request(Method::POST, "/second/webhook").json(&message(1, 1, "hello"));
    let request = request.header("x-telegram-bot-api-secret-token", "the secret of the second");
    let answer = Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer");
    // The same update_id, and yet not the same update.
    assert_eq!(answer.expect(200).json()["status"], "accepted");
    let second = gateway.plugin_when("second", |plugin| plugin["state"] == "serving").await;
    assert_eq!(second["routes"], json!(["POST /second/webhook"]));
}

#[tokio::test]
async fn rollback_goes_back_to_the_generation_before() {
    let gateway = telegram().start().await;
    gateway.administer("telegram", "rollback").await.expect(409).error();
    overwrite_bytes(&gateway.plugins_dir(), "telegram", &salted(&plugin("telegram"), 1));
    gateway.plugin_when("telegram", |plugin| plugin["generation"] == 2).await;
    let answer = gateway.administer("telegram", "rollback").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(generation(&gateway).await, 1);
    assert_serves(&gateway, "/webhook", 1).await;
    // A file that changes again is loaded again.
    overwrite_bytes(&gateway.plugins_dir(), "telegram", &salted(&plugin("telegram"), 2));
    gateway.plugin_when("telegram", |plugin| plugin["generation"].as_u64() > Some(2)).await;
    assert_serves(&gateway, "/webhook", 2).await;
}

#[tokio::test]
async fn a_plugin_is_disabled_and_enabled_again() {
    let gateway = telegram().start().await;
    gateway.administer("telegram", "disable").await.expect(200);
    gateway.plugin_when("telegram", |plugin| plugin["state"] == "disabled").await;
    gateway.post("/webhook", &message(1, 7, "hello")).await.expect(404).error();
    gateway.administer("telegram", "enable").await.expect(200);
    gateway.plugin_when("telegram", |plugin| plugin["state"] == "serving").await;
    assert_serves(&gateway, "/webhook", 1).await;
}

#[tokio::test]
async fn a_plugin_dropped_in_serves_and_one_removed_is_gone() {
    let gateway = Gateway::builder().start().await;
    gateway.post("/webhook", &message(1, 7, "hello")).await.expect(404).error();
    install(&gateway.plugins_dir(), "telegram", &plugin("telegram"));
    let described = gateway.plugin_when("telegram", |plugin| plugin["state"] == "serving").await;
    assert_eq!(described["routes"], json!(["POST /webhook"]));
    assert_eq!(described["contract"], "0.1");
    assert_eq!(described["roles"], json!(["http", "delivery"]));
    assert_eq!(described["generation"], 1);
    assert!(described["wants"].as_array().is_some_and(|wants| !wants.is_empty()), "{described}");
    assert_serves(&gateway, "/webhook", 1).await;

    fs::remove_file(gateway.plugins_dir().join("telegram.wasm")).expect("the file can be removed");
    eventually(DEADLINE, || async {
        let answer = gateway.post("/webhook", &message(2, 7, "hello")).await;
        if answer.status == 404 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let plugins = gateway.plugins().await;
    assert!(plugins.iter().all(|plugin| plugin["name"] != "telegram"), "{plugins:?}");
}

#[tokio::test]
async fn what_is_no_plugin_is_left_alone() {
    let gateway = telegram().start().await;
    let directory = gateway.plugins_dir();
    let other = fixture("steady");
    fs::create_dir(directory.join("folder")).expect("a folder can be made");
    fs::copy(&other, directory.join("folder/steady.wasm")).expect("a file can be copied");
    fs::copy(&other, directory.join(".steady.wasm")).expect("a file can be copied");
    fs::copy(&other, directory.join("steady.wasm~")).expect("a file can be copied");
    fs::write(directory.join("notes.txt"), "not a plugin").expect("a file can be written");
    // One that is a plugin shows that the others had their turn.
    install(&directory, "visible", &other);
    gateway.plugin_when("visible", |plugin| plugin["state"] == "serving").await;
    let mut names: Vec<Value> =
        gateway.plugins().await.into_iter().map(|plugin| plugin["name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, [json!("telegram"), json!("visible")]);
}

#[tokio::test]
async fn a_file_written_piece_by_piece_is_loaded_once_it_is_whole() {
    let gateway = telegram().start().await;
    let bytes = salted(&plugin("telegram"), 7);
    let path = gateway.plugins_dir().join("telegram.wasm");
    let mut file = fs::File::create(&path).expect("the file can be written");
    for piece in bytes.chunks(bytes.len().div_ceil(8)) {
        std::io::Write::write_all(&mut file, piece).expect("the file can be written");
        assert_serves(&gateway, "/webhook", next_update()).await;
    }
    drop(file);
    gateway
        .plugin_when("telegram", |plugin| {
            plugin["generation"].as_u64() >= Some(2) && plugin["error"].is_null()
        })
        .await;
    assert_serves(&gateway, "/webhook", next_update()).await;
}

/// Numbers that no other update of this process has.
fn next_update() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(5_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test]
async fn a_symlink_that_is_pointed_elsewhere_is_a_new_generation() {
    let gateway = Gateway::builder().start().await;
    let (first, second) = (gateway.directory().join("first.wasm"), gateway.directory().join("second.wasm"));
    fs::write(&first, salted(&plugin("telegram"), 1)).expect("a file can be written");
    fs::write(&second, salted(&plugin("telegram"), 2)).expect("a file can be written");
    let link = |target: &std::path::Path| {
        let temporary = gateway.plugins_dir().join(".link");
        std::os::unix::fs::symlink(target, &temporary).expect("a link can be made");
        fs::rename(&temporary, gateway.plugins_dir().join("telegram.wasm")).expect("a link can be renamed");
    };
    link(&first);
    gateway.plugin_when("telegram", |plugin| plugin["generation"] == 1).await;
    link(&second);
    gateway.plugin_when("telegram", |plugin| plugin["generation"] == 2).await;
    assert_serves(&gateway, "/webhook", 1).await;
}
