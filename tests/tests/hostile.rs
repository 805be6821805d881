//! Hostile and broken plugins: each bad exchange ends alone, with a log line that says why, and the next request to
//! another plugin is answered.

use http::Method;
use plugway_tests::{Answer, Builder, DEADLINE, Gateway, Receiver, eventually, fixture, within};

/// Generous limits of time only where a test is not about them.
fn builder() -> Builder {
    Gateway::builder()
        .component("hostile", &fixture("hostile"))
        .component("steady", &fixture("steady"))
        .set("plugins.hostile.limits.cpu_per_step", "100ms")
        .set("plugins.hostile.limits.exchange_timeout", "1s")
        .set("plugins.hostile.limits.memory", "16MiB")
        .set("plugins.hostile.limits.log", "64KiB")
        .set("plugins.hostile.limits.requests", 5)
        .set("plugins.hostile.limits.kv", "1MiB")
        .set("plugins.hostile.limits.traps", 1_000)
}

/// The answer to a deed; none if the connection was cut instead.
async fn deed(gateway: &Gateway, deed: &str) -> Option<Answer> {
    let request = gateway.request(Method::GET, &format!("/hostile/{deed}"));
    let response = within("the deed is over", request.send()).await.ok()?;
    within("the deed's answer is over", Answer::read(response)).await.ok()
}

async fn assert_others_are_served(gateway: &Gateway) {
    let request = gateway.request(Method::POST, "/steady/echo").body("still here");
    let response = within("another plugin answers", request.send()).await.expect("an answer");
    assert_eq!(Answer::read(response).await.expect("a whole answer").expect(200).text(), "still here");
    gateway.get("/health").await.expect(200);
}

async fn failures(gateway: &Gateway) -> f64 {
    gateway.metrics().await.sum("plugway_plugin_failures_total", &[])
}

/// The deed ends in a failure of its own exchange, and a line of the log has all of `parts`.
async fn assert_ends_alone(gateway: &Gateway, name: &str, parts: &[&str]) {
    let before = failures(gateway).await;
    if let Some(answer) = deed(gateway, name).await {
        assert!((500..600).contains(&answer.status), "{name}: {answer:?}");
        let error = answer.error();
        assert!(!error["message"].as_str().is_some_and(|text| text.contains("wasm")), "{name}: {error}");
    }
    assert_others_are_served(gateway).await;
    let parts: Vec<_> = ["hostile"].iter().chain(parts).copied().collect();
    gateway.logged(&parts).await;
    eventually(DEADLINE, || async {
        let now = failures(gateway).await;
        if now == before + 1.0 {
            Ok(())
        } else {
            Err(format!("{name}: {before} failures before, {now} after"))
        }
    })
    .await;
    assert_eq!(deed(gateway, "nothing").await.expect("it is served").expect(200).text(), "done");
}

#[tokio::test]
async fn whatever_a_plugin_does_ends_its_own_exchange_only() {
    let gateway = builder().start().await;
    let deeds: [(&str, &[&str]); 16] = [
        ("loop", &["limits.cpu_per_step"]),
        ("poll", &["limits.cpu_per_step"]),
        ("clock", &["limits.cpu_per_step"]),
        ("cancel", &["limits.cpu_per_step"]),
        ("callback", &["limits.cpu_per_step"]),
        ("recurse", &["recursed too deep"]),
        ("recurse-wide", &["trap"]),
        ("allocate", &["limits.memory"]),
        ("panic", &["panicked"]),
        ("log", &["limits.log"]),
        ("stdout", &["limits.log"]),
        ("one-line", &["limits.log"]),
        ("write", &["limits.exchange_timeout"]),
        ("wait", &["limits.exchange_timeout"]),
        ("ignore-the-end", &["limits."]),
        ("half", &["panicked"]),
    ];
    for (name, parts) in deeds {
        assert_ends_alone(&gateway, name, parts).await;
    }
    // The panic's own words are in the log too.
    gateway.logged(&["on purpose, with a"]).await;
}

#[tokio::test]
async fn an_answer_that_breaks_in_the_middle_is_cut_off_and_not_ended() {
    let gateway = builder().start().await;
    for name in ["half", "write"] {
        let request = gateway.request(Method::GET, &format!("/hostile/{name}"));
        let response = within("the answer begins", request.send()).await.expect("an answer begins");
        assert_eq!(response.status(), 200);
        let body = within("the answer is cut", response.bytes()).await;
        assert!(body.is_err(), "{name}: the client can tell that something is missing");
    }
    assert_others_are_served(&gateway).await;
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_500_without_details() {
    let gateway = builder().start().await;
    for name in ["no-answer", "error", "bad-header", "bad-status", "headers"] {
        let answer = deed(&gateway, name).await.expect("an answer").expect(500);
        let error = answer.error();
        assert!(!answer.text().contains("no caller may see"), "{name}: {error}");
        assert_others_are_served(&gateway).await;
    }
    gateway.logged(&["hostile", "details that no caller may see"]).await;
}

#[tokio::test]
async fn other_plugins_are_served_while_exchanges_spin_and_wait() {
    let builder = builder().set("plugins.hostile.limits.cpu_per_step", "3s");
    let gateway = builder.set("plugins.hostile.limits.exchange_timeout", "5s").start().await;
    let bad = (0..16).map(|number| deed(&gateway, if number % 2 == 0 { "loop" } else { "wait" }));
    let good = async {
        for _ in 0..200 {
            assert_others_are_served(&gateway).await;
        }
    };
    tokio::join!(futures::future::join_all(bad), good);
}

#[tokio::test]
async fn a_plugin_at_its_bound_of_exchanges_answers_503_and_others_are_served() {
    let builder =
        builder().set("plugins.hostile.limits.exchanges", 4).set("plugins.hostile.limits.waiting", 4);
    let gateway = builder.set("plugins.hostile.limits.exchange_timeout", "3s").start().await;
    let bad = futures::future::join_all((0..32).map(|_| deed(&gateway, "wait")));
    let good = async {
        for _ in 0..20 {
            assert_others_are_served(&gateway).await;
        }
    };
    let (answers, ()) = tokio::join!(bad, good);
    let refused: Vec<_> =
        answers.into_iter().flatten().filter(|answer| answer.header("retry-after").is_some()).collect();
    assert!(refused.len() >= 24, "{} of 32 were refused", refused.len());
    assert!(refused.iter().all(|answer| answer.status == 503));
}

#[tokio::test]
async fn a_plugin_that_breaks_again_and_again_is_put_aside_until_it_works() {
    let builder =
        builder().set("plugins.hostile.limits.traps", 5).set("plugins.hostile.limits.trap_window", "60s");
    let gateway = builder.start().await;
    for _ in 0..5 {
        deed(&gateway, "panic").await;
    }
    let aside = deed(&gateway, "nothing").await.expect("an answer").expect(503);
    assert!(aside.header("retry-after").is_some(), "{aside:?}");
    aside.error();
    gateway.plugin_when("hostile", |plugin| plugin["state"] == "aside").await;
    assert_others_are_served(&gateway).await;
    eventually(DEADLINE, || async {
        let answer = deed(&gateway, "nothing").await.ok_or("the connection was cut")?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    gateway.plugin_when("hostile", |plugin| plugin["state"] == "serving").await;
}

#[tokio::test]
async fn an_origin_that_is_not_granted_is_not_reached() {
    let receiver = Receiver::start().await;
    let gateway = builder().start().await;
    for (url, line) in [
        (receiver.url("/"), "[plugins.hostile]"),
        ("http://never.granted.example/".to_owned(), "origins = [\"http://never.granted.example\"]"),
    ] {
        let answer = deed(&gateway, &format!("dial?url={url}")).await.expect("an answer").expect(200).text();
        assert!(answer.starts_with("denied") && answer.contains(line), "says which line to add: {answer}");
    }
    assert_eq!(receiver.received().len(), 0);
    assert_others_are_served(&gateway).await;
}

#[tokio::test]
async fn a_granted_origin_at_a_private_address_is_not_reached_unless_its_network_is_listed() {
    let receiver = Receiver::start().await;
    let origin = receiver.url("");
    let granted = || builder().set("plugins.hostile.origins", vec![origin.clone()]);
    let gateway = granted().start().await;
    let answer = deed(&gateway, &format!("dial?url={origin}/")).await.expect("an answer").expect(200).text();
    assert!(
        answer.starts_with("denied") && answer.contains("private_networks"),
        "says which line to add: {answer}"
    );
    assert_eq!(receiver.received().len(), 0);
    drop(gateway);

    let gateway = granted().set("plugins.hostile.private_networks", vec!["127.0.0.0/8"]).start().await;
    let answer = deed(&gateway, &format!("dial?url={origin}/")).await.expect("an answer").expect(200).text();
    assert!(answer.starts_with("204"), "{answer}");
    // A redirection is an answer like any other.
    receiver.redirect_to("http://127.0.0.1:1/elsewhere");
    let answer = deed(&gateway, &format!("dial?url={origin}/")).await.expect("an answer").expect(200).text();
    assert!(answer.starts_with("307"), "{answer}");
    // And requests have a bound.
    assert_ends_alone(&gateway, &format!("dial-without-end?url={origin}/"), &["limits.requests"]).await;
    assert_eq!(receiver.received().len(), 2 + 5);
}

#[tokio::test]
async fn a_plugin_uses_a_secret_and_never_sees_it() {
    let secret = "a-secret-that-only-the-host-knows";
    let receiver = Receiver::start().await;
    let origin = receiver.url("");
    let gateway = builder()
        .set("plugins.hostile.origins", vec![origin.clone()])
        .set("plugins.hostile.private_networks", vec!["127.0.0.0/8"])
        .set("plugins.hostile.secrets.own", "env:HOSTILE_SECRET")
        .set("telemetry.level", "info,plugway=debug,plugin=debug")
        .env("HOSTILE_SECRET", secret)
        .start()
        .await;
    let answer =
        deed(&gateway, &format!("own-secret?url={origin}/echo")).await.expect("an answer").expect(200).text();
    let received = receiver.received();
    assert_eq!(received[0].header("x-key"), secret, "it is put in on the way out");
    assert_eq!(&received[0].body[..], b"{secret:own}", "in a body it is text like any other");
    assert!(!answer.contains(secret), "an echo comes back without it: {answer}");

    // Another's secret, or one that was not granted, is not put in.
    let answer =
        deed(&gateway, &format!("secret?url={origin}/echo")).await.expect("an answer").expect(200).text();
    assert!(answer.starts_with("denied") && answer.contains("theirs"), "{answer}");
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(deed(&gateway, "guess-secret").await.expect("an answer").expect(200).text(), "false");
    assert!(gateway.log().iter().all(|line| !line.contains(secret)), "it is in no line of the log");
    assert!(!gateway.get("/admin/plugins").await.expect(200).text().contains(secret));
}

#[tokio::test]
async fn what_a_plugin_keeps_is_bounded_and_its_own() {
    let gateway = builder().start().await;
    let full = deed(&gateway, "kv").await.expect("an answer").expect(200).text();
    let (count, error) = full.split_once(' ').expect("a number and an error");
    assert!((32..=64).contains(&count.parse::<u32>().expect("a number")), "{full}");
    assert!(error.contains("no room") && error.contains("limits.kv"), "{error}");
    let value = deed(&gateway, "kv-value").await.expect("an answer").expect(200).text();
    assert!(value.contains("TooLarge"), "{value}");

    let put = gateway.request(Method::PUT, "/steady/kv/key0").body("mine").send().await.expect("an answer");
    assert_eq!(put.status(), 200, "another plugin has room");
    assert_eq!(gateway.get("/steady/kv/key0").await.expect(200).text(), "mine");
    gateway.get("/steady/kv/key1").await.expect(404).error();
}

#[tokio::test]
async fn the_sandbox_shows_nothing_of_the_machine() {
    let builder = builder().component("nosy", &fixture("nosy")).env("HOSTILE_SECRET", "not for plugins");
    let gateway = builder.start().await;
    let nosy = gateway.plugin_when("nosy", |plugin| plugin["state"] != "aside").await;
    // A host that does not even link a file system is as good as one that has none to show.
    if nosy["state"] == "serving" {
        assert_eq!(gateway.get("/nosy").await.expect(200).text(), "");
    }
    assert_others_are_served(&gateway).await;
}

#[tokio::test]
async fn deep_json_is_refused_or_read_but_breaks_nothing() {
    let gateway = builder().start().await;
    for depth in [1, 50, 120, 1_000, 100_000] {
        let body = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let request = gateway.request(Method::POST, "/steady/json").body(body);
        let answer = Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer");
        let expected = if depth <= 120 { 200 } else { 400 };
        assert_eq!(answer.status, expected, "depth {depth}: {}", answer.text());
    }
    assert_eq!(failures(&gateway).await, 0.0, "no plugin broke over it");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_an_endless_answer() {
    let gateway = builder().set("plugins.hostile.limits.exchange_timeout", "10m").start().await;
    for _ in 0..20 {
        let request = gateway.request(Method::GET, "/hostile/write");
        let response = within("the answer begins", request.send()).await.expect("an answer begins");
        drop(response);
    }
    eventually(DEADLINE, || async {
        let metrics = gateway.metrics().await;
        let ended = metrics.sum("plugway_plugin_exchange_seconds_count", &["plugin=\"hostile\""]);
        if ended >= 20.0 { Ok(()) } else { Err(format!("{ended} of 20 exchanges have ended")) }
    })
    .await;
    assert_others_are_served(&gateway).await;
}

#[tokio::test]
async fn a_plugin_that_paces_ever_new_keys_is_told_no_and_paces_nobody_else() {
    let gateway = builder().set("plugins.hostile.limits.cpu_per_step", "5s").start().await;
    let answer = deed(&gateway, "pace").await.expect("an answer").expect(200);
    assert_eq!(answer.text(), "Some(10000)");
    assert_others_are_served(&gateway).await;
}

#[tokio::test]
async fn the_exchanges_of_a_plugin_together_have_a_bound_on_their_memory() {
    let gateway = builder()
        .set("plugins.hostile.limits.memory_total", "20MiB")
        .set("plugins.hostile.limits.exchange_timeout", "20s")
        .start()
        .await;
    let deeds: Vec<_> = (0..4).map(|_| gateway.request(Method::GET, "/hostile/hold").send()).collect();
    let held = futures::future::join_all(deeds.into_iter().map(tokio::spawn));
    gateway.logged(&["hostile", "limits.memory_total"]).await;
    assert_others_are_served(&gateway).await;
    drop(held);
}
