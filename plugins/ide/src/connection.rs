//! One WebSocket, from its upgrade to its end: frames of the IDE go down as they come, the session's events go up as they
//! come, and neither waits for the other.

use crate::{
    config::Config,
    inbound::{self, Asked},
    outbound,
    place::Place,
    stream::Stream,
};
use plugway_sdk::{SubmitError, cancel_session, follow_session, prelude::*};

/// Close code of a connection that can't be what it was asked to be.
const POLICY_VIOLATION: u16 = 1008;
/// Close code of a connection that may be tried again.
const TRY_AGAIN_LATER: u16 = 1013;

/// Serves a connection.
///
/// # Errors
/// The peer is gone, or the host has no way to follow the session.
pub(crate) fn serve(upgrade: &Request, socket: Socket, config: &Config) -> Result<()> {
    let session = SessionId::from(upgrade.param("session_id").unwrap_or_default());
    let (mut stream, problem) = match begin(upgrade, &session) {
        Ok(begun) => begun,
        Err(error) => return refuse(socket, error),
    };
    if let Some(problem) = problem {
        socket.text(stream.error(&problem))?;
    }
    while let Some(message) = mailbox::next(None) {
        match message {
            Message::Event(event) => {
                for frame in stream.event(event) {
                    socket.text(frame)?;
                }
            }
            Message::Frame(frame) => {
                if let Err(problem) = take(&frame, &session, &mut stream, config) {
                    socket.text(stream.error(&problem))?;
                }
            }
            Message::Gap(gap) => {
                if let Some(frame) = stream.gap(&gap) {
                    socket.text(frame)?;
                }
            }
            // The host closes with the code that fits, and the log has what was not sent.
            Message::Closed(_) => break,
            _ => {}
        }
    }
    Ok(())
}

/// Follows the session from where the IDE wants to, or from now on where that can't be: then with a sentence about it.
fn begin(upgrade: &Request, session: &SessionId) -> Result<(Stream, Option<String>)> {
    let cursors = upgrade.flag("cursors");
    let mut problem = None;
    if let Some(after) = upgrade.query("after") {
        let place = Place::read(&after).ok_or_else(|| Error::bad_request("it is no cursor"));
        let followed = place.and_then(|place| {
            follow_session(session, place.cursor.as_ref())?;
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
    let stream = Stream::from_now(cursors, host::now());
    follow_session(session, None)?;
    Ok((stream, problem))
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
fn take(frame: &Frame, session: &SessionId, stream: &mut Stream, config: &Config) -> Result<(), String> {
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
            stream.accepted(&submitted.id);
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
