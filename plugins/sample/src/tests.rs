//! The filter against the mock host, whose clock stands still until it is moved.

use crate::Sample;
use plugway_sdk::{Draft, Plugin, mock::Mock};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};
use std::time::Duration;

/// What comes out of events that come at times in milliseconds, each with the time at which it does.
fn run(config: Value, events: &[(u64, &str, Value)]) -> Vec<(u64, String, Value)> {
    let mock = Mock::new();
    Sample::check(&config.to_string()).unwrap();
    mock.config(config);
    let mut filter = mock.filter(&Sample);
    let mut now = 0;
    let mut out = Vec::new();
    for (at, kind, data) in events {
        mock.advance(Duration::from_millis(at - std::mem::replace(&mut now, *at)));
        out.extend(
            filter
                .apply(kind, data)
                .into_iter()
                .map(|Draft { kind, data }| (*at, kind, serde_json::from_str(&data).unwrap())),
        );
    }
    out
}

fn chunk(at: u64, text: &str) -> (u64, &str, Value) {
    (at, "response_chunk", json!({"text": text}))
}

fn progress(at: u64, progress: u32) -> (u64, &'static str, Value) {
    (at, "progress", json!({"progress": progress}))
}

fn texts(out: &[(u64, String, Value)]) -> Vec<(u64, &str)> {
    let chunks = out.iter().filter(|(_, kind, _)| kind == "response_chunk");
    chunks.map(|(at, _, data)| (*at, data["text"].as_str().unwrap())).collect()
}

#[test]
fn texts_come_together_until_it_is_time_or_they_are_enough() {
    let rules = json!({"rules": [{"kind": "response_chunk", "every_ms": 100, "bytes": 6}]});
    let out = run(
        rules,
        &[
            chunk(0, "a"),
            chunk(10, "b"),
            chunk(20, "c"),
            chunk(105, "d"),
            chunk(110, "efg"),
            chunk(120, "hij"),
            chunk(130, "k"),
            (140, "completed", json!({"text": "abcdefghijk"})),
        ],
    );
    assert_eq!(texts(&out), [(0, "a"), (105, "bcd"), (120, "efghij"), (140, "k")]);
    assert_eq!(out.last().unwrap().1, "completed");
}

#[test]
fn a_slow_stream_is_as_it_was() {
    let events = [chunk(0, "a"), chunk(100, "b"), chunk(300, "c")];
    let out = run(json!({}), &events);
    assert_eq!(texts(&out), [(0, "a"), (100, "b"), (300, "c")]);
}

#[test]
fn of_progress_the_last_one_comes() {
    let out = run(
        json!({}),
        &[
            progress(0, 1),
            progress(10, 2),
            progress(20, 3),
            (30, "tool_started", json!({})),
            progress(40, 4),
            (600, "tool_completed", json!({})),
            progress(610, 5),
            progress(620, 6),
            (700, "completed", json!({})),
        ],
    );
    let seen = out
        .iter()
        .map(|(at, kind, data)| (*at, kind.as_str(), data["progress"].as_u64()))
        .collect::<Vec<_>>();
    assert_eq!(
        seen,
        [
            (0, "progress", Some(1)),
            (30, "tool_started", None),
            (600, "progress", Some(4)),
            (600, "tool_completed", None),
            (700, "progress", Some(6)),
            (700, "completed", None),
        ]
    );
}

#[test]
fn with_first_those_between_are_left_out() {
    let rules = json!({"rules": [{"kind": "tick", "every_ms": 100, "mode": "first"}]});
    let tick = |at: u64| (at, "tick", json!({"at": at}));
    let out = run(rules, &[tick(0), tick(50), tick(99), tick(100), tick(150), (160, "failed", json!({}))]);
    assert_eq!(out.iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [0, 100, 160]);
}

#[test]
fn text_keeps_its_order_against_everything_that_comes_out() {
    let thought = |at: u64, text: &str, step: u32| (at, "thinking", json!({"thought": text, "step": step}));
    let out = run(
        json!({}),
        &[
            thought(0, "a", 1),
            thought(1, "b", 1),
            thought(2, "c", 1),
            thought(3, "d", 2),
            chunk(4, "A"),
            chunk(5, "B"),
            progress(6, 1),
            chunk(7, "C"),
            progress(8, 2),
            chunk(9, "D"),
            (10, "signal", json!({})),
            chunk(11, "E"),
            thought(12, "e", 2),
            (13, "cancelled", json!({})),
        ],
    );
    let seen = out.iter().map(|(_, kind, data)| match kind.as_str() {
        "thinking" => format!("{}{}", data["thought"].as_str().unwrap(), data["step"]),
        "response_chunk" => data["text"].as_str().unwrap().to_owned(),
        "progress" => format!("p{}", data["progress"]),
        other => other.to_owned(),
    });
    assert_eq!(
        seen.collect::<Vec<_>>(),
        ["a1", "bc1", "d2", "A", "B", "p1", "CD", "signal", "E", "p2", "e2", "cancelled"]
    );
}

#[test]
fn an_event_alone_keeps_its_bytes_and_a_merged_one_has_no_frame() {
    let raw = |at: u64, text: &'static str| {
        (at, "response_chunk", json!({"text": text, "raw": {"x": text}, "n": 1.0}))
    };
    let out = run(
        json!({}),
        &[
            raw(0, "a"),
            raw(1, "b"),
            (2, "signal", json!({})),
            raw(3, "c"),
            raw(4, "d"),
            (5, "failed", json!({})),
        ],
    );
    assert_eq!(out[1].2, json!({"text": "b", "n": 1.0}));
    assert_eq!(out[3].2, json!({"text": "cd", "n": 1.0}));
}

#[test]
fn a_clock_put_back_holds_nothing_up() {
    let mock = Mock::new();
    let mut state = Vec::new();
    let later = r#"{"slots":[{"kind":"progress","last_ms":99999999999999,"held":null}],"number":1}"#;
    state.extend_from_slice(later.as_bytes());
    let event = Draft { kind: "progress".into(), data: "{}".into() };
    assert_eq!(plugway_sdk::Filter::apply(&Sample, "t", &mut state, event.clone()), [event]);
    drop(mock);
}

#[test]
fn what_is_held_is_bounded() {
    let mock = Mock::new();
    mock.config(json!({"rules": [{"kind": "a", "every_ms": 60000}, {"kind": "response_chunk", "every_ms": 60000, "bytes": 32768}]}));
    let mut state = Vec::new();
    let mut kept = 0;
    for number in 0..2000 {
        let (kind, data) = match number % 3 {
            0 => ("a", json!({"x": "x".repeat(9000)})),
            _ => ("response_chunk", json!({"text": "y".repeat(1000)})),
        };
        let event = Draft { kind: kind.into(), data: data.to_string() };
        let out = plugway_sdk::Filter::apply(&Sample, "t", &mut state, event);
        kept += out
            .iter()
            .filter(|event| event.kind != "a")
            .map(|event| event.data.matches('y').count())
            .sum::<usize>();
        assert!(state.len() < 60 << 10, "{}", state.len());
    }
    let last = Draft { kind: "failed".into(), data: "{}".into() };
    let out = plugway_sdk::Filter::apply(&Sample, "t", &mut state, last);
    kept += out.iter().map(|event| event.data.matches('y').count()).sum::<usize>();
    assert_eq!(kept, 1_333_000);
    drop(mock);
}

#[test]
fn what_would_not_fit_beside_a_text_is_held_back_by_nothing() {
    let mock = Mock::new();
    let mut state = Vec::new();
    let steps = ["x".repeat(70_000), "\"".repeat(30_000), "\u{1}".repeat(9_000), "y".into()];
    for (at, step) in steps.iter().chain(&steps).enumerate() {
        let data = json!({"thought": format!("t{at}"), "step": step}).to_string();
        let event = Draft { kind: "thinking".into(), data };
        let out = plugway_sdk::Filter::apply(&Sample, "t", &mut state, event.clone());
        assert!(state.len() < 60 << 10, "{at}: {}", state.len());
        assert_eq!(out.contains(&event), step.len() > 1, "{at}");
    }
    drop(mock);
}

#[test]
fn a_wrong_setting_is_named() {
    let rule = |rule: Value| json!({"rules": [{"kind": "progress", "every_ms": 5}, rule]});
    let table = [
        (json!({"rule": []}), "unknown field `rule`"),
        (rule(json!({"kind": "a"})), "rules[1].every_ms: missing field"),
        (rule(json!({"kind": "", "every_ms": 1})), "rules[1].kind: name one"),
        (
            rule(json!({"kind": "progress", "every_ms": 1})),
            "rules[1].kind: there is a rule for `progress` already",
        ),
        (rule(json!({"kind": "completed", "every_ms": 1})), "rules[1].kind: `completed` is never held back"),
        (rule(json!({"kind": "a", "every_ms": 0})), "rules[1].every_ms: 0 is not within 1 and 60000"),
        (rule(json!({"kind": "a", "every_ms": 1, "mode": "last"})), "rules[1].mode: unknown variant `last`"),
        (rule(json!({"kind": "a", "every_ms": 1, "mode": "merge"})), "rules[1].field: name the field of `a`"),
        (
            rule(json!({"kind": "a", "every_ms": 1, "bytes": 1})),
            "rules[1].mode: `bytes` and `field` are for `merge`",
        ),
        (
            rule(json!({"kind": "thinking", "every_ms": 1, "mode": "first"})),
            "rules[1].mode: `thinking` is text",
        ),
        (
            rule(json!({"kind": "thinking", "every_ms": 1, "field": "text"})),
            "rules[1].field: the text of `thinking` is in `thought`",
        ),
        (
            rule(json!({"kind": "thinking", "every_ms": 1, "bytes": 0})),
            "rules[1].bytes: 0 would hold nothing back",
        ),
        (
            rule(json!({"kind": "thinking", "every_ms": 1, "bytes": 40000})),
            "rules: their `bytes` are 40000 together",
        ),
    ];
    for (config, expected) in table {
        let error = Sample::check(&config.to_string()).expect_err(expected);
        assert!(error.contains(expected), "{config}: {error}");
    }
    assert_eq!(Sample::check("{}"), Ok(()));
}

proptest! {
    #[test]
    fn nothing_of_a_text_is_lost_and_its_place_stays(
        events in proptest::collection::vec((0_u64..200, select(&["response_chunk", "thinking", "tool_started", "x", "progress"]), ".{0,4}"), 0..60),
        bytes in 1_usize..40,
    ) {
        let rules = json!({"rules": [
            {"kind": "response_chunk", "every_ms": 100, "bytes": bytes}, {"kind": "thinking", "every_ms": 150},
            {"kind": "progress", "every_ms": 120},
        ]});
        let mut now = 0;
        let mut given = Vec::new();
        for (wait, kind, text) in &events {
            now += wait;
            let data = match *kind {
                "thinking" => json!({"thought": text}),
                _ => json!({"text": text}),
            };
            given.push((now, *kind, data));
        }
        given.push((now, "completed", json!({})));
        let out = run(rules, &given);
        // Everything but progress, with neighbouring texts of one kind joined: the same before and after.
        let joined = |events: Vec<(&str, &Value)>| {
            let mut joined: Vec<(String, String)> = Vec::new();
            for (kind, data) in events.into_iter().filter(|(kind, _)| *kind != "progress") {
                let text = data["text"].as_str().or(data["thought"].as_str()).unwrap_or_default();
                match joined.last_mut() {
                    Some((last, all)) if last == kind && matches!(kind, "response_chunk" | "thinking") => all.push_str(text),
                    _ => joined.push((kind.to_owned(), text.to_owned())),
                }
            }
            joined
        };
        prop_assert_eq!(
            joined(out.iter().map(|(_, kind, data)| (kind.as_str(), data)).collect()),
            joined(given.iter().map(|(_, kind, data)| (*kind, data)).collect())
        );
        // The last progress comes through, and never two within the interval but for the last.
        let last = |events: Vec<(&str, &Value)>| events.into_iter().rev().find(|(kind, _)| *kind == "progress").map(|(_, data)| data.clone());
        prop_assert_eq!(
            last(out.iter().map(|(_, kind, data)| (kind.as_str(), data)).collect()),
            last(given.iter().map(|(_, kind, data)| (*kind, data)).collect())
        );
        let times = out.iter().filter(|(_, kind, _)| kind == "progress").map(|(at, ..)| *at).collect::<Vec<_>>();
        for pair in times.windows(2).rev().skip(1) {
            prop_assert!(pair[1] - pair[0] >= 120, "{times:?}");
        }
    }
}
