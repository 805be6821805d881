//! What an IDE sends, and what becomes of it.

use super::*;
use crate::config::Config;
use plugway_sdk::{Frame, Plugin, SubmitError};

#[test]
fn every_frame_becomes_a_turn_that_carries_it_as_it_was_written() {
    let cases = [
        (
            r#"{"type": "user_message", "role": "user", "content": "hi\n", "n": 1.50, "extra": {"b": null, "a": 1}}"#,
            json!({"kind": "message", "text": "hi\n"}),
        ),
        (r#"{"content":"","type":"user_message"}"#, json!({"kind": "message", "text": ""})),
        (
            r#"{"type":"user_message","role":"system","content":"be brief"}"#,
            json!({"kind": "message", "text": "be brief", "metadata": {"role": "system"}}),
        ),
        (
            r#"{"type":"tool_result","call_id":"c1","result":{"lines":[1,12345678901234567890123]}}"#,
            json!({"kind": "tool_result", "results": [{"call_id": "c1", "result": {"lines": [1, 12345678901234567890123_f64]}}]}),
        ),
        (
            r#"{"type":"tool_result","call_id":"c1","result":null,"error":"no such file"}"#,
            json!({"kind": "tool_result", "results": [{"call_id": "c1", "error": "no such file"}]}),
        ),
        (
            r#"{"type":"tool_result","call_id":"c1"}"#,
            json!({"kind": "tool_result", "results": [{"call_id": "c1", "result": null}]}),
        ),
        (
            r#"{"type":"switch_agent","agent_type":"coder","content":"write it","reason":null}"#,
            json!({"kind": "control", "name": "switch_agent", "agent_type": "coder", "content": "write it"}),
        ),
        (
            r#"{"type":"switch_agent","agent_type":"coder","content":"","reason":"code"}"#,
            json!({"kind": "control", "name": "switch_agent", "agent_type": "coder", "content": "", "reason": "code"}),
        ),
        (
            r#"{"type":"hitl_decision","call_id":"c1","decision":"approve"}"#,
            json!({"kind": "decision", "call_id": "c1", "decision": "approve"}),
        ),
        (
            r#"{"type":"hitl_decision","call_id":"c1","decision":"edit","modified_arguments":{"path":"b"},"feedback":"there"}"#,
            json!({"kind": "decision", "call_id": "c1", "decision": "edit", "modified_arguments": {"path": "b"}, "feedback": "there"}),
        ),
    ];
    for path in ["/ws/its%20own", "/api/v1/ws/its%20own"] {
        for (text, expected) in &cases {
            let mock = mock();
            let served = mock.websocket(path).text(format!(" {text}\n")).leave().serve(&Ide);
            assert_eq!(served.error, None, "{text}");
            let turn = mock.submissions().remove(0);
            let mut input = turn.input;
            let forward = input.as_object_mut().unwrap().remove("forward").unwrap();
            assert_eq!(&input, expected, "{text}");
            assert_eq!(forward, serde_json::from_str::<Value>(text).unwrap());
            assert!(turn.document.contains(&format!(r#""forward":{text}"#)), "{}", turn.document);
            // Decoding the path is the host's.
            assert_eq!((turn.session.as_str(), turn.agent), ("its%20own", None));
            assert_eq!(turn.deliver, None);
        }
    }
}

#[test]
fn what_is_wrong_with_a_frame_is_said_and_the_connection_stays_open() {
    let deep = format!(r#"{{"type":"user_message","content":"a","x":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    let many = format!(r#"{{"type":"user_message","content":"a","x":[{}1]}}"#, "1,".repeat(50_000));
    let long = json!({"type": "user_message", "content": "x".repeat(1_000_000)}).to_string();
    let shown = format!("Unknown message type: {}", "ä".repeat(100));
    let odd = json!({"type": "ä".repeat(101)}).to_string();
    let field = |problem: &str| format!("Invalid JSON message: {problem}");
    let cases: Vec<(&str, String)> = vec![
        (r#"{"type":"x"}"#, "Unknown message type: x".to_owned()),
        (r#"{"type":""}"#, "Unknown message type: ".to_owned()),
        (&odd, shown),
        (r#"{"type":"plan_decision"}"#, "Unknown message type: plan_decision".to_owned()),
        ("", field("EOF while parsing a value at line 1 column 0")),
        ("hello", field("expected value at line 1 column 1")),
        (r#"{"type":"cancel"} {}"#, field("trailing characters at line 1 column 19")),
        (
            "{\"type\":\"user_message\",\"content\":\"a\0b\"}",
            field("control character (\\u0000-\\u001F) found while parsing a string at line 1 column 36"),
        ),
        (
            r#"{"type":"user_message","content":"\ud800"}"#,
            field("unexpected end of hex escape at line 1 column 41"),
        ),
        (r#"{"type":"user_message","content":1e999}"#, field("number out of range at line 1 column 38")),
        ("[]", field("the frame must be a JSON object")),
        ("null", field("the frame must be a JSON object")),
        ("{}", field("type: is missing")),
        (r#"{"type":null}"#, field("type: is missing")),
        (r#"{"type":7}"#, field("type: must be a string")),
        (r#"{"type":"user_message"}"#, field("content: is missing")),
        (r#"{"type":"user_message","content":["a"]}"#, field("content: must be a string")),
        (
            r#"{"type":"user_message","content":"a","role":"robot"}"#,
            field("role: must be one of user, assistant, system, tool"),
        ),
        (r#"{"type":"tool_result","result":1}"#, field("call_id: is missing")),
        (r#"{"type":"tool_result","call_id":1}"#, field("call_id: must be a string")),
        (r#"{"type":"tool_result","call_id":"c","error":{}}"#, field("error: must be a string")),
        (r#"{"type":"switch_agent","content":"a"}"#, field("agent_type: is missing")),
        (r#"{"type":"switch_agent","agent_type":"a"}"#, field("content: is missing")),
        (
            r#"{"type":"switch_agent","agent_type":"a","content":"b","reason":1}"#,
            field("reason: must be a string"),
        ),
        (r#"{"type":"hitl_decision","decision":"approve"}"#, field("call_id: is missing")),
        (r#"{"type":"hitl_decision","call_id":"c"}"#, field("decision: is missing")),
        (
            r#"{"type":"hitl_decision","call_id":"c","decision":"maybe"}"#,
            field("decision: must be one of approve, edit, reject"),
        ),
        (
            r#"{"type":"hitl_decision","call_id":"c","decision":"edit","modified_arguments":[]}"#,
            field("modified_arguments: must be an object"),
        ),
        (
            r#"{"type":"hitl_decision","call_id":"c","decision":"edit","feedback":[]}"#,
            field("feedback: must be a string"),
        ),
        (
            r#"{"type":"cancel","idempotency_key":""}"#,
            field("idempotency_key: must have 1 to 508 bytes in this session"),
        ),
        (&deep, field("the frame is nested deeper than 64")),
        (&many, field("the frame holds more than 50000 values")),
        (&long, field("the frame has 1000036 bytes, 1000000 are allowed")),
    ];
    let mock = mock();
    let mut upgrade = mock.websocket("/ws/s").frame(Frame::Binary(vec![0, 255]));
    for (text, _) in &cases {
        upgrade = upgrade.text(*text);
    }
    let said = stay(upgrade.json(&user("still here"))).json();
    assert_eq!(said[0], error("Invalid JSON message: the frame is binary, and must be text"));
    for ((text, expected), said) in cases.iter().zip(&said[1..]) {
        assert_eq!(*said, error(expected), "{text:.200}");
    }
    assert_eq!(said[cases.len() + 1]["token"], "still ", "the connection stays open");
    assert_eq!(mock.submissions().len(), 1);
}

#[test]
fn a_turn_that_is_not_accepted_is_an_error_frame() {
    let text = |error: SubmitError| {
        let mock = mock();
        mock.refuse_tasks(Some(error));
        ask(&mock, "hi").remove(0)["content"].as_str().unwrap().to_owned()
    };
    let busy = SubmitError::Busy { retry_after: Duration::from_millis(4_200) };
    assert_eq!(text(busy), "Streaming error: too many turns are waiting, try again in 5 s");
    assert_eq!(text(SubmitError::Refused("no secrets".into())), "Streaming error: refused: no secrets");
    let large = SubmitError::Invalid("the task input has 3 bytes, 2 are allowed".into());
    assert_eq!(text(large), "Invalid JSON message: the task input has 3 bytes, 2 are allowed");
    let down = SubmitError::Unavailable("redis://10.0.0.7 refused".into());
    assert_eq!(text(down), "Streaming error: the turn can't be taken now, try again");
    let mock = mock();
    mock.config(json!({"agent": "nobody"}));
    assert_eq!(ask(&mock, "hi"), [error("Streaming error: unknown agent: nobody")]);
}

#[test]
fn the_configured_agent_answers() {
    let mock = mock();
    mock.add_agent("coder", "writes code");
    mock.config(json!({"agent": "coder"}));
    ask(&mock, "hi");
    assert_eq!(mock.submissions()[0].agent.as_deref(), Some("coder"));
}

#[test]
fn a_tool_result_is_the_next_turn_whatever_runs() {
    let mock = mock();
    mock.agent(|turn: &Submission| match turn.input["kind"].as_str() {
        Some("message") => {
            Script::new().every(Duration::from_secs(10)).started().chunks(["a", "b"]).completed("ab")
        }
        _ => Script::reply(["thanks"]),
    });
    let result = json!({"type": "tool_result", "call_id": "c1", "result": 7});
    let said = stay(mock.websocket("/ws/s").json(&user("hi")).wait(Duration::from_secs(1)).json(&result));
    let said: Vec<_> =
        said.json().iter().map(|frame| frame["token"].as_str().unwrap_or("-").to_owned()).collect();
    assert_eq!(said, ["a", "b", "-", "-", "thanks", "-", "-"], "turns are heard in order");
}

#[test]
fn cancel_ends_what_runs_and_what_waits() {
    let mock = mock();
    mock.agent(|turn: &Submission| match turn.text() {
        "go on" => Script::reply(["on"]),
        _ => Script::new().every(Duration::from_secs(1)).started().chunks(vec!["word "; 1000]),
    });
    let upgrade =
        mock.websocket("/ws/s").json(&user("one")).json(&user("two")).wait(Duration::from_millis(2_500));
    let upgrade = upgrade.json(&json!({"type": "cancel"})).wait(MINUTE).json(&user("go on"));
    let served = stay(upgrade);
    let word = json!({"type": "assistant_message", "token": "word ", "is_final": false});
    let done = json!({"type": "done", "is_final": true, "metadata": {"finish_reason": "cancelled", "reason": "cancelled"}});
    assert_eq!(served.json()[..3], [word, done.clone(), done]);
    assert_eq!(served.json()[3]["token"], "on");
    let turns = mock.submissions();
    assert!(mock.is_cancelled(&turns[0].task) && mock.is_cancelled(&turns[1].task));
    mock.break_storage(Some("disk full at /var"));
    let served = mock.websocket("/ws/s").serve(&Ide);
    assert_eq!(served.json(), [error("Streaming error: temporarily unavailable")]);
    assert_eq!(served.closed, Some((1013, "try again later".to_owned())));
}

#[test]
fn the_same_idempotency_key_is_the_same_turn_within_its_session() {
    let mock = mock();
    let mut frame = user("hi");
    frame["idempotency_key"] = "k1".into();
    stay(mock.websocket("/ws/s").json(&frame).json(&frame));
    stay(mock.websocket("/ws/s").json(&frame));
    assert_eq!(mock.submissions().len(), 1);
    stay(mock.websocket("/ws/other").json(&frame));
    assert_eq!(mock.submissions().len(), 2);
}

#[test]
fn further_types_of_the_runtime_are_passed_on_where_the_operator_lists_them() {
    let mock = mock();
    mock.config(json!({"forward_types": ["plan_decision"]}));
    let frame = json!({"type": "plan_decision", "approval_request_id": "p1", "decision": "approve"});
    stay(mock.websocket("/ws/s").json(&frame));
    let input = &mock.submissions()[0].input;
    assert_eq!(*input, json!({"kind": "control", "name": "plan_decision", "forward": frame}));
}

#[test]
fn a_configuration_that_can_not_work_is_refused_by_name() {
    let _mock = mock();
    let check = |config: Value| Ide::check(&config.to_string());
    assert_eq!(check(json!({})), Ok(()));
    for (config, field) in [
        (json!({"agents": "a"}), "unknown field `agents`"),
        (json!({"agent": ""}), "agent:"),
        (json!({"agent": 7}), "agent:"),
        (json!({"max_frame_bytes": 1023}), "max_frame_bytes:"),
        (json!({"max_frame_bytes": -1}), "max_frame_bytes:"),
        (json!({"max_values": 15}), "max_values:"),
        (json!({"max_nesting": 3}), "max_nesting:"),
        (json!({"max_nesting": 101}), "max_nesting:"),
        (json!({"forward_types": ["a", ""]}), "forward_types[1]:"),
        (json!({"forward_types": ["cancel"]}), "forward_types[0]:"),
    ] {
        let problem = check(config.clone()).unwrap_err();
        assert!(problem.contains(field), "{config}: {problem}");
    }
    let deepest = Config { max_nesting: 100, ..Config::default() };
    assert_eq!(deepest.validate(), Ok(()));
    let mock = mock();
    mock.config(json!({"max_nesting": 100}));
    let text = format!(r#"{{"type":"user_message","content":"a","x":{}{}}}"#, "[".repeat(99), "]".repeat(99));
    stay(mock.websocket("/ws/s").text(text));
    assert_eq!(mock.submissions().len(), 1, "what may be set can be read");
}
