//! An event that brings pieces of streams: of each as much comes out as may, and the event as it was where that is all.

use crate::{
    config::Flow,
    event::{IDS, RESPONSE, cut_others, is_object, unreadable, without_frame},
    judge::{Judge, unreadable as unreadable_value},
    rules::Rules,
    state::{Channel, Said, State, step_hash},
    stream::{Edge, Piece, redact_to},
    values::{Leaf, quote, rewrite, text_end, unquote},
};
use plugway_sdk::{Draft, json};
use std::borrow::Cow;

/// What an agent's own frame says a message with.
const FRAME_TEXTS: &[&str] = &["token", "content", "text", "thought"];

/// An event with fields that are streams, or of a kind that nothing is known of.
pub(crate) fn chunk(rules: &Rules, state: &mut State, event: Draft, out: &mut Vec<Draft>) {
    if event.kind == RESPONSE.0
        && let Some(text) = plain(&event.data)
    {
        cut_others(rules, state, |_| true, out);
        let said = Taken::from(rules, &mut state.response, &text, Some(&mut state.said), Edge::Open);
        if said.clean == text {
            out.push(event);
        } else {
            out.extend(draft(RESPONSE, &said.clean));
        }
        return;
    }
    if !is_object(&event.data) {
        out.push(unreadable(&event));
        return;
    }
    before(rules, state, &event, out);
    let frame = json::member(&event.data, "raw").filter(|frame| frame.starts_with('{'));
    let closes = frame.is_some_and(|frame| json::member(frame, "is_final") == Some("true"));
    let mut texts = Texts { closes, ..Texts::default() };
    let mut judge = Judge::new(rules, IDS);
    let data = rewrite(&event.data, &mut |place, leaf| {
        if let (1, [field], Leaf::Text(json)) = (place.depth, place.path, leaf)
            && (*field == "text" && event.kind == RESPONSE.0 || rules.flow(&event.kind, field).is_some())
        {
            return texts.take(rules, state, &event.kind, field, json);
        }
        // What the frame says is what its event says.
        if matches!(leaf, Leaf::Text(json) if texts.judged.contains(&json))
            && place.path.first() == Some(&"raw")
        {
            return None;
        }
        judge.value(place, leaf)
    });
    out.append(&mut texts.before);
    let repeats = frame.is_some_and(|frame| {
        let text =
            |name: &&str| json::member(frame, name).filter(|text| text.starts_with('"') && *text != "\"\"");
        FRAME_TEXTS.iter().filter_map(text).any(|text| !texts.judged.contains(&text))
    });
    match data {
        None if texts.hides && repeats => out.push(without_frame(&event.kind, &event.data)),
        None => out.push(event),
        Some(data) if texts.is_all_of(&event.kind, &data) => {}
        Some(data) => out.push(without_frame(&event.kind, &data)),
    }
}

/// Lets out what other texts may be cut behind.
fn before(rules: &Rules, state: &mut State, event: &Draft, out: &mut Vec<Draft>) {
    if event.kind == RESPONSE.0 {
        return cut_others(rules, state, |_| true, out);
    }
    let fields = json::members(&event.data).filter(|member| rules.flow(&event.kind, member.name).is_some());
    let fields = fields.map(|member| member.name).collect::<Vec<_>>();
    if fields.is_empty() {
        return;
    }
    cut_others(rules, state, |other| other.kind != event.kind, out);
    if event.kind != "thinking" {
        return;
    }
    // A thought ends with its step.
    let step = step_hash(json::member(&event.data, "step").unwrap_or_default());
    for field in fields {
        if let Some(other) = state.other(&event.kind, field)
            && std::mem::replace(&mut other.step, step) != step
        {
            out.extend(draft((&other.kind, &other.field), &other.channel.stream.cut(rules)));
        }
    }
}

/// What becomes of the texts of one event.
#[derive(Debug, Default)]
struct Texts<'e> {
    /// It is the last of its message.
    closes: bool,
    /// What comes before it.
    before: Vec<Draft>,
    /// The texts as they are written, and the fields that they are in.
    judged: Vec<&'e str>,
    fields: Vec<String>,
    /// Something of their messages is held back, or was replaced.
    hides: bool,
    /// Something comes out in their place.
    says: bool,
}

impl<'e> Texts<'e> {
    /// What is put in place of a text that is a piece of a stream.
    fn take(
        &mut self,
        rules: &Rules,
        state: &mut State,
        kind: &str,
        field: &str,
        json: &'e str,
    ) -> Option<String> {
        let Some(text) = unquote(json) else {
            self.says = true;
            return Some(unreadable_value());
        };
        self.judged.push(json);
        self.fields.push(field.to_owned());
        let edge = match rules.flow(kind, field) {
            _ if self.closes => Edge::Cut,
            Some(Flow::Lines) => Edge::Cut,
            _ => Edge::Open,
        };
        let is_full = state.is_full();
        let channel = match kind == RESPONSE.0 {
            true => Some((&mut state.response, Some(&mut state.said))),
            false => state.other(kind, field).map(|other| (&mut other.channel, None)),
        };
        let Some((channel, said)) = channel else {
            // Too many at once: each piece is judged by itself.
            self.says = true;
            let clean = redact_to(rules, &text, Edge::Broken)?;
            self.hides = true;
            return Some(quote(&clean));
        };
        let edge = if is_full && said.is_none() { Edge::Broken } else { edge };
        let taken = Taken::from(rules, channel, &text, said, edge);
        self.hides |= channel.replaced || channel.stream.hides();
        if self.closes {
            channel.replaced = channel.stream.hides();
        }
        self.says |= !taken.clean.is_empty() || text.is_empty();
        if taken.clean == text {
            return None;
        }
        if taken.plain >= text.len()
            && let Some(held) = taken.clean.strip_suffix(&*text)
        {
            // What was held back comes by itself, and the piece as it was.
            self.before.extend(draft((kind, field), held));
            return None;
        }
        Some(quote(&taken.clean))
    }

    /// Whether the event had nothing but these texts, of which nothing comes out.
    fn is_all_of(&self, kind: &str, data: &str) -> bool {
        if self.fields.is_empty() {
            return false;
        }
        if self.says || matches!(kind, "response_chunk" | "thinking") {
            return !self.says;
        }
        let is_text = |name: &str| self.fields.iter().any(|field| field == name);
        let tells = |value: &str| !matches!(value, "null" | "true" | "false");
        json::members(data).all(|member| is_text(member.name) || member.name == "raw" || !tells(member.value))
    }
}

/// What comes out for a piece.
#[derive(Debug, Default)]
struct Taken {
    clean: String,
    /// Bytes at its end that are as they came.
    plain: usize,
}

impl Taken {
    fn from(rules: &Rules, channel: &mut Channel, text: &str, said: Option<&mut Said>, edge: Edge) -> Self {
        let mut taken = Self::default();
        let mut replaced = channel.replaced || !channel.stream.is_idle();
        let mut take = |piece: Piece<'_>| {
            taken.clean.push_str(piece.text());
            match piece {
                Piece::Plain(text, _) => taken.plain += text.len(),
                Piece::Replaced(..) => (taken.plain, replaced) = (0, true),
            }
        };
        channel.stream.push_to(rules, text, Edge::Open, &mut take);
        let cuts = edge == Edge::Cut && channel.stream.can_cut();
        let can_cut = said.as_ref().is_none_or(|said| said.can_cut());
        if let Some(said) = said {
            said.hear(text);
            if cuts && can_cut {
                said.cut();
            }
        }
        if edge == Edge::Broken || (cuts && can_cut) {
            channel.stream.push_to(rules, "", edge, &mut take);
        }
        channel.replaced = replaced;
        taken
    }
}

/// An event of a kind that says a text in a field; none if there is none.
pub(crate) fn draft((kind, field): (&str, &str), text: &str) -> Option<Draft> {
    let data = || ["{", &quote(field), ":", &quote(text), "}"].concat();
    (!text.is_empty()).then(|| Draft { kind: kind.to_owned(), data: data() })
}

/// The text where it is the only field: most chunks.
fn plain(data: &str) -> Option<Cow<'_, str>> {
    let text = data.strip_prefix("{\"text\":")?.strip_suffix('}')?;
    if !text.starts_with('"') || text_end(text.as_bytes(), 1) != text.len() {
        return None;
    }
    unquote(text)
}
