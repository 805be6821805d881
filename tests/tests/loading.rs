//! What lies in the plugin directory, whatever it is, and what the operator orders meanwhile.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use futures::StreamExt;
use http::Method;
use plugway_tests::{
    Answer, Builder, DEADLINE, Gateway, compile_bomb, eventually, exporting, fixture, install,
    overwrite_bytes, salted,
};

fn steady() -> Builder {
    Gateway::builder().component("steady", &fixture("steady"))
}

async fn echo(gateway: &Gateway) -> Answer {
    let request = gateway.request(Method::POST, "/steady/echo").body("hello");
    Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer")
}

async fn assert_serves(gateway: &Gateway) {
    assert_eq!(echo(gateway).await.expect(200).text(), "hello");
}

/// An answer of the plugin `steady` that goes on for a while, begun.
async fn slow(gateway: &Gateway) -> impl StreamExt<Item = reqwest::Result<bytes::Bytes>> + Unpin + use<> {
    let request = gateway.request(Method::GET, "/steady/slow?lines=100");
    let mut body = request.send().await.expect("an answer begins").bytes_stream();
    body.next().await.expect("a first piece").expect("it is whole");
    body
}

/// Waits until the plugin was refused with a sentence that has `part`.
async fn assert_refused(gateway: &Gateway, name: &str, part: &str) {
    let refused =
        |plugin: &serde_json::Value| plugin["error"].as_str().is_some_and(|error| error.contains(part));
    gateway.plugin_when(name, refused).await;
}

/// Whether a compiler works on a component of so many bytes.
fn is_compiling(length: usize) -> bool {
    let length = length.to_string();
    let processes = fs::read_dir("/proc").expect("processes are shown").flatten();
    let mut lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| {
        let mut words = line.split(|byte| *byte == 0);
        words.any(|word| word == b"compile-component") && words.any(|word| word == length.as_bytes())
    })
}

#[tokio::test]
async fn a_component_that_compiles_without_end_delays_no_plugin_no_order_and_no_end() {
    let bomb = compile_bomb(1);
    let mut gateway = steady().set("engine.compile_timeout", "10m").start().await;
    overwrite_bytes(&gateway.plugins_dir(), "bomb", &bomb);
    let compiling = |wanted: bool| {
        let length = bomb.len();
        eventually(DEADLINE, move || async move {
            if is_compiling(length) == wanted { Ok(()) } else { Err(format!("compiling: {}", !wanted)) }
        })
    };
    compiling(true).await;
    install(&gateway.plugins_dir(), "hostile", &fixture("hostile"));
    gateway.plugin_when("hostile", |plugin| plugin["state"] == "serving").await;
    gateway.administer("steady", "disable").await.expect(200);
    gateway.administer("steady", "enable").await.expect(200);
    gateway.administer("steady", "reload").await.expect(200);
    assert_serves(&gateway).await;
    gateway.get("/ready").await.expect(200);
    // What it is replaced by is loaded at once.
    overwrite_bytes(&gateway.plugins_dir(), "bomb", b"rubbish");
    assert_refused(&gateway, "bomb", "not a WebAssembly file").await;
    compiling(false).await;
    overwrite_bytes(&gateway.plugins_dir(), "bomb", &bomb);
    compiling(true).await;
    assert!(gateway.stop().await.success());
    compiling(false).await;
}

#[tokio::test]
async fn a_component_that_needs_too_much_to_compile_is_refused_with_the_setting() {
    let bounds = [("compile_timeout", "1s", 2), ("compile_memory", "64MiB", 3)];
    for (setting, bound, salt) in bounds {
        let gateway = steady().set(&format!("engine.{setting}"), bound).start().await;
        overwrite_bytes(&gateway.plugins_dir(), "bomb", &compile_bomb(salt));
        assert_refused(&gateway, "bomb", &format!("engine.{setting}")).await;
        assert_serves(&gateway).await;
    }
}

#[tokio::test]
async fn the_start_waits_for_a_slow_component_only_so_long() {
    let builder = steady().set("engine.first_load", "1s").set("engine.compile_timeout", "10m");
    let bomb = builder.directory().join("bomb");
    fs::write(&bomb, compile_bomb(5)).expect("a file can be written");
    let gateway = builder.component("bomb", &bomb).start().await;
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn a_component_whose_role_lacks_its_functions_is_refused() {
    let gateway = Gateway::builder().start().await;
    for role in ["http", "socket", "delivery", "filter"] {
        overwrite_bytes(&gateway.plugins_dir(), role, &exporting(&["plugin", role]));
        assert_refused(&gateway, role, "differ").await;
    }
}

#[tokio::test]
async fn the_compiler_dies_with_a_gateway_that_is_killed() {
    let bomb = compile_bomb(4);
    let mut gateway = Gateway::builder().start().await;
    overwrite_bytes(&gateway.plugins_dir(), "bomb", &bomb);
    for wanted in [true, false] {
        eventually(DEADLINE, || async {
            if is_compiling(bomb.len()) == wanted { Ok(()) } else { Err(format!("compiling: {}", !wanted)) }
        })
        .await;
        gateway.kill();
    }
}

#[tokio::test]
async fn a_pipe_in_the_directory_is_refused_and_holds_nobody_up() {
    let gateway = steady().start().await;
    let made = std::process::Command::new("mkfifo").arg(gateway.plugins_dir().join("pipe.wasm")).status();
    assert!(made.expect("mkfifo runs").success());
    let answer = gateway.administer("pipe", "reload").await.expect(409);
    assert!(answer.text().contains("no regular file"), "{}", answer.text());
    gateway.administer("steady", "reload").await.expect(200);
    gateway.plugin_when("pipe", |plugin| plugin["state"] == "refused").await;
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_looked_at_leaves_what_serves() {
    let gateway = steady().start().await;
    let point_at = |target: &Path| {
        let temporary = gateway.plugins_dir().join(".link");
        symlink(target, &temporary).expect("a link can be made");
        fs::rename(&temporary, gateway.plugins_dir().join("steady.wasm")).expect("a link can be renamed");
    };
    point_at(Path::new("nowhere.wasm"));
    assert_refused(&gateway, "steady", "can't be looked at").await;
    gateway.plugin_when("steady", |plugin| plugin["state"] == "serving").await;
    assert_serves(&gateway).await;
    point_at(&fixture("steady"));
    let healed = gateway.plugin_when("steady", |plugin| plugin["error"].is_null()).await;
    assert_eq!(healed["generation"], 1, "its content serves already");
}

#[tokio::test]
async fn what_was_rolled_back_stays_away_until_it_is_asked_for() {
    let gateway = steady().set("telemetry.level", "debug").start().await;
    let bad = salted(&fixture("steady"), 1);
    overwrite_bytes(&gateway.plugins_dir(), "steady", &bad);
    gateway.plugin_when("steady", |plugin| plugin["generation"] == 2).await;
    // Loaded again, it is still the content to go back from.
    gateway.administer("steady", "reload").await.expect(200);
    gateway.plugin_when("steady", |plugin| plugin["generation"] == 3).await;
    gateway.administer("steady", "rollback").await.expect(200);
    gateway.plugin_when("steady", |plugin| plugin["generation"] == 1).await;
    // There is nothing before it, and going back never goes forward.
    gateway.administer("steady", "rollback").await.expect(409);
    overwrite_bytes(&gateway.plugins_dir(), "steady", &bad);
    gateway.logged(&["steady", "was rolled back"]).await;
    gateway.plugin_when("steady", |plugin| plugin["generation"] == 1).await;
    gateway.administer("steady", "reload").await.expect(200);
    gateway.plugin_when("steady", |plugin| plugin["generation"] == 4).await;
}

#[tokio::test]
async fn a_route_that_a_rollback_gives_up_goes_to_who_was_refused_for_it() {
    let gateway = steady().start().await;
    install(&gateway.plugins_dir(), "steady", &fixture("hostile"));
    gateway.plugin_when("steady", |plugin| plugin["generation"] == 2).await;
    install(&gateway.plugins_dir(), "second", &fixture("hostile"));
    assert_refused(&gateway, "second", "is taken by").await;
    gateway.administer("steady", "rollback").await.expect(200);
    gateway.plugin_when("second", |plugin| plugin["state"] == "serving").await;
    gateway.get("/hostile/nothing").await.expect(200);
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn a_disabled_plugin_stays_so_when_its_file_comes_back() {
    let gateway = steady().start().await;
    gateway.administer("steady", "disable").await.expect(200);
    fs::remove_file(gateway.plugins_dir().join("steady.wasm")).expect("the file can be removed");
    gateway.plugin_when("steady", |plugin| plugin["generation"] == 0).await;
    install(&gateway.plugins_dir(), "steady", &fixture("steady"));
    let back = gateway.plugin_when("steady", |plugin| plugin["generation"] == 2).await;
    assert_eq!(back["state"], "disabled");
    echo(&gateway).await.expect(404);
    gateway.administer("steady", "enable").await.expect(200);
    assert_serves(&gateway).await;
}

#[tokio::test]
async fn a_request_that_waited_finds_what_serves_by_then() {
    let gateway = steady().set("plugins.steady.limits.exchanges", 1).start().await;
    let mut body = slow(&gateway).await;
    let (waited, ()) = tokio::join!(echo(&gateway), async {
        gateway.administer("steady", "disable").await.expect(200);
        while let Some(piece) = body.next().await {
            piece.expect("the answer is not cut off");
        }
    });
    waited.expect(404);
}

#[tokio::test]
async fn a_request_waits_for_a_busy_plugin_only_so_long() {
    let builder = steady().set("plugins.steady.limits.exchanges", 1);
    let gateway = builder.set("plugins.steady.limits.waiting_timeout", "100ms").start().await;
    let body = slow(&gateway).await;
    let answer = echo(&gateway).await.expect(503);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    drop(body);
}

#[tokio::test]
async fn what_an_old_generation_does_is_not_blamed_on_the_one_that_serves() {
    let builder = Gateway::builder().component("hostile", &fixture("hostile"));
    let builder = builder.set("plugins.hostile.limits.traps", 1);
    let gateway = builder.set("plugins.hostile.limits.exchange_timeout", "2s").start().await;
    let endless = gateway.request(Method::GET, "/hostile/write").send().await.expect("an answer begins");
    overwrite_bytes(&gateway.plugins_dir(), "hostile", &salted(&fixture("hostile"), 1));
    gateway.plugin_when("hostile", |plugin| plugin["generation"] == 2).await;
    assert!(endless.bytes().await.is_err(), "its time is over");
    eventually(DEADLINE, || async {
        let failures = gateway.metrics().await.sum("plugway_plugin_failures_total", &[]);
        if failures >= 1.0 { Ok(()) } else { Err("no failure was counted".to_owned()) }
    })
    .await;
    gateway.get("/hostile/nothing").await.expect(200);
}

#[tokio::test]
async fn streams_on_as_many_old_generations_as_allowed_are_not_cut_off() {
    let gateway = steady().set("plugins.steady.limits.old_generations", 5).start().await;
    let mut bodies = Vec::new();
    for salt in 1..=5_u8 {
        bodies.push(slow(&gateway).await);
        overwrite_bytes(&gateway.plugins_dir(), "steady", &salted(&fixture("steady"), salt));
        gateway.plugin_when("steady", |plugin| plugin["generation"] == 1 + u64::from(salt)).await;
    }
    for mut body in bodies {
        let mut last = bytes::Bytes::new();
        while let Some(piece) = body.next().await {
            last = piece.expect("the answer is not cut off");
        }
        assert!(last.ends_with(b"end\n"), "{last:?}");
    }
}

#[tokio::test]
async fn rubbish_leaves_no_figures_behind() {
    let gateway = steady().start().await;
    for number in 0..20 {
        overwrite_bytes(&gateway.plugins_dir(), &format!("rubbish{number}"), b"rubbish");
    }
    gateway.plugin_when("rubbish19", |plugin| plugin["error"].is_string()).await;
    assert_serves(&gateway).await;
    let figures = gateway.get("/metrics").await.expect(200).text();
    assert!(!figures.contains("rubbish"), "{figures}");
    assert!(gateway.metrics().await.sum("plugway_plugin_loads_total", &["outcome=\"refused\""]) >= 1.0);
}

#[tokio::test]
async fn who_has_a_route_keeps_it_over_a_restart() {
    let mut gateway = Gateway::builder().component("zebra", &fixture("steady")).start().await;
    install(&gateway.plugins_dir(), "ant", &fixture("steady"));
    assert_refused(&gateway, "ant", "is taken by the plugin `zebra`").await;
    assert!(gateway.stop().await.success());
    gateway.start_again().await;
    assert_refused(&gateway, "ant", "is taken by the plugin `zebra`").await;
    gateway.plugin_when("zebra", |plugin| plugin["state"] == "serving").await;
    assert_serves(&gateway).await;
}
