//! What a rule makes of an event, and when it lets go of what it holds.

use crate::{
    config::{Config, Mode, Rule},
    state::{Held, MOST, Slot, State, written},
};
use plugway_sdk::{Draft, Fields};

/// One event of a task, at a time in milliseconds since the Unix epoch.
pub(crate) fn apply(config: &Config, state: &mut State, event: Draft, now: u64) -> Vec<Draft> {
    let mut out = Vec::with_capacity(2);
    match &*event.kind {
        "completed" | "failed" | "cancelled" => {
            release(config, state, now, &mut out, |_, _| true);
            *state = State::default();
        }
        kind => {
            state.number += 1;
            // What is due waits no longer, unless this event takes its place or goes with it.
            let due = |rule: &Rule, slot: &Slot| rule.kind != event.kind && is_due(rule, slot, now);
            let progress = |rule: &Rule, slot: &Slot| rule.mode() == Mode::Latest && due(rule, slot);
            let lets_go = |slot: &Slot| {
                slot.held.is_some() && rule_of(config, &slot.kind).is_some_and(|rule| progress(rule, slot))
            };
            if state.slots.iter().any(lets_go) {
                release(config, state, now, &mut out, |rule, slot| is_text(rule) || progress(rule, slot));
            }
            release(config, state, now, &mut out, due);
            if let Some(rule) = rule_of(config, kind) {
                match rule.mode() {
                    Mode::Merge => merge(config, rule, state, event, now, &mut out),
                    mode => thin_out(config, rule, mode, state, event, now, &mut out),
                }
                return out;
            }
            release(config, state, now, &mut out, |rule, _| is_text(rule));
        }
    }
    out.push(event);
    out
}

/// One event an interval: the first, or the last.
fn thin_out(
    config: &Config,
    rule: &Rule,
    mode: Mode,
    state: &mut State,
    event: Draft,
    now: u64,
    out: &mut Vec<Draft>,
) {
    let (number, size) = (state.number, state.size());
    let slot = state.slot(&rule.kind);
    if is_due(rule, slot, now) || (mode == Mode::Latest && size + written(&event.data) > MOST) {
        (slot.held, slot.last_ms) = (None, Some(now));
        release(config, state, now, out, |rule, _| is_text(rule));
        out.push(event);
    } else if mode == Mode::Latest {
        slot.held = Some(Held { number, whole: Some(event.data), text: String::new(), rest: String::new() });
    }
}

/// Texts together, until it is time or there are enough of them.
fn merge(config: &Config, rule: &Rule, state: &mut State, event: Draft, now: u64, out: &mut Vec<Draft>) {
    release(config, state, now, out, |other, _| is_text(other) && other.kind != rule.kind);
    let number = state.number;
    let Some((text, rest)) = rule.field().and_then(|field| take_apart(&event.data, field)) else {
        // It has no text: it goes out as it is, behind what came before it.
        release(config, state, now, out, |other, _| other.kind == rule.kind);
        out.push(event);
        return;
    };
    // What differs in another field, as in the step of a thought, is not one text.
    if state.slot(&rule.kind).held.as_ref().is_some_and(|held| held.rest != rest) {
        release(config, state, now, out, |other, _| other.kind == rule.kind);
    }
    let slot = state.slot(&rule.kind);
    match &mut slot.held {
        Some(held) => {
            held.whole = None;
            held.text.push_str(&text);
        }
        None => slot.held = Some(Held { number, whole: Some(event.data), text, rest }),
    }
    let held = slot.held.as_ref().map_or(0, |held| held.text.len());
    if is_due(rule, slot, now) || held >= rule.bytes() || state.size() > MOST {
        release(config, state, now, out, |other, _| other.kind == rule.kind);
    }
}

/// Lets go of what is held by the rules that are asked for, in the order in which it came.
fn release(
    config: &Config,
    state: &mut State,
    now: u64,
    out: &mut Vec<Draft>,
    which: impl Fn(&Rule, &Slot) -> bool,
) {
    let mut released = Vec::new();
    for slot in &mut state.slots {
        // What a configuration of before held goes out too.
        let rule = rule_of(config, &slot.kind);
        if rule.is_some_and(|rule| !which(rule, slot)) {
            continue;
        }
        if let Some(held) = slot.held.take() {
            slot.last_ms = Some(now);
            let field = rule.and_then(Rule::field).unwrap_or(if slot.kind == "thinking" {
                "thought"
            } else {
                "text"
            });
            released.push((held.number, Draft { kind: slot.kind.clone(), data: data(held, field) }));
        }
    }
    released.sort_by_key(|(number, _)| *number);
    out.extend(released.into_iter().map(|(_, event)| event));
}

/// The data of what was held: an event alone as it came.
fn data(held: Held, field: &str) -> String {
    if let Some(whole) = held.whole {
        return whole;
    }
    let mut fields = Fields::parse("{}").unwrap_or_else(|| unreachable!("it is an object"));
    fields.set_text(field, &held.text);
    let text = fields.to_json();
    match held.rest.strip_prefix('{') {
        None | Some("}") => text,
        Some(rest) => format!("{},{rest}", text.trim_end_matches('}')),
    }
}

/// An event's text, and its other fields. The agent's own frame is one event's, so it is none of them.
fn take_apart(data: &str, field: &str) -> Option<(String, String)> {
    let mut fields = Fields::parse(data)?;
    let text = fields.text(field)?.into_owned();
    fields.remove(field);
    fields.remove("raw");
    Some((text, fields.to_json()))
}

/// Whether an event of the kind may go out: also where the clock was put back.
fn is_due(rule: &Rule, slot: &Slot, now: u64) -> bool {
    slot.last_ms.and_then(|last| now.checked_sub(last)).is_none_or(|since| since >= rule.every_ms)
}

fn is_text(rule: &Rule) -> bool {
    rule.mode() == Mode::Merge
}

fn rule_of<'a>(config: &'a Config, kind: &str) -> Option<&'a Rule> {
    config.rules.iter().find(|rule| rule.kind == kind)
}
