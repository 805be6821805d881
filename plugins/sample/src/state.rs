//! What is carried from one event of a task to the next: when a kind went out last, and what is held of it.

use serde::{Deserialize, Serialize};

/// Bytes that may be held, as they are written; what would be more goes out at once.
pub(crate) const MOST: usize = 40 << 10;

/// Kinds that have a rule and have come.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) slots: Vec<Slot>,
    /// Number of the event, to keep the order of what is held.
    pub(crate) number: u64,
}

/// One kind.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Slot {
    pub(crate) kind: String,
    /// When an event of it went out last, in milliseconds since the Unix epoch.
    pub(crate) last_ms: Option<u64>,
    pub(crate) held: Option<Held>,
}

/// What waits for its time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Number of the first event of it.
    pub(crate) number: u64,
    /// The event's data, as long as it is one event.
    pub(crate) whole: Option<String>,
    /// The texts of several, and their other fields, which are the same in all.
    pub(crate) text: String,
    pub(crate) rest: String,
}

impl State {
    /// Reads what an instance of any kind left; what was left by another version of the filter is nothing.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        if !self.slots.is_empty() {
            // Only maps with keys that are no strings could fail.
            _ = serde_json::to_writer(bytes, self);
        }
    }

    /// Bytes that are held.
    pub(crate) fn size(&self) -> usize {
        self.slots.iter().filter_map(|slot| slot.held.as_ref()).map(Held::size).sum()
    }

    /// The slot of a kind.
    pub(crate) fn slot(&mut self, kind: &str) -> &mut Slot {
        let at = self.slots.iter().position(|slot| slot.kind == kind).unwrap_or_else(|| {
            self.slots.push(Slot { kind: kind.to_owned(), last_ms: None, held: None });
            self.slots.len() - 1
        });
        &mut self.slots[at]
    }
}

impl Held {
    pub(crate) fn size(&self) -> usize {
        written(self.whole.as_deref().unwrap_or_default()) + written(&self.text) + written(&self.rest)
    }
}

/// Bytes of a text in the state, which is JSON.
pub(crate) fn written(text: &str) -> usize {
    let size = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(size).sum()
}
