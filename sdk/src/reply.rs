//! The answer to a request: whole, or a body that grows.
//!
//! Invariant: a body that the handler finished, or left when it returned `Ok`, ends cleanly; every other body is cut off,
//! so that the client can tell.

use crate::{
    error::{Error, Result},
    mailbox::Reason,
    response::{Response, default_header, put_header},
    sys::responder,
};
use serde::Serialize;
use std::{cell::RefCell, rc::Rc};

/// Where the exchange stands. The role's wrapper keeps one end, the author's `Reply` or `Body` the other.
#[derive(Debug, Default)]
pub(crate) enum Answer {
    #[default]
    None,
    Whole,
    Growing(responder::Body),
    Refused(String),
}

/// The one answer of an exchange.
#[derive(Debug)]
pub struct Reply {
    answer: Rc<RefCell<Answer>>,
    headers: Vec<(String, String)>,
}

impl Reply {
    pub(crate) fn new() -> (Self, Rc<RefCell<Answer>>) {
        let answer = Rc::<RefCell<Answer>>::default();
        (Self { answer: answer.clone(), headers: Vec::new() }, answer)
    }

    /// Adds a header to whatever is answered, in place of the one that would be there by itself, as `content-type`.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        put_header(&mut self.headers, name, value.into());
        self
    }

    /// Sends a whole answer.
    ///
    /// # Errors
    /// [`Error::Internal`] if the status or a header is not acceptable.
    pub fn send(self, mut response: Response) -> Result<()> {
        for (name, value) in self.headers {
            put_header(&mut response.headers, &name, value);
        }
        *self.answer.borrow_mut() = Answer::Whole;
        responder::send(&response.into_raw()).map_err(Error::Internal)
    }

    /// Sends a value as JSON.
    ///
    /// # Errors
    /// As [`Reply::send`].
    pub fn json<T: Serialize + ?Sized>(self, status: u16, value: &T) -> Result<()> {
        self.send(Response::json(status, value))
    }

    /// Sends plain text.
    ///
    /// # Errors
    /// As [`Reply::send`].
    pub fn text(self, status: u16, text: impl Into<String>) -> Result<()> {
        self.send(Response::text_body(status, text))
    }

    /// Sends the head; the body follows piece by piece. A head that the host does not accept shows at the first write.
    pub fn stream(self, status: u16, content_type: &str) -> Body {
        let mut headers = self.headers;
        default_header(&mut headers, "content-type", content_type);
        *self.answer.borrow_mut() = match responder::start(status, &headers) {
            Ok(body) => Answer::Growing(body),
            Err(problem) => Answer::Refused(problem),
        };
        Body { answer: self.answer, frame: Vec::new() }
    }

    /// Starts a stream of server-sent events, with the headers that keep proxies from holding it back.
    pub fn events(mut self) -> Body {
        default_header(&mut self.headers, "cache-control", "no-store");
        default_header(&mut self.headers, "x-accel-buffering", "no");
        self.stream(200, "text/event-stream")
    }

    /// Sends plain text piece by piece, as the pieces come. The head leaves with the first one: an error before that becomes
    /// the answer, and one after it cuts the body off, so that nobody takes half of an answer for the whole.
    ///
    /// # Errors
    /// What the pieces end with, and as [`Body::write`].
    ///
    /// ```
    /// # use plugway_sdk::prelude::*;
    /// fn answer(request: &Request, reply: Reply) -> Result<()> {
    ///     reply.pieces(Task::message(request.text()?).submit()?.events().text())
    /// }
    /// ```
    pub fn pieces(self, pieces: impl IntoIterator<Item = Result<String>>) -> Result<()> {
        let mut pieces = pieces.into_iter();
        let first = pieces.next().transpose()?.unwrap_or_default();
        let mut body = self.stream(200, "text/plain; charset=utf-8");
        body.write(first)?;
        pieces.try_for_each(|piece| body.write(piece?))
    }
}

/// A body that grows while the handler runs.
///
/// It ends cleanly by [`Body::finish`] or when the handler returns `Ok`. When the handler returns an error or panics, it is
/// cut off.
#[derive(Debug)]
pub struct Body {
    answer: Rc<RefCell<Answer>>,
    frame: Vec<u8>,
}

impl Body {
    /// Sends a piece; waits while the client is slower than the plugin.
    ///
    /// # Errors
    /// [`Error::Closed`] once the client is gone: return it, nobody is there to be told.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        write(&self.answer, bytes.as_ref())
    }

    /// Sends one server-sent event in one piece: an optional name, an optional id, and data of any number of lines.
    ///
    /// # Errors
    /// [`Error::Internal`] if the name or the id has a line end, which would begin another field; else as [`Body::write`].
    ///
    /// ```
    /// # use plugway_sdk::prelude::*;
    /// fn stream(task: &TaskRef, reply: Reply) -> Result<()> {
    ///     let mut body = reply.events();
    ///     for event in task.events() {
    ///         let event = event?;
    ///         body.event(Some("progress"), Some(event.cursor.as_str()), &event.data)?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn event(&mut self, name: Option<&str>, id: Option<&str>, data: &str) -> Result<()> {
        if [name, id].into_iter().flatten().any(|text| text.contains(['\r', '\n', '\0'])) {
            return Err(Error::internal("the name or id of a server-sent event has a line end or NUL in it"));
        }
        self.frame.clear();
        let mut line = |field: &str, value: &str| {
            self.frame.extend_from_slice(field.as_bytes());
            self.frame.extend_from_slice(value.as_bytes());
            self.frame.push(b'\n');
        };
        if let Some(name) = name {
            line("event: ", name);
        }
        if let Some(id) = id {
            line("id: ", id);
        }
        for part in lines(data) {
            line("data: ", part);
        }
        self.frame.push(b'\n');
        write(&self.answer, &self.frame)
    }

    /// Ends the body at once, while the handler has something left to do.
    ///
    /// # Errors
    /// [`Error::Internal`] if the head was not acceptable.
    pub fn finish(self) -> Result<()> {
        match self.answer.replace(Answer::Whole) {
            Answer::Growing(body) => {
                responder::Body::finish(body);
                Ok(())
            }
            Answer::Refused(problem) => Err(Error::Internal(problem)),
            Answer::None | Answer::Whole => Ok(()),
        }
    }
}

/// The lines of a text, as readers of server-sent events tell them: by `\r\n`, `\n` or `\r`.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\r', '\n']) else { return rest.take() };
        let after = &text[end..];
        rest = Some(after.strip_prefix("\r\n").unwrap_or(&after[1..]));
        Some(&text[..end])
    })
}

fn write(answer: &RefCell<Answer>, bytes: &[u8]) -> Result<()> {
    match &*answer.borrow() {
        Answer::Growing(body) if body.write(bytes) => Ok(()),
        Answer::Refused(problem) => Err(Error::Internal(problem.clone())),
        _ => Err(Error::Closed(Reason::PeerGone)),
    }
}
