//! What is carried from one event of a task to the next, in a few bytes.

use crate::{stream::Stream, verdict::Tail};

/// First byte of the encoding.
const VERSION: u8 = 1;

/// Places at which a text was cut, at most. Behind the last one, tool calls let nothing out.
const CUTS: usize = 1024;

/// What a task has said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) response: Stream,
    pub(crate) thinking: Stream,
    /// The thought's step, as JSON.
    pub(crate) step: String,
    pub(crate) said: Said,
}

/// What is remembered of the response as the agent wrote it: to redact the whole of it, in the end, as its chunks were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    length: u64,
    hash: u64,
    /// Places at which a tool call ended the text, in order.
    cuts: Vec<u64>,
}

impl Default for Said {
    fn default() -> Self {
        Self { length: 0, hash: 0xcbf2_9ce4_8422_2325, cuts: Vec::new() }
    }
}

impl Said {
    pub(crate) fn hear(&mut self, chunk: &str) {
        self.length += chunk.len() as u64;
        // FNV-1a: nothing depends on its strength.
        self.hash = chunk
            .bytes()
            .fold(self.hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    }

    /// Whether another cut may be made.
    pub(crate) fn can_cut(&self) -> bool {
        self.cuts.len() < CUTS
    }

    pub(crate) fn cut(&mut self) {
        self.cuts.push(self.length);
    }

    /// Takes a whole text apart where it was cut, if it begins with all that was said; what was not said yet is the second.
    pub(crate) fn split<'a>(&self, text: &'a str) -> Option<(Vec<&'a str>, &'a str)> {
        let rest = text.get(usize::try_from(self.length).ok()?..)?;
        let mut heard = Self::default();
        heard.hear(&text[..text.len() - rest.len()]);
        if heard.hash != self.hash {
            return None;
        }
        let mut parts = Vec::with_capacity(self.cuts.len() + 1);
        let mut from = 0;
        for cut in &self.cuts {
            let cut = usize::try_from(*cut).ok()?;
            parts.push(text.get(from..cut)?);
            from = cut;
        }
        parts.push(&text[from..]);
        Some((parts, rest))
    }
}

impl State {
    /// Reads what an instance of any kind left; what was left by another version of the filter is nothing.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        Self::try_read(bytes).unwrap_or_default()
    }

    fn try_read(bytes: &[u8]) -> Option<Self> {
        let mut source = bytes.strip_prefix(&[VERSION])?;
        let source = &mut source;
        let (response, thinking) = (stream(source)?, stream(source)?);
        let step = text(source)?;
        let (length, hash) = (number(source)?, number(source)?);
        let cuts = (0..number(source)?).map(|_| number(source)).collect::<Option<_>>()?;
        Some(Self { response, thinking, step, said: Said { length, hash, cuts } })
    }

    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.push(VERSION);
        for stream in [&self.response, &self.thinking] {
            put_text(bytes, &stream.context);
            put_text(bytes, &stream.held);
            put_number(bytes, stream.covered as u64);
            let tail = match stream.tail {
                Tail::None => 0,
                Tail::Word => 1,
                Tail::Dotted => 2,
                Tail::Bearer => 3,
                Tail::Block { body, line } => 4 | u8::from(body) | u8::from(line) << 1,
            };
            bytes.extend([stream.rule, tail, u8::from(stream.strong)]);
        }
        put_text(bytes, &self.step);
        put_number(bytes, self.said.length);
        put_number(bytes, self.said.hash);
        put_number(bytes, self.said.cuts.len() as u64);
        self.said.cuts.iter().for_each(|cut| put_number(bytes, *cut));
    }
}

fn stream(source: &mut &[u8]) -> Option<Stream> {
    let (context, held, covered) = (text(source)?, text(source)?, number(source)?);
    let [rule, tail, strong] = *source.split_off(..3)? else { return None };
    let tail = match tail {
        0 => Tail::None,
        1 => Tail::Word,
        2 => Tail::Dotted,
        3 => Tail::Bearer,
        tail => Tail::Block { body: tail & 1 != 0, line: tail & 2 != 0 },
    };
    Some(Stream { context, held, covered: usize::try_from(covered).ok()?, rule, tail, strong: strong != 0 })
}

fn text(source: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(number(source)?).ok()?;
    String::from_utf8(source.split_off(..length)?.to_vec()).ok()
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

/// Seven bits a byte, the low ones first.
fn number(source: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *source.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}
