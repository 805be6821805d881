//! What the operator may set. Unknown names are refused, so that a typing error does not pass for a setting.

use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Kinds that always pass.
const ALWAYS: &[&str] = &["completed", "failed", "cancelled"];

/// Kinds with a meaning of their own; all others are unknown.
const CANONICAL: &[&str] = &[
    "thinking",
    "tool_started",
    "tool_completed",
    "progress",
    "response_chunk",
    "approval_requested",
    "approval_resolved",
    "completed",
    "failed",
    "cancelled",
    "signal",
];

/// Configuration of the allow filter.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Kinds that pass, and no others; all do if none. A `*` at the end stands for anything, as `workflow_*`.
    pub(crate) kinds: Option<Vec<String>>,
    /// Kinds that don't pass, written as in `kinds`. Instead of `kinds`.
    pub(crate) deny: Vec<String>,
    /// What happens to kinds that are neither canonical nor named: `pass` or `drop`; by default they are dropped where
    /// `kinds` is set, and pass otherwise.
    pub(crate) unknown: Option<Unknown>,
    /// Fields to take out, by kind; under `*` those of all kinds. The agent's own frame (`raw`) of these kinds goes too.
    pub(crate) strip: BTreeMap<String, Vec<String>>,
}

/// What happens to unknown kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unknown {
    /// They pass.
    Pass,
    /// They don't.
    Drop,
}

impl Config {
    /// Rules beyond the types.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.kinds.is_some() && !self.deny.is_empty() {
            return Err("deny: `kinds` says already what passes: leave one of the two out".to_owned());
        }
        for (field, kinds) in [("kinds", self.kinds.as_deref().unwrap_or_default()), ("deny", &self.deny)] {
            for (at, kind) in kinds.iter().enumerate() {
                kind_is_one(&format!("{field}[{at}]"), kind)?;
            }
        }
        for (at, kind) in self.deny.iter().enumerate() {
            // `*` is all that may be denied.
            if let Some(always) = ALWAYS.iter().find(|always| kind != "*" && matches(kind, always)) {
                return Err(format!(
                    "deny[{at}]: `{always}` always passes, tasks begin and end by it: take it out, or write kinds that it is none of"
                ));
            }
        }
        for (kind, names) in &self.strip {
            kind_is_one(&format!("strip.{kind}"), kind)?;
            if names.is_empty() || names.iter().any(String::is_empty) {
                return Err(format!("strip.{kind}: name the fields to take out"));
            }
        }
        Ok(())
    }

    /// Whether events of a kind pass.
    pub(crate) fn allows(&self, kind: &str) -> bool {
        let named = |kinds: &[String]| kinds.iter().any(|pattern| matches(pattern, kind));
        if ALWAYS.contains(&kind) {
            return true;
        }
        if named(&self.deny) {
            return false;
        }
        if !CANONICAL.contains(&kind) && !self.kinds.as_deref().is_some_and(named) {
            let default = if self.kinds.is_some() { Unknown::Drop } else { Unknown::Pass };
            return self.unknown.unwrap_or(default) == Unknown::Pass;
        }
        self.kinds.as_deref().is_none_or(named)
    }

    /// Fields of a kind that are taken out.
    pub(crate) fn stripped(&self, kind: &str) -> Vec<&str> {
        let of_kind = self.strip.iter().filter(|(pattern, _)| matches(pattern, kind));
        of_kind.flat_map(|(_, names)| names).map(String::as_str).collect()
    }
}

fn matches(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => kind.starts_with(beginning),
        None => pattern == kind,
    }
}

fn kind_is_one(field: &str, kind: &str) -> Result<(), String> {
    let beginning = kind.strip_suffix('*').unwrap_or(kind);
    if kind.is_empty() || beginning.contains(['*', ' ', ',']) {
        return Err(format!("{field}: {kind:?} is no kind: write it as `tool_started`, or as `workflow_*`"));
    }
    Ok(())
}
