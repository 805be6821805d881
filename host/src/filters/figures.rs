//! What is counted of a filter. Looked up once, since looking up costs more than counting.

use std::sync::Arc;

use metrics::{Counter, Histogram, counter, histogram};

use crate::plugins::Policy;

/// Where one filter's work is counted.
pub(super) struct Figures {
    name: Arc<str>,
    pub(super) apply_seconds: Histogram,
    pub(super) admit_seconds: Histogram,
    pub(super) passed: Counter,
    pub(super) replaced: Counter,
    pub(super) dropped: Counter,
    pub(super) inserted: Counter,
    pub(super) inputs_passed: Counter,
    pub(super) inputs_replaced: Counter,
    pub(super) inputs_refused: Counter,
}

impl Figures {
    pub(super) fn new(name: Arc<str>) -> Self {
        let seconds = |call: &'static str| histogram!("plugway_filter_call_seconds", "filter" => name.to_string(), "call" => call);
        let events = |outcome: &'static str| counter!("plugway_filter_events_total", "filter" => name.to_string(), "outcome" => outcome);
        let inputs = |outcome: &'static str| counter!("plugway_filter_inputs_total", "filter" => name.to_string(), "outcome" => outcome);
        Self {
            apply_seconds: seconds("apply"),
            admit_seconds: seconds("admit"),
            passed: events("passed"),
            replaced: events("replaced"),
            dropped: events("dropped"),
            inserted: events("inserted"),
            inputs_passed: inputs("passed"),
            inputs_replaced: inputs("replaced"),
            inputs_refused: inputs("refused"),
            name,
        }
    }

    /// Counts something that was not judged.
    pub(super) fn fault(&self, kind: &'static str, policy: Policy) {
        let policy = policy.as_str();
        counter!("plugway_filter_faults_total", "filter" => self.name.to_string(), "kind" => kind, "policy" => policy)
            .increment(1);
    }
}
