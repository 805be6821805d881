//! The one place that knows where imports come from: the host in a component, [`crate::mock`] everywhere else.
//! Both sides have the same functions over the same types.

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::imports::{
    agents, connection, host, http_client, kv, mailbox, pacing, responder, tasks, webhooks,
};

#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::mock::imports::{
    agents, connection, host, http_client, kv, mailbox, pacing, responder, tasks, webhooks,
};

/// The contract's types, which are the same on both sides.
pub(crate) use crate::bindings::imports as raw;

use std::time::Duration;

/// Whole milliseconds for the contract's `u32`; what is longer becomes the longest.
pub(crate) fn millis32(time: Duration) -> u32 {
    u32::try_from(millis64(time)).unwrap_or(u32::MAX)
}

/// Whole milliseconds for the contract's `u64`; what is longer becomes the longest.
pub(crate) fn millis64(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1000).saturating_add(time.subsec_millis().into())
}
