//! What is remembered, in the plugin's own storage: under one name a document of any length, in pieces that an entry holds.

use crate::{fields::weight, room};
use plugway_sdk::{Error, Result, bounds, host, kv};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// Bytes that tell the pieces of one writing from those of another; and all that stands before a document in its head.
const GENERATION: usize = 4;
const HEAD: usize = 1 + GENERATION;

/// Reads a document.
///
/// # Errors
/// The store does not answer, or what it has is not what was stored.
pub(crate) fn read<T: DeserializeOwned>(name: &str) -> Result<Option<T>> {
    Ok(read_weighed(name)?.map(|(document, _)| document))
}

/// Reads a document, and tells about how many bytes of an instance it takes.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_weighed<T: DeserializeOwned>(name: &str) -> Result<Option<(T, u64)>> {
    let mut found = kv::get(&head(name))?;
    while let Some(kv::Versioned { value, version }) = found {
        let Some((pieces, first)) = Pieces::read(&value) else { return Err(torn(name)) };
        if let Some(rest) = pieces.bytes(name)? {
            let bytes = [first, &rest].concat();
            let document = serde_json::from_slice(&bytes)
                .map_err(|error| Error::internal(format!("{name}: {error}")))?;
            return Ok(Some((document, weight(&bytes))));
        }
        // There is another one in its place by now, or none.
        found = kv::get(&head(name))?;
        if found.as_ref().is_some_and(|again| again.version == version) {
            return Err(torn(name));
        }
    }
    Ok(None)
}

fn torn(name: &str) -> Error {
    Error::internal(format!("{name}: a piece of it is missing"))
}

/// Which pieces a document has behind its head. Every time it is written they have names of their own: a document is the
/// old one or the new one, whenever the gateway dies.
struct Pieces {
    count: u8,
    generation: [u8; GENERATION],
}

impl Pieces {
    /// What a head says, and the document's first bytes.
    fn read(head: &[u8]) -> Option<(Self, &[u8])> {
        let (&count, rest) = head.split_first()?;
        let (generation, first) = rest.split_first_chunk()?;
        Some((Self { count, generation: *generation }, first))
    }

    fn names(&self, document: &str) -> impl Iterator<Item = String> {
        let generation = u32::from_be_bytes(self.generation);
        (0..self.count).map(move |number| format!("{document}/{generation:08x}.{number:02x}"))
    }

    /// What is behind the head; none if a piece is gone.
    fn bytes(&self, document: &str) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        for piece in self.names(document) {
            let Some(piece) = kv::get(&piece)? else { return Ok(None) };
            bytes.extend_from_slice(&piece.value);
        }
        Ok(Some(bytes))
    }
}

/// Stores a document, whatever is there: how many bytes it takes. The head, which says what pieces there are, comes last.
///
/// # Errors
/// The store does not answer, or has no room though everything else has gone.
pub(crate) fn write<T: Serialize + ?Sized>(name: &str, document: &T, keep: Duration) -> Result<u64> {
    let bytes = serde_json::to_vec(document)?;
    let (first, rest) = bytes.split_at(bytes.len().min(bounds::KV_VALUE - HEAD));
    let count = u8::try_from(rest.len().div_ceil(bounds::KV_VALUE))
        .map_err(|_| Error::TooLarge("what has to be stored is larger than 255 MiB".to_owned()))?;
    let mut pieces = Pieces { count, generation: [0; GENERATION] };
    let before = kv::get(&head(name))?;
    if count > 0 {
        pieces.generation.copy_from_slice(&host::random(GENERATION as u32));
    }
    let written = pieces
        .names(name)
        .zip(rest.chunks(bounds::KV_VALUE))
        .try_for_each(|(piece, bytes)| put(&piece, bytes, keep))
        .and_then(|()| put(&head(name), &[&[count][..], &pieces.generation, first].concat(), keep));
    if let Err(error) = written {
        // Nobody would find them. What can't be removed now goes with its time.
        pieces.names(name).for_each(|piece| _ = kv::delete(&piece));
        return Err(error);
    }
    if let Some((before, _)) = before.as_ref().and_then(|head| Pieces::read(&head.value)) {
        before.names(name).try_for_each(|piece| kv::delete(&piece))?;
    }
    Ok(bytes.len() as u64)
}

fn put(key: &str, bytes: &[u8], keep: Duration) -> Result<()> {
    loop {
        match kv::put(key, bytes, Some(keep)) {
            Err(kv::Error::Full(what)) => room::make(key, &what)?,
            stored => return Ok(stored.map(|_| ())?),
        }
    }
}

/// Removes a document; whether it was there.
///
/// # Errors
/// The store does not answer.
pub(crate) fn remove(name: &str) -> Result<bool> {
    let keys = kv::keys(&format!("{name}/"), None, bounds::KV_KEYS)?;
    keys.iter().try_for_each(|key| kv::delete(key))?;
    Ok(!keys.is_empty())
}

/// Comes before all pieces in the order of keys.
fn head(name: &str) -> String {
    format!("{name}/")
}
