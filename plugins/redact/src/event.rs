//! What becomes of an event: which of its fields are a stream, which are whole, and what is let out before it.

use crate::{
    rules::Rules,
    state::State,
    stream::{Stream, redact},
    values::{Leaf, rewrite, text_end},
};
use plugway_sdk::{Draft, Fields, error};
use serde::de::IgnoredAny;
use std::borrow::Cow;

const RESPONSE: (&str, &str) = ("response_chunk", "text");
const THINKING: (&str, &str) = ("thinking", "thought");

/// Values that join events and messages: they are no text of the agent's.
const IDS: &[&[&str]] = &[&["call_id"], &["messages", "tool_call_id"], &["messages", "tool_calls", "id"]];
const INPUT_IDS: &[&[&str]] = &[
    &["kind"],
    &["call_id"],
    &["results", "call_id"],
    &["history", "tool_call_id"],
    &["history", "tool_calls", "id"],
];

/// One event of a task.
pub(crate) fn apply(rules: &Rules, state: &mut State, event: Draft) -> Vec<Draft> {
    let mut out = Vec::with_capacity(2);
    match &*event.kind {
        "response_chunk" => {
            out.extend(flush(rules, &mut state.thinking, THINKING));
            let said = &mut state.said;
            out.extend(chunk(rules, &mut state.response, RESPONSE, event, |text| said.hear(text)));
            return out;
        }
        "thinking" => {
            let alone = plain(&event.data, THINKING.1).is_some();
            let fields = if alone { None } else { Fields::parse(&event.data) };
            let step = fields.and_then(|fields| fields.get("step").map(str::to_owned)).unwrap_or_default();
            if step != state.step {
                out.extend(flush(rules, &mut state.thinking, THINKING));
                state.step = step;
            }
            out.extend(chunk(rules, &mut state.thinking, THINKING, event, |_| {}));
            return out;
        }
        "tool_started" | "tool_completed" | "approval_requested" | "approval_resolved" => {
            out.extend(flush(rules, &mut state.thinking, THINKING));
            if !state.response.held.is_empty() && !state.response.strong && state.said.can_cut() {
                state.said.cut();
                out.extend(flush(rules, &mut state.response, RESPONSE));
            }
        }
        "completed" => {
            out.extend(flush(rules, &mut state.thinking, THINKING));
            let last = completed(rules, state, event, &mut out);
            out.push(last);
            return out;
        }
        "failed" | "cancelled" => {
            out.extend(flush(rules, &mut state.thinking, THINKING));
            out.extend(flush(rules, &mut state.response, RESPONSE));
        }
        _ => {}
    }
    out.push(whole(rules, event, &|text| redact(rules, text)));
    out
}

/// A task's input; none if nothing in it matches.
pub(crate) fn input(rules: &Rules, input: &str) -> Option<String> {
    rewrite(input, &mut |path, leaf| judge(rules, INPUT_IDS, path, leaf, &|text| redact(rules, text)))
}

/// An event whose fields are whole. The agent's own frame goes with the first of them that is changed.
fn whole(rules: &Rules, event: Draft, text: &dyn Fn(&str) -> Option<String>) -> Draft {
    if serde_json::from_str::<IgnoredAny>(&event.data).is_err() {
        return unreadable(event);
    }
    let Some(data) = rewrite(&event.data, &mut |path, leaf| judge(rules, IDS, path, leaf, text)) else {
        return event;
    };
    let Some(mut fields) = Fields::parse(&data) else { return unreadable(event) };
    if fields.remove("raw") { Draft { data: fields.to_json(), ..event } } else { Draft { data, ..event } }
}

/// The answer as a whole, redacted as its chunks were: adapters compare the two.
fn completed(rules: &Rules, state: &mut State, event: Draft, out: &mut Vec<Draft>) -> Draft {
    let said = text_of(&event, ("completed", "text"));
    let parts = said.as_deref().and_then(|text| state.said.split(text));
    let held = !state.response.held.is_empty();
    if let Some((_, rest)) = parts
        && held
    {
        // What was not streamed yet comes with what is held back: a match may be in both.
        let last = state.response.push(rules, rest, true);
        out.extend((!last.is_empty()).then(|| draft(RESPONSE, &last)));
    } else {
        out.extend(flush(rules, &mut state.response, RESPONSE));
    }
    let clean = parts.map(|(parts, _)| {
        parts.into_iter().map(|part| Stream::default().push(rules, part, true)).collect::<String>()
    });
    let answer = said.as_deref().zip(clean);
    whole(rules, event.clone(), &|text| match &answer {
        Some((answer, clean)) if text == *answer => (clean != text).then(|| clean.clone()),
        _ => redact(rules, text),
    })
}

/// An event that carries a piece of a stream; none if all of it is held back.
fn chunk(
    rules: &Rules,
    stream: &mut Stream,
    of: (&'static str, &'static str),
    event: Draft,
    hear: impl FnOnce(&str),
) -> Option<Draft> {
    let Some(text) = text_of(&event, of) else {
        return Some(whole(rules, event, &|text| redact(rules, text)));
    };
    hear(&text);
    let held = !stream.held.is_empty();
    let clean = stream.push(rules, &text, false);
    let same = !held && stream.held.is_empty() && clean == *text;
    if plain(&event.data, of.1).is_some() {
        return if same { Some(event) } else { (!clean.is_empty()).then(|| draft(of, &clean)) };
    }
    // The other fields are whole, the agent's own frame too.
    let others = rewrite(&event.data, &mut |path, leaf| {
        if path == [of.1] { None } else { judge(rules, IDS, path, leaf, &|text| redact(rules, text)) }
    });
    if same && others.is_none() {
        return Some(event);
    }
    if clean.is_empty() && !same {
        return None;
    }
    let mut fields = Fields::parse(others.as_deref().unwrap_or(&event.data))?;
    fields.set_text(of.1, &clean);
    fields.remove("raw");
    Some(Draft { data: fields.to_json(), kind: event.kind.clone() })
}

/// What is held back of a stream, which ends here.
fn flush(rules: &Rules, stream: &mut Stream, of: (&str, &str)) -> Option<Draft> {
    let last = stream.finish(rules);
    (!last.is_empty()).then(|| draft(of, &last))
}

fn draft((kind, field): (&str, &str), text: &str) -> Draft {
    let data = ["{\"", field, "\":", &quote(text), "}"].concat();
    Draft { kind: kind.to_owned(), data }
}

/// Text as JSON.
fn quote(text: &str) -> String {
    // Only maps with keys that are no strings could fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// What cannot be read is not let out.
fn unreadable(event: Draft) -> Draft {
    error!("the data of an event `{}` is no JSON object: it is left out", event.kind);
    Draft { data: "{}".to_owned(), ..event }
}

/// What is put in a value's place.
fn judge(
    rules: &Rules,
    ids: &[&[&str]],
    path: &[&str],
    leaf: Leaf<'_>,
    text: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    if ids.contains(&path) {
        return None;
    }
    let json = match leaf {
        Leaf::Number(number) => {
            let digits = number.trim_start_matches('-');
            return rules.number(digits.strip_suffix(".0").unwrap_or(digits)).map(quote);
        }
        Leaf::Text(json) => json,
    };
    let value = unquote(json)?;
    let clean = if path.last() == Some(&"arguments")
        && value.trim_ascii_start().starts_with(['{', '['])
        && serde_json::from_str::<IgnoredAny>(&value).is_ok()
    {
        rewrite(&value, &mut |path, leaf| judge(rules, &[], path, leaf, text))
    } else {
        text(&value)
    };
    clean.map(|clean| quote(&clean))
}

/// The text of an event's field.
fn text_of<'a>(event: &'a Draft, (_, field): (&str, &str)) -> Option<Cow<'a, str>> {
    if let Some(text) = plain(&event.data, field) {
        return Some(text);
    }
    let fields = Fields::parse(&event.data)?;
    Some(Cow::Owned(fields.text(field)?.into_owned()))
}

/// The text where it is the only field: most chunks.
fn plain<'a>(data: &'a str, field: &str) -> Option<Cow<'a, str>> {
    let text = data.strip_prefix("{\"")?.strip_prefix(field)?.strip_prefix("\":")?.strip_suffix('}')?;
    if !text.starts_with('"') || text_end(text.as_bytes(), 1) != text.len() {
        return None;
    }
    unquote(text)
}

fn unquote(json: &str) -> Option<Cow<'_, str>> {
    if !json.contains('\\') {
        return Some(Cow::Borrowed(json.strip_prefix('"')?.strip_suffix('"')?));
    }
    serde_json::from_str(json).ok().map(Cow::Owned)
}
