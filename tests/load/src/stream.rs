//! A stream of server-sent events as it comes over the wire: head, chunks, and for samples the events themselves.

use anyhow::{Context as _, bail, ensure};

use crate::event;

/// Longest line of a chunk's size, extensions included.
const SIZE_LINE: usize = 64;

/// What is left of an answer's framing before the next byte of its body.
#[derive(Debug, Default)]
pub(crate) enum Framing {
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
}

/// Takes the framing off. What can't be told yet is kept.
#[derive(Debug, Default)]
pub(crate) struct Unframing {
    framing: Framing,
    kept: Vec<u8>,
}

impl Unframing {
    /// Whether the head has come, and said that events follow.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.framing, Framing::Head)
    }

    /// Reads on, and gives what is of the body to `body`.
    pub(crate) fn read(
        &mut self,
        mut bytes: &[u8],
        mut body: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            match self.framing {
                Framing::Bare => return body(bytes),
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
                    Some(line) => self.framing = Framing::Chunk(size(&line)?),
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
    match usize::from_str_radix(digits, 16).with_context(|| format!("no size of a chunk: {text:?}"))? {
        0 => bail!("the stream ended"),
        size => Ok(size),
    }
}

/// Reads every line of a stream, and checks that what carries a mark is a whole event.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    text: Vec<u8>,
    data: String,
    /// Whole events with a mark so far.
    pub(crate) whole: u64,
}

impl Audit {
    /// Reads on. `padding` is that of the events that come.
    pub(crate) fn read(&mut self, body: &[u8], padding: usize) -> anyhow::Result<()> {
        self.text.extend_from_slice(body);
        while let Some(end) = memchr::memchr(b'\n', &self.text) {
            let line: Vec<u8> = self.text.drain(..=end).collect();
            let line = std::str::from_utf8(&line)?.trim_end_matches(['\r', '\n']).to_owned();
            self.line(&line, padding)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, padding: usize) -> anyhow::Result<()> {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            if data.contains("@@") {
                ensure!(event::is_whole(&data, padding), "an event is not what was sent: {data:?}");
                self.whole += 1;
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        match field {
            "data" => self.data.push_str(value.strip_prefix(' ').unwrap_or(value)),
            "" | "id" | "event" | "retry" => {}
            other => bail!("a stream of events has no field {other:?}"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Mark;

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
    fn an_end_a_refusal_and_a_wrong_size_are_errors() {
        let chunked = format!("{HEAD}transfer-encoding: chunked\r\n\r\n");
        assert!(read(format!("{chunked}0\r\n\r\n").as_bytes(), 9).is_err());
        assert!(read(format!("{chunked}2\r\nabc\r\n").as_bytes(), 9).is_err());
        assert!(
            read(b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/event-stream\r\n\r\n", 9).is_err()
        );
        assert!(read(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n", 9).is_err());
    }

    #[test]
    fn an_audit_counts_whole_events_and_stops_at_others() {
        let document = Mark { number: 1, sent: Duration::from_nanos(5) }.document(20);
        let mut audit = Audit::default();
        let text = format!(": hi\r\n\r\nid: 1\r\nevent: signal\r\ndata: {document}\r\n\r\ndata: other\n\n");
        for byte in text.as_bytes() {
            audit.read(&[*byte], 20).unwrap();
        }
        assert_eq!(audit.whole, 1);
        assert!(audit.read(&document.as_bytes()[20..], 20).is_ok(), "a line that has not ended is none");
        assert!(audit.read(b"\n", 20).is_err());
        let torn = format!("data: {}\n\n", document.replace("xxx", "xx\u{fffd}"));
        assert!(Audit::default().read(torn.as_bytes(), 20).is_err());
    }
}
