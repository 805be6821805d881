//! A filter that does what its configuration says: without any, it passes everything.

use std::sync::OnceLock;
use std::time::Duration;

use plugway_sdk::prelude::*;
use plugway_sdk::{Admission, Draft, host};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Put behind every text.
    tag: String,
    /// Texts are made upper case.
    upper: bool,
    /// Texts of chunks are held back until the end.
    hold: bool,
    /// Kinds that are dropped.
    drop: Vec<String>,
    /// A `note` with its number goes before every chunk.
    note: bool,
    /// An answer becomes a failure with this error.
    block: String,
    /// Does `fault` where the data has this word.
    on: String,
    /// What it does wrong.
    fault: Option<Fault>,
    /// Inputs with this word are refused.
    refuse: String,
    /// Put behind the text of inputs.
    input_tag: String,
    /// Does `fault` with inputs that have this word.
    on_input: String,
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Fault {
    Trap,
    Loop,
    /// Takes half a second.
    Slow,
    /// Remembers a megabyte.
    State,
    /// Makes a thousand events of one.
    Many,
    /// Makes a text of a megabyte.
    Big,
    /// Makes data that is no JSON.
    Garbage,
    /// Drops the event, a terminal one too.
    Drop,
    /// Makes a terminal event of any.
    End,
    /// Repeats the event, a terminal one too.
    Twice,
    /// Claims that the run begins.
    Start,
    /// Writes more to its log than it may.
    Log,
}

/// Read once an instance: what an instance remembers beside a task's state holds for all tasks.
fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| host::config().expect("it was checked"))
}

struct Sieve;

impl Filter for Sieve {
    fn admit(&self, input: &str) -> Admission {
        let config = config();
        if has(input, &config.refuse) {
            return Admission::Refuse(format!("nothing about {}", config.refuse));
        }
        if has(input, &config.on_input) {
            match config.fault {
                Some(Fault::Garbage) => return Admission::Replace(r#"{"kind":7}"#.to_owned()),
                Some(Fault::Big) => {
                    return Admission::Replace(
                        json!({"kind": "message", "text": "x".repeat(1 << 20)}).to_string(),
                    );
                }
                _ => common(config.fault),
            }
        }
        if config.input_tag.is_empty() {
            return Admission::Pass;
        }
        let mut document: Value = serde_json::from_str(input).expect("the host checks inputs");
        for field in ["text", "query"] {
            if let Some(text) = document.get(field).and_then(Value::as_str) {
                document[field] = format!("{text}{}", config.input_tag).into();
            }
        }
        Admission::Replace(document.to_string())
    }

    fn apply(&self, _task: &str, state: &mut Vec<u8>, event: Draft) -> Vec<Draft> {
        let config = config();
        if has(&event.data, &config.on) {
            common(config.fault);
            match config.fault {
                Some(Fault::State) => *state = vec![b'x'; 1 << 20],
                Some(Fault::Many) => return vec![event; 1_000],
                Some(Fault::Big) => return vec![draft(&event.kind, &json!({"text": "x".repeat(1 << 20)}))],
                Some(Fault::Garbage) => return vec![Draft { data: "no JSON".to_owned(), ..event }],
                Some(Fault::Drop) => return Vec::new(),
                Some(Fault::End) => return vec![draft("completed", &json!({"text": "over"}))],
                Some(Fault::Twice) => return vec![event.clone(), event],
                Some(Fault::Start) => return vec![draft("started", &json!({"agent": "x", "attempt": 9}))],
                _ => {}
            }
        }
        if config.drop.contains(&event.kind) {
            return Vec::new();
        }
        if event.kind == "completed" && !config.block.is_empty() {
            return vec![draft("failed", &json!({"error": config.block}))];
        }
        if config.hold {
            return hold(state, event);
        }
        let event = changed(config, event);
        if config.note && event.kind == "response_chunk" {
            let number = state.first().copied().unwrap_or_default().wrapping_add(1);
            *state = vec![number];
            return vec![draft("note", &json!({ "number": number, "raw": "leak" })), event];
        }
        vec![event]
    }
}

fn has(text: &str, word: &str) -> bool {
    !word.is_empty() && text.contains(word)
}

/// What it can do wrong in any call.
fn common(fault: Option<Fault>) {
    match fault {
        Some(Fault::Trap) => panic!("on purpose"),
        Some(Fault::Loop) => loop {
            std::hint::black_box(0);
        },
        Some(Fault::Slow) => {
            let until = host::now() + Duration::from_secs(2);
            while host::now() < until {}
        }
        Some(Fault::Log) => (0..10_000).for_each(|line| plugway_sdk::info!("{line}: {}", "x".repeat(100))),
        _ => {}
    }
}

/// Keeps chunks back, and lets go of them as one at the end.
fn hold(state: &mut Vec<u8>, event: Draft) -> Vec<Draft> {
    match event.kind.as_str() {
        "response_chunk" => {
            state.extend_from_slice(text(&event).as_bytes());
            Vec::new()
        }
        "completed" | "failed" | "cancelled" if !state.is_empty() => {
            let held = String::from_utf8_lossy(&std::mem::take(state)).into_owned();
            vec![draft("response_chunk", &json!({ "text": held })), event]
        }
        _ => vec![event],
    }
}

fn changed(config: &Config, event: Draft) -> Draft {
    if (!config.upper && config.tag.is_empty()) || !event.data.contains("\"text\"") {
        return event;
    }
    let Ok(mut data) = serde_json::from_str::<Value>(&event.data) else { return event };
    let change = |text: &str| {
        let text = if config.upper { text.to_uppercase() } else { text.to_owned() };
        format!("{text}{}", config.tag)
    };
    if let Some(text) = data["text"].as_str() {
        data["text"] = change(text).into();
    }
    for message in data["messages"].as_array_mut().into_iter().flatten() {
        if let Some(text) = message["content"].as_str() {
            message["content"] = change(text).into();
        }
    }
    draft(&event.kind, &data)
}

fn text(event: &Draft) -> String {
    let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
    data["text"].as_str().unwrap_or_default().to_owned()
}

fn draft(kind: &str, data: &Value) -> Draft {
    Draft { kind: kind.to_owned(), data: data.to_string() }
}

plugway_sdk::export!(Sieve: filter, config = Config);
