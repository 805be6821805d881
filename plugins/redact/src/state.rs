//! What is carried from one event of a task to the next, in a few bytes.

use crate::{
    stream::Stream,
    verdict::{Tail, Weight},
};

/// First byte of the encoding.
const VERSION: u8 = 2;

/// Places at which a text was cut, at most. Behind the last one, tool calls let nothing out.
const CUTS: usize = 1024;
/// Texts beside the response that may be going on at once.
const OTHERS: usize = 16;
/// Bytes that all of them together may hold back.
const HELD: usize = 24 << 10;
/// Bytes of the name of a kind or a field that is kept.
const NAME: usize = 64;

/// What a task has said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) response: Channel,
    /// Texts beside it, the last one that was heard last.
    pub(crate) others: Vec<Other>,
    pub(crate) said: Said,
}

/// A text that events bring piece by piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) stream: Stream,
    /// Whether something of the message that is being said was replaced.
    pub(crate) replaced: bool,
}

/// Such a text in a field of a kind of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) kind: String,
    pub(crate) field: String,
    /// Hash of the step that it belongs to.
    pub(crate) step: u64,
    pub(crate) channel: Channel,
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
        Self { length: 0, hash: EMPTY_HASH, cuts: Vec::new() }
    }
}

impl Said {
    pub(crate) fn hear(&mut self, chunk: &str) {
        self.length += chunk.len() as u64;
        self.hash = hash(self.hash, chunk);
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
        let response = channel(source)?;
        let other = |source: &mut &[u8]| {
            let (kind, field, step) = (text(source)?, text(source)?, number(source)?);
            Some(Other { kind, field, step, channel: channel(source)? })
        };
        let others = (0..number(source)?).map(|_| other(source)).collect::<Option<_>>()?;
        let (length, hash) = (number(source)?, number(source)?);
        let cuts = (0..number(source)?).map(|_| number(source)).collect::<Option<_>>()?;
        Some(Self { response, others, said: Said { length, hash, cuts } })
    }

    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.push(VERSION);
        put_channel(bytes, &self.response);
        put_number(bytes, self.others.len() as u64);
        for other in &self.others {
            put_text(bytes, &other.kind);
            put_text(bytes, &other.field);
            put_number(bytes, other.step);
            put_channel(bytes, &other.channel);
        }
        put_number(bytes, self.said.length);
        put_number(bytes, self.said.hash);
        put_number(bytes, self.said.cuts.len() as u64);
        self.said.cuts.iter().for_each(|cut| put_number(bytes, *cut));
    }

    /// The text in a field of a kind. None where too many are going on, or its name is too long to be kept.
    pub(crate) fn other(&mut self, kind: &str, field: &str) -> Option<&mut Other> {
        if kind.len() > NAME || field.len() > NAME {
            return None;
        }
        let known = self.others.iter().position(|other| other.kind == kind && other.field == field);
        let other = match known {
            Some(at) => self.others.remove(at),
            None => {
                if self.others.len() >= OTHERS {
                    let idle = self.others.iter().position(|other| !other.channel.stream.hides())?;
                    self.others.remove(idle);
                }
                Other { kind: kind.to_owned(), field: field.to_owned(), ..Other::default() }
            }
        };
        self.others.push(other);
        self.others.last_mut()
    }

    /// Whether the texts beside the response hold back more than they may.
    pub(crate) fn is_full(&self) -> bool {
        self.others.iter().map(|other| other.channel.stream.held.len()).sum::<usize>() > HELD
    }
}

const EMPTY_HASH: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: nothing depends on its strength.
fn hash(from: u64, text: &str) -> u64 {
    text.bytes().fold(from, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// What a step is known by.
pub(crate) fn step_hash(step: &str) -> u64 {
    hash(EMPTY_HASH, step)
}

fn channel(source: &mut &[u8]) -> Option<Channel> {
    let (context, held) = (text(source)?, text(source)?);
    let (shown, covered) = (number(source)?, number(source)?);
    let [rule, tail, weight, replaced] = *source.split_off(..4)? else { return None };
    let tail = match tail {
        0 => Tail::None,
        1 => Tail::Word,
        2 => Tail::Dotted,
        3 => Tail::Bearer,
        tail => Tail::Block { body: tail & 1 != 0, line: tail & 2 != 0 },
    };
    let number = weight & 4 != 0;
    let weight = match weight & 3 {
        0 => Weight::Weak,
        1 => Weight::Strong,
        _ => Weight::Telling,
    };
    let (shown, covered) = (usize::try_from(shown).ok()?, usize::try_from(covered).ok()?);
    let stream = Stream { context, held, shown, covered, rule, tail, weight, number };
    Some(Channel { stream, replaced: replaced != 0 })
}

fn put_channel(bytes: &mut Vec<u8>, Channel { stream, replaced }: &Channel) {
    put_text(bytes, &stream.context);
    put_text(bytes, &stream.held);
    put_number(bytes, stream.shown as u64);
    put_number(bytes, stream.covered as u64);
    let tail = match stream.tail {
        Tail::None => 0,
        Tail::Word => 1,
        Tail::Dotted => 2,
        Tail::Bearer => 3,
        Tail::Block { body, line } => 4 | u8::from(body) | u8::from(line) << 1,
    };
    let weight = match stream.weight {
        Weight::Weak => 0,
        Weight::Strong => 1,
        Weight::Telling => 2,
    } | u8::from(stream.number) << 2;
    bytes.extend([stream.rule, tail, weight, u8::from(*replaced)]);
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
