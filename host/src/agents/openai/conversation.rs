//! Puts tool calls and their results into the order that the API demands: an assistant message with calls is followed
//! at once by one result for each of them, and results stand nowhere else.
//!
//! What was said need not be in that order: the user may go on without answering a call, or answer several calls in
//! turns of their own, and a call may be too long ago to be told. So each call is told right before its latest result. A
//! call that has none gets one that says so, and a result whose call is not told is left out.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

/// What is told in the place of a result that has not come.
const NO_RESULT: &str = "no result so far";

/// A tool call of the conversation.
struct Call {
    /// As it stood in its message.
    call: Value,
    id: String,
    /// Index of the message that made it.
    made: usize,
    /// Index of its latest result.
    result: Option<usize>,
}

/// The messages in the order that the API demands, results in the order of their calls: some models' templates tell
/// them apart by that. Those that are in it already stay as they are.
pub(super) fn in_order(mut messages: Vec<Value>) -> Vec<Value> {
    let calls = take_calls(&mut messages);
    let results: HashMap<usize, usize> =
        calls.iter().enumerate().filter_map(|(number, call)| Some((call.result?, number))).collect();
    let mut calls: Vec<Option<Call>> = calls.into_iter().map(Some).collect();
    let (mut next_call, mut at) = (0, 0);
    let mut told = Vec::with_capacity(messages.len());
    while at < messages.len() {
        let speaker = (!is_result(&messages[at])).then_some(at);
        let first = if speaker.is_some() { at + 1 } else { at };
        let end = first + messages[first..].iter().take_while(|message| is_result(message)).count();
        if let Some(speaker) = speaker {
            let made =
                calls[next_call..].iter().take_while(|call| is_made_at(call.as_ref(), speaker)).count();
            let own = calls[next_call..next_call + made].iter_mut();
            // A call whose result came later is told there.
            let is_told_here = |call: &mut Call| call.result.is_none_or(|result| result < end);
            let own: Vec<Call> = own.filter_map(|call| call.take_if(is_told_here)).collect();
            next_call += made;
            let message = messages[speaker].take();
            tell(message, own, &mut messages, &mut told);
        }
        let moved: Vec<Call> =
            (first..end).filter_map(|result| calls[*results.get(&result)?].take()).collect();
        tell(json!({"role": "assistant", "content": null}), moved, &mut messages, &mut told);
        at = end;
    }
    told
}

/// Ids of the calls in the messages.
pub(super) fn call_ids(messages: &[Value]) -> HashSet<&str> {
    let said = messages.iter().filter(|message| message["role"] == "assistant");
    let calls = said.filter_map(|message| message["tool_calls"].as_array()).flatten();
    calls.filter_map(|call| call["id"].as_str()).collect()
}

/// Takes the calls out of their messages, in order. A result answers the latest call of its id: some servers begin to
/// count anew with each answer.
fn take_calls(messages: &mut [Value]) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut latest: HashMap<String, usize> = HashMap::new();
    for (at, message) in messages.iter_mut().enumerate() {
        if is_result(message) {
            let answered = message["tool_call_id"].as_str().and_then(|id| latest.get(id));
            if let Some(&number) = answered {
                calls[number].result = Some(at);
            }
        } else if message["role"] == "assistant"
            && let Some(Value::Array(made)) =
                message.as_object_mut().and_then(|message| message.remove("tool_calls"))
        {
            for call in made {
                let Some(id) = call["id"].as_str().map(str::to_owned) else { continue };
                latest.insert(id.clone(), calls.len());
                calls.push(Call { call, id, made: at, result: None });
            }
        }
    }
    calls
}

fn is_result(message: &Value) -> bool {
    message["role"] == "tool"
}

fn is_made_at(call: Option<&Call>, speaker: usize) -> bool {
    call.is_some_and(|call| call.made == speaker)
}

/// Tells a message with its calls, and behind it their results; nothing if there is nothing in it.
fn tell(mut message: Value, calls: Vec<Call>, messages: &mut [Value], told: &mut Vec<Value>) {
    let results: Vec<Value> = calls
        .iter()
        .map(|call| match call.result {
            Some(result) => messages[result].take(),
            None => json!({"role": "tool", "tool_call_id": call.id, "content": NO_RESULT}),
        })
        .collect();
    if !calls.is_empty() {
        message["tool_calls"] = calls.into_iter().map(|call| call.call).collect();
    } else if message.as_object().is_some_and(says_nothing) {
        return;
    }
    told.push(message);
    told.extend(results);
}

/// Whether an assistant message has nothing in it, as one whose calls are told elsewhere.
fn says_nothing(message: &Map<String, Value>) -> bool {
    let is_nothing =
        |value: &Value| value.is_null() || value == "" || value.as_array().is_some_and(Vec::is_empty);
    message["role"] == "assistant" && message.iter().all(|(name, value)| name == "role" || is_nothing(value))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a server that keeps to OpenAI's rules says against a conversation, in its words.
    pub(in super::super) fn refusal(messages: &[Value]) -> Option<String> {
        let mut due: HashSet<&str> = HashSet::new();
        for (at, message) in messages.iter().enumerate() {
            if is_result(message) {
                if !due.remove(message["tool_call_id"].as_str().unwrap()) {
                    return Some(format!(
                        "messages with role 'tool' must be a response to a preceeding message with 'tool_calls': {at}"
                    ));
                }
                continue;
            }
            if !due.is_empty() {
                return Some(format!("'tool_calls' must be followed by tool messages: {due:?} before {at}"));
            }
            let calls = message["tool_calls"].as_array();
            if message["role"] == "assistant"
                && message["content"].is_null()
                && calls.is_none_or(Vec::is_empty)
            {
                return Some(format!("expected a string, got null: {at}"));
            }
            due.extend(calls.into_iter().flatten().map(|call| call["id"].as_str().unwrap()));
        }
        (!due.is_empty()).then(|| format!("'tool_calls' must be followed by tool messages: {due:?}"))
    }

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }

    fn says(text: &str) -> Value {
        json!({"role": "assistant", "content": text})
    }

    fn calls(ids: &[&str]) -> Value {
        let call =
            |id: &&str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        json!({"role": "assistant", "content": null, "tool_calls": ids.iter().map(call).collect::<Vec<_>>()})
    }

    fn result(id: &str, text: &str) -> Value {
        json!({"role": "tool", "tool_call_id": id, "content": text})
    }

    fn ordered(messages: &[Value]) -> Vec<Value> {
        in_order(messages.to_vec())
    }

    #[test]
    fn what_is_in_order_stays_as_it_is() {
        let mut with_text = calls(&["d"]);
        with_text["content"] = "let me see".into();
        let messages = [
            user("weather?"),
            calls(&["a", "b"]),
            result("a", "1"),
            result("b", "2"),
            calls(&["c"]),
            result("c", "3"),
            with_text,
            result("d", "4"),
            says("fine"),
        ];
        assert_eq!(ordered(&messages), messages);
        assert_eq!(refusal(&messages), None);
    }

    #[test]
    fn a_call_that_nobody_answered_gets_a_result_that_says_so() {
        let messages = [user("weather?"), calls(&["a", "b"]), result("b", "2"), user("never mind")];
        assert_eq!(
            ordered(&messages),
            [
                user("weather?"),
                calls(&["a", "b"]),
                result("a", NO_RESULT),
                result("b", "2"),
                user("never mind")
            ]
        );
        assert_eq!(ordered(&[calls(&["a"])]), [calls(&["a"]), result("a", NO_RESULT)]);
    }

    #[test]
    fn a_call_is_told_where_its_result_came() {
        let messages = [
            user("weather?"),
            calls(&["a", "b", "c"]),
            result("a", "1"),
            says("b is missing"),
            result("c", "3"),
            result("b", "2"),
        ];
        assert_eq!(
            ordered(&messages),
            [
                user("weather?"),
                calls(&["a"]),
                result("a", "1"),
                says("b is missing"),
                calls(&["c", "b"]),
                result("c", "3"),
                result("b", "2"),
            ]
        );
        let messages = [calls(&["a"]), user("and?"), result("a", "1")];
        assert_eq!(ordered(&messages), [user("and?"), calls(&["a"]), result("a", "1")]);
    }

    #[test]
    fn the_latest_of_several_results_counts() {
        let messages = [calls(&["a"]), result("a", "1"), says("one"), result("a", "2")];
        assert_eq!(ordered(&messages), [says("one"), calls(&["a"]), result("a", "2")]);
        let messages = [calls(&["a"]), result("a", "1"), result("a", "2")];
        assert_eq!(ordered(&messages), [calls(&["a"]), result("a", "2")]);
    }

    #[test]
    fn a_result_belongs_to_the_latest_call_of_its_id() {
        let messages =
            [calls(&["a"]), result("a", "1"), says("one"), calls(&["a"]), result("a", "2"), calls(&["a"])];
        let expected = [&messages[..], &[result("a", NO_RESULT)]].concat();
        assert_eq!(ordered(&messages), expected);
    }

    #[test]
    fn a_result_whose_call_is_not_told_is_left_out() {
        let messages = [result("a", "1"), user("hi"), result("b", "2"), says("hello")];
        assert_eq!(ordered(&messages), [user("hi"), says("hello")]);
        let no_calls = json!({"role": "assistant", "content": "hello", "tool_calls": null});
        assert_eq!(ordered(&[no_calls]), [says("hello")]);
    }

    fn any_message() -> impl Strategy<Value = Value> {
        let id = prop::sample::select(vec!["a", "b", "c", "d"]);
        prop_oneof![
            Just(user("hi")),
            Just(says("hello")),
            prop::sample::subsequence(vec!["a", "b", "c", "d"], 1..4).prop_map(|ids| calls(&ids)),
            (id, 0..1000_u32).prop_map(|(id, number)| result(id, &number.to_string())),
        ]
    }

    proptest! {
        #[test]
        fn no_server_refuses_what_is_in_order(messages in prop::collection::vec(any_message(), 0..20)) {
            let ordered = ordered(&messages);
            prop_assert_eq!(refusal(&ordered), None);
            prop_assert_eq!(in_order(ordered.clone()), ordered.clone());
            if refusal(&messages).is_none() {
                prop_assert_eq!(ordered.len(), messages.len());
                prop_assert!(messages.iter().all(|message| ordered.contains(message)), "{:?}", ordered);
            }
            // What users and the assistant said is there, and every call once.
            let words = |messages: &[Value]| messages.iter().filter(|message| message["content"] == "hi").count();
            prop_assert_eq!(words(&ordered), words(&messages));
            let count = |messages: &[Value]| -> usize {
                messages.iter().filter_map(|message| message["tool_calls"].as_array()).map(Vec::len).sum()
            };
            prop_assert_eq!(count(&ordered), count(&messages));
            // A result that came last is told after all that was said before it.
            if let Some(last) = messages.last().filter(|last| is_result(last))
                && call_ids(&messages).contains(last["tool_call_id"].as_str().unwrap())
            {
                let is_said = |message: &&Value| !is_result(message) && message["tool_calls"].is_null();
                let mut rest = ordered.iter().rev().take_while(|message| !is_said(message));
                prop_assert!(rest.any(|told| told == last), "{:?}", ordered);
            }
        }
    }
}
