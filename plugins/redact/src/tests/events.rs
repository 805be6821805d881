//! Which fields of which events are redacted, and what stays as it was.

use super::{run, said};
use crate::{
    Redact,
    values::{Leaf, rewrite},
};
use plugway_sdk::{Admission, mock::Mock};
use proptest::prelude::*;
use serde_json::{Value, json};

const CARD: &str = "4111 1111 1111 1111";

#[test]
fn every_text_of_an_event_is_redacted_and_names_are_not() {
    let arguments = r#"{"to":"a@b.de", "n":1.0,"card":4111111111111111,"a@b.de":[true,"\u0061@b.de"]}"#;
    let table = [
        (
            "tool_started",
            json!({"call_id": "4111111111111111", "tool_name": "send", "parameters": {"to": ["a@b.de"]}, "arguments": arguments,
                "raw": {"x": 1}}),
            json!({"call_id": "4111111111111111", "tool_name": "send", "parameters": {"to": ["[EMAIL]"]},
                "arguments": r#"{"to":"[EMAIL]", "n":1.0,"card":"[CARD]","a@b.de":[true,"[EMAIL]"]}"#}),
        ),
        (
            "tool_completed",
            json!({"call_id": "c", "result": {"number": 4111111111111111_u64, "text": CARD}, "success": true, "duration_ms": 7}),
            json!({"call_id": "c", "result": {"number": "[CARD]", "text": "[CARD]"}, "success": true, "duration_ms": 7}),
        ),
        ("tool_completed", json!({"result": CARD}), json!({"result": "[CARD]"})),
        (
            "tool_started",
            json!({"arguments": "{\"to\": \"a@b.de"}),
            json!({"arguments": "{\"to\": \"[EMAIL]"}),
        ),
        (
            "progress",
            json!({"progress": 0.5, "message": CARD}),
            json!({"progress": 0.5, "message": "[CARD]"}),
        ),
        ("failed", json!({"error": CARD, "retry_count": 0}), json!({"error": "[CARD]", "retry_count": 0})),
        ("cancelled", json!({"reason": CARD}), json!({"reason": "[CARD]"})),
        ("signal", json!({"a": [[{"b": CARD}]]}), json!({"a": [[{"b": "[CARD]"}]]})),
        ("signal", json!({"text": "fine", "raw": CARD}), json!({"text": "fine"})),
        ("x", json!({"raw": {"x": CARD}}), json!({})),
        (
            "thinking",
            json!({"thought": format!("{CARD}, "), "step": 3}),
            json!({"thought": "[CARD], ", "step": 3}),
        ),
        ("response_chunk", json!({"text": "fine ", "raw": {"token": CARD}}), json!({"text": "fine "})),
        ("response_chunk", json!({"text": CARD.len()}), json!({"text": 19})),
        (
            "completed",
            json!({"text": "", "messages": [{"role": "tool", "tool_call_id": "4111111111111111", "content": [{"text": CARD}],
                "tool_calls": [{"id": "4111111111111111", "function": {"name": "f", "arguments": "{\"x\":\"a@b.de\"}"}}]}]}),
            json!({"text": "", "messages": [{"role": "tool", "tool_call_id": "4111111111111111", "content": [{"text": "[CARD]"}],
                "tool_calls": [{"id": "4111111111111111", "function": {"name": "f", "arguments": "{\"x\":\"[EMAIL]\"}"}}]}]}),
        ),
    ];
    for (kind, data, expected) in table {
        assert_eq!(run(json!({}), &[(kind, data)]), [(kind.to_owned(), expected)]);
    }
}

#[test]
fn what_is_held_back_is_let_out_before_a_tool_call_and_at_the_end() {
    let chunk = |text: &str| ("response_chunk", json!({"text": text}));
    let call = || ("tool_started", json!({"call_id": "c"}));
    let kinds = |out: &[(String, Value)]| out.iter().map(|(kind, _)| kind.clone()).collect::<Vec<_>>();
    let out =
        run(json!({}), &[chunk("Let me check"), call(), chunk(" it"), ("cancelled", json!({"reason": "r"}))]);
    assert_eq!(
        kinds(&out),
        ["response_chunk", "response_chunk", "tool_started", "response_chunk", "response_chunk", "cancelled"]
    );
    assert_eq!(said(&out), "Let me check it");
    // Half a card number waits, whatever comes between.
    let out = run(
        json!({}),
        &[
            chunk("no 4111 1111 "),
            call(),
            ("progress", json!({})),
            chunk("1111 1111"),
            ("failed", json!({"error": "e"})),
        ],
    );
    assert_eq!(said(&out), "no [CARD]");
}

#[test]
fn thoughts_end_where_something_else_begins() {
    let thought = |text: &str, step: u32| ("thinking", json!({"thought": text, "step": step}));
    let out = run(
        json!({}),
        &[
            thought("4111 1111 ", 1),
            thought("1111 1111", 1),
            thought("The answer is 42", 2),
            ("response_chunk", json!({"text": "42, "})),
            ("completed", json!({"text": "42, "})),
        ],
    );
    let thoughts =
        out.iter().filter(|(kind, _)| kind == "thinking").map(|(_, data)| data["thought"].as_str().unwrap());
    assert_eq!(thoughts.collect::<Vec<_>>(), ["[CARD]", "The answer is ", "42"]);
    assert_eq!(out.last().unwrap().0, "completed");
}

#[test]
fn an_event_in_which_nothing_matches_keeps_its_bytes() {
    let mock = Mock::new();
    let data = r#"{ "b": 1.0, "text" : "h\u00e9, ", "n":1e400, "raw":{"a":[]} }"#;
    let draft = plugway_sdk::Draft { kind: "response_chunk".into(), data: data.into() };
    let mut state = Vec::new();
    let out = plugway_sdk::Filter::apply(&Redact, "t", &mut state, draft.clone());
    assert_eq!(out, [draft]);
    assert!(state.len() < 64);
    let out = plugway_sdk::Filter::apply(
        &Redact,
        "t",
        &mut state,
        plugway_sdk::Draft { kind: "signal".into(), data: "{\"a\": 4111 1111".into() },
    );
    assert_eq!(out[0].data, "{}");
    drop(mock);
}

/// Data of what becomes of one event as it is written.
fn raw(kind: &str, data: &str) -> String {
    let mock = Mock::new();
    let draft = plugway_sdk::Draft { kind: kind.into(), data: data.into() };
    let out = plugway_sdk::Filter::apply(&Redact, "t", &mut Vec::new(), draft);
    drop(mock);
    out.into_iter().map(|event| event.data).collect()
}

#[test]
fn a_text_with_half_of_a_surrogate_pair_is_judged() {
    let half = r#"{"arguments":"{\"card\":\"4111 1111 1111 1111 \\ud83d\"}"}"#;
    assert_eq!(raw("tool_started", half), "{\"arguments\":\"{\\\"card\\\":\\\"[CARD] \u{FFFD}\\\"}\"}");
    assert_eq!(raw("signal", r#"{"a":["a@b.de \udc00"]}"#), "{\"a\":[\"[EMAIL] \u{FFFD}\"]}");
    // In which nothing is found it stays.
    let fine = r#"{"a":"fine \ud83d, \ud83d\ude00","b":"\/"}"#;
    assert_eq!(raw("signal", fine), fine);
    let mock = Mock::new();
    mock.config(json!({"input": true}));
    let admitted =
        plugway_sdk::Filter::admit(&Redact, r#"{"kind":"message","text":"4111111111111111 \ud83d"}"#);
    assert_eq!(
        admitted,
        Admission::Replace("{\"kind\":\"message\",\"text\":\"[CARD] \u{FFFD}\"}".to_owned())
    );
}

#[test]
fn what_is_nested_deeply_is_judged_and_what_cannot_be_read_is_replaced() {
    let deep = |inner: &str| format!("{{\"a\":{}{inner}{}}}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(raw("signal", &deep("\"a@b.de\"")), deep("\"[EMAIL]\""));
    assert_eq!(raw("signal", &deep("1")), deep("1"));
    let nested = |inner: &str| format!("{{\"arguments\":{}}}", Value::from(deep(inner)));
    assert_eq!(raw("tool_started", &nested("4111111111111111")), nested("\"[CARD]\""));
    let mut text = format!("[{}]", Value::from(CARD));
    for _ in 0..12 {
        text = format!("[{}]", Value::from(text));
    }
    assert!(raw("signal", &json!({"a": text}).to_string()).contains("[UNREADABLE]"));
}

#[test]
fn json_in_a_text_stays_json() {
    for field in ["arguments", "result", "x"] {
        let json = json!({field: "{\"to\":\"\\u003cjohn@example.com\\u003e\",\"n\":4111111111111111,\"d\":\"[\\\"\\\\u0061@b.de\\\"]\"}"});
        let out: Value = serde_json::from_str(&raw("tool_completed", &json.to_string())).unwrap();
        let out: Value = serde_json::from_str(out[field].as_str().unwrap()).unwrap();
        assert_eq!(out, json!({"to": "<[EMAIL]>", "n": "[CARD]", "d": "[\"[EMAIL]\"]"}));
    }
    // What only begins so is a text.
    let out = raw("x", &json!({"a": "[Ann (a@b.de)] 4111111111111111"}).to_string());
    assert_eq!(out, json!({"a": "[Ann ([EMAIL])] [CARD]"}).to_string());
}

#[test]
fn what_is_cut_in_a_thought_does_not_get_out() {
    let thought = |text: &str| ("thinking", json!({"thought": text}));
    let between = [("tool_started", json!({"call_id": "c"})), ("response_chunk", json!({"text": "so "}))];
    for between in between {
        let out = run(
            json!({}),
            &[
                thought("card 4111 1111 "),
                between.clone(),
                thought("1111 1111 it is"),
                ("completed", json!({"text": "so "})),
            ],
        );
        let thoughts = out.iter().filter_map(|(_, data)| data["thought"].as_str()).collect::<String>();
        assert_eq!(thoughts, "card [CARD] it is");
        let key = [
            thought("key sk-ABCDEFGHIJKLMNOPQRSTUV1"),
            between,
            thought("RESTOFTHEKEY1234567 ok, "),
            ("completed", json!({"text": "so "})),
        ];
        let out = run(json!({}), &key);
        let thoughts = out.iter().filter_map(|(_, data)| data["thought"].as_str()).collect::<String>();
        assert_eq!(thoughts, "key [SECRET] ok, ");
    }
    // A word, and the first digits of anything, wait for nothing.
    let out = run(json!({}), &[thought("step 4"), ("tool_started", json!({"call_id": "c"}))]);
    assert_eq!(
        out.iter().map(|(kind, _)| &**kind).collect::<Vec<_>>(),
        ["thinking", "thinking", "tool_started"]
    );
}

#[test]
fn what_is_broken_off_is_replaced_where_it_would_tell_too_much() {
    let chunk = |text: &str| ("response_chunk", json!({"text": text}));
    let length = |text: &str| {
        (
            "completed",
            json!({"text": text, "finish_reason": "length", "messages": [{"role": "assistant", "content": text}]}),
        )
    };
    let table = [
        ("card 4111 1111 1111 111", "card [CARD]"),
        ("mail joe.smith@gmail", "mail [EMAIL]"),
        ("key sk-proj-ABCDEFGH1234567", "key [SECRET]"),
        ("call +49 30 123", "call [PHONE]"),
        ("in 2024", "in 2024"),
        ("step 4", "step 4"),
        ("Ada", "Ada"),
    ];
    for (text, expected) in table {
        for end in [("failed", json!({"error": "e"})), ("cancelled", json!({"reason": "r"})), length(text)] {
            let out = run(json!({}), &[chunk(text), end.clone()]);
            assert_eq!(said(&out), expected, "{end:?}");
            let (_, last) = out.last().unwrap();
            if end.0 == "completed" {
                assert_eq!(
                    (&last["text"], &last["messages"][0]["content"]),
                    (&json!(expected), &json!(expected))
                );
            }
        }
        let out =
            run(json!({}), &[chunk(text), ("completed", json!({"text": text, "finish_reason": "stop"}))]);
        // What is whole is judged as it is.
        assert_eq!(said(&out), super::clean(text));
    }
}

#[test]
fn tokens_of_other_kinds_are_streams() {
    let token =
        |text: &str| ("reasoning", json!({"token": text, "raw": {"type": "reasoning", "token": text}}));
    let out = run(
        json!({}),
        &[token("card 4111 "), token("1111 1111"), token(" 1111 ok, "), ("failed", json!({}))],
    );
    let texts = out.iter().filter_map(|(_, data)| data["token"].as_str()).collect::<String>();
    assert_eq!(texts, "card [CARD] ok, ");
    assert!(!format!("{out:?}").contains("1111"));
    // Lines are held back for numbers alone.
    let line = |text: &str| ("note", json!({"content": text, "raw": {"content": text}}));
    let fine = [line("switched to coder"), line("step 4"), line("done")];
    assert_eq!(run(json!({}), &fine), fine.map(|(kind, data)| (kind.to_owned(), data)));
    let out = run(json!({}), &[line("card 4111 1111 "), line("1111 1111 ok"), ("failed", json!({}))]);
    assert!(!format!("{out:?}").contains("1111"), "{out:?}");
    // Named ones.
    let named = json!({"streams": [{"kind": "delta", "field": "d"}]});
    let delta = |text: &str| ("delta", json!({"d": text, "n": 1}));
    let out = run(named, &[delta("john"), delta("@example.com "), ("failed", json!({}))]);
    assert_eq!(
        out[..2],
        [
            ("delta".to_owned(), json!({"d": "", "n": 1})),
            ("delta".to_owned(), json!({"d": "[EMAIL] ", "n": 1}))
        ]
    );
}

#[test]
fn what_many_streams_hold_back_is_bounded() {
    let mock = Mock::new();
    mock.config(json!({"hold_bytes": 8192, "patterns": [{"name": "a", "pattern": "<[^>]*>"}]}));
    let mut state = Vec::new();
    for at in 0..400 {
        let data =
            json!({"token": format!("<{}", "a".repeat(4000)), "content": "card 4111 1111 111"}).to_string();
        let event = plugway_sdk::Draft { kind: format!("kind{}", at % 40), data };
        plugway_sdk::Filter::apply(&Redact, "t", &mut state, event);
        assert!(state.len() < 60 << 10, "{}", state.len());
    }
}

#[test]
fn messages_keep_their_ends() {
    let token =
        |text: &str| ("response_chunk", json!({"text": text, "raw": {"token": text, "is_final": false}}));
    let last = |text: &str, content: Value| {
        ("response_chunk", json!({"text": text, "raw": {"content": content, "is_final": true}}))
    };
    let out = run(
        json!({}),
        &[
            token("Hello "),
            token("world."),
            last("", Value::Null),
            token("Second "),
            last("one", json!("one")),
            token("Your card 4111 1111 "),
            token("1111 1111"),
            last("", json!("Your card 4111 1111 1111 1111")),
            ("completed", json!({"text": "Hello world.Second oneYour card 4111 1111 1111 1111"})),
        ],
    );
    assert_eq!(said(&out), "Hello world.Second oneYour card [CARD]");
    assert_eq!(out.last().unwrap().1["text"], said(&out));
    let ends = out
        .iter()
        .filter(|(_, data)| data["raw"]["is_final"] == true)
        .map(|(_, data)| data["text"].as_str().unwrap());
    assert_eq!(ends.collect::<Vec<_>>(), ["", "one"]);
    assert!(!format!("{out:?}").contains("1111"), "{out:?}");
}

#[test]
fn a_match_is_found_over_messages_and_their_parts() {
    let text = "card 4111 1111 1111 1111 ok";
    let messages = json!([{"role": "assistant", "content": "card 4111 1111 "}, {"role": "tool", "content": "1"},
        {"role": "assistant", "content": [{"type": "text", "text": "1111 "}, {"type": "text", "text": "1111 ok"}]}]);
    let out = run(json!({}), &[("completed", json!({"text": text, "messages": messages}))]);
    let expected = json!([{"role": "assistant", "content": "card [CARD]"}, {"role": "tool", "content": "1"},
        {"role": "assistant", "content": [{"type": "text", "text": ""}, {"type": "text", "text": " ok"}]}]);
    assert_eq!(out[0].1["messages"], expected);
    // Another answer than what was said.
    let out = run(
        json!({}),
        &[
            ("response_chunk", json!({"text": " card 4111 1111 1111 11"})),
            ("completed", json!({"text": text})),
        ],
    );
    assert_eq!(
        (said(&out), &out.last().unwrap().1["text"]),
        (" card [CARD]".to_owned(), &json!("card [CARD] ok"))
    );
}

#[test]
fn input_is_redacted_where_that_is_configured() {
    let mock = Mock::new();
    let input = json!({"kind": "message", "text": CARD, "history": [{"role": "tool", "tool_call_id": "4111111111111111"}]});
    assert_eq!(mock.filter(&Redact).admit(&input), Admission::Pass);
    mock.config(json!({"input": true}));
    let clean = json!({"kind": "message", "text": "[CARD]", "history": [{"role": "tool", "tool_call_id": "4111111111111111"}]});
    let Admission::Replace(out) = mock.filter(&Redact).admit(&input) else { panic!() };
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), clean);
    assert_eq!(mock.filter(&Redact).admit(&clean), Admission::Pass);
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 4.0)),
        ".*".prop_map(Value::from),
        Just(Value::from("mail a@b.de \"now\"\n")),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(".*", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The same by a tree of values.
fn mapped(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(text.replace("a@b.de", "[EMAIL]")),
        Value::Array(list) => list.iter().map(mapped).collect(),
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), mapped(value))).collect(),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn json_keeps_its_structure(value in json_value(), pretty in any::<bool>()) {
        let json = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
        let out = rewrite(&json, &mut |_, leaf| match leaf {
            Leaf::Text(text) if text.contains("a@b.de") => Some(text.replace("a@b.de", "[EMAIL]")),
            _ => None,
        });
        let out = out.unwrap_or_else(|| json.clone());
        prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), serde_json::from_str::<Value>(&mapped(&serde_json::from_str(&json).unwrap()).to_string()).unwrap());
        if !json.contains("a@b.de") {
            prop_assert_eq!(out, json);
        }
    }
}
