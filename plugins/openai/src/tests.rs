//! The adapter against a scripted agent.

use crate::OpenAi;
use plugway_sdk::{
    Reason,
    mock::{Answer, Mock, Script},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

fn mock() -> Mock {
    let mock = Mock::new();
    mock.add_agent("echo", "answers with what it was asked");
    mock
}

fn post(mock: &Mock, path: &str, body: &Value) -> Answer {
    mock.post(path).json(body).handle(&OpenAi)
}

fn get(mock: &Mock, path: &str) -> Answer {
    mock.get(path).handle(&OpenAi)
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {}", answer.text()))
}

/// Names and data of the events of a stream.
fn events(answer: &Answer) -> Vec<(String, Value)> {
    let text = answer.text().into_owned();
    let event = |event: &str| {
        let field = |name: &str| {
            event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
        };
        (field("event: "), serde_json::from_str(&field("data: ")).unwrap_or_default())
    };
    text.split("\n\n").filter(|event| event.contains("data: ")).map(event).collect()
}

fn calls() -> Script {
    let call = |id: &str, name: &str, executor: &str| {
        json!({
            "call_id": id, "tool_name": name, "parameters": {"x": 1}, "arguments": "{\"x\":1}", "executor": executor,
        })
    };
    let done = json!({"text": "a moment", "messages": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        "finish_reason": "tool_calls"});
    Script::new()
        .started()
        .chunks(["a ", "moment"])
        .event("tool_started", call("c1", "f", "client"))
        .event("tool_started", call("c2", "g", "client"))
        .event("completed", done)
}

#[test]
fn what_is_wrong_with_a_chat_is_named() {
    let user = json!([{"role": "user", "content": "hi"}]);
    let with = |field: &str, value: Value| {
        let mut body = json!({"model": "echo", "messages": user});
        body[field] = value;
        body
    };
    let tool = |name: Value| json!([{"type": "function", "function": {"name": name}}]);
    let table = [
        (with("messages", Value::Null), "messages"),
        (with("messages", json!([])), "messages"),
        (with("messages", json!("hi")), "messages"),
        (with("messages", json!([7])), "messages[0]"),
        (with("messages", json!([{"content": "hi"}])), "messages[0].role"),
        (with("messages", json!([{"role": "user"}])), "messages[0].content"),
        (with("messages", json!([{"role": "user", "content": 7}])), "messages[0].content"),
        (
            with("messages", json!([{"role": "user", "content": [{"type": "text"}]}])),
            "messages[0].content[0].text",
        ),
        (
            with("messages", json!([{"role": "user", "content": [{"type": "input_audio"}]}])),
            "messages[0].content[0].type",
        ),
        (
            with("messages", json!([{"role": "tool", "tool_call_id": "x", "content": "y"}])),
            "messages[0].tool_call_id",
        ),
        (with("n", json!(2)), "n"),
        (with("logprobs", json!(true)), "logprobs"),
        (with("top_logprobs", json!(1)), "top_logprobs"),
        (with("audio", json!({"voice": "a"})), "audio"),
        (with("modalities", json!(["text", "audio"])), "modalities"),
        (with("functions", json!([{}])), "functions"),
        (with("temperature", json!(2.5)), "temperature"),
        (with("temperature", json!("hot")), "temperature"),
        (with("max_tokens", json!(0)), "max_tokens"),
        (with("stop", json!(["a", "b", "c", "d", "e"])), "stop"),
        (with("stream", json!("yes")), "stream"),
        (with("stream_options", json!({})), "stream_options"),
        (with("metadata", json!({"a": 1})), "metadata.a"),
        (with("tools", tool(json!(""))), "tools[0].function.name"),
        (with("tools", tool(Value::Null)), "tools[0].function.name"),
        (with("tools", json!([{"type": "custom"}])), "tools[0].type"),
        (with("tool_choice", json!("required")), "tool_choice"),
        (with("response_format", json!({"type": "json_schema"})), "response_format.json_schema"),
        (with("model", json!(1)), "model"),
    ];
    for (body, field) in table {
        let answer = post(&mock(), CHAT, &body);
        let error = &json_of(&answer)["error"];
        assert_eq!((answer.status, error["param"].as_str()), (400, Some(field)), "{body}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let answer = post(&mock(), CHAT, &with("model", json!("oracle")));
    let error = &json_of(&answer)["error"];
    assert_eq!(
        (answer.status, error["code"].as_str(), error["param"].as_str()),
        (404, Some("model_not_found"), Some("model"))
    );
    // What does no harm is let pass.
    let body = json!({
        "model": "echo", "messages": user, "n": 1, "logprobs": false, "modalities": ["text"], "service_tier": "auto",
        "something_new": {"a": 1}, "functions": null, "stop": null,
    });
    assert_eq!(post(&mock(), CHAT, &body).status, 200);
}

#[test]
fn a_chat_tells_the_agent_everything_once() {
    let mock = mock();
    let body = json!({
        "model": "echo", "temperature": 0.5, "stop": ["x"], "user": "u", "metadata": {"session": "s1", "k": "v"},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "junk": 1}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "sunny"},
            {"role": "system", "content": "Now."},
            {"role": "user", "content": [
                {"type": "text", "text": "and this?"},
                {"type": "image_url", "image_url": {"url": "https://a.example/p.png"}}]}
        ]
    });
    assert_eq!(post(&mock, CHAT, &body).status, 200);
    let input = &mock.submissions()[0].input;
    assert_eq!(input["instructions"], "Be brief.\n\nAnd kind.");
    assert_eq!(input["content"], body["messages"][6]["content"]);
    let roles: Vec<_> =
        input["history"].as_array().unwrap().iter().map(|message| message["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "system"]);
    assert_eq!(input["tools"][0]["function"], json!({"name": "f", "parameters": {"type": "object"}}));
    assert_eq!(input["tool_choice"], body["tool_choice"]);
    assert_eq!(input["parameters"], json!({"temperature": 0.5, "stop": ["x"], "user": "u"}));
    assert_eq!(mock.submissions()[0].session.as_str(), "chat/s1");
}

#[test]
fn a_chat_stream_has_its_role_first_its_reason_last_and_usage_behind_it() {
    let mock = mock();
    mock.agent(|_| calls());
    let body = json!({
        "model": "echo", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "hi"}],
    });
    let answer = post(&mock, CHAT, &body);
    assert!(!answer.cut_off && answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    let chunks: Vec<Value> = events(&answer).into_iter().map(|(_, data)| data).collect();
    let deltas: Vec<_> = chunks.iter().map(|chunk| chunk["choices"][0]["delta"].clone()).collect();
    let call = |index: u32, id: &str, name: &str| {
        json!({"tool_calls": [{"index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": "{\"x\":1}"}}]})
    };
    let expected = [
        json!({"role": "assistant", "content": "", "refusal": null}),
        json!({"content": "a "}),
        json!({"content": "moment"}),
        call(0, "c1", "f"),
        call(1, "c2", "g"),
        json!({}),
        Value::Null,
        Value::Null,
    ];
    assert_eq!(deltas, expected);
    let reasons: Vec<_> =
        chunks[..6].iter().map(|chunk| chunk["choices"][0]["finish_reason"].clone()).collect();
    assert_eq!(
        reasons,
        [Value::Null, Value::Null, Value::Null, Value::Null, Value::Null, "tool_calls".into()]
    );
    assert!(chunks[..6].iter().all(|chunk| chunk["usage"].is_null() && chunk["id"] == chunks[0]["id"]));
    assert_eq!(chunks[6]["choices"], json!([]));
    assert_eq!(chunks[6]["usage"]["total_tokens"], 5);
}

#[test]
fn what_goes_wrong_is_an_answer_before_the_first_word_and_a_frame_behind_it() {
    let body = json!({"model": "echo", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let failed = json!({"error": "slow down", "error_type": "agent_error", "status": 429});
    let mock = mock();
    let script = failed.clone();
    mock.agent(move |_| Script::new().started().event("failed", script.clone()));
    let answer = post(&mock, CHAT, &body);
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("5")));
    mock.agent(move |_| Script::new().started().chunks(["one"]).event("failed", failed.clone()));
    let answer = post(&mock, CHAT, &body);
    assert_eq!(answer.status, 200);
    let all = events(&answer);
    assert_eq!(all.last().unwrap().1["error"]["type"], "rate_limit_error");
    assert!(!answer.text().contains("[DONE]") && !answer.cut_off);
    // A new run voids what was said; nobody can take it back.
    mock.agent(|_| {
        Script::new().started().chunks(["one"]).wait(Duration::from_secs(1)).restart().completed("two")
    });
    assert_eq!(events(&post(&mock, CHAT, &body)).last().unwrap().1["error"]["type"], "agent_error");
    let plain = json!({"model": "echo", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(json_of(&post(&mock, CHAT, &plain))["choices"][0]["message"]["content"], "two");
}

#[test]
fn who_leaves_stops_the_work_unless_it_is_stored() {
    for (path, store, stopped) in [
        (CHAT, None, true),
        (CHAT, Some(true), false),
        (RESPONSES, None, false),
        (RESPONSES, Some(false), true),
    ] {
        let mock = mock();
        mock.agent(|_| {
            Script::new().started().chunks(["a", "b", "c"]).wait(Duration::from_secs(3600)).completed("abc")
        });
        mock.close_after(Duration::from_secs(60), Reason::PeerGone);
        let mut body = json!({"model": "echo", "stream": true, "input": "hi", "messages": [{"role": "user", "content": "hi"}]});
        if let Some(store) = store {
            body["store"] = store.into();
        }
        let answer = post(&mock, path, &body);
        assert!(answer.cut_off);
        assert_eq!(mock.is_cancelled(&mock.submissions()[0].task), stopped, "{path} {store:?}");
    }
}

#[test]
fn a_response_tells_its_items_part_by_part() {
    let mock = mock();
    mock.agent(|_| calls());
    let answer = post(&mock, RESPONSES, &json!({"model": "echo", "stream": true, "input": "hi"}));
    let all = events(&answer);
    let names: Vec<_> = all.iter().map(|(name, _)| name.trim_start_matches("response.")).collect();
    let call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ];
    let mut expected = vec![
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ];
    expected.extend(call);
    expected.extend(call);
    expected.push("completed");
    assert_eq!(names, expected);
    for (number, (name, data)) in all.iter().enumerate() {
        assert_eq!(
            (data["type"].as_str(), data["sequence_number"].as_u64()),
            (Some(&**name), Some(number as u64))
        );
    }
    let response = &all.last().unwrap().1["response"];
    assert_eq!(response["output"][1]["arguments"], "{\"x\":1}");
    assert_eq!(response["usage"]["total_tokens"], 5);
    // Whoever comes back gets the rest, under the same numbers.
    let id = response["id"].as_str().unwrap();
    for after in [0, 3, 9, 17] {
        let again = events(&get(&mock, &format!("{RESPONSES}/{id}?stream=true&starting_after={after}")));
        let rest: Vec<_> = all[after + 1..].iter().map(|(_, data)| data["sequence_number"].clone()).collect();
        let came: Vec<_> = again.iter().map(|(_, data)| data["sequence_number"].clone()).collect();
        assert_eq!(came, rest);
    }
    assert_eq!(json_of(&get(&mock, &format!("{RESPONSES}/{id}")))["output"], response["output"]);
}

#[test]
fn responses_go_on_from_each_other_until_they_are_deleted() {
    let mock = mock();
    let first = json_of(&post(
        &mock,
        RESPONSES,
        &json!({"model": "echo", "input": "one", "instructions": "Be brief."}),
    ));
    let id = first["id"].as_str().unwrap();
    assert_eq!(first["output"][0]["content"][0]["text"], "one");
    let body = json!({"model": "echo", "input": "two", "previous_response_id": id});
    let second = json_of(&post(&mock, RESPONSES, &body));
    assert_eq!(second["instructions"], "Be brief.");
    let input = mock.submissions()[1].input.clone();
    assert_eq!(
        input["history"],
        json!([{"role": "user", "content": "one"}, {"role": "assistant", "content": "one"}])
    );
    assert_eq!((&input["text"], &input["instructions"]), (&json!("two"), &json!("Be brief.")));

    let items = json_of(&get(&mock, &format!("{RESPONSES}/{id}/input_items")));
    assert_eq!(items["data"][0]["content"][0]["text"], "one");
    assert_eq!(mock.request("DELETE", &format!("{RESPONSES}/{id}")).handle(&OpenAi).status, 200);
    let gone = post(&mock, RESPONSES, &body);
    assert_eq!((gone.status, json_of(&gone)["error"]["param"].as_str()), (404, Some("previous_response_id")));
    assert_eq!(get(&mock, &format!("{RESPONSES}/{id}")).status, 404);
    assert!(mock.stored_keys().iter().all(|key| !key.contains(id.trim_start_matches("resp_"))));
    let both = json!({"input": "x", "previous_response_id": id, "conversation": "c"});
    assert_eq!(json_of(&post(&mock, RESPONSES, &both))["error"]["param"], "previous_response_id");
}

#[test]
fn a_response_that_nobody_waited_for_is_kept_by_its_delivery() {
    let mock = mock();
    let body = json!({"model": "echo", "input": "one", "background": true});
    let queued = json_of(&post(&mock, RESPONSES, &body));
    assert_eq!(queued["background"], true);
    mock.deliver(&OpenAi, &mock.submissions()[0].task).unwrap();
    let id = queued["id"].as_str().unwrap();
    assert_eq!(json_of(&get(&mock, &format!("{RESPONSES}/{id}")))["status"], "completed");
    assert!(mock.stored_keys().iter().any(|key| key.ends_with("/out/")));
}

#[test]
fn a_conversation_remembers_its_turns_in_order() {
    let mock = mock();
    let made = json_of(&post(
        &mock,
        "/v1/conversations",
        &json!({"items": [{"role": "user", "content": "I am Ann"}]}),
    ));
    let id = made["id"].as_str().unwrap();
    for text in ["one", "two"] {
        let response = json_of(&post(&mock, RESPONSES, &json!({"input": text, "conversation": id})));
        assert_eq!(response["conversation"]["id"], id, "{response}");
    }
    let told: Vec<_> = mock.submissions()[1].input["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["content"].clone())
        .collect();
    assert_eq!(told, ["I am Ann", "one", "one"]);
    let items = json_of(&get(&mock, &format!("/v1/conversations/{id}/items?order=asc")));
    let texts: Vec<_> =
        items["data"].as_array().unwrap().iter().map(|item| item["content"][0]["text"].clone()).collect();
    assert_eq!(texts, ["I am Ann", "one", "one", "two", "two"]);
    let item = items["data"][1]["id"].as_str().unwrap();
    assert_eq!(
        mock.request("DELETE", &format!("/v1/conversations/{id}/items/{item}")).handle(&OpenAi).status,
        200
    );
    let items = json_of(&get(&mock, &format!("/v1/conversations/{id}/items")));
    assert_eq!(items["data"].as_array().unwrap().len(), 4);
    let unknown = post(&mock, RESPONSES, &json!({"input": "x", "conversation": "conv_none"}));
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_body_that_would_burst_an_instance_is_not_read() {
    let mock = mock();
    for (body, status) in [
        (format!(r#"{{"input":"x","unknown":[{}0]}}"#, r#"{"":0},"#.repeat(20_000)), 400),
        (format!(r#"{{"input":"x","unknown":{}{}}}"#, "[".repeat(80), "]".repeat(80)), 400),
        (format!(r#"{{"input":"{}"}}"#, "x".repeat(5 << 20)), 413),
        // Text is no structure, whatever is in it.
        (format!(r#"{{"input":"\"{}"}}"#, "[,:{".repeat(60_000)), 200),
    ] {
        let answer = mock.post(RESPONSES).body(body).handle(&OpenAi);
        assert_eq!(answer.status, status, "{}", &answer.text()[..200.min(answer.body.len())]);
    }
}

#[test]
fn what_is_larger_than_an_entry_is_kept_all_the_same() {
    let mock = mock();
    let long = "long ".repeat(500_000);
    let said = long.clone();
    mock.agent(move |_| Script::reply([said.as_str()]));
    let made = json_of(&post(&mock, RESPONSES, &json!({"input": "x"})));
    mock.deliver(&OpenAi, &mock.submissions()[0].task).unwrap();
    let id = made["id"].as_str().unwrap();
    let kept = json_of(&get(&mock, &format!("{RESPONSES}/{id}")));
    assert_eq!(kept["output"][0]["content"][0]["text"], long);
    let pieces = || mock.stored_keys().iter().filter(|key| key.contains("/out/")).count();
    assert_eq!(pieces(), 3, "{:?}", mock.stored_keys());
    let delete = mock.request("DELETE", &format!("{RESPONSES}/{id}")).handle(&OpenAi);
    assert_eq!((delete.status, pieces()), (200, 0));
}

#[test]
fn a_long_item_that_is_struck_out_leaves_the_others_whole() {
    let mock = mock();
    let long = "long ".repeat(500_000);
    let items = json!([
        {"role": "user", "content": "short"},
        {"role": "user", "content": long},
        {"role": "user", "content": &long[..5]},
    ]);
    let made = json_of(&post(&mock, "/v1/conversations", &json!({"items": items})));
    let path = format!("/v1/conversations/{}/items", made["id"].as_str().unwrap());
    let listed = || json_of(&get(&mock, &format!("{path}?order=asc")))["data"].as_array().unwrap().clone();
    let before = listed();
    let struck = format!("{path}/{}", before[0]["id"].as_str().unwrap());
    assert_eq!(mock.request("DELETE", &struck).handle(&OpenAi).status, 200);
    assert_eq!(listed(), before[1..]);
    let pieces = mock.stored_keys().iter().filter(|key| key.contains('.')).count();
    assert_eq!(pieces, 2, "those that it was written in before are gone: {:?}", mock.stored_keys());
}

#[test]
fn a_stream_that_has_nothing_to_tell_shows_that_it_lives() {
    for path in [CHAT, RESPONSES] {
        let mock = mock();
        let busy = |script: Script, number: i32| {
            script.event("progress", json!({"message": number.to_string()})).wait(Duration::from_secs(5))
        };
        mock.agent(move |_| (0..12).fold(Script::new().started(), busy).chunks(["done"]).completed("done"));
        let body = json!({"stream": true, "input": "x", "messages": [{"role": "user", "content": "x"}]});
        let told = post(&mock, path, &body).text().matches(": keep-alive").count();
        assert!((3..=4).contains(&told), "{path}: {told} in a minute, with one due after 15 seconds");
    }
}

#[test]
fn a_caller_may_ask_so_often_and_is_told_how_often() {
    let mock = mock();
    mock.config(json!({"requests_per_minute": 2}));
    let ask = |caller: &str| {
        let body = json!({"messages": [{"role": "user", "content": "x"}]});
        let answer = mock.post(CHAT).caller(caller).json(&body).handle(&OpenAi);
        let header = |name: &str| answer.header(&format!("x-ratelimit-{name}-requests")).map(str::to_owned);
        (answer.status, ["limit", "remaining", "reset"].map(header).map(Option::unwrap_or_default))
    };
    let told = |remaining: &str, reset: &str| ["2", remaining, reset].map(str::to_owned);
    assert_eq!(ask("ann"), (200, told("1", "1m0s")));
    mock.advance(Duration::from_millis(20_500));
    assert_eq!(ask("ann"), (200, told("0", "1m0s")));
    assert_eq!(ask("ann"), (429, told("0", "1m0s")));
    let refused = mock.post(RESPONSES).caller("ann").json(&json!({"input": "x"})).handle(&OpenAi);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("40")), "both ways are one");
    assert_eq!(json_of(&refused)["error"]["type"], "rate_limit_error");
    assert_eq!(ask("bob").0, 200, "others are not held back");
    assert_eq!(mock.get("/v1/models").caller("ann").handle(&OpenAi).status, 200, "only work is counted");
    mock.advance(Duration::from_secs(40));
    assert_eq!(ask("ann").0, 200);
}

#[test]
fn truncation_tells_the_last_messages_and_parts_no_results_from_their_calls() {
    let mock = mock();
    let turn = |number: usize| {
        json!([
            {"role": "user", "content": format!("q{number}")},
            {"role": "assistant", "content": format!("a{number}")},
        ])
    };
    let mut input: Vec<Value> =
        (0..70).flat_map(|number| turn(number).as_array().cloned().unwrap()).collect();
    input.push(json!({"role": "user", "content": "now"}));
    assert_eq!(post(&mock, RESPONSES, &json!({"input": input, "truncation": "auto"})).status, 200);
    let told = mock.submissions()[0].input["history"].as_array().unwrap().clone();
    assert_eq!((told.len(), &told[0]["content"]), (99, &json!("a20")));

    let calls = (0..120).map(
        |n| json!({"type": "function_call", "call_id": format!("c{n}"), "name": "f", "arguments": "{}"}),
    );
    let results =
        (0..120).map(|n| json!({"type": "function_call_output", "call_id": format!("c{n}"), "output": "r"}));
    let input: Vec<Value> =
        [json!({"role": "user", "content": "x"})].into_iter().chain(calls).chain(results).collect();
    assert_eq!(post(&mock, RESPONSES, &json!({"input": input, "truncation": "auto"})).status, 200);
    let told = mock.submissions()[1].input["history"].as_array().unwrap().clone();
    assert_eq!((told.len(), &told[0]["role"]), (121, &json!("assistant")));
}

/// Values as careless clients send them.
fn anything() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "role",
        "content",
        "type",
        "text",
        "name",
        "tools",
        "function",
        "arguments",
        "messages",
        "input",
        "model",
        "output",
        "call_id",
        "id",
        "image_url",
        "stream",
        "metadata",
        "conversation",
        "store",
        "tool_calls",
        "n",
        "user",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["user", "echo", "function", "message", "text", "input_text", "", "tool"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn rubbish_is_refused_by_name_and_breaks_nothing(body in anything(), messages in anything(), input in anything()) {
        let mock = mock();
        let mut bodies = vec![body.clone(), json!({"messages": messages}), json!({"input": input, "background": true})];
        if let Value::Object(mut map) = body {
            map.insert("messages".to_owned(), json!([{"role": "user", "content": "hi"}]));
            map.insert("input".to_owned(), json!("hi"));
            map.insert("model".to_owned(), json!("echo"));
            bodies.push(Value::Object(map));
        }
        for body in bodies {
            for path in [CHAT, RESPONSES] {
                let answer = post(&mock, path, &body);
                prop_assert!(matches!(answer.status, 200 | 400 | 404), "{path} {body}: {} {}", answer.status, answer.text());
                if answer.status == 400 && body.is_object() {
                    prop_assert!(json_of(&answer)["error"]["param"].is_string(), "{path} {body}: {}", answer.text());
                }
            }
        }
    }
}

#[test]
fn what_was_not_used_for_the_longest_time_makes_room() {
    let mock = mock();
    let text = "x".repeat(2_000);
    let item = json!({"role": "user", "content": text});
    let make = || {
        let made = json_of(&post(&mock, "/v1/conversations", &json!({"items": [item, item]})));
        mock.advance(Duration::from_secs(7_200));
        made["id"].as_str().unwrap().to_owned()
    };
    let conversations = [make(), make(), make(), make()];
    let is_there = |id: &str| get(&mock, &format!("/v1/conversations/{id}")).status == 200;
    // The first is used again, and so is not the oldest any more.
    let used = format!("/v1/conversations/{}/items", conversations[0]);
    assert_eq!(post(&mock, &used, &json!({"items": [item]})).status, 200);
    let kept = |mock: &Mock| mock.stored_keys().len();
    mock.storage_quota(18_000);
    make();
    assert!(!is_there(&conversations[1]), "{:?}", mock.stored_keys());
    assert!(is_there(&conversations[0]), "{:?}", mock.stored_keys());
    let before = kept(&mock);
    let large = json!({"items": [{"role": "user", "content": "x".repeat(60_000)}]});
    let refused = post(&mock, "/v1/conversations", &large);
    assert_eq!(refused.status, 413, "{}", refused.text());
    assert!(kept(&mock) <= before, "nothing is left of what was refused: {:?}", mock.stored_keys());
    assert_eq!(post(&mock, RESPONSES, &json!({"input": "small"})).status, 200);
}

#[test]
fn a_conversation_that_is_full_says_so_and_costs_nobody_else_anything() {
    let mock = mock();
    let other = json_of(&post(&mock, RESPONSES, &json!({"input": "somebody else's"})));
    let made = json_of(&post(&mock, "/v1/conversations", &json!({})));
    let path = format!("/v1/conversations/{}/items", made["id"].as_str().unwrap());
    let long = json!({"items": [{"id": "x".repeat(129), "role": "user", "content": "x"}]});
    assert_eq!(json_of(&post(&mock, &path, &long))["error"]["param"], "items[0].id");
    let item = json!({"items": [{"role": "user", "content": "x"}]});
    let made_item = json_of(&post(&mock, &path, &item))["first_id"].as_str().unwrap().to_owned();
    // Ids of items that are struck out stay in one entry.
    let key = format!("c/{}", made["id"].as_str().unwrap());
    let mut conversation = plugway_sdk::kv::get_json::<Value>(&key).unwrap().unwrap().value;
    conversation["deleted"] = (0..8_003).map(|n| format!("{n:0128}")).collect();
    plugway_sdk::kv::put_json(&key, &conversation, None).unwrap();
    let refused = mock.request("DELETE", &format!("{path}/{made_item}")).handle(&OpenAi);
    assert_eq!((refused.status, &json_of(&refused)["error"]["param"]), (400, &json!("conversation")));
    assert_eq!(get(&mock, &format!("{RESPONSES}/{}", other["id"].as_str().unwrap())).status, 200);
}

#[test]
fn items_of_other_responses_may_be_referred_to() {
    let mock = mock();
    mock.agent(|_| calls());
    let first = json_of(&post(
        &mock,
        RESPONSES,
        &json!({"input": "call", "tools": [
        {"type": "function", "name": "f", "parameters": {}}]}),
    ));
    let ids: Vec<_> = first["output"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
    let mut input = vec![json!({"role": "user", "content": "call"})];
    input.extend(ids.iter().map(|id| json!({"type": "item_reference", "id": id})));
    input.push(json!({"type": "function_call_output", "call_id": "c1", "output": "42"}));
    let second = post(&mock, RESPONSES, &json!({"input": input}));
    assert_eq!(second.status, 200, "{}", second.text());
    let told = mock.submissions()[1].input["history"].clone();
    let roles: Vec<_> = told.as_array().unwrap().iter().map(|message| message["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant", "tool"], "{told}");
    input[1]["id"] = json!("msg_0123456789abcdef0000");
    assert_eq!(json_of(&post(&mock, RESPONSES, &json!({"input": input})))["error"]["param"], "input[1].id");
}

#[test]
fn history_that_an_agent_would_not_take_is_left_out_or_the_field_is_named() {
    let mock = mock();
    let picture = |n: u8| {
        let url = format!("data:image/png;base64,{}", char::from(b'a' + n).to_string().repeat(900_000));
        json!([{"role": "user", "content": [{"type": "input_image", "image_url": url}]}])
    };
    let mut last = Value::Null;
    for n in 0..3 {
        let body = json!({"input": picture(n), "previous_response_id": last, "truncation": "auto"});
        let made = json_of(&post(&mock, RESPONSES, &body));
        assert_eq!(made["status"], "completed", "{}", made["error"]);
        last = made["id"].clone();
    }
    let strict = json!({"input": "go", "previous_response_id": last});
    assert_eq!(json_of(&post(&mock, RESPONSES, &strict))["error"]["param"], "truncation");
}

#[test]
fn a_key_of_work_that_may_come_to_more_begins_it_anew() {
    let mock = mock();
    let mut runs = 0;
    mock.agent(move |_| {
        runs += 1;
        let failed = json!({"error": "down", "error_type": "agent_unreachable", "recoverable": true});
        if runs < 3 { Script::new().started().event("failed", failed) } else { Script::reply(["up"]) }
    });
    let ask =
        |path: &str, body: &Value| mock.post(path).header("idempotency-key", "k").json(body).handle(&OpenAi);
    let body = json!({"input": "x", "messages": [{"role": "user", "content": "x"}]});
    let statuses: Vec<_> = (0..4).map(|_| ask(CHAT, &body).status).collect();
    assert_eq!(statuses, [502, 502, 200, 200]);
    assert_eq!(mock.submissions().len(), 3, "what was answered is not begun anew");
}

#[test]
fn what_clients_send_by_habit_is_taken() {
    let mock = mock();
    let with = |extra: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let user = json!({"role": "user", "content": "x"});
    let call = json!({"id": "c", "function": {"name": "f", "arguments": "{}"}});
    for body in [
        with(json!({"max_tokens": -1})),
        with(json!({"function_call": "auto", "functions": []})),
        with(json!({"parallel_tool_calls": true, "tools": []})),
        with(json!({"messages": [user, {"role": "assistant", "content": null}, user]})),
        with(json!({"messages": [user, {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": null}]})),
        with(
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "https://x/y.png"}]}]}),
        ),
    ] {
        let answer = post(&mock, CHAT, &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    }
    let last = mock.submissions().last().unwrap().input.clone();
    assert_eq!(last["content"][0]["image_url"]["url"], "https://x/y.png");
    assert!(mock.submissions()[2].input["parameters"].is_null(), "there is nothing to call");
    let items = json!([user, {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
        {"role": "assistant", "content": []}, user]);
    let answer = post(&mock, RESPONSES, &json!({"input": items}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let packed = mock.post(CHAT).header("content-encoding", "gzip").json(&with(json!({}))).handle(&OpenAi);
    assert_eq!(packed.status, 415);
}

#[test]
fn a_response_that_is_deleted_leaves_its_turn_in_the_conversation() {
    let mock = mock();
    let response = json_of(&post(&mock, RESPONSES, &json!({"input": "one", "conversation": "talk"})));
    let path = format!("{RESPONSES}/{}", response["id"].as_str().unwrap());
    assert_eq!(mock.request("DELETE", &path).handle(&OpenAi).status, 200);
    let items = json_of(&get(&mock, "/v1/conversations/talk/items"));
    assert_eq!(items["data"].as_array().unwrap().len(), 2, "{items}");
}

#[test]
fn items_live_as_long_as_their_conversation() {
    let mock = mock();
    mock.config(json!({"keep_seconds": 100}));
    let made =
        json_of(&post(&mock, "/v1/conversations", &json!({"items": [{"role": "user", "content": "first"}]})));
    let path = format!("/v1/conversations/{}/items", made["id"].as_str().unwrap());
    for _ in 0..20 {
        mock.advance(Duration::from_secs(40));
        assert_eq!(post(&mock, &path, &json!({"items": [{"role": "user", "content": "x"}]})).status, 200);
    }
    let page = json_of(&get(&mock, &format!("{path}?order=asc&limit=5")));
    assert_eq!(page["data"][0]["content"][0]["text"], "first", "{page}");
    assert_eq!(page["has_more"], true);
    let after = page["last_id"].as_str().unwrap();
    let rest = json_of(&get(&mock, &format!("{path}?order=asc&limit=100&after={after}")));
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["has_more"]), (16, &json!(false)));
}

#[test]
fn many_small_items_do_not_burst_an_instance() {
    let mock = mock();
    let made = json_of(&post(&mock, "/v1/conversations", &json!({})));
    let id = made["id"].as_str().unwrap();
    let parts = vec![json!({"type": "input_text", "text": ""}); 9_000];
    for _ in 0..6 {
        let items = json!({"items": [{"role": "user", "content": parts}]});
        assert_eq!(post(&mock, &format!("/v1/conversations/{id}/items"), &items).status, 200);
    }
    let asked = post(&mock, RESPONSES, &json!({"input": "x", "conversation": id}));
    assert_eq!(json_of(&asked)["error"]["param"], "truncation", "they are more than may be brought together");
    let auto = post(&mock, RESPONSES, &json!({"input": "x", "conversation": id, "truncation": "auto"}));
    assert_eq!(auto.status, 200, "{}", auto.text());
    let listed = get(&mock, &format!("/v1/conversations/{id}/items?limit=2"));
    assert_eq!(json_of(&listed)["data"].as_array().unwrap().len(), 2);
}
