//! Tokens, as the agent counted them, in the forms of both endpoints.

use serde_json::{Value, json};

/// What was counted; nothing where the agent did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    input: u64,
    cached: u64,
    output: u64,
    reasoning: u64,
    total: u64,
}

impl Usage {
    /// Reads what an agent reports, whichever names it has for it.
    pub(crate) fn read(usage: &Value) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| usage.pointer(name)?.as_u64());
        let input = first(&["/prompt_tokens", "/input_tokens"]).unwrap_or_default();
        let output = first(&["/completion_tokens", "/output_tokens"]).unwrap_or_default();
        let cached = first(&["/prompt_tokens_details/cached_tokens", "/input_tokens_details/cached_tokens"]);
        let reasoning = first(&[
            "/completion_tokens_details/reasoning_tokens",
            "/output_tokens_details/reasoning_tokens",
        ]);
        Self {
            input,
            cached: cached.unwrap_or_default(),
            output,
            reasoning: reasoning.unwrap_or_default(),
            total: first(&["/total_tokens"]).unwrap_or(input.saturating_add(output)),
        }
    }

    /// As chat completions have it.
    pub(crate) fn chat(self) -> Value {
        json!({
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.total,
            "prompt_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        })
    }

    /// As responses have it.
    pub(crate) fn response(self) -> Value {
        json!({
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.total,
        })
    }
}
