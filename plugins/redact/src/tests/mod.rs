//! The filter against the mock host, with every way to cut a text.

mod events;
mod streams;
mod texts;

use crate::{Redact, config::Config, rules::Rules, stream::redact};
use plugway_sdk::{Draft, mock::Mock};
use serde_json::{Value, json};

/// Rules of a configuration.
fn rules(config: Value) -> Rules {
    let config: Config = serde_json::from_value(config).unwrap();
    config.validate().unwrap();
    Rules::new(&config).unwrap()
}

/// A text as the default configuration lets it out.
fn clean(text: &str) -> String {
    redact(&rules(json!({})), text).unwrap_or_else(|| text.to_owned())
}

/// Events as (kind, data) of what came out.
fn run(config: Value, events: &[(&str, Value)]) -> Vec<(String, Value)> {
    let mock = Mock::new();
    mock.config(config);
    let out = mock.filter(&Redact).run(events);
    out.into_iter().map(|Draft { kind, data }| (kind, serde_json::from_str(&data).unwrap())).collect()
}

/// The texts of the chunks, together.
fn said(events: &[(String, Value)]) -> String {
    let chunks = events.iter().filter(|(kind, _)| kind == "response_chunk");
    chunks.map(|(_, data)| data["text"].as_str().unwrap()).collect()
}
