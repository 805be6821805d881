//! What the operator may set. Unknown names are refused, so that a typing error does not pass for a setting.

use crate::pattern;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

/// Characters that stand in a match's place, at most.
const REPLACEMENT: usize = 256;
/// Patterns, and bytes of each, at most.
const PATTERNS: usize = 64;
const PATTERN: usize = 2048;
/// Bytes that may be held back for a pattern.
const HOLD: std::ops::RangeInclusive<usize> = 16..=8192;
/// Streams that may be named, and bytes of their names.
const STREAMS: usize = 16;
const NAME: usize = 64;
/// Kinds whose texts are known: they are a stream already, or whole.
const KNOWN: &[&str] = &[
    "response_chunk",
    "tool_started",
    "tool_completed",
    "progress",
    "approval_requested",
    "approval_resolved",
    "completed",
    "failed",
    "cancelled",
];

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
    /// Fields of further kinds of events that bring a text piece by piece. Without any: `token` and `content` of all kinds
    /// that the gateway has no meaning for, and of `thinking`.
    pub(crate) streams: Option<Vec<StreamField>>,
    /// Whether what goes to the agent is redacted too.
    pub(crate) input: bool,
}

/// A field that brings a text piece by piece.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamField {
    /// Kind of the events, as `reasoning`.
    pub(crate) kind: String,
    /// The field that the text is in.
    pub(crate) field: String,
}

/// How a field brings text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Piece by piece: words may be cut.
    Pieces,
    /// In lines or more at once, perhaps: of which only what would tell too much is held back.
    Lines,
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
            streams: None,
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
        }
        for (at, stream) in self.streams.iter().flatten().enumerate() {
            let (kind, field) = (&stream.kind, &stream.field);
            if at == STREAMS {
                return Err(format!("streams: these are too many, at most {STREAMS}"));
            }
            if KNOWN.contains(&kind.as_str()) || (kind == "thinking" && field == "thought") {
                return Err(format!(
                    "streams[{at}].kind: the gateway knows the texts of `{kind}`: take it out"
                ));
            }
            if kind.is_empty() || field.is_empty() || kind.len() > NAME || field.len() > NAME {
                return Err(format!("streams[{at}]: name a kind and a field, of at most {NAME} bytes each"));
            }
        }
        pattern::compile(self.patterns.iter().map(|own| own.pattern.as_str())).map(drop).map_err(
            |(at, reason)| match at.and_then(|at| Some((at, self.patterns.get(at)?))) {
                Some((at, own)) => format!("patterns[{at}].pattern: {}: {reason}", own.name),
                None => format!("patterns: {reason}"),
            },
        )
    }

    /// How a field of a kind brings text, if it is a stream.
    pub(crate) fn flow(streams: Option<&[StreamField]>, kind: &str, field: &str) -> Option<Flow> {
        match (kind, field, streams) {
            ("thinking", "thought", _) => Some(Flow::Pieces),
            _ if KNOWN.contains(&kind) => None,
            (_, _, Some(streams)) => streams
                .iter()
                .any(|stream| stream.kind == kind && stream.field == field)
                .then_some(Flow::Pieces),
            ("signal", ..) => None,
            (_, "token", None) => Some(Flow::Pieces),
            (_, "content", None) => Some(Flow::Lines),
            _ => None,
        }
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
