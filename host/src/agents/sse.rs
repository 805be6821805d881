//! Server-sent events from an agent, read piece by piece (WHATWG HTML, section 9.2.6), with a bound on what an event may
//! take. Each byte is looked at once, whatever the pieces. An event with a name and without data, which a browser would
//! pass over, is one too: some servers end their streams with it.

use bytes::{Buf as _, Bytes, BytesMut};

/// Lines of a body that is no such stream are kept until they have so many bytes.
const FOREIGN: usize = 1024;

/// One event: the lines of its data joined by line feeds, and its name where it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SseEvent {
    /// Its `event:`; empty without one.
    pub(super) name: String,
    /// Its data.
    pub(super) data: String,
}

/// A stream that can't be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SseError {
    /// An event takes more than the bound.
    #[error("an event is larger than {0} bytes")]
    TooLarge(usize),
    /// A line is no UTF-8.
    #[error("an event is not UTF-8")]
    NotUtf8,
}

/// Turns pieces of a body into events.
#[derive(Debug)]
pub(super) struct SseReader {
    buffer: BytesMut,
    /// Bytes of the buffer known to hold no end of a line.
    searched: usize,
    event: SseEvent,
    has_data: bool,
    /// An event was complete.
    has_events: bool,
    /// First lines that are of no such stream, whole.
    foreign: String,
    /// The line feed after a carriage return belongs to it.
    skip_line_feed: bool,
    at_start: bool,
    max: usize,
}

impl SseReader {
    /// Reads events of at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            event: SseEvent::default(),
            has_data: false,
            has_events: false,
            foreign: String::new(),
            skip_line_feed: false,
            at_start: true,
            max,
        }
    }

    /// Takes the next piece of the body. Call [`SseReader::next`] until it has no more before the next one.
    pub(super) fn push(&mut self, piece: &Bytes) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next event that is complete.
    ///
    /// # Errors
    /// [`SseError`]; the reader is of no use afterwards.
    pub(super) fn next(&mut self) -> Result<Option<SseEvent>, SseError> {
        loop {
            if self.skip_line_feed && !self.buffer.is_empty() {
                if self.buffer[0] == b'\n' {
                    self.buffer.advance(1);
                }
                self.skip_line_feed = false;
            }
            let found = self.buffer[self.searched..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let Some(end) = found.map(|at| self.searched + at) else {
                self.searched = self.buffer.len();
                return self.within_bound(self.buffer.len()).map(|()| None);
            };
            self.within_bound(end)?;
            let line = self.buffer.split_to(end);
            self.skip_line_feed = self.buffer[0] == b'\r';
            self.buffer.advance(1);
            self.searched = 0;
            if let Some(event) = self.line(&line)? {
                return Ok(Some(event));
            }
        }
    }

    /// What is left when the body has ended: servers that leave out the last empty line exist.
    ///
    /// # Errors
    /// [`SseError`].
    pub(super) fn finish(&mut self) -> Result<Option<SseEvent>, SseError> {
        let rest = self.buffer.split();
        if let Some(event) = self.line(&rest)? {
            return Ok(Some(event));
        }
        self.line(b"")
    }

    /// The beginning of a body that held text and no event.
    pub(super) fn foreign(&self) -> Option<&str> {
        Some(self.foreign.as_str()).filter(|text| !text.is_empty() && !self.has_events)
    }

    fn within_bound(&self, line: usize) -> Result<(), SseError> {
        let size = self.event.data.len() + self.event.name.len() + line;
        if size > self.max { Err(SseError::TooLarge(self.max)) } else { Ok(()) }
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<SseEvent>, SseError> {
        let line = if self.at_start { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        self.at_start = false;
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let is_event = std::mem::take(&mut self.has_data) || !event.name.is_empty();
            self.has_events |= is_event;
            return Ok(is_event.then_some(event));
        }
        let whole = std::str::from_utf8(line).map_err(|_| SseError::NotUtf8)?;
        let (field, value) = whole.split_once(':').unwrap_or((whole, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            "event" => value.clone_into(&mut self.event.name),
            "" | "id" | "retry" => {}
            _ if self.has_events || self.foreign.len() >= FOREIGN => {}
            _ => {
                self.foreign.push_str(whole);
                self.foreign.push('\n');
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]], max: usize) -> Result<Vec<SseEvent>, SseError> {
        let (mut reader, mut events) = (SseReader::new(max), Vec::new());
        for piece in pieces {
            reader.push(&Bytes::copy_from_slice(piece));
            while let Some(event) = reader.next()? {
                events.push(event);
            }
        }
        events.extend(reader.finish()?);
        Ok(events)
    }

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.to_owned(), data: data.to_owned() }
    }

    const SAMPLE: &str = "\u{feff}: hello\r\ndata: a\r\n\r\nevent: done\rdata:b\rdata:  ü\r\r\nid: 7\nretry: 1\n\ndata\n\ndata: {\"x\":1}\n\nevent: x\n\ndata: last";

    #[test]
    fn every_kind_of_line_end_is_understood() {
        let events = read(&[SAMPLE.as_bytes()], 64).unwrap();
        let expected = [
            event("", "a"),
            event("done", "b\n ü"),
            event("", ""),
            event("", "{\"x\":1}"),
            event("x", ""),
            event("", "last"),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn what_has_no_end_is_refused_at_the_bound() {
        let long = [b'x'; 100];
        assert_eq!(read(&[&long], 64), Err(SseError::TooLarge(64)));
        let many: Vec<&[u8]> = vec![b"data: 0123456789\n"; 10];
        assert_eq!(read(&many, 64), Err(SseError::TooLarge(64)));
        assert_eq!(read(&[b"data: \xff\n\n"], 64), Err(SseError::NotUtf8));
    }

    #[test]
    fn a_body_without_events_is_known_by_its_lines() {
        let foreign = |body: &str| {
            let mut reader = SseReader::new(5000);
            reader.push(&Bytes::copy_from_slice(body.as_bytes()));
            while reader.next().unwrap().is_some() {}
            while reader.finish().unwrap().is_some() {}
            reader.foreign().map(str::to_owned)
        };
        assert_eq!(foreign("{\"type\":\"a\"}\n\n{\"b\":1}").unwrap(), "{\"type\":\"a\"}\n{\"b\":1}\n");
        assert_eq!(foreign("hello").unwrap(), "hello\n");
        for body in
            ["", ": ping\n\n", "id: 7\nretry: 1\n\n\n", "data: a\nhello\n\n", "hello\nevent: done\n\n"]
        {
            assert_eq!(foreign(body), None, "{body}");
        }
        let long = format!("{}\n", "x".repeat(600));
        assert_eq!(foreign(&long.repeat(5)).unwrap().len(), 2 * long.len());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(cuts in prop::collection::vec(0..SAMPLE.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.extend([0, SAMPLE.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &SAMPLE.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces, 64).unwrap(), read(&[SAMPLE.as_bytes()], 64).unwrap());
        }

        #[test]
        fn rubbish_never_panics(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = read(&pieces, 64);
        }
    }
}
