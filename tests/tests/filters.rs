//! Filters between the agent and everybody who listens: their order, what they may do, and what becomes of an event when
//! one of them breaks. The fixture `sieve` does what its configuration says.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Method;
use plugway_tests::{
    Answer, Builder, DEADLINE, Event, Gateway, eventually, fixture, overwrite_bytes, salted,
};
use serde_json::{Value, json};

/// A gateway with an adapter that shows every event of its tasks.
fn builder() -> Builder {
    Gateway::builder().component("bench", &fixture("bench"))
}

/// Installs the sieve under a name, with this configuration.
fn sieve(builder: Builder, name: &str, config: &Value) -> Builder {
    let builder = builder.component(name, &fixture("sieve"));
    builder.set(&format!("plugins.{name}.config"), toml::Value::try_from(config).expect("it is TOML"))
}

/// All tasks pass these.
fn for_all(builder: Builder, names: &[&str]) -> Builder {
    builder.set("filters", names.to_vec())
}

/// One filter for all.
fn with_sieve(config: &Value) -> Builder {
    for_all(sieve(builder(), "sift", config), &["sift"])
}

/// All events of a task with this text, as the adapter sees them.
async fn events(gateway: &Gateway, text: &str) -> Vec<Event> {
    let request = gateway.request(Method::POST, "/bench/stream").body(text.to_owned());
    plugway_tests::Sse::open(request).await.rest().await
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

fn texts(events: &[Event], kind: &str) -> Vec<String> {
    let of_kind = events.iter().filter(|event| event.name == kind);
    of_kind.map(|event| event.json()["text"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn post(gateway: &Gateway, path: &str, body: &str) -> Answer {
    let response = gateway.request(Method::POST, path).body(body.to_owned()).send().await;
    Answer::read(response.expect("an answer")).await.expect("it is whole")
}

async fn submit(gateway: &Gateway, text: &str) -> String {
    post(gateway, "/bench/submit", text).await.expect(200).text()
}

#[tokio::test]
async fn filters_for_all_come_first_then_the_agents_then_the_adapters_each_once() {
    let mut builder = for_all(builder(), &["b", "a"])
        .set("agents.echo.filters", vec!["c", "b"])
        .set("plugins.bench.filters", vec!["d", "a"]);
    for name in ["a", "b", "c", "d"] {
        builder =
            sieve(builder, name, &json!({ "tag": format!("<{name}>"), "input_tag": format!("({name})") }));
    }
    let gateway = builder.start().await;
    let events = events(&gateway, "hi").await;
    let whole = "hi(b)(a)(c)(d)<b><a><c><d>";
    assert_eq!(texts(&events, "response_chunk"), [whole]);
    assert_eq!(texts(&events, "completed"), [whole]);
    let messages = &events.last().expect("there are some").json()["messages"];
    assert_eq!(messages[0]["content"], whole, "{messages}");
    // A task of the gateway's own has no adapter.
    let answer = gateway.post("/api/agent/command", &json!({ "query": "hi" })).await.expect(200).json();
    let task = answer["request_id"].as_str().expect("it has an id").replace("req-", "task_");
    assert_eq!(gateway.ended(&task).await["result"]["text"], "hi(b)(a)(c)<b><a><c>");
}

#[tokio::test]
async fn events_are_dropped_inserted_and_held_back_until_the_end() {
    let config = json!({ "note": true, "drop": ["thinking"] });
    let gateway =
        for_all(sieve(sieve(builder(), "sift", &config), "hold", &json!({ "hold": true })), &["sift"])
            .set("agents.held.kind", "echo")
            .set("agents.held.filters", vec!["hold"])
            .start()
            .await;
    let noted = events(&gateway, "one two").await;
    assert_eq!(
        kinds(&noted),
        ["started", "note", "response_chunk", "note", "response_chunk", "completed"],
        "{noted:#?}"
    );
    let notes = noted.iter().filter(|event| event.name == "note");
    assert_eq!(notes.map(Event::json).collect::<Vec<_>>(), [json!({"number": 1}), json!({"number": 2})]);
    // What a filter remembers is of the task.
    assert!(events(&gateway, "one two").await.iter().any(|event| event.json()["number"] == 1));

    let request = gateway.request(Method::POST, "/bench/submit?agent=held").body("/words 100000");
    let task = Answer::read(request.send().await.expect("an answer")).await.expect("whole").text();
    let running = |task: &str| {
        let path = format!("/tasks/{task}");
        let gateway = &gateway;
        async move { gateway.get(&path).await.expect(200).json()["state"].clone() }
    };
    eventually(DEADLINE, || async {
        let passed = gateway
            .metrics()
            .await
            .sum("plugway_filter_events_total", &["filter=\"hold\"", "outcome=\"dropped\""]);
        if passed > 4.0 {
            Ok(())
        } else {
            Err(format!("{passed} were held back, and the task is {}", running(&task).await))
        }
    })
    .await;
    post(&gateway, &format!("/tasks/{task}/cancel"), "").await.expect(200);
    let shown = gateway.stream(&format!("/stream/{task}")).await.rest().await;
    let shown: Vec<_> = shown.iter().filter(|event| event.name == "progress").map(Event::json).collect();
    let [.., held, end] = &shown[..] else { panic!("{shown:#?}") };
    assert!(held["data"]["text"].as_str().is_some_and(|text| text.starts_with("w1 w2 ")), "{held}");
    assert_eq!((shown.len(), &end["progress_type"]), (3, &json!("failed")), "{shown:#?}");
    assert_eq!(running(&task).await, "cancelled");
}

#[tokio::test]
async fn an_answer_that_a_filter_blocks_is_shown_to_nobody() {
    let gateway =
        with_sieve(&json!({ "block": "not fit for you", "drop": ["response_chunk"] })).start().await;
    let events = events(&gateway, "the answer").await;
    let last = events.last().expect("there are some");
    assert_eq!(last.name, "failed");
    let expected =
        json!({"error": "not fit for you", "error_type": "filter", "recoverable": false, "retry_count": 0});
    assert_eq!(last.json(), expected);
    assert!(!events.iter().any(|event| event.data.contains("answer")), "{events:#?}");
}

#[tokio::test]
async fn an_input_is_judged_wherever_it_comes_from() {
    let gateway = with_sieve(&json!({ "refuse": "cats", "input_tag": "!" })).start().await;
    let refused = post(&gateway, "/bench/submit", "about cats").await.expect(403);
    assert!(refused.text().contains("nothing about cats"), "{refused:?}");
    let refused = gateway.post("/api/agent/command", &json!({ "query": "about cats" })).await.expect(403);
    let error = refused.error();
    assert_eq!((&error["message"], &error["code"]), (&json!("nothing about cats"), &json!("refused")));
    let task = submit(&gateway, "about dogs").await;
    assert_eq!(gateway.ended(&task).await["result"]["text"], "about dogs!");
    assert_eq!(gateway.accepted_tasks().await, 1.0);
    let refused = gateway.metrics().await.sum("plugway_filter_inputs_total", &["outcome=\"refused\""]);
    assert_eq!(refused, 2.0);
}

/// What the sieve can do wrong, and what the log says of it.
const FAULTS: [(&str, &str); 12] = [
    ("trap", "panicked"),
    ("loop", "limits.cpu_per_step"),
    ("slow", "limits.filter_timeout"),
    ("state", "limits.filter_state"),
    ("many", "limits.filter_events"),
    ("big", "limits.filter_bytes"),
    ("garbage", "no JSON object"),
    ("drop", "dropped a terminal event"),
    ("end", "made a terminal event"),
    ("twice", "made a terminal event"),
    ("start", "`started`"),
    ("log", "limits.log"),
];

/// Every fault as a filter and an agent of its own, beside an agent without filters.
fn faulty(policy: &str) -> Builder {
    let mut builder = builder();
    for (fault, _) in FAULTS {
        let config = json!({ "on": "boom", "on_input": "inward", "fault": fault });
        let cpu = if fault == "slow" { "10s" } else { "100ms" };
        builder = sieve(builder, fault, &config)
            .set(&format!("plugins.{fault}.policy"), policy)
            .set(&format!("plugins.{fault}.limits.cpu_per_step"), cpu)
            .set(
                &format!("plugins.{fault}.limits.filter_timeout"),
                if fault == "slow" { "100ms" } else { "10s" },
            )
            .set(&format!("plugins.{fault}.limits.filter_bytes"), "256KiB")
            .set(&format!("plugins.{fault}.limits.log"), "64KiB")
            .set(&format!("plugins.{fault}.limits.traps"), 1_000)
            .set(&format!("agents.{fault}.kind"), "echo")
            .set(&format!("agents.{fault}.filters"), vec![fault]);
    }
    // All of them are there from the start.
    builder.set("workers.count", 8)
}

async fn run(gateway: &Gateway, agent: &str, text: &str) -> (Value, Vec<Event>) {
    let task = post(gateway, &format!("/bench/submit?agent={agent}"), text).await.expect(200).text();
    let description = gateway.ended(&task).await;
    (description, gateway.stream(&format!("/stream/{task}")).await.rest().await)
}

#[tokio::test]
async fn a_filter_that_breaks_fails_its_task_and_nothing_unfiltered_is_shown() {
    let gateway = faulty("fail").start().await;
    for (fault, told) in FAULTS {
        let (description, shown) = run(&gateway, fault, "a boom of a thing").await;
        assert_eq!(description["state"], "failed", "{fault}: {description}");
        let result = &description["result"];
        assert_eq!(result["error_type"], "filter", "{fault}: {result}");
        let error = result["error"].as_str().expect("a failure says why");
        assert!(error.contains(fault) && error.contains(told), "{fault}: {error}");
        // What may be dropped and repeated is not at fault before its end.
        let is_lawful = |event: &&Event| fault == "twice" && event.progress() == "response_chunk";
        let unlawful = shown.iter().filter(|event| !is_lawful(event));
        assert!(!unlawful.clone().any(|event| event.data.contains("boom")), "{fault}: {shown:#?}");
        gateway.logged(&["did not judge an event", told]).await;
        // The filter's instance is gone, the filter is not.
        let (description, _) = run(&gateway, fault, "fine").await;
        assert_eq!(description["result"]["text"], "fine", "{fault}: {description}");
    }
    assert_eq!(run(&gateway, "echo", "boom").await.0["state"], "completed");
    let faults = gateway.metrics().await.sum("plugway_filter_faults_total", &["policy=\"fail\""]);
    assert_eq!(faults, 12.0);
}

#[tokio::test]
async fn a_filter_that_breaks_is_passed_over_where_the_operator_says_so() {
    let gateway = faulty("skip").start().await;
    for (fault, told) in FAULTS {
        let (description, shown) = run(&gateway, fault, "a boom of a thing").await;
        assert_eq!(description["state"], "completed", "{fault}: {description}");
        // An answer may become another one; a piece of it may not.
        let text = if fault == "end" { "over" } else { "a boom of a thing" };
        assert_eq!(description["result"]["text"], text, "{fault}");
        let ends = shown.iter().filter(|event| ["completed", "failed"].contains(&event.progress().as_str()));
        assert_eq!(ends.count(), 1, "{fault}: {shown:#?}");
        gateway.logged(&["did not judge an event", told]).await;
    }
}

#[tokio::test]
async fn an_input_that_a_filter_breaks_on_is_refused_or_passed_over() {
    let gateway = faulty("fail").start().await;
    for fault in ["trap", "loop", "slow", "garbage", "big", "log"] {
        let answer = post(&gateway, &format!("/bench/submit?agent={fault}"), "inward").await.expect(403);
        assert!(answer.text().contains("could not be judged"), "{fault}: {answer:?}");
    }
    assert_eq!(gateway.accepted_tasks().await, 0.0);
    drop(gateway);
    let gateway = faulty("skip").start().await;
    for fault in ["trap", "loop", "slow", "garbage", "big", "log"] {
        assert_eq!(run(&gateway, fault, "inward").await.0["result"]["text"], "inward", "{fault}");
    }
}

#[tokio::test]
async fn a_filter_that_fails_too_often_rests_where_it_is_passed_over_and_never_where_it_is_not() {
    let config = json!({ "on": "boom", "fault": "trap", "upper": true });
    let gateway = with_sieve(&config)
        .set("plugins.sift.policy", "skip")
        .set("plugins.sift.limits.traps", 2)
        .start()
        .await;
    submit(&gateway, "boom boom boom").await;
    gateway.logged(&["put aside", "unfiltered"]).await;
    eventually(DEADLINE, || async {
        let task = submit(&gateway, "back again").await;
        let text = gateway.ended(&task).await["result"]["text"].clone();
        if text == "BACK AGAIN" { Ok(()) } else { Err(format!("it still rests: {text}")) }
    })
    .await;
    drop(gateway);

    let gateway = with_sieve(&config).set("plugins.sift.limits.traps", 2).start().await;
    for _ in 0..5 {
        let task = submit(&gateway, "boom").await;
        assert_eq!(gateway.ended(&task).await["result"]["error_type"], "filter");
    }
    let task = submit(&gateway, "somebody else").await;
    assert_eq!(gateway.ended(&task).await["result"]["text"], "SOMEBODY ELSE");
}

#[tokio::test]
async fn a_filter_that_computes_without_end_holds_up_nobody_else() {
    let config = json!({ "on": "boom", "fault": "loop", "upper": true });
    let builder = with_sieve(&config).set("plugins.sift.limits.cpu_per_step", "1h");
    let gateway =
        builder.set("plugins.sift.limits.filter_timeout", "1h").set("workers.count", 8).start().await;
    let mut stuck = Vec::new();
    for _ in 0..4 {
        stuck.push(submit(&gateway, "boom").await);
    }
    for number in 0..20 {
        let task = submit(&gateway, &format!("task {number}")).await;
        assert_eq!(gateway.ended(&task).await["result"]["text"], format!("TASK {number}"));
    }
    for task in &stuck {
        assert_eq!(gateway.get(&format!("/tasks/{task}")).await.expect(200).json()["state"], "running");
    }
}

#[tokio::test]
async fn a_filter_that_is_not_there_lets_nothing_pass_until_it_is() {
    let gateway = for_all(builder(), &["late"])
        .set("plugins.late.config.upper", true)
        .set("plugins.late.limits.waiting_timeout", "100ms")
        .start()
        .await;
    gateway.logged(&["a filter is not there", "late.wasm"]).await;
    post(&gateway, "/bench/submit", "hi").await.expect(503).error();
    let refused = gateway.post("/api/agent/command", &json!({ "query": "hi" })).await.expect(503).error();
    assert_eq!(refused["message"], "the filter `late` is not there");
    let ready = gateway.get("/ready").await.expect(200).json();
    assert_eq!(ready["filters"]["late"]["is_there"], false, "{ready}");
    assert_eq!(ready["filters"]["late"]["policy"], "fail", "{ready}");
    gateway.plugin_when("late", |plugin| plugin["state"] == "missing" && plugin["error"].is_string()).await;

    // A plugin that is no filter is none.
    let other = std::fs::read(fixture("steady")).expect("the fixture is there");
    overwrite_bytes(&gateway.plugins_dir(), "late", &other);
    let no_role =
        |plugin: &Value| plugin["error"].as_str().is_some_and(|error| error.contains("no filter role"));
    gateway.plugin_when("late", |plugin| plugin["state"] == "refused" || no_role(plugin)).await;
    post(&gateway, "/bench/submit", "hi").await.expect(503);

    overwrite_bytes(&gateway.plugins_dir(), "late", &salted(&fixture("sieve"), 1));
    gateway
        .plugin_when("late", |plugin| plugin["state"] == "serving" && plugin["roles"] == json!(["filter"]))
        .await;
    let task = submit(&gateway, "hi").await;
    assert_eq!(gateway.ended(&task).await["result"]["text"], "HI");
    assert_eq!(gateway.get("/ready").await.expect(200).json()["filters"]["late"]["is_there"], true);

    // Taken out while a task waits for its turn: the task fails rather than to be shown as it is.
    gateway.administer("late", "disable").await.expect(200);
    post(&gateway, "/bench/submit", "hi").await.expect(503);
}

#[tokio::test]
async fn a_task_whose_filter_went_before_its_turn_fails_and_is_not_shown() {
    let gateway = with_sieve(&json!({ "upper": true }))
        .set("plugins.sift.limits.waiting_timeout", "100ms")
        .set("workers.count", 1)
        .start()
        .await;
    let running = submit(&gateway, "/sleep 1s").await;
    let waiting = submit(&gateway, "not for your eyes").await;
    gateway.stream(&format!("/stream/{running}")).await.until(|event| event.progress() == "thinking").await;
    gateway.administer("sift", "disable").await.expect(200);
    // What had begun keeps the filter that it began with.
    assert_eq!(gateway.ended(&running).await["result"]["text"], "SLEPT");
    let description = gateway.ended(&waiting).await;
    assert_eq!(description["result"]["error_type"], "filter", "{description}");
    let shown = gateway.stream(&format!("/stream/{waiting}")).await.rest().await;
    assert!(!shown.iter().any(|event| event.data.contains("eyes")), "{shown:#?}");
}

#[tokio::test]
async fn a_missing_filter_that_may_be_passed_over_is() {
    let gateway = for_all(builder(), &["late"])
        .set("plugins.late.policy", "skip")
        .set("plugins.late.limits.waiting_timeout", "10ms")
        .start()
        .await;
    let task = submit(&gateway, "hi").await;
    assert_eq!(gateway.ended(&task).await["result"]["text"], "hi");
    gateway.logged(&["a filter is not there", "unfiltered"]).await;
}

#[tokio::test]
async fn a_list_of_filters_that_is_wrong_stops_the_start() {
    for (names, told) in [(vec!["Sift"], "no plugin name"), (vec!["sift", "sift"], "stands twice")] {
        let failure = for_all(builder(), &names).try_start().await.expect_err("it does not start");
        assert!(failure.output.contains("filters: ") && failure.output.contains(told), "{}", failure.output);
    }
}

#[tokio::test]
async fn a_filter_beside_another_role_has_nothing_but_the_host() {
    let gateway = for_all(builder(), &["hostile"]).component("hostile", &fixture("hostile")).start().await;
    let task = submit(&gateway, "fine").await;
    assert_eq!(gateway.ended(&task).await["result"]["text"], "fine");
    let task = submit(&gateway, "ask kv").await;
    let failed = &gateway.ended(&task).await["result"];
    assert_eq!(failed["error_type"], "filter", "{failed}");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("nothing but `host`")), "{failed}");
    gateway.get("/hostile/nothing").await.expect(200);
}

#[tokio::test]
async fn a_filter_is_replaced_under_load_and_no_event_is_unfiltered() {
    let gateway = with_sieve(&json!({ "upper": true, "tag": "!" }))
        .set("workers.count", 8)
        .set("workers.queue", 1_000_000)
        .start()
        .await;
    let variants: Vec<_> = (0..4).map(|salt| salted(&fixture("sieve"), salt)).collect();
    let (stop, heard) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = || async {
        while !stop.load(Ordering::Relaxed) {
            let events = events(&gateway, "/words 50").await;
            assert_eq!(events.last().map(|event| event.name.as_str()), Some("completed"), "{events:#?}");
            let chunks = texts(&events, "response_chunk");
            assert_eq!(chunks.len(), 50, "{events:#?}");
            for text in chunks.iter().chain(&texts(&events, "completed")) {
                assert!(text.ends_with('!') && *text == text.to_uppercase(), "{text:?} is not filtered");
            }
            heard.fetch_add(1, Ordering::Relaxed);
        }
    };
    let overwrite = async {
        for round in 0..20_u64 {
            let variant = &variants[usize::try_from(round).expect("it is small") % variants.len()];
            overwrite_bytes(&gateway.plugins_dir(), "sift", variant);
            gateway.plugin_when("sift", |plugin| plugin["generation"].as_u64() >= Some(round + 2)).await;
            let before = heard.load(Ordering::Relaxed);
            eventually(DEADLINE, || async {
                let now = heard.load(Ordering::Relaxed);
                if now > before { Ok(()) } else { Err("no task has ended on it".to_owned()) }
            })
            .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(futures::future::join_all((0..8).map(|_| client())), overwrite);
    let faults = gateway.metrics().await.sum("plugway_filter_faults_total", &[]);
    assert_eq!(faults, 0.0);
}

#[tokio::test]
async fn a_run_that_died_is_filtered_anew() {
    let mut gateway = with_sieve(&json!({ "upper": true, "note": true })).same_port().start().await;
    let task = submit(&gateway, "/words 500").await;
    let path = format!("/stream/{task}");
    gateway.stream(&path).await.until(|event| event.progress() == "response_chunk").await;
    gateway.kill();
    gateway.start_again().await;
    let description = gateway.ended(&task).await;
    assert_eq!(
        (&description["state"], &description["attempt"]),
        (&json!("completed"), &json!(2)),
        "{description}"
    );
    assert!(description["result"]["text"].as_str().is_some_and(|text| text.starts_with("W1 W2 ")));
    let notes = gateway.metrics().await.sum("plugway_filter_events_total", &["outcome=\"inserted\""]);
    assert_eq!(notes, 500.0);
    let shown = gateway.stream(&path).await.rest().await;
    let lower = |event: &&Event| {
        event.name == "progress"
            && event.json()["data"]["text"].as_str().is_some_and(|text| text.contains('w'))
    };
    assert_eq!(shown.iter().find(lower), None);
}
