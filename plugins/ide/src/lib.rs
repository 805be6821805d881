//! IDEs before any agent: one WebSocket carries a session's messages, tool results and decisions down, and what the agent
//! says and calls up, in order. A connection that is lost is gone on with by the cursor of the last frame.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `connection` | one WebSocket: what it begins with, and where each message of the mailbox goes |
//! | `inbound` | a frame of the IDE becomes a turn; what is wrong with one that can't |
//! | `stream` | the session's events become frames, each once: which are past, and which were said already |
//! | `outbound` | what one event is as frames |
//! | `place` | the cursor that a frame carries, and `after` hands back |
//!
//! Invariant: nothing is kept of a session but a place in its log, so whatever ends a connection loses nothing. No frame of
//! the IDE closes it.

mod config;
mod connection;
mod inbound;
mod outbound;
mod place;
mod stream;

#[cfg(test)]
mod tests;

use config::Config;
use plugway_sdk::prelude::*;

/// The adapter.
struct Ide;

impl SocketAdapter for Ide {
    fn serve(&self, upgrade: Request, socket: Socket) -> Result<()> {
        connection::serve(&upgrade, socket, &host::config()?)
    }
}

plugway_sdk::export!(
    Ide: socket,
    routes = ["WS /ws/{session_id}", "WS /api/v1/ws/{session_id}"],
    config = Config,
    validate = Config::validate,
);
