//! `/v1/conversations`: items in order, and turns that are taken one after the other.
//!
//! A turn joins the line of its conversation before it is submitted, and leaves it once its items are kept; the host runs
//! tasks of one session in order. A turn that is alone in the line is told the kept items. One behind others can't know what
//! those will come to: a plain message is told by the host, when its turn comes, what its session said; anything else waits
//! until it is the first.

use crate::{
    config::Config,
    failure::not_found,
    fields::{Fields, document},
    lists,
    question::metadata,
    responses::{
        items::{self, random_id},
        record::Record,
        too_large,
    },
    room, store,
};
use plugway_sdk::{Error, Next, Reply, Request, Result, TaskRef, bounds, host, kv, mailbox};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

/// Who is in the line and does not come forward for so long has died, in seconds.
const LOST: u64 = 60;
/// Between two looks at who is before in the line: at first, and at most.
const LOOK: Duration = Duration::from_millis(30);
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// A conversation's mark tells its last use to this many seconds, or to a part of the time that it is kept.
const MARKED: u64 = 3600;
const MARKED_PART: u64 = 20;
/// Longest wait for a task between two signs of being alive.
const SIGN: Duration = Duration::from_secs(15);
/// Bytes of items that its session tells for certain.
const TOLD: u64 = 128 << 10;
/// Items that are added at once.
const ADDED: usize = 20;
/// Turns of a conversation, and turns that wait in its line.
const TURNS: usize = 10_000;
const WAITING: usize = 100;

/// A conversation, but for its items.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Conversation {
    created_at: u64,
    metadata: Map<String, Value>,
    /// Turns whose items are not kept yet, in order.
    line: Vec<Turn>,
    /// Names of the documents that hold its items, in order.
    segments: Vec<String>,
    /// Items that were deleted.
    deleted: BTreeSet<String>,
    /// About how many bytes its items take.
    weight: u64,
    /// When all of its items were written anew, in seconds since the Unix epoch.
    renewed: u64,
    /// When it was last used, as its mark has it.
    used: u64,
    /// Somebody changed the items since the line was empty: its session does not tell all.
    changed: bool,
}

impl Conversation {
    fn new() -> Self {
        Self { created_at: now(), renewed: now(), ..Self::default() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Turn {
    name: String,
    /// Key of its response, once there is one.
    response: Option<String>,
    /// Last sign of life, in seconds since the Unix epoch.
    at: u64,
}

/// A turn that is in the line, and not yet submitted.
#[derive(Debug)]
pub(crate) struct Joined {
    id: String,
    name: String,
    first: bool,
}

fn now() -> u64 {
    host::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn key(id: &str) -> String {
    format!("{}{id}", room::CONVERSATIONS)
}

fn segment(id: &str, name: &str) -> String {
    format!("{}{id}/{name}", room::SEGMENTS)
}

fn unknown(id: &str) -> Error {
    not_found("not_found", "conversation", id, "conversation")
}

fn load(id: &str) -> Result<Conversation> {
    Ok(kv::get_json(&key(id))?.ok_or_else(|| unknown(id))?.value)
}

/// Changes a conversation, again and again until nobody came in between. None from `change` leaves it as it is.
fn change<T>(
    id: &str,
    config: &Config,
    create: bool,
    change: impl Fn(&mut Conversation) -> Option<T>,
) -> Result<Option<T>> {
    loop {
        let (mut conversation, version) = match kv::get_json::<Conversation>(&key(id))? {
            Some(found) => (found.value, found.version),
            None if create => (Conversation::new(), 0),
            None => return Err(unknown(id)),
        };
        let marked = conversation.used;
        let Some(outcome) = change(&mut conversation) else { return Ok(None) };
        let step = MARKED.min(config.keep().as_secs() / MARKED_PART);
        conversation.used = if now() >= marked + step { now() } else { marked };
        let is_marked_anew = version == 0 || conversation.used != marked;
        let json = serde_json::to_vec(&conversation)?;
        if json.len() > bounds::KV_VALUE {
            return Err(full());
        }
        let stored = if is_marked_anew {
            let mark = kv::put(&room::mark(conversation.used, id), b"", Some(2 * config.keep()));
            mark.and_then(|_| kv::cas(&key(id), &json, version, Some(config.keep())))
        } else {
            kv::cas(&key(id), &json, version, Some(config.keep()))
        };
        match stored {
            Err(kv::Error::Conflict { .. }) => {}
            Err(kv::Error::Full(what)) => room::make(&key(id), &what)?,
            stored => {
                stored?;
                if version != 0 && is_marked_anew {
                    kv::delete(&room::mark(marked, id))?;
                }
                return Ok(Some(outcome));
            }
        }
    }
}

/// Turns, items struck out, and what waits: all of it stands in one entry.
fn full() -> Error {
    Error::field(
        "conversation",
        format_args!("has {TURNS} turns, or as much as it can hold: begin another one"),
    )
}

/// Takes a place in a conversation's line. A name that the API did not give is a new conversation the first time.
///
/// # Errors
/// 404 if there is none; the store does not answer; the exchange has to end while it waits.
pub(crate) fn join(id: &str, input: &[Value], config: &Config) -> Result<Joined> {
    let create = !id.starts_with("conv_");
    if kv::get(&key(id))?.is_some() {
        settle(id, config)?;
    }
    let name = random_id();
    let turn = Turn { name: name.clone(), response: None, at: now() };
    let refusal = Cell::new(None);
    let joined = change(id, config, create, |conversation| {
        refusal.set(if conversation.segments.len() >= TURNS {
            Some(full())
        } else if conversation.line.len() >= WAITING {
            Some(Error::Busy { retry_after: LONGEST_LOOK })
        } else {
            conversation.line.push(turn.clone());
            return Some(());
        });
        None
    })?;
    if let (None, Some(refusal)) = (joined, refusal.take()) {
        return Err(refusal);
    }
    let mut joined = Joined { id: id.to_owned(), name, first: false };
    let is_plain = matches!(input, [only] if only["type"] == "message" && only["role"] == "user");
    match joined.wait(is_plain, config) {
        Ok(first) => {
            joined.first = first;
            Ok(joined)
        }
        Err(error) => {
            joined.submitted(None, config)?;
            Err(error)
        }
    }
}

impl Joined {
    /// Whether it is told everything by whoever submits it.
    pub(crate) fn knows_all(&self) -> bool {
        self.first
    }

    /// The session that the conversation's turns run in.
    pub(crate) fn session(&self) -> String {
        format!("conversation/{}", self.id)
    }

    /// All items before it; none: those that run now will add some.
    ///
    /// # Errors
    /// The store does not answer, or they are too many bytes; with `truncate` the first ones are left out then.
    pub(crate) fn items(&self, truncate: bool, config: &Config) -> Result<Option<Vec<Value>>> {
        if !self.first {
            return Ok(None);
        }
        last_items(&self.id, &load(&self.id)?, truncate, config).map(Some)
    }

    /// Waits until it may be submitted: whether it is the first by then.
    fn wait(&self, is_plain: bool, config: &Config) -> Result<bool> {
        let mut look = LOOK;
        loop {
            let conversation = load(&self.id)?;
            let Some(at) = conversation.line.iter().position(|turn| turn.name == self.name) else {
                // Taken for dead; or the conversation was deleted and made anew.
                let turn = Turn { name: self.name.clone(), response: None, at: now() };
                change(&self.id, config, false, |conversation| {
                    conversation.line.push(turn.clone());
                    Some(())
                })?;
                continue;
            };
            if at == 0 {
                return Ok(true);
            }
            // The order of tasks is the order of the line.
            let submitted = conversation.line[..at].iter().all(|turn| turn.response.is_some());
            let told = !conversation.changed && conversation.weight < TOLD;
            if is_plain && submitted && told {
                return Ok(false);
            }
            // Who is about to submit does so soon; after that it waits for the turn before it that ends last.
            let running = conversation.line[..at].iter().rev().find_map(|turn| turn.response.as_deref());
            match running {
                Some(key) if look == LONGEST_LOOK => await_end(key, look)?,
                _ => mailbox::wait(look)?,
            }
            look = (2 * look).min(LONGEST_LOOK);
            settle(&self.id, config)?;
            let (name, now) = (&self.name, now());
            change(&self.id, config, false, |conversation| {
                let turn = conversation.line.iter_mut().find(|turn| turn.name == *name)?;
                (now > turn.at + LOST / 4).then(|| turn.at = now)
            })?;
        }
    }

    /// Notes its response, or that there is none.
    pub(crate) fn submitted(&self, response: Option<&str>, config: &Config) -> Result<()> {
        let noted = change(&self.id, config, false, |conversation| {
            let at = conversation.line.iter().position(|turn| turn.name == self.name);
            match (at, response) {
                (Some(at), Some(key)) => conversation.line[at].response = Some(key.to_owned()),
                (Some(at), None) => _ = conversation.line.remove(at),
                (None, Some(key)) => conversation.line.push(Turn {
                    name: self.name.clone(),
                    response: Some(key.to_owned()),
                    at: now(),
                }),
                (None, None) => return None,
            }
            conversation.changed &= !conversation.line.is_empty();
            Some(())
        });
        gone(noted)
    }
}

/// Waits for a response's end, or for as long as nobody would take the waiting one for dead. One that has ended already is
/// about to leave the line: that takes a look.
fn await_end(response: &str, look: Duration) -> Result<()> {
    let mut events = TaskRef::new(format!("task_{response}")).events();
    let until = host::now() + SIGN;
    loop {
        let left = until.duration_since(host::now()).unwrap_or_default();
        match events.next_within(Some(left)) {
            Ok(Next::Event(event)) if event.is_terminal() => return mailbox::wait(look),
            Ok(Next::Event(_)) | Err(Error::Gap { .. }) => {}
            Ok(_) | Err(Error::NotFound(_)) => return mailbox::wait(look),
            Err(error) => return Err(error),
        }
    }
}

/// Of a conversation that was deleted meanwhile nothing has to be noted.
fn gone<T>(changed: Result<Option<T>>) -> Result<()> {
    match changed {
        Err(Error::Other { status: 404, .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Keeps the items of those at the head of the line that have ended. A conversation that is gone has none.
///
/// # Errors
/// The store does not answer.
pub(crate) fn settle(id: &str, config: &Config) -> Result<()> {
    loop {
        let Some(found) = kv::get_json::<Conversation>(&key(id))? else { return Ok(()) };
        let Some(turn) = found.value.line.first().cloned() else { return Ok(()) };
        let leave = |segment: Option<(&str, u64)>| {
            let left = change(id, config, false, |conversation| {
                if conversation.line.first()?.name != turn.name {
                    return None;
                }
                conversation.line.remove(0);
                if let Some((name, weight)) = segment
                    && !conversation.segments.iter().any(|kept| kept == name)
                {
                    conversation.segments.push(name.to_owned());
                    conversation.weight += weight;
                }
                conversation.changed &= !conversation.line.is_empty();
                Some(())
            });
            gone(left)
        };
        let Some(response) = &turn.response else {
            if now().saturating_sub(turn.at) < LOST {
                return Ok(());
            }
            leave(None)?;
            continue;
        };
        let Some(record) = Record::of(response)? else {
            leave(None)?;
            continue;
        };
        let outcome = record.outcome(config)?;
        if !outcome.has_ended() {
            return Ok(());
        }
        if matches!(outcome.status.as_str(), "failed" | "cancelled") {
            // Who asked may ask again: what was never answered is not said twice.
            leave(None)?;
            continue;
        }
        let items: Vec<_> = record.input.into_iter().chain(outcome.output).collect();
        let weight = keep_items(id, response, &items, config)?;
        leave(Some((response, weight)))?;
        if kv::get(&key(id))?.is_none() {
            store::remove(&segment(id, response))?;
            return Ok(());
        }
        renew(id, config)?;
    }
}

/// All items; with `truncate` the last ones, as many as may be brought together.
fn last_items(id: &str, conversation: &Conversation, truncate: bool, config: &Config) -> Result<Vec<Value>> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    for name in conversation.segments.iter().rev() {
        let Some((items, size)) = store::read_weighed::<Vec<Value>>(&segment(id, name))? else { continue };
        bytes += size;
        if bytes > config.max_context_bytes {
            if truncate {
                break;
            }
            return Err(too_large(config));
        }
        all.push(items);
    }
    let items = all.into_iter().rev().flatten();
    Ok(items.filter(|item| !is_deleted(conversation, item)).collect())
}

/// Keeps items for twice as long as the conversation, which renews them before that.
fn keep_items(id: &str, name: &str, items: &[Value], config: &Config) -> Result<u64> {
    store::write(&segment(id, name), items, 2 * config.keep())
}

/// Writes all items anew once half of a conversation's age has passed.
fn renew(id: &str, config: &Config) -> Result<()> {
    let conversation = load(id)?;
    let now = now();
    if now.saturating_sub(conversation.renewed) < config.keep().as_secs() / 2 {
        return Ok(());
    }
    for name in &conversation.segments {
        if let Some(items) = store::read::<Vec<Value>>(&segment(id, name))? {
            keep_items(id, name, &items, config)?;
        }
    }
    change(id, config, false, |conversation| {
        conversation.renewed = now;
        Some(())
    })?;
    Ok(())
}

/// The items of one segment that are not struck out.
fn segment_items(id: &str, name: &str, conversation: &Conversation) -> Result<Vec<Value>> {
    let items = store::read::<Vec<Value>>(&segment(id, name))?.unwrap_or_default();
    Ok(items.into_iter().filter(|item| !is_deleted(conversation, item)).collect())
}

fn is_deleted(conversation: &Conversation, item: &Value) -> bool {
    item["id"].as_str().is_some_and(|id| conversation.deleted.contains(id))
}

fn shown(id: &str, conversation: &Conversation) -> Value {
    json!({
        "id": id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": conversation.metadata,
    })
}

fn id_of(request: &Request) -> &str {
    request.param("id").unwrap_or_default()
}

/// `POST /v1/conversations`.
pub(crate) fn create(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let body: Value = if request.body.is_empty() { json!({}) } else { document(request, config)? };
    let fields = Fields::of(&body)?;
    let (metadata, items) = (metadata(&fields)?, added(&fields)?);
    let id = format!("conv_{}", random_id());
    let mut conversation = Conversation { metadata, ..Conversation::new() };
    if !items.is_empty() {
        let name = random_id();
        conversation.weight = keep_items(&id, &name, &items, config)?;
        conversation.segments.push(name);
    }
    let made = change(&id, config, true, |made| {
        *made = conversation.clone();
        Some(())
    })?;
    debug_assert!(made.is_some());
    reply.json(200, &shown(&id, &conversation))
}

fn added(fields: &Fields<'_>) -> Result<Vec<Value>> {
    let items = items::read(fields, "items")?;
    if items.len() > ADDED {
        return Err(fields.fault("items", format_args!("has more than {ADDED}")));
    }
    match items.iter().position(|item| item["type"] == "item_reference") {
        Some(at) => Err(Error::field(format!("items[{at}].type"), "can't be item_reference here")),
        None => Ok(items),
    }
}

/// `GET /v1/conversations/{id}`.
pub(crate) fn retrieve(request: &Request, reply: Reply) -> Result<()> {
    let id = id_of(request);
    reply.json(200, &shown(id, &load(id)?))
}

/// `POST /v1/conversations/{id}`: other metadata.
pub(crate) fn update(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let body = document(request, config)?;
    let fields = Fields::of(&body)?;
    if fields.value("metadata").is_none() {
        return Err(fields.fault("metadata", "is missing"));
    }
    let metadata = metadata(&fields)?;
    let id = id_of(request);
    let changed = change(id, config, false, |conversation| {
        conversation.metadata = metadata.clone();
        Some(shown(id, conversation))
    })?;
    renew(id, config)?;
    reply.json(200, &changed)
}

/// `DELETE /v1/conversations/{id}`. Its responses stay.
pub(crate) fn delete(request: &Request, reply: Reply) -> Result<()> {
    let id = id_of(request);
    let conversation = load(id)?;
    kv::delete(&key(id))?;
    kv::delete(&room::mark(conversation.used, id))?;
    for name in &conversation.segments {
        store::remove(&segment(id, name))?;
    }
    reply.json(200, &json!({"id": id, "object": "conversation.deleted", "deleted": true}))
}

/// `GET /v1/conversations/{id}/items`.
pub(crate) fn list_items(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let id = id_of(request);
    settle(id, config)?;
    let conversation = load(id)?;
    let segments = conversation.segments.iter().map(|name| segment_items(id, name, &conversation));
    reply.json(200, &lists::page(request, segments)?)
}

/// `POST /v1/conversations/{id}/items`.
pub(crate) fn add_items(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let id = id_of(request);
    let body = document(request, config)?;
    let fields = Fields::of(&body)?;
    let items = added(&fields)?;
    if items.is_empty() {
        return Err(fields.fault("items", "is missing"));
    }
    if load(id)?.segments.len() >= TURNS {
        return Err(full());
    }
    settle(id, config)?;
    let name = random_id();
    let weight = keep_items(id, &name, &items, config)?;
    change(id, config, false, |conversation| {
        conversation.segments.push(name.clone());
        conversation.weight += weight;
        conversation.changed = !conversation.line.is_empty();
        Some(())
    })?;
    renew(id, config)?;
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    let list = json!({
        "object": "list", "first_id": id(items.first()), "last_id": id(items.last()), "has_more": false, "data": items,
    });
    reply.json(200, &list)
}

fn no_item(id: &str) -> Error {
    not_found("not_found", "item of this conversation", id, "item_id")
}

/// `GET /v1/conversations/{id}/items/{item}`.
pub(crate) fn retrieve_item(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let (id, item) = (id_of(request), request.param("item").unwrap_or_default());
    settle(id, config)?;
    let conversation = load(id)?;
    for name in &conversation.segments {
        let mut items = segment_items(id, name, &conversation)?.into_iter();
        if let Some(found) = items.find(|found| found["id"] == item) {
            return reply.json(200, &found);
        }
    }
    Err(no_item(item))
}

/// `DELETE /v1/conversations/{id}/items/{item}`.
pub(crate) fn delete_item(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let (id, item) = (id_of(request), request.param("item").unwrap_or_default());
    settle(id, config)?;
    let conversation = load(id)?;
    for name in &conversation.segments {
        let name = segment(id, name);
        let mut items = store::read::<Vec<Value>>(&name)?.unwrap_or_default();
        if items.iter().any(|found| found["id"] == item && !is_deleted(&conversation, found)) {
            let changed = change(id, config, false, |conversation| {
                conversation.deleted.insert(item.to_owned());
                conversation.changed = !conversation.line.is_empty();
                Some(conversation.clone())
            })?;
            let Some(changed) = changed else { return Err(no_item(item)) };
            // Others may delete from it as well: whoever writes last leaves nothing that is not struck out above.
            items.retain(|item| !is_deleted(&changed, item));
            store::write(&name, &items, 2 * config.keep())?;
            renew(id, config)?;
            return reply.json(200, &shown(id, &changed));
        }
    }
    Err(no_item(item))
}
