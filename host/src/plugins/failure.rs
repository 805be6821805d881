//! How a call of a guest can end badly, told apart and put into words.

use wasmtime::{Error, Trap};

use super::sandbox::LimitExceeded;

/// What kind of end it was, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// A limit of the plugin's.
    Limit(&'static str),
    /// A trap: panic, out of bounds, stack overflow, or a call that the contract does not allow.
    Trap,
    /// The host's own fault: no instance to be had, the store unavailable.
    Host,
}

impl FailureKind {
    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Limit(which) => which,
            Self::Trap => "trap",
            Self::Host => "host",
        }
    }
}

/// An exchange was ended for a fault that is not the plugin's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostFault(pub String);

/// Tells what kind of failure an error is.
pub fn classify(error: &Error) -> FailureKind {
    if let Some(limit) = error.downcast_ref::<LimitExceeded>() {
        FailureKind::Limit(limit.label())
    } else if error.downcast_ref::<HostFault>().is_some() {
        FailureKind::Host
    } else {
        FailureKind::Trap
    }
}

/// One line that says what happened, without the guest's backtrace.
pub fn describe(error: &Error) -> String {
    if let Some(limit) = error.downcast_ref::<LimitExceeded>() {
        return limit.to_string();
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return match trap {
            Trap::StackOverflow => "stack overflow: it recursed too deep".into(),
            Trap::UnreachableCodeReached => {
                "it panicked or aborted (the panic's message is in the plugin's log)".into()
            }
            other => other.to_string(),
        };
    }
    let mut parts: Vec<String> = error
        .chain()
        .map(|cause| cause.to_string())
        .filter(|text| !text.starts_with("error while executing at wasm backtrace"))
        .collect();
    parts.dedup();
    parts.join(": ")
}

/// A text from a guest, cut to so many bytes.
pub fn shorten(text: &str, bound: usize) -> String {
    if text.len() <= bound {
        return text.to_owned();
    }
    let cut = (0..=bound).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..cut])
}
