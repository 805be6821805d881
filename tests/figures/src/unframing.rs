//! Streams of server-sent events as they come over the wire: the head is looked at, the framing taken off.

use anyhow::{Context as _, ensure};

/// Longest line of a chunk's size, extensions included.
const SIZE_LINE: usize = 64;

/// What is left of an answer's framing before the next byte of its body.
#[derive(Debug, Default)]
enum Framing {
    /// The head, or what there is of it.
    #[default]
    Head,
    /// The body goes on until the connection ends.
    Bare,
    /// The line with a chunk's size is next.
    Size,
    /// So much of a chunk is next.
    Chunk(usize),
    /// The line break after a chunk.
    Break,
    /// The last chunk has come.
    End,
}

/// Takes the framing off. What can't be told yet is kept.
#[derive(Debug, Default)]
pub struct Unframing {
    framing: Framing,
    kept: Vec<u8>,
}

impl Unframing {
    /// Whether the head has come, and said that events follow.
    pub fn is_open(&self) -> bool {
        !matches!(self.framing, Framing::Head)
    }

    /// Whether the answer has said that it is whole; one without chunks does not say it.
    pub fn is_ended(&self) -> bool {
        matches!(self.framing, Framing::End)
    }

    /// Reads on, and gives what is of the body to `body`.
    ///
    /// # Errors
    /// The answer is no stream of events, its framing is broken, or what `body` says.
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        mut body: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            match self.framing {
                Framing::Bare => return body(bytes),
                // Trailers, if anything.
                Framing::End => return Ok(()),
                Framing::Chunk(left) => {
                    let (now, rest) = bytes.split_at(left.min(bytes.len()));
                    body(now)?;
                    bytes = rest;
                    self.framing =
                        if now.len() == left { Framing::Break } else { Framing::Chunk(left - now.len()) };
                }
                Framing::Head => match self.line(&mut bytes, b"\r\n\r\n") {
                    Some(head) => self.framing = open(&String::from_utf8_lossy(&head))?,
                    None => return Ok(()),
                },
                Framing::Break => match self.line(&mut bytes, b"\r\n") {
                    Some(line) => {
                        ensure!(line == b"\r\n", "a chunk is longer than it says");
                        self.framing = Framing::Size;
                    }
                    None => return Ok(()),
                },
                Framing::Size => match self.line(&mut bytes, b"\r\n") {
                    Some(line) => {
                        self.framing = match size(&line)? {
                            0 => Framing::End,
                            size => Framing::Chunk(size),
                        }
                    }
                    None => {
                        ensure!(self.kept.len() < SIZE_LINE, "no size of a chunk: {:?}", self.kept);
                        return Ok(());
                    }
                },
            }
        }
        Ok(())
    }

    /// What goes on to `end`, together with what was kept; none if it has not all come.
    fn line(&mut self, bytes: &mut &[u8], end: &[u8]) -> Option<Vec<u8>> {
        // `end` may be cut in two.
        let before = self.kept.len();
        let from = before.saturating_sub(end.len() - 1);
        self.kept.extend_from_slice(bytes);
        let Some(at) = memchr::memmem::find(&self.kept[from..], end) else {
            *bytes = &[];
            return None;
        };
        let length = from + at + end.len();
        *bytes = &bytes[length - before..];
        let mut line = std::mem::take(&mut self.kept);
        line.truncate(length);
        Some(line)
    }
}

fn open(head: &str) -> anyhow::Result<Framing> {
    let lower = head.to_ascii_lowercase();
    ensure!(
        lower.starts_with("http/1.1 200 ") && lower.contains("\r\ncontent-type: text/event-stream"),
        "no stream of events but {head:?}"
    );
    let chunked = lower.contains("\r\ntransfer-encoding: chunked");
    Ok(if chunked { Framing::Size } else { Framing::Bare })
}

fn size(line: &[u8]) -> anyhow::Result<usize> {
    let text = std::str::from_utf8(line)?.trim_end();
    let digits = text.split(';').next().unwrap_or_default();
    usize::from_str_radix(digits, 16).with_context(|| format!("no size of a chunk: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";

    fn read(wire: &[u8], pieces: usize) -> anyhow::Result<Vec<u8>> {
        let (mut unframing, mut text) = (Unframing::default(), Vec::new());
        for piece in wire.chunks(pieces) {
            unframing.read(piece, |body| {
                text.extend_from_slice(body);
                Ok(())
            })?;
        }
        Ok(text)
    }

    #[test]
    fn the_body_is_the_same_however_the_wire_cuts_it() {
        let bare = format!("{HEAD}\r\ndata: one\n\ndata: two\n\n");
        let chunked = format!(
            "{HEAD}transfer-encoding: chunked\r\n\r\nb\r\ndata: one\n\n\r\n3;x=y\r\ndat\r\n8\r\na: two\n\n\r\n"
        );
        for wire in [&bare, &chunked] {
            for pieces in 1..=wire.len() {
                assert_eq!(read(wire.as_bytes(), pieces).unwrap(), b"data: one\n\ndata: two\n\n", "{pieces}");
            }
        }
    }

    #[test]
    fn a_refusal_and_a_wrong_size_are_errors() {
        let chunked = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
        assert!(read(format!("{chunked}2\r\nabc\r\n").as_bytes(), 9).is_err());
        assert!(
            read(b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/event-stream\r\n\r\n", 9).is_err()
        );
        assert!(read(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n", 9).is_err());
    }

    #[test]
    fn the_last_chunk_is_the_end_and_nothing_before_it_is() {
        let wire = format!("{HEAD}transfer-encoding: chunked\r\n\r\n5\r\na: b\n\r\n0\r\n\r\n");
        let mut unframing = Unframing::default();
        for (at, byte) in (1..).zip(wire.as_bytes()) {
            unframing.read(&[*byte], |_| Ok(())).unwrap();
            assert_eq!(unframing.is_ended(), at >= wire.len() - 2, "{at}");
        }
    }
}
