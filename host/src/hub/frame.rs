//! A frame: an event as it goes out on an event stream, encoded once for everybody.

use bytes::{BufMut as _, Bytes};

/// Room for the length line of a chunk: 8 hexadecimal digits, CR, LF.
const LENGTH_LINE: usize = 10;

/// A piece of an event stream (`text/event-stream`, one event or comment with its empty line), together with the chunk
/// of HTTP/1.1 that carries it. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    chunk: Bytes,
    text: u32,
}

impl Frame {
    /// A frame with the text that `write` appends, with room for `capacity` bytes of it.
    pub fn write(capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = Vec::with_capacity(LENGTH_LINE + capacity + 2);
        bytes.extend_from_slice(&[0; LENGTH_LINE]);
        write(&mut bytes);
        let length = bytes.len() - LENGTH_LINE;
        bytes.extend_from_slice(b"\r\n");
        let line = format!("{length:x}\r\n");
        let start = LENGTH_LINE - line.len();
        (&mut bytes[start..]).put_slice(line.as_bytes());
        let chunk = Bytes::from(bytes).slice(start..);
        Self { chunk, text: u32::try_from(line.len()).unwrap_or(0) }
    }

    /// A frame of a text that is there.
    pub fn text(text: &str) -> Self {
        Self::write(text.len(), |bytes| bytes.extend_from_slice(text.as_bytes()))
    }

    /// Nothing to show; never put on a wire.
    pub fn empty() -> Self {
        Self { chunk: Bytes::new(), text: 0 }
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.chunk.is_empty()
    }

    /// As a chunk of a chunked body: length line, text, end of line.
    pub fn chunk(&self) -> &Bytes {
        &self.chunk
    }

    /// The text alone, as it stands in a body that is not chunked.
    pub fn payload(&self) -> &[u8] {
        if self.is_empty() {
            return &[];
        }
        &self.chunk[self.text as usize..self.chunk.len() - 2]
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Frame").field(&String::from_utf8_lossy(self.payload())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_text_and_a_chunk_of_it() {
        for length in [1, 9, 15, 16, 255, 256, 70_000] {
            let text = "x".repeat(length);
            let frame = Frame::text(&text);
            assert_eq!(frame.payload(), text.as_bytes());
            assert_eq!(frame.chunk(), format!("{length:x}\r\n{text}\r\n").as_bytes());
        }
        assert!(Frame::empty().is_empty() && Frame::empty().payload().is_empty());
    }
}
