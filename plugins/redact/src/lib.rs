//! Takes out of what an agent says what should not leave: e-mail addresses, phone and card numbers, secrets, and what
//! the operator's own patterns find.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `config` | what the operator may set |
//! | `event` | which fields of an event are a stream, which are whole, and what is let out before it |
//! | `stream` | a text that comes in chunks: what may be let out, what is held back |
//! | `rules` | all rules, and what they say to one place of a text |
//! | `email`, `card`, `phone`, `secret` | the built-in rules; `digits`: what cards and phones have in common |
//! | `pattern` | the operator's own patterns |
//! | `verdict` | what a rule says to a place |
//! | `values` | JSON rewritten value by value |
//! | `state` | what is carried from one event to the next |
//!
//! Invariant: what a rule says to a place holds whatever follows, or it says that it has to see more. So the chunks of a
//! text together are the text redacted as a whole, wherever it was cut; and what is no match keeps its bytes.

mod card;
mod config;
mod digits;
mod email;
mod event;
mod pattern;
mod phone;
mod rules;
mod secret;
mod state;
mod stream;
mod values;
mod verdict;

#[cfg(test)]
mod tests;

use config::Config;
use plugway_sdk::{Admission, Draft, Filter, Prepared};
use rules::Rules;
use state::State;
use std::rc::Rc;

/// The filter.
struct Redact;

thread_local! {
    static RULES: Prepared<Result<Rc<Rules>, String>> = Prepared::new(|config: Config| Rules::new(&config).map(Rc::new));
}

/// Without rules nothing may pass: the host's policy for filters that trap says what becomes of the task.
fn rules() -> Rc<Rules> {
    let rules = RULES.with(Prepared::get).map_err(|error| error.to_string());
    rules.and_then(|rules| (*rules).clone()).unwrap_or_else(|error| panic!("{error}"))
}

impl Filter for Redact {
    fn admit(&self, input: &str) -> Admission {
        let rules = rules();
        if !rules.input {
            return Admission::Pass;
        }
        event::input(&rules, input).map_or(Admission::Pass, Admission::Replace)
    }

    fn apply(&self, _task: &str, state: &mut Vec<u8>, event: Draft) -> Vec<Draft> {
        let mut task = State::read(state);
        let events = event::apply(&rules(), &mut task, event);
        task.write(state);
        events
    }
}

plugway_sdk::export!(Redact: filter, config = Config, validate = Config::validate);
