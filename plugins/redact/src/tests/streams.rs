//! Chunks together are the whole text redacted, wherever it was cut.

use super::{rules, run, said};
use crate::{
    rules::Rules,
    state::State,
    stream::{Edge, Stream, redact},
};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};
use std::rc::Rc;

/// What texts are made of: matches, what is nearly one, and what stands between.
const PIECES: &[&str] = &[
    "4111 1111 1111 1111",
    "4111-1111",
    "1111",
    "4",
    " ",
    "5555555555554444",
    "378282246310005",
    "12/25",
    "\n",
    ".",
    ",",
    "john",
    "@",
    "example",
    "example.com",
    "john@example.com",
    "-",
    "müller@grün.de",
    "漢字",
    "🙂",
    "+49",
    "30",
    "1234567",
    "+49 30 1234567",
    "030 12345",
    "(415) 555-2671",
    "(",
    ")",
    "0",
    "00",
    "sk-",
    "sk-abcdefghij0123456789ABC",
    "ghp_",
    "0123456789abcdefghijABCDEFGHIJ",
    "AKIAIOSFODNN7EXAMPLE",
    "AKIA",
    "eyJ",
    "eyJhbGciOiJIUzI1NiJ9",
    ".eyJzdWIiOiIxMjM0In0",
    "Bearer ",
    "abcdef0123456789abcdef",
    "-----BEGIN ",
    "PRIVATE KEY",
    "-----",
    "-----END ",
    "-----BEGIN RSA PRIVATE KEY-----\n",
    "MIIEowIBAAKCAQEA0123456789abcdefghij",
    "-----END RSA PRIVATE KEY-----",
    "xoxb-",
    "123456789:",
    "AAE-abcdefghijklmnopqrstuvwxyz01234",
    "TICKET-",
    "1234",
    "note: ",
    "\\n",
    "\\",
    "\\u003c",
    "\\u00",
    "3c",
    "Version: 1",
    ": ",
    "\t",
    "/",
    "DE89 ",
    "3704 ",
    "2x.",
    "()",
    "git@",
    "00 ",
    "1",
    "a",
    "x.",
];

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(select(PIECES), 0..24).prop_map(|pieces| pieces.concat())
}

/// The rules of `config`, compiled once.
fn own_rules() -> Rc<Rules> {
    thread_local! {
        static RULES: Rc<Rules> = Rc::new(rules(config()));
    }
    RULES.with(Rc::clone)
}

fn config() -> Value {
    json!({
        "hold_bytes": 32,
        "patterns": [{"name": "ticket", "pattern": r"\bTICKET-\d{4}\b"}, {"name": "note", "pattern": "note: .*"},
            {"name": "lazy", "pattern": r"x\..+?1"}],
    })
}

/// Cuts a text at places that are taken modulo its length.
fn cut<'a>(text: &'a str, places: &[usize]) -> Vec<&'a str> {
    let mut places =
        places.iter().map(|place| text.floor_char_boundary(place % (text.len() + 1))).collect::<Vec<_>>();
    places.push(text.len());
    places.sort_unstable();
    let mut from = 0;
    places.into_iter().map(|to| &text[std::mem::replace(&mut from, to)..to]).collect()
}

#[test]
fn a_card_number_in_three_chunks_or_a_character_at_a_time_does_not_get_out() {
    let text = "Your card 4111 1111 1111 1111 is fine.";
    let whole = json!({"text": text, "messages": [{"role": "assistant", "content": text}]});
    let one_by_one = text.split("").filter(|char| !char.is_empty()).collect::<Vec<_>>();
    for chunks in [vec!["Your card 4111 1", "111 1111 ", "1111 is fine."], one_by_one] {
        let mut events =
            chunks.iter().map(|chunk| ("response_chunk", json!({"text": chunk}))).collect::<Vec<_>>();
        events.push(("completed", whole.clone()));
        let out = run(json!({}), &events);
        assert_eq!(said(&out), "Your card [CARD] is fine.");
        let (_, last) = out.last().unwrap();
        assert_eq!(last["text"], "Your card [CARD] is fine.");
        assert_eq!(last["messages"][0]["content"], "Your card [CARD] is fine.");
        assert!(!format!("{out:?}").contains("1111"));
    }
}

#[test]
fn words_go_out_at_once() {
    let rules = rules(json!({}));
    let mut stream = Stream::default();
    for (chunk, out) in [
        ("Good ", "Good "),
        ("morning, ", "morning, "),
        ("Ada", ""),
        (" has", "Ada "),
        (" 3 ", "has "),
        ("eggs", "3 "),
    ] {
        assert_eq!(stream.push(&rules, chunk, Edge::Open), out);
    }
    assert_eq!(stream.push(&rules, "", Edge::End), "eggs");
}

#[test]
fn a_long_secret_is_not_held_back() {
    let rules = rules(json!({}));
    let mut stream = Stream::default();
    let mut out = stream.push(&rules, "-----BEGIN PRIVATE KEY-----\n", Edge::Open);
    for _ in 0..1000 {
        out += &stream.push(
            &rules,
            "MIIEowIBAAKCAQEA0123456789abcdefghijMIIEowIBAAKCAQEA0123456789ab\n",
            Edge::Open,
        );
        assert!(stream.held.len() < 128);
    }
    out += &stream.push(&rules, "-----END PRIVATE KEY-----\nsk-", Edge::Open);
    for _ in 0..1000 {
        out += &stream.push(&rules, "abcdefghij0123456789", Edge::Open);
        assert!(stream.held.len() < 128);
    }
    assert_eq!(out + &stream.push(&rules, "", Edge::End), "[SECRET]\n[SECRET]");
}

#[test]
fn what_turns_out_to_be_nothing_is_let_go() {
    let rules = rules(json!({}));
    for prefix in [
        "sk-",
        "eyJ",
        "Bearer ",
        "whsec_",
        "-----BEGIN ",
        "a@",
        "123456789:",
        "+",
        "-----BEGIN PRIVATE KEY-----",
    ] {
        for length in (0..80).chain(1000..1040) {
            let mut stream = Stream::default();
            for chunk in [prefix, &"a".repeat(length), "é, ", "and so on, "] {
                stream.push(&rules, chunk, Edge::Open);
            }
            assert!(
                stream.held.is_empty() || prefix.ends_with("KEY-----"),
                "{prefix} {length}: {}",
                stream.held
            );
            stream.push(&rules, &"and so on, ".repeat(10), Edge::Open);
            assert!(stream.held.is_empty(), "{prefix} {length}: {}", stream.held);
        }
    }
}

#[test]
fn what_an_own_pattern_holds_back_is_bounded() {
    let rules = rules(json!({
        "hold_bytes": 16, "email": false, "patterns": [{"name": "a", "pattern": "a.*z"}],
    }));
    let mut stream = Stream::default();
    for _ in 0..1000 {
        stream.push(&rules, "abcdef", Edge::Open);
        assert!(stream.held.len() <= 16, "{}", stream.held);
    }
    assert_eq!(redact(&rules, "a 345678901234z").unwrap(), "[A]");
    assert_eq!(redact(&rules, "a 34567890123456789z"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_text_comes_out_the_same_however_it_is_cut(text in text(), places in proptest::collection::vec(any::<usize>(), 0..12)) {
        let rules = own_rules();
        let whole = redact(&rules, &text).unwrap_or_else(|| text.clone());
        let mut stream = Stream::default();
        let mut out = cut(&text, &places).into_iter().map(|chunk| stream.push(&rules, chunk, Edge::Open)).collect::<String>();
        out += &stream.push(&rules, "", Edge::End);
        prop_assert_eq!(&out, &whole);
        // One character at a time, by way of the state's bytes.
        let mut state = State::default();
        let mut out = String::new();
        for char in text.chars() {
            out += &state.response.stream.push(&rules, char.encode_utf8(&mut [0; 4]), Edge::Open);
            let mut bytes = Vec::new();
            state.write(&mut bytes);
            prop_assert_eq!(State::read(&bytes), state.clone());
            prop_assert!(bytes.len() < 2048);
        }
        out += &state.response.stream.push(&rules, "", Edge::End);
        prop_assert_eq!(out, whole);
    }

    #[test]
    fn a_card_on_a_line_of_its_own_is_found_whatever_is_around_it(
        before in text(), after in text(), places in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let rules = own_rules();
        let text = format!("{before}\n4111 1111 1111 1111\n{after}");
        let mut stream = Stream::default();
        let mut out = cut(&text, &places).into_iter().map(|chunk| stream.push(&rules, chunk, Edge::Open)).collect::<String>();
        out += &stream.push(&rules, "", Edge::End);
        prop_assert!(!out.contains("\n4111 1111 1111 1111\n"), "{out}");
    }

    #[test]
    fn tool_calls_between_chunks_change_nothing_of_the_answer(
        before in text(),
        after in text(),
        places in proptest::collection::vec(any::<usize>(), 0..12),
        between in proptest::collection::vec(select(&["tool_started", "tool_completed", "progress", "thinking", "final", ""]), 13),
        rest in text(),
        streamed in any::<bool>(),
    ) {
        let text = format!("{before}\n4111 1111 1111 1111\n{after}");
        let mut events = Vec::new();
        for (chunk, other) in cut(&text, &places).into_iter().zip(&between) {
            events.push(("response_chunk", json!({"text": chunk})));
            match *other {
                "" => {}
                "final" => events.push(("response_chunk", json!({"text": "", "raw": {"token": null, "is_final": true}}))),
                "progress" => events.push(("progress", json!({"progress": 0.5, "message": "m"}))),
                "thinking" => events.push(("thinking", json!({"thought": "t"}))),
                other => events.push((other, json!({"call_id": "c", "tool_name": "f"}))),
            }
        }
        let all = if streamed { text.clone() } else { format!("{text}{rest}") };
        events.push(("completed", json!({"text": all, "messages": []})));
        let out = run(config(), &events);
        let (kind, last) = out.last().unwrap();
        prop_assert_eq!(&**kind, "completed");
        let (chunks, answer) = (said(&out), last["text"].as_str().unwrap());
        if streamed {
            prop_assert_eq!(chunks, answer);
        } else {
            prop_assert!(answer.starts_with(&chunks), "{:?} and {:?}", chunks, answer);
        }
        prop_assert!(!answer.contains("\n4111 1111 1111 1111\n"));
        let others = |events: &[(String, Value)]| events.iter().filter(|(kind, _)| kind.starts_with("tool")).count();
        let given = events.iter().filter(|(kind, _)| kind.starts_with("tool")).count();
        prop_assert_eq!(others(&out), given);
        // Every message's end comes through.
        let ends = |events: Vec<&Value>| events.into_iter().filter(|data| !data["raw"]["is_final"].is_null()).count();
        prop_assert_eq!(ends(out.iter().map(|(_, data)| data).collect()), ends(events.iter().map(|(_, data)| data).collect()));
    }

    #[test]
    fn thoughts_and_other_streams_are_texts_too(
        before in text(),
        after in text(),
        places in proptest::collection::vec(any::<usize>(), 0..12),
        between in proptest::collection::vec(select(&["tool_started", "progress", "response_chunk", "other", ""]), 13),
        (kind, field) in select(&[("thinking", "thought"), ("thinking", "token"), ("reasoning", "token")]),
        steps in proptest::collection::vec(0..2, 13),
    ) {
        let text = format!("{before}\n4111 1111 1111 1111\n{after}");
        let mut events = Vec::new();
        let mut cuts = false;
        for ((chunk, other), step) in cut(&text, &places).into_iter().zip(&between).zip(steps) {
            let step = if field == "thought" { step } else { 0 };
            cuts |= step == 1;
            events.push((kind, json!({field: chunk, "step": step})));
            match *other {
                "" => {}
                "response_chunk" => events.push((other, json!({"text": "fine. "}))),
                "other" => events.push((other, json!({"token": "fine. "}))),
                other => events.push((other, json!({"message": "m"}))),
            }
            cuts |= !matches!(*other, "" | "progress");
        }
        events.push(("completed", json!({"text": ""})));
        let out = run(config(), &events);
        let texts = out.iter().filter(|(name, _)| name == kind).filter_map(|(_, data)| data[field].as_str());
        let said = texts.collect::<String>();
        prop_assert!(!said.contains("\n4111 1111 1111 1111\n"), "{said}");
        if !cuts {
            prop_assert_eq!(said, redact(&own_rules(), &text).unwrap_or(text));
        }
    }

    #[test]
    fn half_of_a_surrogate_pair_hides_nothing(before in text(), after in text(), half in select(&["\\ud83d", "\\udc00"]), nested in any::<bool>()) {
        let text = format!("{before}\n4111 1111 1111 1111\n{after}");
        let mut json = format!("\"{half}{}", &serde_json::to_string(&text).unwrap()[1..]);
        if nested {
            json = serde_json::to_string(&format!("[{json}]")).unwrap();
        }
        for (kind, field) in [("signal", "x"), ("tool_started", "arguments"), ("response_chunk", "text"), ("thinking", "thought"), ("x", "token")] {
            let mut state = Vec::new();
            let mock = plugway_sdk::mock::Mock::new();
            let mut said = String::new();
            for (kind, data) in [(kind, format!("{{\"{field}\":{json}}}")), ("failed", "{}".to_owned())] {
                let draft = plugway_sdk::Draft { kind: kind.to_owned(), data };
                for event in plugway_sdk::Filter::apply(&crate::Redact, "t", &mut state, draft) {
                    said += &event.data;
                }
            }
            prop_assert!(!said.contains("\\n4111 1111 1111 1111\\"), "{kind}: {said}");
            drop(mock);
        }
    }

    #[test]
    fn what_is_broken_off_shows_no_half(before in text(), digits in 5_usize..16, end in select(&["failed", "cancelled", "completed"])) {
        let half = &"4111111111111111"[..digits];
        let text = format!("{before}\n{half}");
        let last = match end {
            "completed" => json!({"text": text, "finish_reason": "length", "messages": [{"role": "assistant", "content": text}]}),
            _ => json!({}),
        };
        let out = run(json!({}), &[("response_chunk", json!({"text": text})), ("thinking", json!({"thought": text})), (end, last)]);
        prop_assert!(!format!("{out:?}").contains(&format!("\\n{half}\"")), "{out:?}");
        let (_, last) = out.last().unwrap();
        if end == "completed" {
            prop_assert_eq!(last["text"].as_str().unwrap(), said(&out));
        }
        prop_assert_eq!(&last["messages"][0]["content"], &last["text"]);
    }

    #[test]
    fn no_input_breaks_it(text in any::<String>(), places in proptest::collection::vec(any::<usize>(), 0..6)) {
        let rules = own_rules();
        let mut stream = Stream::default();
        let mut out = cut(&text, &places).into_iter().map(|chunk| stream.push(&rules, chunk, Edge::Open)).collect::<String>();
        out += &stream.push(&rules, "", Edge::End);
        prop_assert_eq!(out, redact(&rules, &text).unwrap_or(text));
    }

    #[test]
    fn no_state_breaks_it(bytes in any::<Vec<u8>>(), chunk in ".*") {
        let mut state = State::read(&bytes);
        state.response.stream.push(&rules(json!({})), &chunk, Edge::Open);
    }
}
