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
