//! What a filter may make of an event: pure rules.
//!
//! Invariant: a terminal event stays the one terminal event, and the last one; no other becomes one. What a filter made
//! or changed holds no `raw`, the agent's own frame.

use serde_json::{Map, Value};

use crate::domain::ErrorType;
use crate::plugins::{Draft, FilterFault};

/// Longest name of a kind that a filter may make up, in bytes.
const KIND: usize = 64;

/// What became of the event itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Replaced,
    Dropped,
}

/// What is to be counted of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) outcome: Outcome,
    pub(super) inserted: usize,
}

/// Whether an event of that kind ends its task.
pub(super) fn is_terminal(kind: &str) -> bool {
    matches!(kind, "completed" | "failed" | "cancelled")
}

/// Checks what a filter made of an event, and cleans it.
///
/// # Errors
/// The filter may not do that.
pub(super) fn check(event: &Draft, mut step: Vec<Draft>) -> Result<(Vec<Draft>, Tally), FilterFault> {
    check_kinds(event, &step)?;
    let mut passed = false;
    for draft in &mut step {
        if draft == event {
            passed = true;
            continue;
        }
        check_name(event, &draft.kind)?;
        clean(draft)?;
    }
    let outcome = match (passed, step.is_empty()) {
        (true, _) => Outcome::Passed,
        (false, false) => Outcome::Replaced,
        (false, true) => Outcome::Dropped,
    };
    let tally = Tally { outcome, inserted: step.len().saturating_sub(1) };
    Ok((step, tally))
}

fn check_kinds(event: &Draft, step: &[Draft]) -> Result<(), FilterFault> {
    let rule = |reason: &str| Err(FilterFault::new("rule", reason));
    let before = match step.split_last() {
        _ if !is_terminal(&event.kind) => step,
        None => return rule("it dropped a terminal event"),
        Some((last, before)) => {
            let fits = last.kind == event.kind || (event.kind == "completed" && last.kind == "failed");
            if !fits {
                return rule("it did not end what it made of a terminal event with one of the same kind");
            }
            before
        }
    };
    if before.iter().any(|draft| is_terminal(&draft.kind)) {
        return rule("it made a terminal event where there was none");
    }
    if step.iter().any(|draft| draft.kind == "started") {
        return rule("it made an event of the kind `started`, which is the gateway's");
    }
    Ok(())
}

fn check_name(event: &Draft, kind: &str) -> Result<(), FilterFault> {
    let is_name = (1..=KIND).contains(&kind.len()) && kind.bytes().all(|byte| byte.is_ascii_graphic());
    if kind == event.kind || is_name {
        return Ok(());
    }
    Err(FilterFault::new(
        "invalid",
        "it made an event whose kind is no name of 1 to 64 visible ASCII characters",
    ))
}

/// Takes the agent's own frame out, and fills in what those who read a failure rely on.
fn clean(draft: &mut Draft) -> Result<(), FilterFault> {
    let Ok(mut data) = serde_json::from_str::<Map<String, Value>>(&draft.data) else {
        return Err(FilterFault::new("invalid", "it made an event whose data is no JSON object"));
    };
    let had_raw = data.remove("raw").is_some();
    let completed = draft.kind == "failed" && complete_failure(&mut data);
    if had_raw || completed {
        draft.data = Value::Object(data).to_string();
    }
    Ok(())
}

/// True: something was missing.
fn complete_failure(data: &mut Map<String, Value>) -> bool {
    let known = |value: &Value| serde_json::from_value::<ErrorType>(value.clone()).is_ok();
    let mut missing = false;
    let mut fill = |name: &str, fits: &dyn Fn(&Value) -> bool, value: Value| {
        if !data.get(name).is_some_and(fits) {
            data.insert(name.to_owned(), value);
            missing = true;
        }
    };
    fill("error", &Value::is_string, "a filter ended the task".into());
    fill("error_type", &known, ErrorType::Filter.as_str().into());
    fill("recoverable", &Value::is_boolean, false.into());
    fill("retry_count", &Value::is_u64, 0.into());
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(kind: &str, data: &str) -> Draft {
        Draft { kind: kind.into(), data: data.into() }
    }

    fn chunk(text: &str) -> Draft {
        draft("response_chunk", &format!(r#"{{"text":"{text}"}}"#))
    }

    fn fault(event: &Draft, step: Vec<Draft>) -> &'static str {
        check(event, step).unwrap_err().kind
    }

    #[test]
    fn what_is_returned_as_it_was_stays_as_it_was() {
        let event = draft("tool_thing", r#"{ "raw": {"a": 1.50}, "b": 2 }"#);
        let (events, tally) = check(&event, vec![event.clone()]).unwrap();
        assert_eq!(events, [event]);
        assert_eq!(tally, Tally { outcome: Outcome::Passed, inserted: 0 });
    }

    #[test]
    fn what_is_changed_or_inserted_loses_the_agents_own_frame_however_it_is_written() {
        let event = draft("response_chunk", r#"{"text":"a","raw":{"secret":1}}"#);
        let step = vec![
            draft("response_chunk", r#"{"text":"b","raw":{"secret":1}}"#),
            draft("response_chunk", r#"{"text":"c","\u0072aw":{"secret":1}}"#),
            draft("renamed", r#"{"text":"a","raw":{"secret":1}}"#),
            draft("note", r#"{ "n": 1.50 }"#),
        ];
        let (events, tally) = check(&event, step).unwrap();
        let data: Vec<_> = events.iter().map(|event| event.data.as_str()).collect();
        assert_eq!(data, [r#"{"text":"b"}"#, r#"{"text":"c"}"#, r#"{"text":"a"}"#, r#"{ "n": 1.50 }"#]);
        assert_eq!(tally, Tally { outcome: Outcome::Replaced, inserted: 3 });
    }

    #[test]
    fn a_terminal_event_stays_the_one_and_the_last() {
        let end = draft("completed", r#"{"text":"x"}"#);
        assert_eq!(fault(&end, vec![]), "rule");
        assert_eq!(fault(&end, vec![chunk("a")]), "rule");
        assert_eq!(fault(&end, vec![end.clone(), end.clone()]), "rule");
        assert_eq!(fault(&end, vec![end.clone(), chunk("late")]), "rule");
        assert_eq!(fault(&end, vec![draft("cancelled", "{}")]), "rule");
        let failed = draft("failed", r#"{"error":"e"}"#);
        assert_eq!(fault(&failed, vec![end.clone()]), "rule");
        assert_eq!(fault(&draft("cancelled", "{}"), vec![failed]), "rule");
        let (events, tally) = check(&end, vec![chunk("held back"), end.clone()]).unwrap();
        assert_eq!((events.len(), tally.outcome, tally.inserted), (2, Outcome::Passed, 1));
    }

    #[test]
    fn no_other_event_becomes_terminal_or_the_gateways() {
        for kind in ["completed", "failed", "cancelled", "started"] {
            assert_eq!(fault(&chunk("a"), vec![draft(kind, "{}")]), "rule", "{kind}");
            assert_eq!(fault(&chunk("a"), vec![chunk("a"), draft(kind, "{}")]), "rule", "{kind}");
        }
        let (events, tally) = check(&chunk("a"), vec![]).unwrap();
        assert_eq!((events.len(), tally), (0, Tally { outcome: Outcome::Dropped, inserted: 0 }));
    }

    #[test]
    fn an_answer_may_be_blocked_and_the_failure_has_what_its_readers_rely_on() {
        let end = draft("completed", r#"{"text":"x"}"#);
        let step = vec![draft("failed", r#"{"error":"blocked","error_type":"cats"}"#)];
        let (events, _) = check(&end, step).unwrap();
        let data: Value = serde_json::from_str(&events[0].data).unwrap();
        let expected = r#"{"error":"blocked","error_type":"filter","recoverable":false,"retry_count":0}"#;
        assert_eq!(data, serde_json::from_str::<Value>(expected).unwrap());
    }

    #[test]
    fn what_is_no_event_is_a_fault() {
        for data in ["", "[]", "null", "{", r#"{"a":1} x"#, "7"] {
            assert_eq!(fault(&chunk("a"), vec![draft("response_chunk", data)]), "invalid", "{data}");
        }
        for kind in ["", "a b", "a\nb", "ü", &"k".repeat(65)] {
            assert_eq!(fault(&chunk("a"), vec![draft(kind, "{}")]), "invalid", "{kind}");
        }
        // What an agent named is not the filter's fault.
        let odd = draft("a b", r#"{"x":1}"#);
        assert!(check(&odd, vec![draft("a b", r#"{"x":2}"#)]).is_ok());
    }
}
