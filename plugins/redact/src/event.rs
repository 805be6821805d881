//! What becomes of an event: which of its fields are a stream, which are whole, and what is let out before it.

use crate::{
    answer::Answer,
    chunk::{chunk, draft},
    judge::Judge,
    rules::Rules,
    state::{Channel, Other, State},
    stream::Edge,
    values::{Leaf, Place, is_json, objects, quote, rewrite, unquote},
};
use plugway_sdk::{Draft, error, json};

pub(crate) const RESPONSE: (&str, &str) = ("response_chunk", "text");

/// Values that join events and messages.
pub(crate) const IDS: &[&[&str]] =
    &[&["call_id"], &["messages", "tool_call_id"], &["messages", "tool_calls", "id"]];
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
        "tool_started" | "tool_completed" | "approval_requested" | "approval_resolved" => {
            cut_others(rules, state, |_| true, &mut out);
            cut_response(rules, state, &mut out);
            out.push(whole(rules, event));
        }
        "completed" => out = completed(rules, state, event),
        "failed" | "cancelled" => {
            end(rules, &mut state.others, Edge::Broken, &mut out);
            out.extend(rest(rules, &mut state.response, Edge::Broken, RESPONSE));
            out.push(whole(rules, event));
        }
        "progress" => out.push(whole(rules, event)),
        _ => chunk(rules, state, event, &mut out),
    }
    out
}

/// A task's input; none if nothing in it matches.
///
/// # Errors
/// It can't be read.
pub(crate) fn input(rules: &Rules, input: &str) -> Result<Option<String>, &'static str> {
    if !is_json(input) {
        return Err("the input is no JSON object, so nothing can be taken out of it");
    }
    let mut judge = Judge::new(rules, INPUT_IDS);
    Ok(rewrite(input, &mut |place, leaf| judge.value(place, leaf)))
}

/// Lets out what a response may be cut behind, and remembers the place.
pub(crate) fn cut_response(rules: &Rules, state: &mut State, out: &mut Vec<Draft>) {
    let stream = &mut state.response.stream;
    if stream.can_cut() && state.said.can_cut() {
        state.said.cut();
        out.extend(draft(RESPONSE, &stream.cut(rules)));
    }
}

/// The same of other texts.
pub(crate) fn cut_others(
    rules: &Rules,
    state: &mut State,
    which: impl Fn(&Other) -> bool,
    out: &mut Vec<Draft>,
) {
    for other in state.others.iter_mut().filter(|other| which(other)) {
        out.extend(draft((&other.kind, &other.field), &other.channel.stream.cut(rules)));
    }
}

/// An event whose fields are whole.
pub(crate) fn whole(rules: &Rules, event: Draft) -> Draft {
    let mut judge = Judge::new(rules, IDS);
    rewritten(&event, &mut |place, leaf| judge.value(place, leaf)).unwrap_or(event)
}

/// What became of an event; none if it stays. The agent's own frame goes with the first value that is replaced.
fn rewritten<'e>(
    event: &'e Draft,
    judge: &mut dyn FnMut(Place<'_>, Leaf<'e>) -> Option<String>,
) -> Option<Draft> {
    if !is_object(&event.data) {
        return Some(unreadable(event));
    }
    rewrite(&event.data, judge).map(|data| without_frame(&event.kind, &data))
}

/// An event of a kind, without the agent's own frame.
pub(crate) fn without_frame(kind: &str, data: &str) -> Draft {
    if json::member(data, "raw").is_none() {
        return Draft { kind: kind.to_owned(), data: data.to_owned() };
    }
    let is_frame = |name: &str| unquote(&["\"", name, "\""].concat()).is_some_and(|name| name == "raw");
    let kept = json::members(data).filter(|member| !is_frame(member.name));
    let kept = kept.map(|member| ["\"", member.name, "\":", member.value].concat()).collect::<Vec<_>>();
    Draft { kind: kind.to_owned(), data: ["{", &kept.join(","), "}"].concat() }
}

pub(crate) fn is_object(data: &str) -> bool {
    data.trim_ascii_start().starts_with('{') && is_json(data)
}

/// What cannot be read is not let out.
pub(crate) fn unreadable(event: &Draft) -> Draft {
    error!("the data of an event `{}` is no JSON object: it is left out", event.kind);
    Draft { data: "{}".to_owned(), kind: event.kind.clone() }
}

fn completed(rules: &Rules, state: &mut State, event: Draft) -> Vec<Draft> {
    let mut out = Vec::with_capacity(2);
    let field = |name: &str| json::member(&event.data, name).and_then(unquote);
    let edge = match field("finish_reason").as_deref() {
        None | Some("" | "stop" | "tool_calls") => Edge::End,
        Some(_) => Edge::Broken,
    };
    end(rules, &mut state.others, edge, &mut out);
    let said = field("text");
    let unsaid = said.as_deref().and_then(|text| state.said.split(text)).map(|(_, unsaid)| unsaid);
    if let Some(unsaid) = unsaid
        && state.response.stream.hides()
    {
        // What was not streamed yet comes with what is held back: a match may be in both.
        out.extend(draft(RESPONSE, &state.response.stream.push(rules, unsaid, edge)));
    } else {
        // An answer that is another than what was said leaves that without an end.
        let edge = if said.is_some() && unsaid.is_none() { Edge::Broken } else { edge };
        out.extend(rest(rules, &mut state.response, edge, RESPONSE));
    }
    let others = others(&event.data);
    let mut answer = said.as_deref().map(|text| Answer::new(rules, &state.said, text, edge));
    let mut judge = Judge::new(rules, IDS);
    let last = rewritten(&event, &mut |place, leaf| {
        let of_message = matches!(place.path, ["messages", "content"] | ["messages", "content", "text"]);
        if let (Leaf::Text(json), Some(answer)) = (leaf, &mut answer)
            && let Some(part) =
                unquote(json).and_then(|text| answer.part(&text, of_message && !is_in(&others, json)))
        {
            return part.map(|part| quote(&part));
        }
        judge.value(place, leaf)
    });
    drop(answer);
    drop(said);
    out.push(last.unwrap_or(event));
    *state = State::default();
    out
}

/// Messages of the turn that the agent did not say, as results of tools.
fn others(data: &str) -> Vec<&str> {
    let messages = objects(json::member(data, "messages").unwrap_or_default());
    let is_other = |message: &&str| {
        json::member(message, "role").is_some_and(|role| unquote(role).is_none_or(|role| role != "assistant"))
    };
    messages.into_iter().filter(is_other).collect()
}

/// Whether a part of a text is in one of other parts of it, which are in order.
fn is_in(parts: &[&str], part: &str) -> bool {
    let begun = parts.partition_point(|other| other.as_ptr() <= part.as_ptr());
    parts[..begun].last().is_some_and(|other| other.as_bytes().as_ptr_range().contains(&part.as_ptr()))
}

/// The rest of all other texts.
fn end(rules: &Rules, others: &mut Vec<Other>, edge: Edge, out: &mut Vec<Draft>) {
    for mut other in others.drain(..) {
        out.extend(rest(rules, &mut other.channel, edge, (&other.kind, &other.field)));
    }
}

/// What is held back of a text, which ends here.
fn rest(rules: &Rules, channel: &mut Channel, edge: Edge, of: (&str, &str)) -> Option<Draft> {
    draft(of, &channel.stream.push(rules, "", edge))
}
