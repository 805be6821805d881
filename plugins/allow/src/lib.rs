//! Decides which kinds of events an audience gets, and which of their fields.
//!
//! Invariant: what ends a task always passes: without it nobody could tell that it is over.

mod config;

#[cfg(test)]
mod tests;

use config::Config;
use plugway_sdk::{Draft, Fields, Filter, Prepared, error};

/// The filter.
struct Allow;

thread_local! {
    static CONFIG: Prepared<Config> = Prepared::new(|config| config);
}

impl Filter for Allow {
    fn apply(&self, _task: &str, _state: &mut Vec<u8>, event: Draft) -> Vec<Draft> {
        let config = CONFIG.with(Prepared::get);
        // Without a word of the operator's nothing may pass: the host's policy for filters that trap says what happens.
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        if !config.allows(&event.kind) {
            return Vec::new();
        }
        let names = config.stripped(&event.kind);
        if names.is_empty() {
            return vec![event];
        }
        let Some(mut fields) = Fields::parse(&event.data) else {
            error!("the data of an event `{}` is no JSON object: it is left out", event.kind);
            return vec![Draft { data: "{}".to_owned(), ..event }];
        };
        // The agent's own frame tells what is taken out.
        let mut changed = fields.remove("raw");
        for name in names {
            changed |= fields.remove(name);
        }
        if changed { vec![Draft { data: fields.to_json(), ..event }] } else { vec![event] }
    }
}

plugway_sdk::export!(Allow: filter, config = Config, validate = Config::validate);
