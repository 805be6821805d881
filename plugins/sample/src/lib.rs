//! Limits the rate of events by kind: progress is thinned out, streamed text is merged into fewer and larger pieces.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `config` | what the operator may set: a rule for each kind |
//! | `pace` | what a rule makes of an event, and when it lets go of what it holds |
//! | `state` | what is carried from one event of a task to the next |
//!
//! A filter has no timer: it looks at the clock when an event comes. What is held then goes out with the next event of
//! the task, whichever it is, and with the last one at the latest.
//!
//! Invariant: texts lose no character and keep their order against all other kinds that come out; a task's last event
//! lets go of everything.

mod config;
mod pace;
mod state;

#[cfg(test)]
mod tests;

use config::Config;
use plugway_sdk::{Draft, Filter, Prepared, host};
use state::State;
use std::time::SystemTime;

/// The filter.
struct Sample;

thread_local! {
    static CONFIG: Prepared<Config> = Prepared::new(Config::with_defaults);
}

impl Filter for Sample {
    fn apply(&self, _task: &str, state: &mut Vec<u8>, event: Draft) -> Vec<Draft> {
        let config = CONFIG.with(Prepared::get);
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let now = host::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut held = State::read(state);
        let events = pace::apply(&config, &mut held, event, now.as_millis() as u64);
        held.write(state);
        events
    }
}

plugway_sdk::export!(Sample: filter, config = Config, validate = Config::validate);
