//! Submitting work, and following it.

use crate::{
    error::Error,
    event::EventKind,
    ids::{Cursor, SessionId, TaskId},
    mailbox::Events,
    sys::{self, raw::tasks as wit},
};
use serde::Serialize;
use serde_json::{Map, Value};
use std::{fmt, ops::Deref, time::Duration};

/// When a task's delivery is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// While the task runs: the delivery follows it and shows it growing.
    Start,
    /// Once it has ended.
    End,
}

/// A turn of work that is about to be submitted.
///
/// ```
/// # use plugway_sdk::{prelude::*, mock::Mock};
/// # let mock = Mock::new();
/// let task = Task::message("what is in the picture?")
///     .session("chat-7")
///     .attachments(&[serde_json::json!({"file_id": "abc", "mime_type": "image/png"})])
///     .metadata("chat_id", 7)
///     .idempotency_key("update-42")
///     .submit()?;
/// assert!(!task.duplicate);
/// assert_eq!(mock.submissions()[0].input["metadata"]["chat_id"], 7);
/// # Ok::<(), plugway_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a task does nothing until it is submitted"]
pub struct Task {
    agent: Option<String>,
    session: Option<String>,
    input: Map<String, Value>,
    /// JSON text.
    forward: Option<String>,
    deliver: Option<(Moment, Value)>,
    idempotency_key: Option<String>,
    problem: Option<String>,
}

impl Task {
    /// Any kind of input, by its name; [`Task::input`] fills in the fields.
    pub fn of_kind(kind: &str) -> Self {
        let mut input = Map::new();
        input.insert("kind".to_owned(), kind.into());
        Self {
            agent: None,
            session: None,
            input,
            forward: None,
            deliver: None,
            idempotency_key: None,
            problem: None,
        }
    }

    /// Something that a user says.
    pub fn message(text: impl Into<String>) -> Self {
        Self::of_kind("message").input("text", &text.into())
    }

    /// The result of a tool that the client ran, which is the next turn.
    pub fn tool_result<T: Serialize + ?Sized>(call: &str, result: &T) -> Self {
        Self::tool_results(&[serde_json::json!({"call_id": call, "result": value(result)})])
    }

    /// Results of several tools, each `{"call_id", "result" or "error"}`.
    pub fn tool_results<T: Serialize>(results: &[T]) -> Self {
        Self::of_kind("tool_result").input("results", results)
    }

    /// An order about the session itself, as `switch_agent`.
    pub fn control(name: &str) -> Self {
        Self::of_kind("control").input("name", name)
    }

    /// A person's decision about a call: `approve`, `edit` or `reject`.
    pub fn decision(call: &str, decision: &str) -> Self {
        Self::of_kind("decision").input("call_id", call).input("decision", decision)
    }

    /// Sets any field of the input document.
    pub fn input<T: Serialize + ?Sized>(mut self, field: &str, content: &T) -> Self {
        match serde_json::to_value(content) {
            Ok(content) => _ = self.input.insert(field.to_owned(), content),
            Err(error) => self.problem = Some(format!("{field}: {error}")),
        }
        self
    }

    /// Agent to run it, instead of the default one.
    pub fn agent(mut self, name: impl Into<String>) -> Self {
        self.agent = Some(name.into());
        self
    }

    /// Session that it is a turn of, instead of a new one.
    pub fn session(mut self, session: impl Into<SessionId>) -> Self {
        self.session = Some(session.into().into());
        self
    }

    /// The turns before this one, which then replace what the session remembers.
    pub fn history<T: Serialize>(self, messages: &[T]) -> Self {
        self.input("history", messages)
    }

    /// Layered on the agent's own instructions.
    pub fn instructions(self, text: &str) -> Self {
        self.input("instructions", text)
    }

    /// Files and pictures, by reference.
    pub fn attachments<T: Serialize>(self, attachments: &[T]) -> Self {
        self.input("attachments", attachments)
    }

    /// Adds one entry to the metadata.
    pub fn metadata<T: Serialize>(mut self, key: &str, content: T) -> Self {
        let metadata = self.input.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(entries) = metadata {
            entries.insert(key.to_owned(), value(&content));
        }
        self
    }

    /// A frame, an object, that an `http` agent passes on as it is.
    pub fn forward<T: Serialize + ?Sized>(mut self, frame: &T) -> Self {
        match serde_json::to_string(frame) {
            Ok(frame) => self.forward = Some(frame),
            Err(error) => self.problem = Some(format!("forward: {error}")),
        }
        self
    }

    /// The same for a frame that somebody else wrote: its JSON text goes out byte for byte.
    ///
    /// ```
    /// # use plugway_sdk::{prelude::*, mock::Mock};
    /// # let mock = Mock::new();
    /// Task::message("Hi").forward_text(r#"{"type": "user_message",  "n": 1.50}"#).submit()?;
    /// assert!(mock.submissions()[0].document.contains(r#""forward":{"type": "user_message",  "n": 1.50}"#));
    /// assert!(Task::message("Hi").forward_text(r#"{}, "kind": "command""#).submit().is_err());
    /// # Ok::<(), plugway_sdk::Error>(())
    /// ```
    pub fn forward_text(mut self, frame: &str) -> Self {
        match serde_json::from_str::<serde::de::IgnoredAny>(frame) {
            Ok(_) => self.forward = Some(frame.to_owned()),
            Err(error) => self.problem = Some(format!("forward: {error}")),
        }
        self
    }

    /// The same key within the host's retention time names the same task, whatever the input.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Makes the host call this plugin's [`Delivery`](crate::Delivery) with the address.
    pub fn deliver<T: Serialize>(mut self, address: &T, moment: Moment) -> Self {
        match serde_json::to_value(address) {
            Ok(address) => self.deliver = Some((moment, address)),
            Err(error) => self.problem = Some(format!("address: {error}")),
        }
        self
    }

    /// Puts it into the queue. Returns once it is on durable storage.
    ///
    /// # Errors
    /// See [`SubmitError`]; by `?` each becomes the HTTP answer that fits.
    pub fn submit(self) -> Result<Submitted, SubmitError> {
        if let Some(problem) = self.problem {
            return Err(SubmitError::Invalid(problem));
        }
        let invalid = |error: serde_json::Error| SubmitError::Invalid(error.to_string());
        let deliver = match self.deliver {
            None => None,
            Some((moment, address)) => Some(wit::DeliveryOrder {
                address: serde_json::to_string(&address).map_err(invalid)?,
                at: match moment {
                    Moment::Start => wit::Moment::Start,
                    Moment::End => wit::Moment::End,
                },
            }),
        };
        let task = wit::NewTask {
            agent: self.agent,
            session: self.session,
            input: document(&self.input, self.forward.as_deref()).map_err(invalid)?,
            deliver,
            idempotency_key: self.idempotency_key,
        };
        let accepted = sys::tasks::submit(&task).map_err(|error| match error {
            wit::SubmitError::UnknownAgent(name) => SubmitError::UnknownAgent(name),
            wit::SubmitError::Invalid(why) => SubmitError::Invalid(why),
            wit::SubmitError::Busy(ms) => SubmitError::Busy { retry_after: Duration::from_millis(ms) },
            wit::SubmitError::Refused(why) => SubmitError::Refused(why),
            wit::SubmitError::Unavailable(why) => SubmitError::Unavailable(why),
        })?;
        Ok(Submitted {
            task: TaskRef { id: accepted.task.into() },
            session: accepted.session.into(),
            duplicate: accepted.duplicate,
        })
    }
}

/// The input document: its fields, and the frame as it was written.
fn document(fields: &Map<String, Value>, forward: Option<&str>) -> serde_json::Result<String> {
    let mut document = serde_json::to_string(fields)?;
    if let Some(frame) = forward {
        // There is a field before it: the kind.
        document.pop();
        document.push_str(",\"forward\":");
        document.push_str(frame);
        document.push('}');
    }
    Ok(document)
}

fn value<T: Serialize + ?Sized>(content: &T) -> Value {
    serde_json::to_value(content).unwrap_or_default()
}

/// Why a task was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitError {
    /// No agent has this name. 404 by `?`.
    UnknownAgent(String),
    /// The input is not acceptable. 400 by `?`.
    Invalid(String),
    /// The queue is full. 503 with `Retry-After` by `?`.
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// A filter refused it. 403 by `?`.
    Refused(String),
    /// The store does not answer. 503 by `?`.
    Unavailable(String),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAgent(name) => write!(out, "unknown agent: {name}"),
            Self::Busy { .. } => out.write_str("the queue is full"),
            Self::Invalid(why) | Self::Refused(why) | Self::Unavailable(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for SubmitError {}

impl From<SubmitError> for Error {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::UnknownAgent(_) => Self::NotFound(message),
            SubmitError::Invalid(_) => Self::bad_request(message),
            SubmitError::Busy { retry_after } => Self::Busy { retry_after },
            SubmitError::Refused(_) => Self::Forbidden(message),
            SubmitError::Unavailable(_) => Self::unavailable(message),
        }
    }
}

/// An accepted task. It is a [`TaskRef`] with its session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Submitted {
    task: TaskRef,
    /// The task's session.
    pub session: SessionId,
    /// The idempotency key was known: nothing new was started.
    pub duplicate: bool,
}

impl Deref for Submitted {
    type Target = TaskRef;

    fn deref(&self) -> &TaskRef {
        &self.task
    }
}

/// A task of this plugin, by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskRef {
    /// Names the task.
    pub id: TaskId,
}

impl TaskRef {
    /// A task that was submitted in another exchange.
    pub fn new(id: impl Into<TaskId>) -> Self {
        Self { id: id.into() }
    }

    /// Its events from the first one on, up to its end.
    pub fn events(&self) -> Events {
        Events::follow(&self.id, None)
    }

    /// Its events after a place. A place in a run that was voided starts the present run from its beginning.
    pub fn follow(&self, after: Option<Cursor>) -> Events {
        Events::follow(&self.id, after)
    }

    /// Waits for the task's end and returns the whole answer: what the agent completed with, or else the pieces of its
    /// last run.
    ///
    /// # Errors
    /// [`Error::Failed`] and [`Error::Cancelled`] if there is no answer, [`Error::Gap`] if a piece of it is lost, else as
    /// [`Events::next_within`].
    ///
    /// ```
    /// # use plugway_sdk::{mock::{Mock, Script}, prelude::*};
    /// # let mock = Mock::new();
    /// mock.agent(|_| Script::new().started().chunks(["Good morn"]).restart().completed("Good evening"));
    /// assert_eq!(Task::message("Hi").submit()?.answer()?, "Good evening");
    /// # Ok::<(), Error>(())
    /// ```
    pub fn answer(&self) -> Result<String, Error> {
        let (mut pieces, mut gap) = (String::new(), None);
        for event in self.events() {
            let event = match event {
                Ok(event) => event,
                Err(error @ Error::Gap { .. }) => {
                    gap = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            match event.kind {
                EventKind::Started(_) => {
                    pieces.clear();
                    gap = None;
                }
                EventKind::ResponseChunk(chunk) => pieces.push_str(&chunk.text),
                EventKind::Completed(done) if done.text.is_empty() => return gap.map_or(Ok(pieces), Err),
                EventKind::Completed(done) => return Ok(done.text),
                EventKind::Failed(failed) => return Err(failed.into()),
                EventKind::Cancelled(cancelled) => return Err(cancelled.into()),
                _ => {}
            }
        }
        Err(Error::internal("the task ended without a last event"))
    }

    /// Asks the agent to stop. False if the task has ended or is unknown.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: nobody knows.
    pub fn cancel(&self) -> Result<bool, Error> {
        sys::tasks::cancel(self.id.as_str()).map_err(error_of)
    }

    /// The task as a document (state, attempt, timings, result); none if it is unknown.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: nobody knows.
    pub fn describe(&self) -> Result<Option<Value>, Error> {
        let document = sys::tasks::describe(self.id.as_str()).map_err(error_of)?;
        Ok(document.map(|text| serde_json::from_str(&text)).transpose()?)
    }
}

/// What a look-up's failure is to whoever asked.
pub(crate) fn error_of(error: wit::Error) -> Error {
    match error {
        wit::Error::NotFound(what) => Error::NotFound(what),
        wit::Error::Invalid(why) => Error::bad_request(why),
        wit::Error::TooMany(why) => Error::Internal(why),
        wit::Error::Unavailable(why) => Error::unavailable(why),
    }
}

/// Where following a session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin<'a> {
    /// With the first task that is known of it.
    Start,
    /// With what happens from now on: to a task that runs, and to those that come after it.
    Now,
    /// With the beginning of this task.
    Task(&'a TaskId),
    /// Behind the event with this cursor.
    After(&'a Cursor),
}

/// From now on every event of the session from that place on, of tasks to come too, arrives in the
/// [mailbox](crate::mailbox::next). Following it again moves the place.
///
/// # Errors
/// [`Error::BadRequest`] if the session's name, the task or the cursor is not acceptable, [`Error::Internal`] if this exchange follows
/// too many, [`Error::Unavailable`].
pub fn follow_session(session: &SessionId, begin: Begin<'_>) -> Result<(), Error> {
    let begin = match begin {
        Begin::Start => wit::Begin::Start,
        Begin::Now => wit::Begin::Now,
        Begin::Task(task) => wit::Begin::Task(task.as_str().to_owned()),
        Begin::After(cursor) => wit::Begin::After(cursor.as_str().to_owned()),
    };
    sys::tasks::follow_session(session.as_str(), &begin).map_err(error_of)
}

/// Cancels what runs and what waits in the session. Returns how many tasks that were.
///
/// # Errors
/// [`Error::BadRequest`] if the session's name is not acceptable; [`Error::Unavailable`]: some may have been cancelled.
pub fn cancel_session(session: &SessionId) -> Result<u32, Error> {
    sys::tasks::cancel_session(session.as_str()).map_err(error_of)
}
