//! The contract's imports, one file an interface.

mod agents;
mod connection;
mod host;
mod http_client;
mod kv;
mod mailbox;
mod pacing;
mod responder;
mod tasks;
mod webhooks;

use super::bindings::types;
use super::exchange::Exchange;

impl types::Host for Exchange {}
