//! The filter against the mock host.

use crate::Allow;
use plugway_sdk::{Draft, Filter, Plugin, mock::Mock};
use proptest::prelude::*;
use serde_json::{Value, json};

const KINDS: &[&str] = &[
    "thinking",
    "tool_started",
    "progress",
    "response_chunk",
    "workflow_step",
    "model_selection",
    "completed",
    "failed",
    "cancelled",
];

fn passing(config: Value) -> Vec<String> {
    let mock = Mock::new();
    Allow::check(&config.to_string()).unwrap();
    mock.config(config);
    let events = KINDS.iter().map(|kind| (*kind, json!({}))).collect::<Vec<_>>();
    mock.filter(&Allow).run(&events).into_iter().map(|event| event.kind).collect()
}

#[test]
fn kinds_pass_or_dont() {
    let always = ["completed", "failed", "cancelled"];
    assert_eq!(passing(json!({})), KINDS);
    assert_eq!(passing(json!({"kinds": []})), always);
    assert_eq!(
        passing(json!({"kinds": ["response_chunk", "workflow_*"]})),
        ["response_chunk", "workflow_step", "completed", "failed", "cancelled"]
    );
    assert_eq!(
        passing(json!({"kinds": ["progress"], "unknown": "pass"})),
        ["progress", "workflow_step", "model_selection", "completed", "failed", "cancelled"]
    );
    let without =
        |left_out: &[&str]| KINDS.iter().copied().filter(|kind| !left_out.contains(kind)).collect::<Vec<_>>();
    assert_eq!(passing(json!({"deny": ["thinking", "tool_*"]})), without(&["thinking", "tool_started"]));
    assert_eq!(passing(json!({"deny": ["workflow_step"]})), without(&["workflow_step"]));
    assert_eq!(passing(json!({"unknown": "drop"})), without(&["workflow_step", "model_selection"]));
    assert_eq!(passing(json!({"deny": ["*"]})), always);
}

#[test]
fn fields_are_taken_out_and_the_agents_frame_with_them() {
    let mock = Mock::new();
    mock.config(json!({"strip": {"tool_started": ["parameters", "arguments"], "*": ["secret"]}}));
    let apply = |kind: &str, data: &str| {
        let draft = Draft { kind: kind.to_owned(), data: data.to_owned() };
        Allow.apply("t", &mut Vec::new(), draft).remove(0).data
    };
    let call = r#"{"call_id":"c","parameters":{"a":[1]},"arguments":"{}","n":1e400,"raw":{}}"#;
    assert_eq!(apply("tool_started", call), r#"{"call_id":"c","n":1e400}"#);
    assert_eq!(apply("completed", r#"{"text":"a","secret":1}"#), r#"{"text":"a"}"#);
    assert_eq!(apply("completed", r#"{ "text":"a" }"#), r#"{ "text":"a" }"#);
    assert_eq!(apply("completed", r#"{"text":"a","raw":1}"#), r#"{"text":"a"}"#);
    assert_eq!(apply("completed", r#"{"text":"#), "{}");
}

#[test]
fn a_wrong_setting_is_named() {
    let table = [
        (json!({"kind": []}), "unknown field `kind`"),
        (json!({"kinds": ["a"], "deny": ["b"]}), "deny: `kinds` says already what passes"),
        (json!({"deny": ["thinking", "completed"]}), "deny[1]: `completed` always passes"),
        (json!({"deny": ["comp*"]}), "deny[0]: `completed` always passes"),
        (json!({"kinds": ["a, b"]}), "kinds[0]: \"a, b\" is no kind"),
        (json!({"kinds": ["*_step"]}), "kinds[0]: \"*_step\" is no kind"),
        (json!({"kinds": "thinking"}), "kinds: invalid type"),
        (json!({"unknown": "keep"}), "unknown: unknown variant `keep`"),
        (json!({"strip": {"tool_started": []}}), "strip.tool_started: name the fields"),
    ];
    for (config, expected) in table {
        let error = Allow::check(&config.to_string()).expect_err(expected);
        assert!(error.contains(expected), "{config}: {error}");
    }
}

proptest! {
    #[test]
    fn what_passes_is_what_came(kind in "[a-z_]{1,12}", text in ".*", deny in proptest::collection::vec("[a-z]{0,3}\\*", 1..3)) {
        let mock = Mock::new();
        mock.config(json!({"deny": deny}));
        let data = json!({"text": text});
        let out = mock.filter(&Allow).apply(&kind, &data);
        let denied = deny.iter().any(|deny| kind.starts_with(deny.trim_end_matches('*')));
        let expected = (!denied).then(|| Draft { kind, data: data.to_string() });
        prop_assert_eq!(out, expected.into_iter().collect::<Vec<_>>());
    }
}
