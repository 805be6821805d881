//! What an IDE is sent for what its session's agent says.

use super::*;

fn call(executor: &str) -> Value {
    json!({"call_id": "c1", "tool_name": "read", "parameters": {"path": "a"}, "arguments": "{\"path\":\"a\"}", "executor": executor})
}

#[test]
fn events_of_any_agent_become_frames_of_the_protocol() {
    let mut broken = call("client");
    broken["parameters"] = Value::Null;
    broken["arguments"] = "{\"path\":".into();
    let mut asks = call("client");
    asks["requires_approval"] = true.into();
    let usage = json!({"total_tokens": 7});
    let completed = json!({"text": "ab", "messages": [], "usage": usage, "finish_reason": "stop"});
    let silent = json!({"text": "", "messages": [], "usage": null, "finish_reason": "tool_calls"});
    let tool_call = |arguments: Value, requires_approval: bool| json!({"type": "tool_call", "call_id": "c1", "tool_name": "read", "arguments": arguments, "requires_approval": requires_approval});
    let table = [
        ("started", json!({"agent": "a", "attempt": 1}), vec![]),
        ("thinking", json!({"thought": "hm"}), vec![]),
        ("progress", json!({"progress": 0.5, "message": "half"}), vec![]),
        ("tool_started", call("agent"), vec![]),
        (
            "tool_completed",
            json!({"call_id": "c1", "tool_name": "read", "result": 1, "success": true}),
            vec![],
        ),
        (
            "thinking",
            json!({"token": "[CARD]", "content": null}),
            vec![json!({"type": "thinking", "token": "[CARD]"})],
        ),
        ("response_chunk", json!({"text": ""}), vec![]),
        ("response_chunk", json!({"text": 7}), vec![]),
        (
            "agent_switched",
            json!({"content": "now [name]", "metadata": {"reason": null}, "token": null, "type": "no"}),
            vec![json!({"type": "agent_switched", "content": "now [name]", "metadata": {"reason": null}})],
        ),
        ("agent_error", json!({"error": "[card]"}), vec![json!({"type": "error", "error": "[card]"})]),
        ("agent_completed", json!({}), vec![json!({"type": "completed"})]),
        ("signal", json!({"symbol": "BTC"}), vec![json!({"type": "signal", "symbol": "BTC"})]),
        ("approval_resolved", json!({"call_id": "c1"}), vec![]),
        (
            "response_chunk",
            json!({"text": "a"}),
            vec![json!({"type": "assistant_message", "token": "a", "is_final": false})],
        ),
        ("tool_started", call("client"), vec![tool_call(json!({"path": "a"}), false)]),
        ("tool_started", asks, vec![tool_call(json!({"path": "a"}), true)]),
        ("tool_started", broken, vec![tool_call(json!("{\"path\":"), false)]),
        (
            "approval_requested",
            json!({"call_id": "c1", "tool_name": "read", "parameters": {"path": "a"}}),
            vec![tool_call(json!({"path": "a"}), true)],
        ),
        (
            "approval_requested",
            json!({"call_id": "c1"}),
            vec![json!({"type": "tool_call", "call_id": "c1", "requires_approval": true})],
        ),
        (
            "completed",
            completed,
            vec![
                json!({"type": "assistant_message", "content": "ab", "is_final": true}),
                json!({"type": "done", "is_final": true, "metadata": {"finish_reason": "stop", "usage": usage}}),
            ],
        ),
        (
            "completed",
            silent,
            vec![json!({"type": "done", "is_final": true, "metadata": {"finish_reason": "tool_calls"}})],
        ),
        ("completed", json!({}), vec![json!({"type": "done", "is_final": true})]),
        (
            "failed",
            json!({"error": "it said 500", "error_type": "agent_error", "status": 500}),
            vec![error("Agent error: 500")],
        ),
        (
            "failed",
            json!({"error": "nothing heard from the agent for 1m", "error_type": "agent_silent"}),
            vec![error("Streaming error: nothing heard from the agent for 1m")],
        ),
        (
            "cancelled",
            json!({"reason": "interrupted by a new message"}),
            vec![
                json!({"type": "done", "is_final": true, "metadata": {"finish_reason": "cancelled", "reason": "interrupted by a new message"}}),
            ],
        ),
    ];
    for (kind, data, expected) in table {
        let mock = mock();
        says(&mock, Script::new().event(kind, data.clone()));
        assert_eq!(ask(&mock, "hi"), expected, "{kind} {data}");
    }
}

#[test]
fn the_agents_own_frames_go_out_as_they_were_written() {
    let frames = [
        // As it came, and as it goes.
        (r#"{"type":"session_info",  "n": 1.50, "big": 12345678901234567890123, "ä": "\u00e4"}"#, None),
        (r#"{"zeta": 1, "type": "x", "alpha": {"b": null, "a": [null]}, "s": "null"}"#, None),
        (
            r#"{"type": "tool_call", "content": null, "call_id": "c", "arguments": {"path": null}, "token":null}"#,
            Some(r#"{"type": "tool_call","call_id": "c","arguments": {"path": null}}"#),
        ),
        (r#"{"token": null }"#, Some("{}")),
        ("{}", None),
        ("{ }", None),
        (r#"{"type":"x","cursor":"the runtime's own"}"#, None),
    ];
    for (frame, expected) in frames {
        let expected = expected.unwrap_or(frame);
        assert_eq!(crate::outbound::verbatim(frame, false), expected);
        let with_cursor = crate::outbound::with_cursor(crate::outbound::verbatim(frame, true), "c1");
        let read: Value = serde_json::from_str(&with_cursor).unwrap();
        assert_eq!(read["cursor"], "c1", "{with_cursor}");
        let without: Value =
            serde_json::from_str(&with_cursor.replace(r#""cursor":"c1""#, r#""cursor":null"#)).unwrap();
        for (name, value) in serde_json::from_str::<Value>(expected).unwrap().as_object().unwrap() {
            assert!(name == "cursor" || without[name] == *value, "{with_cursor}");
        }
        assert!(
            expected.contains("cursor") || with_cursor.starts_with(expected.trim_end_matches(['}', ' ']))
        );
    }
}

#[test]
fn an_agents_frames_are_not_doubled_by_what_they_mean() {
    let chunk = json!({"type": "assistant_message", "token": "Hi", "is_final": false});
    let whole =
        json!({"type": "assistant_message", "content": "Hi", "is_final": true, "metadata": {"n": null}});
    let done = json!({"type": "done", "is_final": true});
    let end = json!({"text": "Hi", "messages": [], "usage": null, "finish_reason": "stop"});
    let start = || Script::new().started().framed("response_chunk", json!({"text": "Hi"}), &chunk);
    let start = || start().framed("response_chunk", json!({"text": ""}), &whole);

    // The runtime ends its answer itself.
    let mock = mock();
    says(&mock, start().framed("completed", end.clone(), &done));
    assert_eq!(ask(&mock, "hi"), [chunk.clone(), whole.clone(), done.clone()]);
    // It ends with its stream, or with words that are no frame.
    says(&mock, start().event("completed", end.clone()));
    let closing = |content: &str| json!({"type": "assistant_message", "content": content, "is_final": true});
    let over = json!({"type": "done", "is_final": true, "metadata": {"finish_reason": "stop"}});
    assert_eq!(ask(&mock, "hi"), [chunk.clone(), whole.clone(), over.clone()]);
    // It has reported an error, and left its answer open.
    let oops = json!({"type": "error", "error": "oops"});
    let script = start().framed("agent_error", json!({"error": "oops"}), &oops);
    says(&mock, script.clone().failed("the agent reported an error: oops", "agent_error"));
    assert_eq!(ask(&mock, "hi"), [chunk.clone(), whole.clone(), oops.clone()]);
    says(&mock, script.failed("nothing heard", "agent_silent"));
    assert_eq!(ask(&mock, "hi")[3], error("Streaming error: nothing heard"));
    // It has said that it is done, and the turn's end is another event.
    let script = start().framed("agent_done", json!({}), &done);
    says(&mock, script.event("completed", end.clone()));
    assert_eq!(ask(&mock, "hi"), [chunk.clone(), whole.clone(), done.clone()]);
    // A filter has held its words back, and the message that closes them with them.
    let said = |token: &str| json!({"type": "assistant_message", "token": token, "is_final": false});
    let script = Script::new().started().chunks(["Hi"]).event("response_chunk", json!({"text": ""}));
    says(&mock, script.framed("completed", end.clone(), &done));
    assert_eq!(ask(&mock, "hi"), [said("Hi"), closing("Hi"), done.clone()]);
    // It let the closing one pass.
    let script = Script::new().started().chunks(["Hi"]).framed("response_chunk", json!({"text": ""}), &whole);
    says(&mock, script.framed("completed", end.clone(), &done));
    assert_eq!(ask(&mock, "hi"), [said("Hi"), whole.clone(), done.clone()]);
    let script = Script::new().started().chunks(["Hi"]).framed("response_chunk", json!({"text": ""}), &whole);
    says(&mock, script.event("completed", end.clone()));
    assert_eq!(ask(&mock, "hi")[1..], [whole.clone(), over]);
    // Its last chunk is the answer and the end at once.
    let at_once = json!({"type": "done", "content": "Hi", "is_final": true});
    let script = Script::new().started().framed("response_chunk", json!({"text": "Hi"}), &at_once);
    says(&mock, script.event("completed", end.clone()));
    assert_eq!(ask(&mock, "hi"), [at_once]);
    // It has said nothing at all.
    says(&mock, Script::new().started().completed(""));
    let made = json!({"type": "done", "is_final": true, "metadata": {"finish_reason": "stop"}});
    assert_eq!(ask(&mock, "hi"), std::slice::from_ref(&made));
    // Another run of it has frames no more.
    says(&mock, start().restart().event("completed", end));
    let again = error("Streaming error: the turn broke off and begins again; what it said is void");
    let said = json!({"type": "assistant_message", "content": "Hi", "is_final": true});
    assert_eq!(ask(&mock, "hi"), [chunk.clone(), whole.clone(), again, said, made.clone()]);
    // It is stopped, or breaks off: that is the gateway's word.
    says(&mock, start().cancelled("interrupted by a new message"));
    assert_eq!(ask(&mock, "hi")[2]["metadata"]["finish_reason"], "cancelled");
    says(&mock, start().failed("the connection broke", "agent_error"));
    assert_eq!(ask(&mock, "hi")[2], error("Streaming error: the connection broke"));
    // An error of its own, and the end that it was.
    let oops = json!({"type": "error", "error": "oops", "is_final": true});
    says(&mock, start().framed("failed", json!({"error": "oops", "error_type": "agent_error"}), &oops));
    assert_eq!(ask(&mock, "hi"), [chunk.clone(), whole, oops]);
    // What a filter has put in the place of an event has no frame, and what it has put in the place of the end neither.
    let end = |text: &str| json!({"text": text, "messages": [], "usage": null, "finish_reason": "stop"});
    let script = Script::new().started().framed("response_chunk", json!({"text": "my card: "}), &chunk);
    says(
        &mock,
        script.event("response_chunk", json!({"text": "[card]"})).event("completed", end("my card: [card]")),
    );
    let expected = [
        chunk,
        json!({"type": "assistant_message", "token": "[card]", "is_final": false}),
        json!({"type": "assistant_message", "content": "my card: [card]", "is_final": true}),
        made,
    ];
    assert_eq!(ask(&mock, "hi"), expected);
    says(&mock, Script::new().started().event("response_chunk", json!({"text": "[card]", "raw": null})));
    assert_eq!(
        ask(&mock, "hi"),
        [json!({"type": "assistant_message", "token": "[card]", "is_final": false})]
    );
}

#[test]
fn a_turn_that_begins_again_says_so_where_something_of_it_was_shown() {
    let mock = mock();
    says(&mock, Script::new().started().chunks(["a"]).restart().chunks(["b"]).completed("b"));
    let said = ask(&mock, "hi");
    assert_eq!(said[1], error("Streaming error: the turn broke off and begins again; what it said is void"));
    assert_eq!((said.len(), &said[2]["token"]), (5, &json!("b")));
    says(&mock, Script::new().started().thinking("hm").restart().chunks(["b"]).completed("b"));
    assert_eq!(ask(&mock, "hi")[0]["token"], "b");
}

#[test]
fn what_is_lost_is_said() {
    let mock = mock();
    says(&mock, Script::new().started().lost(3).chunks(["a", "b", "c"]).chunks(["d"]).completed("abcd"));
    let said = ask(&mock, "hi");
    assert_eq!(said[0], error("Streaming error: events 2 to 4 of a turn are lost"));
    assert_eq!(said[1]["token"], "d");
}

#[test]
fn draining_ends_a_connection_without_a_word() {
    let mock = mock();
    says(&mock, Script::new().every(Duration::from_secs(10)).started().chunks(vec!["a"; 100]));
    mock.close_after(Duration::from_secs(25), plugway_sdk::Reason::Draining);
    let served = mock.websocket("/ws/s").json(&user("hi")).serve(&Ide);
    // The code to close with is the host's.
    assert_eq!((served.frames.len(), served.error), (1, None));
}
