//! What the operator may set. Unknown names are refused, so that a typing error does not pass for a setting.

use schemars::JsonSchema;
use serde::Deserialize;

/// Kinds that are never held back: what ends a task, and what others wait for.
const NEVER: &[&str] = &[
    "completed",
    "failed",
    "cancelled",
    "tool_started",
    "tool_completed",
    "approval_requested",
    "approval_resolved",
];

/// Kinds that are pieces of a text, and the field that it is in.
const TEXTS: &[(&str, &str)] = &[("response_chunk", "text"), ("thinking", "thought")];

/// Longest time between two events of a kind.
const LONGEST_MS: u64 = 60_000;
/// Bytes of text that may be held, all rules together.
pub(crate) const MOST_BYTES: usize = 32 << 10;
/// Rules, at most.
const RULES: usize = 32;

/// Configuration of the sample filter.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// A rule for each kind; other kinds pass as they are. Without any: `progress` at most every 500 ms, `thinking` merged
    /// for 250 ms or 1024 bytes, `response_chunk` for 100 ms or 512 bytes.
    pub(crate) rules: Vec<Rule>,
}

/// How often events of a kind come.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// Kind of the events, as `progress`.
    pub(crate) kind: String,
    /// Milliseconds between two of them, 1 to 60000.
    #[schemars(range(min = 1, max = 60000))]
    pub(crate) every_ms: u64,
    /// What becomes of those between; by default `merge` for texts, `latest` for all others.
    #[serde(default)]
    pub(crate) mode: Option<Mode>,
    /// For `merge`: bytes of text after which it goes out before its time, 1 to 32768 over all rules; 1024 if not set.
    #[serde(default)]
    pub(crate) bytes: Option<usize>,
    /// For `merge`: the field that the text is in; needed for kinds other than `response_chunk` and `thinking`.
    #[serde(default)]
    pub(crate) field: Option<String>,
}

/// What becomes of the events of a kind that come too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// The last of them comes once it is time, the others are left out.
    Latest,
    /// Their texts come together.
    Merge,
    /// They are left out.
    First,
}

impl Config {
    /// With the rules that hold where none is set.
    pub(crate) fn with_defaults(self) -> Self {
        if !self.rules.is_empty() {
            return self;
        }
        let rule = |kind: &str, every_ms, bytes| Rule {
            kind: kind.to_owned(),
            every_ms,
            mode: None,
            bytes,
            field: None,
        };
        Self {
            rules: vec![
                rule("progress", 500, None),
                rule("thinking", 250, Some(1024)),
                rule("response_chunk", 100, Some(512)),
            ],
        }
    }

    /// Rules beyond the types.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.rules.len() > RULES {
            return Err(format!("rules: {} are too many, at most {RULES}", self.rules.len()));
        }
        for (at, rule) in self.rules.iter().enumerate() {
            rule.validate().map_err(|reason| format!("rules[{at}].{reason}"))?;
            if self.rules[..at].iter().any(|other| other.kind == rule.kind) {
                return Err(format!("rules[{at}].kind: there is a rule for `{}` already", rule.kind));
            }
        }
        let merging = self.rules.iter().filter(|rule| rule.mode() == Mode::Merge);
        let bytes = merging.map(Rule::bytes).sum::<usize>();
        if bytes > MOST_BYTES {
            return Err(format!(
                "rules: their `bytes` are {bytes} together, at most {MOST_BYTES}: set smaller ones"
            ));
        }
        Ok(())
    }
}

impl Rule {
    fn validate(&self) -> Result<(), String> {
        let kind = &self.kind;
        if kind.is_empty() {
            return Err("kind: name one, as `progress`".to_owned());
        }
        if NEVER.contains(&kind.as_str()) {
            return Err(format!("kind: `{kind}` is never held back, others wait for it: take the rule out"));
        }
        if !(1..=LONGEST_MS).contains(&self.every_ms) {
            return Err(format!("every_ms: {} is not within 1 and {LONGEST_MS}", self.every_ms));
        }
        match self.mode() {
            Mode::Merge if self.field().is_none() => {
                return Err(format!("field: name the field of `{kind}` whose texts are to be merged"));
            }
            Mode::Latest | Mode::First if is_text(kind) => {
                return Err(format!(
                    "mode: `{kind}` is text, of which nothing is left out: set `merge`, or hide the kind by the filter `allow`"
                ));
            }
            Mode::Latest | Mode::First if self.bytes.is_some() || self.field.is_some() => {
                return Err("mode: `bytes` and `field` are for `merge`: set it, or take them out".to_owned());
            }
            _ => {}
        }
        if is_text(kind) && self.field.as_deref().is_some_and(|field| Some(field) != text_field(kind)) {
            return Err(format!(
                "field: the text of `{kind}` is in `{}`",
                text_field(kind).unwrap_or_default()
            ));
        }
        if self.bytes() == 0 {
            return Err("bytes: 0 would hold nothing back: set 1 or more, or take the rule out".to_owned());
        }
        Ok(())
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode.unwrap_or(if is_text(&self.kind) { Mode::Merge } else { Mode::Latest })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.unwrap_or(1024)
    }

    /// The field whose texts are merged.
    pub(crate) fn field(&self) -> Option<&str> {
        text_field(&self.kind).or(self.field.as_deref())
    }
}

fn text_field(kind: &str) -> Option<&'static str> {
    TEXTS.iter().find(|(text, _)| *text == kind).map(|(_, field)| *field)
}

fn is_text(kind: &str) -> bool {
    text_field(kind).is_some()
}
