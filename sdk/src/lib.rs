//! For authors of Plugway plugins.
//!
//! A plugin is a WebAssembly component that takes part in the gateway by one or more roles. With this crate it is a unit
//! struct, a trait for each role, and one [`export!`]:
//!
//! ```
//! use plugway_sdk::prelude::*;
//!
//! struct Hello;
//!
//! impl HttpAdapter for Hello {
//!     fn handle(&self, request: Request, reply: Reply) -> Result<()> {
//!         let task = Task::message(request.text()?).submit()?;
//!         reply.pieces(task.events().text())
//!     }
//! }
//!
//! plugway_sdk::export!(Hello: http, routes = ["POST /hello"]);
//!
//! # fn main() {
//! // And its test, which needs neither a gateway nor WebAssembly:
//! use plugway_sdk::mock::{Mock, Script};
//!
//! let mock = Mock::new();
//! mock.agent(|_| Script::reply(["Good ", "morning"]));
//! let answer = mock.post("/hello").body("Hi").handle(&Hello);
//! assert_eq!((answer.status, &*answer.text()), (200, "Good morning"));
//!
//! mock.agent(|_| Script::new().started().failed("out of coffee", "agent_error"));
//! assert_eq!(mock.post("/hello").body("Hi").handle(&Hello).status, 502);
//! # }
//! ```
//!
//! # A crate for it
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]   # the component, and what the tests link
//!
//! [dependencies]
//! # It is not on crates.io yet: take it from the gateway's repository, or by `path` from a clone of it.
//! plugway-sdk = { git = "…", tag = "…" }
//! ```
//!
//! `cargo build --release --target wasm32-wasip2` makes a component that the gateway serves once it lies in `plugins/`.
//!
//! # How a role runs
//!
//! Each request, WebSocket connection and delivery is an *exchange* with an instance of its own. The code is plain and
//! sequential: an import that waits suspends the exchange, never a thread of the host. Nothing stays in memory between
//! exchanges; what must, goes into [`kv`]. A panic ends one exchange, and its message reaches the plugin's log.
//!
//! | role | trait | what it may use |
//! | --- | --- | --- |
//! | `http` | [`HttpAdapter`] | everything, and [`Reply`] |
//! | `delivery` | [`Delivery`] | everything |
//! | `socket` | [`SocketAdapter`] | everything, and [`Socket`] |
//! | `filter` | [`Filter`] | [`host`] |
//!
//! # Errors
//!
//! [`Error`] has a case for each HTTP answer that makes sense, and `?` turns what the crate's functions return into it:
//! a full queue becomes 503 with `Retry-After`, a wrong field 400 with its name. What is [`Error::Internal`], and why
//! something is [`Error::Unavailable`], goes to the log, not to the caller.

#![warn(missing_docs)]

#[doc(hidden)]
pub mod bindings;

pub mod agents;
#[doc(hidden)]
pub mod component;
mod error;
mod event;
mod fields;
pub mod host;
pub mod http;
mod ids;
pub mod json;
pub mod kv;
pub mod mailbox;
#[doc(hidden)]
pub mod manifest;
#[cfg(not(target_family = "wasm"))]
pub mod mock;
pub mod pacing;
mod prepared;
mod reply;
mod request;
mod response;
mod role;
mod sys;
mod task;
pub mod webhooks;

#[path = "../../wit/bounds.rs"]
pub mod bounds;

pub use error::{Error, Result};
pub use event::{
    Approval, Cancelled, Completed, Event, EventKind, Executor, Failed, MAX_VALUES, Progress, ResponseChunk,
    Started, Thinking, ToolCompleted, ToolStarted,
};
pub use fields::Fields;
pub use ids::{Cursor, SessionId, TaskId};
pub use mailbox::{Events, Frame, Gap, Message, Next, Pieces, Reason};
pub use manifest::{Manifest, Plugin, Route};
pub use prepared::Prepared;
pub use reply::{Body, Reply};
pub use request::Request;
pub use response::Response;
pub use role::{Admission, Delivery, Draft, Failure, Filter, HttpAdapter, Socket, SocketAdapter};
pub use task::{Begin, Moment, SubmitError, Submitted, Task, TaskRef, cancel_session, follow_session};

/// What most plugins need.
pub mod prelude {
    pub use crate::{
        Admission, Body, Delivery, Draft, Error, Event, EventKind, Events, Failure, Filter, Frame,
        HttpAdapter, Message, Moment, Next, Plugin, Reason, Reply, Request, Response, Result, SessionId,
        Socket, SocketAdapter, SubmitError, Submitted, Task, TaskId, TaskRef, agents, debug, error, host,
        http, info, kv, mailbox, pacing, warn, webhooks,
    };
}
