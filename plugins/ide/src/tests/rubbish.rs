//! Whatever an IDE sends, it gets an answer, and the connection goes on.

use super::*;
use plugway_sdk::Frame;
use proptest::prelude::*;

/// Any JSON.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A frame of the protocol with fields of any kind.
fn near_miss() -> impl Strategy<Value = String> {
    let kinds = ["user_message", "tool_result", "switch_agent", "hitl_decision", "cancel", "other"];
    let names = [
        "content",
        "role",
        "call_id",
        "result",
        "error",
        "agent_type",
        "reason",
        "decision",
        "modified_arguments",
        "feedback",
        "idempotency_key",
        "raw",
        "forward",
        "kind",
    ];
    let word = prop_oneof![
        value(),
        prop::sample::select(vec!["user", "edit", "approve", "c1", ""]).prop_map(Value::from),
    ];
    let fields = prop::collection::vec((prop::sample::select(names.to_vec()), word), 0..6);
    (prop::sample::select(kinds.to_vec()), fields).prop_map(|(kind, fields)| {
        let mut frame = json!({"type": kind});
        for (name, value) in fields {
            frame[name] = value;
        }
        frame.to_string()
    })
}

/// A text with a piece cut out, or one put in.
fn torn() -> impl Strategy<Value = String> {
    (near_miss(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), ".{0,3}").prop_map(
        |(text, from, to, put)| {
            let chars: Vec<char> = text.chars().collect();
            let (from, to) = (from.index(chars.len()), to.index(chars.len()));
            chars[..from].iter().copied().chain(put.chars()).chain(chars[to..].iter().copied()).collect()
        },
    )
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        ".{0,80}".prop_map(Frame::Text),
        value().prop_map(|value| Frame::Text(value.to_string())),
        near_miss().prop_map(Frame::Text),
        torn().prop_map(Frame::Text),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Frame::Binary),
    ]
}

proptest! {
    #[test]
    fn a_frame_is_a_turn_a_cancel_or_an_error(frames in prop::collection::vec(frame(), 1..12)) {
        let mock = mock();
        says(&mock, Script::new());
        let cancels = |frame: &&Frame| match frame {
            Frame::Text(text) => serde_json::from_str::<Value>(text).is_ok_and(|frame| frame["type"] == "cancel"),
            Frame::Binary(_) => false,
        };
        let cancels = frames.iter().filter(cancels).count();
        let mut upgrade = mock.websocket("/ws/s");
        for frame in &frames {
            upgrade = upgrade.frame(frame.clone());
        }
        let served = stay(upgrade);
        let errors = served.json().iter().filter(|frame| frame["type"] == "error").count();
        let turns = mock.submissions().len();
        prop_assert!(turns + errors <= frames.len());
        prop_assert!(turns + errors + cancels >= frames.len());
        for frame in served.json() {
            prop_assert!(frame["type"] == "done" || frame["content"].as_str().is_some_and(|said| !said.is_empty()));
        }
    }

    #[test]
    fn an_agents_frame_comes_through_whatever_it_is(frame in value(), cursors: bool) {
        let frame = json!({"type": "x", "frame": frame, "null": null, "last": 1});
        let mock = mock();
        says(&mock, Script::new().framed("x", json!({}), &frame));
        let path = if cursors { "/ws/s?cursors=true" } else { "/ws/s" };
        let mut said = stay(mock.websocket(path).json(&user("hi"))).json().remove(0);
        // Reading a number may round it.
        let mut expected: Value = serde_json::from_str(&frame.to_string()).unwrap();
        expected.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let cursor = said.as_object_mut().unwrap().remove("cursor");
        prop_assert_eq!(said, expected);
        prop_assert_eq!(cursor.is_some(), cursors);
    }

    #[test]
    fn any_after_is_gone_on_from_or_refused(after in ".{0,20}") {
        let mock = mock();
        stay(mock.websocket("/ws/s").query("after", &after).json(&user("hi")));
        prop_assert_eq!(mock.submissions().len(), 1);
    }
}
