//! Takes out of what an agent says what should not leave: e-mail addresses, phone and card numbers, secrets, and what
//! the operator's own patterns find.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `config` | what the operator may set |
//! | `event` | which fields of an event are a stream, which are whole, and what is let out before it |
//! | `chunk` | an event that brings pieces of streams |
//! | `answer` | the answer as a whole, redacted as its chunks were |
//! | `judge` | what is put in place of a value |
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

mod answer;
mod card;
mod chunk;
mod config;
mod digits;
mod email;
mod event;
mod judge;
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
    /// Whether input is judged: most don't ask for it, and should not pay for the rules.
    static INPUT: Prepared<bool> = Prepared::new(|config: Config| config.input);
    static RULES: Prepared<Result<Rc<Rules>, String>> = Prepared::new(|config: Config| Rules::new(&config).map(Rc::new));
}

/// Without rules nothing may pass: the host's policy for filters that trap says what becomes of the task.
fn rules() -> Rc<Rules> {
    let rules = RULES.with(Prepared::get).map_err(|error| error.to_string());
    rules.and_then(|rules| (*rules).clone()).unwrap_or_else(|error| panic!("{error}"))
}

impl Filter for Redact {
    fn admit(&self, input: &str) -> Admission {
        let judged = INPUT.with(Prepared::get);
        if !*judged.unwrap_or_else(|error| panic!("{error}")) {
            return Admission::Pass;
        }
        match event::input(&rules(), input) {
            Ok(None) => Admission::Pass,
            Ok(Some(input)) => Admission::Replace(input),
            Err(why) => Admission::Refuse(why.to_owned()),
        }
    }

    fn apply(&self, _task: &str, state: &mut Vec<u8>, event: Draft) -> Vec<Draft> {
        let mut task = State::read(state);
        let events = event::apply(&rules(), &mut task, event);
        task.write(state);
        events
    }
}

plugway_sdk::export!(Redact: filter, config = Config, validate = Config::validate);
