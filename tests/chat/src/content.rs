//! What a stream has to say, read line by line: every chunk, whole, in order, and the end.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{bail, ensure};
use plugway_figures::mark::{Found, find};

/// Longest part of a line that an error shows.
const SHOWN: usize = 300;

/// What is to come, and how it is found.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// So many chunks with a mark each, as the model server makes them.
    Marks(u32),
    /// The words of the echo agent.
    Words(Words),
}

/// The words of the echo agent, cut anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    /// All that is to be said.
    all: Rc<str>,
    /// What a line has that tells a piece of it.
    of: &'static str,
    /// What stands before the piece there, up to the quotation mark that begins it.
    before: &'static str,
}

impl Content {
    /// What `/words` makes the echo agent say, in lines that have `of` in them, behind
    /// `before`.
    pub(crate) fn words(count: u32, of: &'static str, before: &'static str) -> Self {
        let all = (1..=count).map(|number| format!("w{number}")).collect::<Vec<_>>().join(" ");
        Self::Words(Words { all: all.into(), of, before })
    }
}

/// Follows a stream and checks it.
#[derive(Debug)]
pub(crate) struct Audit {
    content: Content,
    /// What the last line of a whole stream has in it.
    end: &'static str,
    /// A line that has not ended.
    kept: Vec<u8>,
    /// The last line that was no chunk, or its beginning.
    last: Vec<u8>,
    /// Marks or bytes of the words so far.
    at: usize,
    has_ended: bool,
}

impl Audit {
    /// Of a stream that has not begun.
    pub(crate) fn new(content: Content, end: &'static str) -> Self {
        Self { content, end, kept: Vec::new(), last: Vec::new(), at: 0, has_ended: false }
    }

    /// Reads on; `chunk` is told of each chunk when it was made, if it says so.
    pub(crate) fn read(
        &mut self,
        mut text: &[u8],
        chunk: &mut impl FnMut(Option<Duration>),
    ) -> anyhow::Result<()> {
        while let Some(end) = memchr::memchr(b'\n', text) {
            let (line, rest) = text.split_at(end + 1);
            text = rest;
            if self.kept.is_empty() {
                self.line(line, chunk)?;
            } else {
                let mut whole = std::mem::take(&mut self.kept);
                whole.extend_from_slice(line);
                self.line(&whole, chunk)?;
                whole.clear();
                self.kept = whole;
            }
        }
        self.kept.extend_from_slice(text);
        Ok(())
    }

    /// An error unless all has come.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let (at, all) = match &self.content {
            Content::Marks(count) => (self.at, *count as usize),
            Content::Words(words) => (self.at, words.all.len()),
        };
        let last = String::from_utf8_lossy(&self.last);
        ensure!(at == all, "a stream ended after {at} of {all}; it said at last: {last}");
        ensure!(self.has_ended, "a stream broke off behind its last chunk; it said at last: {last}");
        Ok(())
    }

    fn line(&mut self, line: &[u8], chunk: &mut impl FnMut(Option<Duration>)) -> anyhow::Result<()> {
        let found = match &self.content {
            Content::Marks(_) => marks(line, &mut self.at, chunk)?,
            Content::Words(words) => words.piece(line, &mut self.at, chunk)?,
        };
        if found {
            ensure!(!self.has_ended, "a chunk came behind the end");
        } else if line.len() > 2 {
            self.has_ended |= memchr::memmem::find(line, self.end.as_bytes()).is_some();
            self.last.clear();
            self.last.extend_from_slice(&line[..line.len().min(SHOWN)]);
        }
        Ok(())
    }
}

/// Whether there are marks in the line; they have to be the next ones.
fn marks(line: &[u8], at: &mut usize, chunk: &mut impl FnMut(Option<Duration>)) -> anyhow::Result<bool> {
    let (mut from, mut found) = (0, false);
    loop {
        match find(&line[from..], 0) {
            Found::Mark(mark, end) => {
                ensure!(mark.number as usize == *at, "chunk {} came where {at} was next", mark.number);
                *at += 1;
                from += end;
                found = true;
                chunk(Some(mark.made));
            }
            Found::Nothing(forgotten) if line.len() - from - forgotten < 3 => return Ok(found),
            _ => bail!("a chunk is not what was sent: {:?}", String::from_utf8_lossy(line)),
        }
    }
}

impl Words {
    fn piece(
        &self,
        line: &[u8],
        at: &mut usize,
        chunk: &mut impl FnMut(Option<Duration>),
    ) -> anyhow::Result<bool> {
        if memchr::memmem::find(line, self.of.as_bytes()).is_none() {
            return Ok(false);
        }
        let Some(found) = memchr::memmem::find(line, self.before.as_bytes()) else { return Ok(false) };
        let piece = &line[found + self.before.len()..];
        let piece = &piece[..memchr::memchr(b'"', piece).unwrap_or(piece.len())];
        if piece.is_empty() {
            return Ok(false);
        }
        let rest = &self.all.as_bytes()[*at..];
        ensure!(
            rest.starts_with(piece),
            "{:?} came where {:?} was next",
            String::from_utf8_lossy(piece),
            String::from_utf8_lossy(&rest[..rest.len().min(40)])
        );
        *at += piece.len();
        chunk(None);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use plugway_figures::mark::Mark;

    use super::*;

    fn audit(content: Content, text: &str, pieces: usize) -> anyhow::Result<usize> {
        let mut audit = Audit::new(content, "data: [DONE]");
        let mut chunks = 0;
        for piece in text.as_bytes().chunks(pieces) {
            audit.read(piece, &mut |_| chunks += 1)?;
        }
        audit.check()?;
        Ok(chunks)
    }

    fn marked(numbers: &[u32]) -> String {
        let mut text = ": hello\n\ndata: {\"role\":\"assistant\"}\n\n".to_owned();
        for number in numbers {
            let mark = Mark { number: *number, made: Duration::from_nanos(5) }.text(0);
            text += &format!("data: {{\"content\": \"{mark}\"}}\n\n");
        }
        text + "data: {\"finish_reason\":\"stop\"}\n\ndata: [DONE]\n\n"
    }

    #[test]
    fn a_whole_stream_passes_however_it_is_cut() {
        let text = marked(&[0, 1, 2]);
        for pieces in 1..text.len() {
            assert_eq!(audit(Content::Marks(3), &text, pieces).unwrap(), 3);
        }
    }

    #[test]
    fn what_is_lost_doubled_torn_or_broken_off_is_an_error() {
        let text = marked(&[0, 1, 2]);
        assert!(audit(Content::Marks(3), &marked(&[0, 2]), 99).is_err());
        assert!(audit(Content::Marks(3), &marked(&[0, 1, 1, 2]), 99).is_err());
        assert!(audit(Content::Marks(4), &text, 99).is_err());
        assert!(audit(Content::Marks(2), &text, 99).is_err());
        assert!(audit(Content::Marks(3), &text.replace("5:##\"", "5:#\""), 99).is_err());
        assert!(audit(Content::Marks(3), &text.replace("[DONE]", ""), 99).is_err());
        assert!(audit(Content::Marks(3), &format!("{text}{text}"), 99).is_err());
    }

    #[test]
    fn words_may_be_cut_and_merged_but_not_lost() {
        let content = Content::words(3, "data:", "\"text\":\"");
        let text = "data: {\"text\":\"w1 w\"}\n\ndata: {\"text\":\"2 w3\"}\n\ndata: [DONE]\n\n";
        assert_eq!(audit(content.clone(), text, 7).unwrap(), 2);
        assert!(audit(content.clone(), &text.replace("2 w3", "2 w4"), 7).is_err());
        assert!(audit(content.clone(), &text.replace("2 w3", "2 w"), 7).is_err());
        assert!(audit(content, &text.replace("2 w3", "2 w3 w4"), 7).is_err());
    }
}
