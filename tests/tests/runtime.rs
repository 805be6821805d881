//! The `http` agent against a real runtime: what it is told, every framing, every chunk, and all that can go wrong.

use std::collections::HashSet;
use std::time::Duration;

use plugway_tests::update::message;
use plugway_tests::{
    Answer, Builder, DEADLINE, Event, Gateway, INTERNAL_KEY, Runtime, eventually, fixture, within,
};
use serde_json::{Value, json};

fn builder(runtime: &Runtime) -> Builder {
    Gateway::builder()
        .plugin("telegram")
        .plugin("openai")
        .component("steady", &fixture("steady"))
        .env("GATEWAY__AGENT_URL", &runtime.url())
        .env("GATEWAY__INTERNAL_API_KEY", INTERNAL_KEY)
        .set("agents.runtime.retry_delay", "50ms")
}

/// Submits a turn of a session by its input document.
async fn submit(gateway: &Gateway, session: &str, input: &Value) -> String {
    let accepted = gateway.post(&format!("/steady/tasks/{session}"), input).await.expect(202).json();
    accepted["task_id"].as_str().expect("an id").to_owned()
}

/// Submits a frame as an adapter does that has one.
async fn forward(gateway: &Gateway, session: &str, frame: &Value) -> String {
    submit(gateway, session, &json!({"kind": "message", "text": "as in the frame", "forward": frame})).await
}

/// Submits a script.
async fn tell(gateway: &Gateway, script: &[&str]) -> String {
    let frame = json!({"type": "user_message", "role": "user", "content": script.join("\n")});
    forward(gateway, "s", &frame).await
}

async fn events(gateway: &Gateway, task: &str) -> Vec<Event> {
    gateway.stream(&format!("/stream/{task}")).await.rest().await
}

/// Kinds of a task's events after the first, and their data.
async fn told(gateway: &Gateway, task: &str) -> Vec<(String, Value)> {
    let events = events(gateway, task).await;
    assert_eq!(events[0].progress(), "started");
    events[1..].iter().map(|event| (event.progress(), event.json()["data"].clone())).collect()
}

fn kinds(told: &[(String, Value)]) -> Vec<&str> {
    told.iter().map(|(kind, _)| kind.as_str()).collect()
}

/// How a task failed: its data, as one member of it.
async fn failed(gateway: &Gateway, script: &[&str]) -> Value {
    let task = tell(gateway, script).await;
    let told = told(gateway, &task).await;
    let (kind, data) = told.last().expect("a task ends");
    assert_eq!(kind, "failed", "{told:?}");
    data.clone()
}

/// No line of the log shows the key.
fn key_is_hidden(gateway: &Gateway) {
    let shown: Vec<_> = gateway.log().into_iter().filter(|line| line.contains(INTERNAL_KEY)).collect();
    assert!(shown.is_empty(), "{shown:#?}");
}

#[tokio::test]
async fn a_message_of_any_adapter_is_answered() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).start().await;
    let task = gateway.accept(&message(1, 7, "Good morning, Ada.")).await;
    let told = told(&gateway, &task).await;
    let texts: Vec<_> = told.iter().filter_map(|(_, data)| data["text"].as_str()).collect();
    assert_eq!(texts, ["Good ", "morning, ", "Ada.", "", "Good morning, Ada."]);
    assert_eq!(kinds(&told).last(), Some(&"completed"));
    let asked = runtime.last_is("ended").await;
    assert_eq!(asked["session_id"], "telegram:7");
    let frame = json!({"type": "user_message", "role": "user", "content": "Good morning, Ada."});
    assert_eq!(asked["message"], frame);

    let body = json!({"model": "runtime", "messages": [{"role": "user", "content": "Salve"}]});
    let answer = gateway.post("/v1/chat/completions", &body).await.expect(200).json();
    assert_eq!(answer["choices"][0]["message"]["content"], "Salve");
}

#[tokio::test]
async fn every_chunk_arrives_as_an_event_with_its_own_frame() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).start().await;
    let chunks = [
        json!({"type": "session_info", "session_id": "s", "metadata": null}),
        json!({"type": "assistant_message", "token": "Let me ", "content": null, "is_final": false}),
        json!({"type": "switch_agent", "content": null, "metadata": {"to_agent": "coder", "confidence": 0.50}}),
        json!({"type": "agent_switched", "content": "now coder", "metadata": {"from_agent": "ask"}}),
        json!({"type": "assistant_message", "token": "see.", "content": null, "is_final": true}),
        json!({"type": "tool_call", "call_id": "c1", "tool_name": "write_file", "arguments": {"path": "ä"}, "requires_approval": true}),
        json!({"type": "plan_approval_required", "plan": [1, {"deep": null}]}),
        json!({"type": "done", "is_final": true, "metadata": {"usage": {"total_tokens": 12}}}),
    ];
    let script: Vec<_> = chunks.iter().map(|chunk| format!("/send {chunk}")).collect();
    let script: Vec<_> = script.iter().map(String::as_str).collect();
    let task = tell(&gateway, &script).await;
    let told = told(&gateway, &task).await;
    assert_eq!(kinds(&told), ["response_chunk", "response_chunk", "tool_started", "completed"]);
    let frames: Vec<_> = told.iter().map(|(_, data)| &data["raw"]).collect();
    assert_eq!(frames, [&chunks[1], &chunks[4], &chunks[5], &chunks[7]]);
    let call = &told[2].1;
    assert_eq!((&call["executor"], &call["requires_approval"]), (&"client".into(), &true.into()));
    // Kinds that a task's stream does not show are in the feed, by their own names.
    let mut feed = gateway.stream("/api/agent/stream?session_id=watched").await;
    let command = json!({"session_id": "watched", "query": script.join("\n")});
    gateway.post("/api/agent/command", &command).await.expect(200);
    for chunk in [&chunks[0], &chunks[2], &chunks[3], &chunks[6]] {
        let event = feed.until(|event| event.name == chunk["type"].as_str().unwrap()).await.json();
        assert_eq!(&event["raw"], chunk);
    }
    let result = gateway.ended(&task).await["result"].clone();
    assert_eq!((&result["text"], &result["finish_reason"]), (&"Let me see.".into(), &"tool_calls".into()));
    assert_eq!(result["usage"]["total_tokens"], 12);
}

#[tokio::test]
async fn framings_and_ends_do_not_matter() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).start().await;
    let ends = [
        "/done",
        r#"/text "data: [DONE]\n\n""#,
        r#"/text "event: done\ndata: {\"status\": \"completed\"}\n\n""#,
        r#"/text "event: done\r\n\r\n""#,
        "/wait 0",
    ];
    let mut expected: Option<Vec<(String, Value)>> = None;
    for (framing, end) in ["bare", "message", "crlf", "multiline", "comments"].iter().zip(ends) {
        for split in ["/wait 0", "/split 1", "/split 7"] {
            let framing = format!("/framing {framing}");
            let script = [&framing, split, "/say Grüß dich, Welt", "/tool read {\"x\": [1, 2]}", end];
            let task = tell(&gateway, &script).await;
            let mut told = told(&gateway, &task).await;
            for (_, data) in &mut told {
                // The frame of `done` is there where there was one; white space between tokens is the framing's.
                data["raw"] = Value::Null;
                let mut calls = vec![data["arguments"].take()];
                let listed = data.pointer_mut("/messages/0/tool_calls/0/function/arguments");
                calls.extend(listed.map(Value::take));
                for arguments in calls.iter().filter_map(Value::as_str) {
                    let read: Value = serde_json::from_str(arguments).expect("JSON");
                    assert_eq!(read, json!({"x": [1, 2]}), "{script:?}");
                }
            }
            assert_eq!(kinds(&told).last(), Some(&"completed"), "{script:?}");
            match &expected {
                Some(expected) => assert_eq!(&told, expected, "{script:?}"),
                None => expected = Some(told),
            }
        }
    }
}

#[tokio::test]
async fn frames_go_as_they_are_each_a_turn_of_its_session() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).start().await;
    let frames = [
        json!({"type": "user_message", "role": "user", "content": "hi", "extra": {"kept": null}}),
        json!({"type": "switch_agent", "agent_type": "coder", "content": "c", "reason": "r"}),
        json!({"type": "tool_result", "call_id": "c1", "result": {"lines": [1, 2.5]}}),
        json!({"type": "hitl_decision", "call_id": "c1", "decision": "edit", "modified_arguments": {}, "feedback": "f"}),
    ];
    let mut tasks = Vec::new();
    for frame in &frames {
        tasks.push(forward(&gateway, "s-1", frame).await);
    }
    for task in &tasks {
        assert_eq!(gateway.ended(task).await["state"], "completed");
    }
    let asked = runtime.asked().await;
    let sent: Vec<_> = asked.iter().map(|asked| asked["message"].clone()).collect();
    assert_eq!(sent, frames);
    assert!(asked.iter().all(|asked| asked["session_id"] == "s-1"), "{asked:#?}");
    // An adapter may call the session something else before the runtime.
    let input = json!({"kind": "message", "text": "x", "session_id": "its/own name", "forward": frames[0]});
    let task = submit(&gateway, "s-2", &input).await;
    gateway.ended(&task).await;
    assert_eq!(runtime.last_is("ended").await["session_id"], "its/own name");
}

#[tokio::test]
async fn tools_of_an_openai_client_go_there_and_back() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).start().await;
    let said = json!({"role": "user", "content": "/say Let me see\n/tool weather {\"city\": \"Rome\"}"});
    let body = json!({"model": "runtime", "messages": [said], "metadata": {"session": "talk"}});
    let answer = gateway.post("/v1/chat/completions", &body).await.expect(200).json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        (&call["id"], &call["function"]["arguments"]),
        (&"call_weather".into(), &"{\"city\": \"Rome\"}".into())
    );

    let result = json!({"role": "tool", "tool_call_id": "call_weather", "content": "sunny"});
    let messages = json!([said, choice["message"], result]);
    let body = json!({"model": "runtime", "messages": messages, "metadata": {"session": "talk"}});
    let answer = gateway.post("/v1/chat/completions", &body).await.expect(200).json();
    assert_eq!(answer["choices"][0]["message"]["content"], "call_weather: sunny");
    let asked = runtime.asked().await;
    assert_eq!(
        asked[1]["message"],
        json!({"type": "tool_result", "call_id": "call_weather", "result": "sunny"})
    );
    assert_eq!(asked[0]["session_id"], asked[1]["session_id"]);
}

#[tokio::test]
async fn what_goes_wrong_is_told_once_and_clearly() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).set("agents.runtime.max_frame", "64KiB").start().await;
    let status = failed(&gateway, &["/status 500 {\"detail\": \"it broke\"}"]).await;
    assert_eq!((&status["status"], &status["error_type"]), (&500.into(), &"agent_error".into()));
    assert_eq!(status["error"], "the agent answered with status 500: it broke");
    assert_eq!((&status["recoverable"], &status["retry_count"]), (&true.into(), &0.into()));
    let status = failed(&gateway, &["/status 422 no"]).await;
    assert_eq!((&status["status"], &status["recoverable"]), (&422.into(), &false.into()));

    let reported = failed(&gateway, &["/say a", "/error out of tokens"]).await;
    assert_eq!(reported["error"], "the agent reported an error: out of tokens");
    assert_eq!(
        (&reported["raw"]["type"], &reported["raw"]["error"]),
        (&"error".into(), &"out of tokens".into())
    );

    let large = format!("/text \"data: {}\"", "x".repeat(100_000));
    let lines = r#"/text "{\"type\": \"assistant_message\"}\n{\"type\": \"done\"}\n""#;
    let page = ["/type text/html", "/text \"<h1>Log in</h1>\""];
    for (script, error) in [
        (&["/say a", "/cut"][..], "the connection to the agent broke"),
        (&["/say a", r#"/text "data: {\"type\": \"do""#], "the agent's answer broke off in the middle"),
        (
            &["/say a", r#"/text "data: nonsense\n\n""#, "/silent"],
            "the agent sent something that is no chunk: a chunk is a JSON object, as {\"type\":\"done\"}; it begins \
             with: nonsense",
        ),
        (&["/say a", &large, "/silent"], "larger than 65536 bytes"),
        (&[lines], "no `data:` line in the agent's answer, "),
        (&page, "\"text/html\" in the place of text/event-stream"),
    ] {
        let failed = failed(&gateway, script).await;
        assert!(failed["error"].as_str().unwrap().contains(error), "{failed}");
        assert_eq!(
            (&failed["error_type"], failed.get("status"), failed.get("raw")),
            (&"agent_error".into(), None, None)
        );
    }
    let asked = runtime.asked().await;
    assert_eq!(asked.len(), 9, "nothing is repeated that the runtime has begun: {asked:#?}");
    key_is_hidden(&gateway);
}

#[tokio::test]
async fn what_python_and_javascript_write_is_no_fault() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).start().await;
    let event = |text: &str| format!("/text {}", json!(format!("data: {text}\n\n")));
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    let script = [
        event(r#"{"type":"assistant_message","token":"a\ud83d","metadata":{"score":NaN}}"#),
        event(&format!(r#"{{"type":"assistant_message","token":"b","metadata":{{"deep":{deep}}}}}"#)),
        event(r#"{"type":"assistant_message","token":"?","token":"c","metadata":{"n":1e999}}"#),
        event(r#"{"type":"tool_call","call_id":"c1","tool_name":"f","arguments":{"x":1},"odd":"\ude00"}"#),
        event(r#"{"type":"done","is_final":true,"metadata":{"usage":{"total_tokens":3}}}"#),
    ];
    let script: Vec<_> = script.iter().map(String::as_str).collect();
    let task = tell(&gateway, &script).await;
    let ended = gateway.ended(&task).await;
    assert_eq!(ended["state"], "completed", "{ended}");
    let result = &ended["result"];
    assert_eq!((&result["text"], &result["finish_reason"]), (&"a\u{fffd}bc".into(), &"tool_calls".into()));
    assert_eq!(result["usage"]["total_tokens"], 3);
    // What only its frame can say is missing in the data, and nothing else.
    let mut feed = gateway.stream("/api/agent/stream?session_id=watched").await;
    let odd = [event(r#"{"type":"plan","steps":["a","ü"],"odd":1e999,"half":"\ud83d"}"#), event("[DONE]")];
    let command = json!({"session_id": "watched", "query": odd.join("\n")});
    gateway.post("/api/agent/command", &command).await.expect(200);
    let plan = feed.until(|event| event.name == "plan").await;
    assert!(plan.data.contains(r#""steps":["a","ü"]"#), "{}", plan.data);
}

#[tokio::test]
async fn a_reported_error_is_heard_though_the_turn_is_stopped() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).set("agents.runtime.error_timeout", "50ms").start().await;
    let mut feed = gateway.stream("/api/agent/stream?session_id=watched").await;
    let command = json!({"session_id": "watched", "query": "/say a\n/error out of tokens\n/silent"});
    gateway.post("/api/agent/command", &command).await.expect(200);
    let told = feed.until(|event| event.name == "agent_error").await.json();
    assert_eq!(told["error"], "the agent reported an error: out of tokens");
    assert_eq!(told["raw"]["error"], "out of tokens");
}

#[tokio::test]
async fn what_a_runtime_does_behind_the_end_is_not_cut_off() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).set("agents.runtime.idle_connections", 0).start().await;
    let task = tell(&gateway, &["/say a", "/done", "/wait 0.3", "/say written down"]).await;
    assert_eq!(gateway.ended(&task).await["result"]["text"], "a");
    eventually(DEADLINE, || async {
        let state = runtime.asked().await[0]["state"].clone();
        if state == "streaming" { Err("it still works".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(runtime.asked().await[0]["state"], "ended");
}

#[tokio::test]
async fn a_url_with_the_wrong_scheme_is_recognised() {
    let runtime = Runtime::start().await;
    let url = runtime.url().replace("http://", "https://");
    let gateway = builder(&runtime).env("GATEWAY__AGENT_URL", &url).start().await;
    let failed = failed(&gateway, &["hi"]).await;
    assert_eq!((&failed["error_type"], &failed["retry_count"]), (&"agent_unreachable".into(), &2.into()));
    assert!(failed["error"].as_str().unwrap().ends_with("its URL begins with http://"), "{failed}");
}

#[tokio::test]
async fn a_wrong_key_is_a_fault_of_the_configuration() {
    let runtime = Runtime::start().await;
    let wrong = "a-wrong-key-that-no-log-may-show";
    let gateway = builder(&runtime).env("GATEWAY__INTERNAL_API_KEY", wrong).start().await;
    let failed = failed(&gateway, &["hello"]).await;
    assert_eq!((&failed["status"], &failed["recoverable"]), (&401.into(), &false.into()));
    let error = "the agent answered with status 401: not the internal key: [secret:internal_api_key]; set \
                 agents.runtime.internal_api_key to the runtime's key";
    assert_eq!(failed["error"], error);
    gateway.logged(&["error", "refused the gateway's key"]).await;
    assert!(!gateway.log().iter().any(|line| line.contains(wrong)));
}

#[tokio::test]
async fn a_runtime_that_is_away_is_waited_for_a_little() {
    let mut runtime = Runtime::stopped();
    let gateway = builder(&runtime)
        .set("agents.runtime.max_retries", 1000)
        .set("agents.runtime.max_retry_delay", "100ms")
        .set("agents.hopeless.kind", "http")
        .set("agents.hopeless.url", runtime.url())
        .set("agents.hopeless.retry_delay", "1ms")
        .start()
        .await;
    let body = json!({"model": "hopeless", "messages": [{"role": "user", "content": "hi"}]});
    let answer = gateway.post("/v1/chat/completions", &body).await;
    assert!(answer.status >= 500, "{answer:?}");
    gateway.logged(&["the agent failed", "hopeless", "can't be reached"]).await;

    let task = tell(&gateway, &["/say back"]).await;
    eventually(DEADLINE, || async {
        let tried = gateway.metrics().await.sum("plugway_agent_retries_total", &["agent=\"runtime\""]);
        if tried > 2.0 { Ok(()) } else { Err(format!("tried again {tried} times")) }
    })
    .await;
    runtime.start_again().await;
    let told = told(&gateway, &task).await;
    assert_eq!(kinds(&told).last(), Some(&"completed"), "{told:?}");
    assert_eq!(runtime.asked().await.len(), 1);
    // What is under way when it dies has failed, and the next turn finds it again.
    let task = tell(&gateway, &["/say a", "/silent"]).await;
    let mut stream = gateway.stream(&format!("/stream/{task}")).await;
    stream.until(|event| event.progress() == "response_chunk").await;
    runtime.kill();
    let end = stream.until(|event| event.progress() == "failed").await.json();
    assert!(end["data"]["error"].as_str().unwrap().contains("the connection to the agent broke"), "{end}");
    runtime.start_again().await;
    let task = tell(&gateway, &["/say again"]).await;
    assert_eq!(gateway.ended(&task).await["result"]["text"], "again");
}

#[tokio::test]
async fn silence_has_an_end_and_so_has_the_wait_for_an_answer() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).env("GATEWAY__AGENT_STREAM_TIMEOUT", "0.5").start().await;
    // What keeps the connection open is no sign of life.
    let comments = r#"/text ": ping\n\n""#;
    for script in [&["/say a", "/silent"][..], &["/wait 0.3", comments, "/wait 0.3", comments, "/silent"]] {
        let failed = failed(&gateway, script).await;
        assert_eq!(
            (&failed["error_type"], &failed["error"]),
            (&"agent_silent".into(), &"nothing heard from the agent for 500ms".into())
        );
        runtime.last_is("gone").await;
    }
    // A chunk is one, whatever its type.
    let ping = r#"/send {"type": "ping"}"#;
    let task = tell(&gateway, &["/wait 0.3", ping, "/wait 0.3", ping, "/wait 0.3", "/say a"]).await;
    assert_eq!(gateway.ended(&task).await["result"]["text"], "a");

    // A relay that accepts and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let gateway = builder(&runtime)
        .env("GATEWAY__AGENT_URL", &url)
        .env("GATEWAY__REQUEST_TIMEOUT", "0.2")
        .start()
        .await;
    let failed = failed(&gateway, &["hi"]).await;
    assert_eq!(failed["error"], "the agent did not begin to answer within 200ms");
}

#[tokio::test]
async fn a_cancel_reaches_the_runtime_at_once() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).start().await;
    let task = tell(&gateway, &["/say a", "/silent"]).await;
    let mut stream = gateway.stream(&format!("/stream/{task}")).await;
    stream.until(|event| event.progress() == "response_chunk").await;
    let cancelled = gateway.post(&format!("/tasks/{task}/cancel"), &json!({})).await;
    assert!(cancelled.status < 300, "{cancelled:?}");
    within("the runtime loses its caller", async {
        while runtime.asked().await.last().is_none_or(|last| last["state"] != "gone") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(gateway.ended(&task).await["state"], "cancelled");
}

#[tokio::test]
async fn turns_share_a_connection_and_one_that_takes_long_holds_up_no_other_session() {
    let runtime = Runtime::start().await;
    let gateway = builder(&runtime).start().await;
    for end in ["/done", r#"/text "data: [DONE]\n\n""#, "/wait 0"].repeat(3) {
        let task = tell(&gateway, &["/say a", end]).await;
        gateway.ended(&task).await;
        runtime.last_is("ended").await;
    }
    let asked = runtime.asked().await;
    let ports: HashSet<_> = asked.iter().map(|asked| asked["port"].as_u64()).collect();
    assert!(ports.len() <= asked.len() / 2, "{ports:?} of {} requests", asked.len());

    let slow = tell(&gateway, &["/say a", "/silent"]).await;
    let next = tell(&gateway, &["/say next"]).await;
    let frame = json!({"type": "user_message", "content": "/say other"});
    let other = forward(&gateway, "other", &frame).await;
    assert_eq!(gateway.ended(&other).await["result"]["text"], "other");
    let state = |answer: Answer| answer.expect(200).json()["state"].clone();
    assert_eq!(state(gateway.get(&format!("/tasks/{next}")).await), "queued");
    gateway.post(&format!("/tasks/{slow}/cancel"), &json!({})).await;
    assert_eq!(gateway.ended(&next).await["result"]["text"], "next");
}

#[tokio::test]
async fn a_gateway_that_dies_leaves_no_turn_without_an_end() {
    let runtime = Runtime::start().await;
    let mut gateway = builder(&runtime).set("agents.runtime.on_crash", "fail").same_port().start().await;
    let task = tell(&gateway, &["/say a", "/silent"]).await;
    let mut stream = gateway.stream(&format!("/stream/{task}")).await;
    stream.until(|event| event.progress() == "response_chunk").await;
    drop(stream);
    gateway.kill();
    runtime.last_is("gone").await;
    gateway.start_again().await;
    let ended = gateway.ended(&task).await;
    assert_eq!((&ended["state"], runtime.asked().await.len()), (&"failed".into(), 1), "{ended}");
    tokio::time::timeout(Duration::from_secs(30), gateway.stream(&format!("/stream/{task}")).await.rest())
        .await
        .expect("its stream ends");
}
