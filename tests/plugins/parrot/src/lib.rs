//! A plugin that serves WebSocket connections: it says what it hears, but for texts that begin with a slash, which tell it
//! what to do.

use std::hint::black_box;
use std::time::Duration;

use plugway_sdk::prelude::*;
use plugway_sdk::{Begin, Frame, Message, follow_session, info, mailbox};

struct Parrot;

impl SocketAdapter for Parrot {
    fn serve(&self, upgrade: Request, socket: Socket) -> Result<()> {
        let session = SessionId::from(upgrade.param("session").unwrap_or_default());
        follow_session(&session, Begin::Now)?;
        loop {
            let Some(message) = mailbox::next(None) else { continue };
            match message {
                Message::Frame(Frame::Text(text)) if text.starts_with('/') => {
                    let (command, rest) = text.split_once(' ').unwrap_or((text.as_str(), ""));
                    let number = rest.parse::<u64>().unwrap_or_default();
                    match command {
                        "/close" => {
                            return socket.close(u16::try_from(number).unwrap_or_default(), "as told");
                        }
                        "/return" => return Ok(()),
                        "/error" => return Err(Error::internal("details that nobody is told")),
                        "/trap" => panic!("as told"),
                        "/spin" => spin(),
                        "/sleep" => {
                            // Frames come in meanwhile, and wait.
                            plugway_sdk::pacing::acquire(
                                &upgrade.exchange,
                                1,
                                Duration::from_millis(number),
                                Duration::ZERO,
                            )?;
                            plugway_sdk::pacing::acquire(
                                &upgrade.exchange,
                                1,
                                Duration::from_millis(number),
                                Duration::from_secs(60),
                            )?;
                        }
                        "/flood" => {
                            let frame = "x".repeat(64 << 10);
                            for _ in 0..number {
                                socket.text(frame.as_str())?;
                            }
                        }
                        "/ask" => drop(Task::message(rest).session(&session).submit()?),
                        "/upgrade" => socket.text(format!("{} {:?}", upgrade.path, upgrade.header(rest)))?,
                        "/ignore" => {
                            socket.text("deaf now")?;
                            loop {
                                black_box(mailbox::next(None));
                            }
                        }
                        _ => socket.text("what?")?,
                    }
                }
                Message::Frame(frame) => socket.send(frame)?,
                Message::Event(event) => {
                    if let EventKind::ResponseChunk(chunk) = event.kind {
                        socket.text(format!("chunk: {}", chunk.text))?;
                    } else {
                        socket.text(format!("event: {}", event.name))?;
                    }
                }
                Message::Closed(reason) => {
                    info!("told to end: {reason}");
                    socket.text(format!("told to end: {reason}")).ok();
                    return Err(Error::Closed(reason));
                }
                _ => {}
            }
        }
    }
}

fn spin() -> ! {
    loop {
        black_box(0);
    }
}

plugway_sdk::export!(Parrot: socket, routes = ["WS /parrot/{session}"]);
