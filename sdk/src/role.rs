//! The four roles that a plugin may take, as traits. `export!` puts them behind the contract.

use crate::{
    error::{Error, Result},
    mailbox::{Frame, Reason},
    reply::Reply,
    request::Request,
    sys::{connection, raw},
    task::TaskRef,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, time::Duration};

/// Role `http`: answers requests on the plugin's routes, each in an instance of its own.
pub trait HttpAdapter {
    /// Answers one request.
    ///
    /// # Errors
    /// Before an answer was sent, the error becomes the answer; after a body was started, it cuts the body off. `Ok`
    /// without an answer is a 500.
    fn handle(&self, request: Request, reply: Reply) -> Result<()>;
}

/// Role `socket`: serves one WebSocket connection from its upgrade to its end, in an instance of its own.
///
/// ```
/// use plugway_sdk::prelude::*;
///
/// struct Parrot;
///
/// impl SocketAdapter for Parrot {
///     fn serve(&self, _upgrade: Request, socket: Socket) -> Result<()> {
///         while let Some(message) = mailbox::next(None) {
///             match message {
///                 Message::Frame(frame) => socket.send(frame)?,
///                 Message::Closed(_) => break,
///                 _ => {}
///             }
///         }
///         Ok(())
///     }
/// }
///
/// plugway_sdk::export!(Parrot: socket, routes = ["WS /parrot"]);
///
/// # fn main() {
/// let mock = plugway_sdk::mock::Mock::new();
/// let served = mock.websocket("/parrot").text("Polly").leave().serve(&Parrot);
/// assert_eq!(served.frames, [Frame::Text("Polly".into())]);
/// # }
/// ```
pub trait SocketAdapter {
    /// Serves the connection; frames and events arrive in the [mailbox](crate::mailbox::next).
    ///
    /// # Errors
    /// An error closes the connection with code 1011. Where the host wanted it closed, the code is 1012 (another generation
    /// of the plugin serves) or 1001 (the host stops), whatever this returns.
    fn serve(&self, upgrade: Request, socket: Socket) -> Result<()>;
}

/// The open WebSocket of the exchange.
#[derive(Debug)]
pub struct Socket {
    pub(crate) private: (),
}

impl Socket {
    /// Sends text.
    ///
    /// # Errors
    /// [`Error::Closed`] once the peer is gone.
    pub fn text(&self, text: impl Into<String>) -> Result<()> {
        self.send(Frame::Text(text.into()))
    }

    /// Sends a value as JSON text.
    ///
    /// # Errors
    /// As [`Socket::text`].
    pub fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        self.text(serde_json::to_string(value)?)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// As [`Socket::text`].
    pub fn send(&self, frame: Frame) -> Result<()> {
        let frame = match frame {
            Frame::Text(text) => raw::types::Frame::Text(text),
            Frame::Binary(bytes) => raw::types::Frame::Binary(bytes),
        };
        if connection::send(&frame) { Ok(()) } else { Err(Error::Closed(Reason::PeerGone)) }
    }

    /// Closes the connection behind all that was sent; 1000 is the ordinary code, 3000 to 4999 are for applications.
    ///
    /// # Errors
    /// [`Error::Internal`] if the code may not be sent or the reason has more than 123 bytes.
    pub fn close(self, code: u16, reason: &str) -> Result<()> {
        let () = self.private;
        connection::close(code, reason).map_err(Error::Internal)
    }
}

/// Role `delivery`: carries a task's outcome to a platform, with what the platform shows on the way.
///
/// Called when the task starts (or ends, see [`Moment`](crate::Moment)), and again after a failure or a restart of the
/// host: what must not be sent twice belongs into [`kv`](crate::kv).
pub trait Delivery {
    /// Where to deliver to: what [`Task::deliver`](crate::Task::deliver) was given.
    type Address: DeserializeOwned;

    /// Delivers one task.
    ///
    /// # Errors
    /// Whether the host tries again. By `?`, what the host closed or could not do now is tried again, and everything else is
    /// permanent.
    fn deliver(&self, task: TaskRef, address: Self::Address) -> Result<(), Failure>;

    /// The host gives this delivery up, for the reason given: it was permanent, too old, or failed too often. The place to
    /// tell those who wait for it. Called once, again only if the host dies meanwhile; by default nobody is told.
    ///
    /// # Errors
    /// It is logged, and changes nothing.
    fn given_up(&self, task: TaskRef, address: Self::Address, reason: &str) -> Result<()> {
        _ = (task, address, reason);
        Ok(())
    }
}

/// Why a delivery did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Try again, as long as the operator lets a delivery grow old (24 h by default).
    Retry {
        /// Not before this time has passed. The host waits longer where the delivery is old.
        after: Duration,
        /// Why, for the log and the dead letter.
        reason: String,
    },
    /// It can't be delivered, ever: why.
    Permanent(String),
}

impl Failure {
    /// The platform can't take it now: try again, not before this time has passed.
    pub fn retry(after: Duration, reason: impl fmt::Display) -> Self {
        Self::Retry { after, reason: reason.to_string() }
    }

    /// It can't be delivered, ever.
    pub fn permanent(reason: impl fmt::Display) -> Self {
        Self::Permanent(reason.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let after = match &error {
            Error::Closed(_) => Duration::ZERO,
            Error::Busy { retry_after } | Error::RateLimited { retry_after } => *retry_after,
            Error::Unavailable { retry_after, .. } => retry_after.unwrap_or(Duration::from_secs(5)),
            _ => return Self::permanent(error.reason()),
        };
        Self::retry(after, error.reason())
    }
}

impl From<crate::kv::Error> for Failure {
    fn from(error: crate::kv::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<crate::webhooks::Error> for Failure {
    fn from(error: crate::webhooks::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<crate::pacing::Error> for Failure {
    fn from(error: crate::pacing::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<crate::http::Error> for Failure {
    fn from(error: crate::http::Error) -> Self {
        Error::from(error).into()
    }
}

/// Role `filter`: judges what goes in and what comes out, before anything is logged or fanned out.
///
/// Must be quick. Only [`host`](crate::host) may be called from it, and any instance may get any call: what it has to
/// remember about a task goes into `state`. What holds for all tasks, as its configuration or a compiled pattern, may stay
/// in a `static` (`OnceLock`): instances are reused.
///
/// ```
/// # use plugway_sdk::{Draft, Filter, mock::Mock};
/// struct Upper;
///
/// impl Filter for Upper {
///     fn apply(&self, _task: &str, _state: &mut Vec<u8>, mut event: Draft) -> Vec<Draft> {
///         if event.kind == "response_chunk" {
///             event.data = event.data.to_uppercase().replace("\"TEXT\"", "\"text\"");
///         }
///         vec![event]
///     }
/// }
///
/// # let mock = Mock::new();
/// let events = mock.filter(&Upper).run(&[("response_chunk", serde_json::json!({"text": "hi"}))]);
/// assert_eq!(events[0].data, r#"{"text":"HI"}"#);
/// ```
pub trait Filter {
    /// Judges a task's input, a JSON document, before it is accepted.
    fn admit(&self, input: &str) -> Admission {
        _ = input;
        Admission::Pass
    }

    /// Judges one event. `state` is what the last call for this task's run left in it, empty at first. What is returned goes
    /// on in place of the event. A terminal event can't be dropped, and stays the last and of its kind, but that `completed`
    /// may become `failed`; no other becomes terminal, or `started`. What is changed loses its `raw`, the agent's own frame.
    ///
    /// A panic, or a step that this does not allow, fails the task, or passes the event as it was: the operator's `policy`.
    fn apply(&self, task: &str, state: &mut Vec<u8>, event: Draft) -> Vec<Draft>;
}

/// What a filter says to a task's input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// As it is.
    Pass,
    /// This document in its place.
    Replace(String),
    /// Not at all: why.
    Refuse(String),
}

/// An event on its way to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Canonical kind.
    pub kind: String,
    /// Its payload, a JSON object.
    pub data: String,
}
