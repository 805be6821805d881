//! What the operator may set. Unknown names are refused, so that a typing error does not pass for a setting.

use crate::pattern::Pattern;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

/// Characters that stand in a match's place, at most.
const REPLACEMENT: usize = 256;
/// Patterns, and bytes of each, at most.
const PATTERNS: usize = 64;
const PATTERN: usize = 2048;
/// Bytes that may be held back for a pattern.
const HOLD: std::ops::RangeInclusive<usize> = 16..=8192;

/// Configuration of the redact filter.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// E-mail addresses: `true`, `false`, or the text to put in their place.
    pub(crate) email: Kind,
    /// Phone numbers: `true`, `false`, or the text to put in their place.
    pub(crate) phone: Kind,
    /// Card numbers with a right check digit: `true`, `false`, or the text to put in their place.
    pub(crate) card: Kind,
    /// API keys, JSON Web Tokens, private key blocks and bearer tokens: `true`, `false`, or the text to put in their place.
    pub(crate) secret: Kind,
    /// Patterns of your own.
    pub(crate) patterns: Vec<Own>,
    /// Bytes that a match of a pattern may have, 16 to 8192: so much of a streamed text is held back at most while one
    /// could be going on.
    #[schemars(range(min = 16, max = 8192))]
    pub(crate) hold_bytes: usize,
    /// Whether what goes to the agent is redacted too.
    pub(crate) input: bool,
}

/// Whether something is looked for, and what is put in its place.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Kind {
    /// Whether it is looked for; by default its name is put in its place, as `[EMAIL]`.
    On(bool),
    /// It is, and this is put in its place.
    With(String),
}

/// A pattern of the operator's.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Own {
    /// What it finds, as `ticket`.
    pub(crate) name: String,
    /// A regular expression, in the syntax of Rust's regex crate. Without groups to capture, and `\b` is ASCII's.
    pub(crate) pattern: String,
    /// What is put in a match's place; the name in capitals if none, as `[TICKET]`.
    pub(crate) replacement: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            email: Kind::On(true),
            phone: Kind::On(true),
            card: Kind::On(true),
            secret: Kind::On(true),
            patterns: Vec::new(),
            hold_bytes: 256,
            input: false,
        }
    }
}

impl Config {
    /// Rules beyond the types.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if !HOLD.contains(&self.hold_bytes) {
            return Err(format!(
                "hold_bytes: {} is not within {} and {}",
                self.hold_bytes,
                HOLD.start(),
                HOLD.end()
            ));
        }
        let kinds =
            [("email", &self.email), ("phone", &self.phone), ("card", &self.card), ("secret", &self.secret)];
        for (name, kind) in kinds {
            if let Kind::With(text) = kind {
                fits(name, text, REPLACEMENT)?;
            }
        }
        if self.patterns.len() > PATTERNS {
            return Err(format!(
                "patterns: {} are too many, at most {PATTERNS}: join some by `|`",
                self.patterns.len()
            ));
        }
        for (at, own) in self.patterns.iter().enumerate() {
            let name = &own.name;
            if name.is_empty() || self.patterns[..at].iter().any(|other| other.name == *name) {
                return Err(format!("patterns[{at}].name: {name:?} has to be there, and only once"));
            }
            fits(&format!("patterns[{at}].name"), name, REPLACEMENT)?;
            fits(&format!("patterns[{at}].pattern"), &own.pattern, PATTERN)?;
            fits(
                &format!("patterns[{at}].replacement"),
                own.replacement.as_deref().unwrap_or_default(),
                REPLACEMENT,
            )?;
            Pattern::new(&own.pattern)
                .map_err(|reason| format!("patterns[{at}].pattern: {name}: {reason}"))?;
        }
        Ok(())
    }
}

impl Kind {
    /// What is put in a match's place; none if it is not looked for.
    pub(crate) fn replacement(&self, default: &str) -> Option<String> {
        match self {
            Self::On(on) => on.then(|| default.to_owned()),
            Self::With(text) => Some(text.clone()),
        }
    }
}

impl Own {
    pub(crate) fn replacement(&self) -> String {
        self.replacement.clone().unwrap_or_else(|| format!("[{}]", self.name.to_uppercase()))
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            On(bool),
            With(String),
        }
        Form::deserialize(source)
            .map(|form| match form {
                Form::On(on) => Self::On(on),
                Form::With(text) => Self::With(text),
            })
            .map_err(|_| {
                serde::de::Error::custom("expected true, false, or the text to put in a match's place")
            })
    }
}

fn fits(field: &str, text: &str, most: usize) -> Result<(), String> {
    if text.len() > most {
        Err(format!("{field}: {} bytes are too many, at most {most}", text.len()))
    } else {
        Ok(())
    }
}
