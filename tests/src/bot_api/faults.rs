//! What goes wrong, and when: by script, or at random from a seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Methods that change what a chat shows; only these fail at random.
pub(super) const WRITES: [&str; 3] = ["sendMessage", "editMessageText", "deleteMessage"];

/// One thing that goes wrong with one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// 429 with this many seconds of `retry_after`; meanwhile every write to the chat gets another.
    FloodControl(u64),
    /// This status, with a body that is no JSON, as a gateway before the Bot API answers.
    Status(u16),
    /// 400 with this description.
    Refused(&'static str),
    /// The connection is cut before the call was carried out.
    CutBefore,
    /// The call is carried out, then the connection is cut: its reply is lost.
    CutAfter,
    /// The call is carried out and answered, then nobody listens for so long: connections are refused.
    ClosedAfter(Duration),
}

/// Fails some calls of a method.
#[derive(Debug, Clone)]
pub struct Rule {
    method: &'static str,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// Fails the next call of `method`.
    pub fn next(method: &'static str, fault: Fault) -> Self {
        Self { method, skip: 0, times: 1, fault }
    }

    /// Begins after so many calls of the method, whatever becomes of them.
    pub fn after(mut self, calls: usize) -> Self {
        self.skip = calls;
        self
    }

    /// Fails so many calls in a row.
    pub fn times(mut self, calls: usize) -> Self {
        self.times = calls;
        self
    }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<Rule>,
    random: Option<(StdRng, f64, Vec<Fault>)>,
}

impl Faults {
    pub(super) fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub(super) fn at_random(&mut self, seed: u64, share: f64, faults: Vec<Fault>) {
        self.random = Some((StdRng::seed_from_u64(seed), share, faults));
    }

    /// Rules that have not failed as many calls as they are to.
    pub(super) fn unspent(&self) -> Vec<Rule> {
        self.rules.iter().filter(|rule| rule.times > 0).cloned().collect()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What goes wrong with this call.
    pub(super) fn next(&mut self, method: &str) -> Option<Fault> {
        let mut found = None;
        for rule in self.rules.iter_mut().filter(|rule| rule.method == method && rule.times > 0) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if found.is_none() {
                rule.times -= 1;
                found = Some(rule.fault.clone());
            }
        }
        if found.is_some() {
            return found;
        }
        let (generator, share, faults) = self.random.as_mut()?;
        let fails = WRITES.contains(&method) && generator.random_bool(*share);
        fails.then(|| faults.choose(generator).cloned()).flatten()
    }
}
