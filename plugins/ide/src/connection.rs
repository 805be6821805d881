//! One WebSocket, from its upgrade to its end: frames of the IDE go down as they come, the session's events go up as they
//! come, and neither waits for the other.

use crate::{
    config::Config,
    inbound::{self, Asked},
    outbound,
    place::Place,
    stream::Stream,
};
use plugway_sdk::{Begin, SubmitError, cancel_session, follow_session, prelude::*};

/// Close code of a connection that can't be what it was asked to be.
const POLICY_VIOLATION: u16 = 1008;
/// Close code of a connection that may be tried again.
const TRY_AGAIN_LATER: u16 = 1013;

/// Serves a connection.
///
/// # Errors
/// The host has no way to follow the session.
pub(crate) fn serve(upgrade: &Request, socket: Socket, config: &Config) -> Result<()> {
    let session = SessionId::from(upgrade.param("session_id").unwrap_or_default());
    let (mut stream, problem) = match begin(upgrade, &session) {
        Ok(begun) => begun,
        Err(error) => return refuse(socket, error),
    };
    let mut ide = Peer { socket, gone: false };
    if let Some(problem) = problem {
        ide.hears(stream.error(&problem))?;
    }
    while let Some(message) = mailbox::next(None) {
        match message {
            Message::Event(event) => {
                for frame in stream.event(event) {
                    ide.hears(frame)?;
                }
            }
            Message::Frame(frame) => {
                if let Err(problem) = take(&frame, &session, &stream, config) {
                    ide.hears(stream.error(&problem))?;
                }
            }
            Message::Gap(gap) => ide.hears(stream.gap(&gap))?,
            // The host closes with the code that fits, and the log has what was not sent.
            Message::Closed(_) => break,
            _ => {}
        }
    }
    Ok(())
}

/// The IDE. What it sent before it went is done all the same.
struct Peer {
    socket: Socket,
    gone: bool,
}

impl Peer {
    fn hears(&mut self, frame: String) -> Result<()> {
        if self.gone {
            return Ok(());
        }
        match self.socket.text(frame) {
            Err(Error::Closed(_)) => {
                self.gone = true;
                Ok(())
            }
            sent => sent,
        }
    }
}

/// Follows the session from where the IDE wants to, or from now on where that can't be: then with a sentence about it.
fn begin(upgrade: &Request, session: &SessionId) -> Result<(Stream, Option<String>)> {
    let cursors = upgrade.flag("cursors");
    let mut problem = None;
    if let Some(after) = upgrade.query("after") {
        let place = Place::read(&after).ok_or_else(|| Error::bad_request("it is no cursor"));
        let followed = place.and_then(|place| {
            follow_session(session, place.cursor.as_ref().map_or(Begin::Start, Begin::After))?;
            Ok(Stream::behind(cursors, place))
        });
        match followed {
            Ok(stream) => return Ok((stream, None)),
            Err(Error::BadRequest { message, .. }) => {
                problem = Some(format!("Streaming error: after: {message}; only what is new follows"));
            }
            Err(error) => return Err(error),
        }
    }
    follow_session(session, Begin::Now)?;
    Ok((Stream::from_now(cursors), problem))
}

/// Closes a connection whose session can't be followed.
fn refuse(socket: Socket, error: Error) -> Result<()> {
    match &error {
        Error::BadRequest { message, .. } => {
            socket.text(outbound::error(&format!("Streaming error: {message}")))?;
            socket.close(POLICY_VIOLATION, "the session's name is not acceptable")?;
        }
        Error::Unavailable { .. } => {
            warn!("a session can't be followed: {}", error.reason());
            socket.text(outbound::error(&streaming(&error)))?;
            socket.close(TRY_AGAIN_LATER, "try again later")?;
        }
        _ => return Err(error),
    }
    Ok(())
}

/// Does what a frame asks for.
///
/// # Errors
/// The sentence to be sent back: nothing was done.
fn take(frame: &Frame, session: &SessionId, stream: &Stream, config: &Config) -> Result<(), String> {
    let Frame::Text(text) = frame else {
        return Err(inbound::invalid("the frame is binary, and must be text"));
    };
    match inbound::read(text, session, config)? {
        Asked::Cancel => {
            let cancelled = cancel_session(session).map_err(|error| {
                warn!("a session can't be cancelled: {}", error.reason());
                streaming(&error)
            })?;
            debug!("{cancelled} turns of session {session} cancelled");
        }
        Asked::Turn(task) => {
            let task = match &config.agent {
                Some(agent) => task.agent(agent),
                None => task,
            };
            let submitted = task.session(session).submit().map_err(|error| refused(&error))?;
            if submitted.duplicate && stream.is_new() {
                // An IDE that lost its connection before it heard anything sends it again, and waits for the answer.
                follow_session(session, Begin::Task(&submitted.id)).map_err(|error| streaming(&error))?;
            }
        }
    }
    Ok(())
}

/// The sentence about a turn that was not accepted.
fn refused(error: &SubmitError) -> String {
    match error {
        SubmitError::Invalid(why) => inbound::invalid(why),
        SubmitError::Busy { retry_after } => {
            let seconds = retry_after.as_millis().div_ceil(1000).max(1);
            format!("Streaming error: too many turns are waiting, try again in {seconds} s")
        }
        SubmitError::Refused(why) => format!("Streaming error: refused: {why}"),
        SubmitError::UnknownAgent(_) => {
            warn!("{error}: set plugins.ide.config.agent to one of [agents]");
            format!("Streaming error: {error}")
        }
        _ => {
            warn!("a turn was not accepted: {error}");
            "Streaming error: the turn can't be taken now, try again".to_owned()
        }
    }
}

/// What the IDE is told of a failure whose reason is for the log.
fn streaming(error: &Error) -> String {
    format!("Streaming error: {error}")
}
