//! The feed's log: a capped Redis stream that one node at a time writes, by a lease, and all nodes read.
//!
//! Invariant: whoever does not hold the lease writes nothing, since the write itself asks for it; and ids grow, even over
//! a flush while the server's clock was set back.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue as _, RedisError, RedisResult, Script, Value, cmd};

use super::event::{Published, Type, digest};
use super::id::FeedId;
use super::ring::Entry;
use crate::domain::millis;

/// Entries read at once by who has fallen behind, and their bytes unless it is one.
const PAGE: (usize, usize) = (256, 256 << 10);
/// Entries read at once as they are written: at first, at most, and the bytes that make it fewer.
const READ: (usize, usize, usize) = (16, 256, 1 << 20);
/// Name of an entry that says that events are gone.
const GAP: &str = "gap";

/// Writes events if the token is the lease's, then cuts the log to its bounds. ARGV: token, events and bytes that the log
/// keeps, then type, agent and data of each.
///
/// The bytes are counted beside the log: what is added, less what is cut off. Where there is no count the log is counted.
/// What one call cuts off is bounded, and more than one call can add.
static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
         local log, most, room = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3])
         local function weight(fields)
           local sum = 0
           for i = 2, #fields, 2 do sum = sum + #fields[i] end
           return sum
         end
         local length = redis.call('XLEN', log)
         local bytes = length > 0 and tonumber(redis.call('GET', KEYS[3]) or '')
         if not bytes then
           bytes = 0
           local from = '-'
           while length > 0 do
             local page = redis.call('XRANGE', log, from, '+', 'COUNT', 16)
             if #page == 0 then break end
             for _, entry in ipairs(page) do bytes = bytes + weight(entry[2]) end
             from = '(' .. page[#page][1]
           end
         end
         for i = 4, #ARGV, 3 do
           redis.call('XADD', log, '*', 't', ARGV[i], 'a', ARGV[i + 1], 'd', ARGV[i + 2])
           bytes = bytes + #ARGV[i] + #ARGV[i + 1] + #ARGV[i + 2]
           length = length + 1
         end
         local from, cut = '-', 0
         while cut < 1024 and length > 1 and (length > most or bytes > room) do
           local first = redis.call('XRANGE', log, from, '+', 'COUNT', 1)[1]
           if not first then break end
           bytes = math.max(bytes - weight(first[2]), 0)
           from, cut, length = '(' .. first[1], cut + 1, length - 1
         end
         if cut > 0 then redis.call('XTRIM', log, 'MAXLEN', length) end
         if length <= 1 then redis.call('DEL', KEYS[3])
         else redis.call('SET', KEYS[3], string.format('%.0f', bytes)) end
         return 1",
    )
});

/// Lengthens the lease if the token is its own.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
    )
});

/// Ends the lease if the token is its own, and says so on the channel of its name.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         redis.call('DEL', KEYS[1])
         redis.call('PUBLISH', KEYS[1], 'released')
         return 1",
    )
});

/// Keys of the log. Hash tags keep them on one node of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) log: String,
    /// Also the channel on which its release is told.
    pub(super) lease: String,
    /// Bytes of the log.
    pub(super) bytes: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let name = |part: &str| format!("{{{prefix}}}:feed{part}");
        Self { log: name(""), lease: name(":lease"), bytes: name(":bytes") }
    }
}

/// What the log is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Its first event.
    pub(super) first: Option<FeedId>,
    /// Its last event.
    pub(super) last: Option<FeedId>,
    /// The greatest id that it ever gave.
    pub(super) given: FeedId,
    /// Whether it has all that was ever written to it.
    pub(super) whole: bool,
}

/// An entry of the log, and what it confirms.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) id: FeedId,
    /// None for one that a newer gateway wrote in a way that this one does not know. A gap confirms nothing.
    pub(super) event: Option<(Entry, Option<u64>)>,
}

impl Logged {
    fn weight(&self) -> usize {
        self.event.as_ref().map_or(0, |(entry, _)| entry.frame.chunk().len())
    }
}

/// How many entries are read at once, by the size of those before: so that they are many where they are small, and few
/// bytes where they are large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stride(usize);

impl Stride {
    pub(super) fn new() -> Self {
        Self(READ.0)
    }

    /// These were read.
    pub(super) fn adapt(&mut self, read: &[Logged]) {
        let bytes: usize = read.iter().map(Logged::weight).sum();
        if bytes > READ.2 {
            self.0 = (self.0 / 2).max(1);
        } else if read.len() >= self.0 {
            self.0 = (self.0 * 2).min(READ.1);
        }
    }
}

/// How many entries to read next of those that fit into a page, having read some.
fn next_count(count: usize, read: usize, bytes: usize, (most, room): (usize, usize)) -> usize {
    let mean = (bytes / read.max(1)).max(1);
    (room.saturating_sub(bytes) / mean).min(most.saturating_sub(read)).min(count * 2)
}

/// What asking for the lease came to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// It is the caller's. Once all up to this event was read, everything before is known.
    Taken { up_to: Option<FeedId> },
    /// Somebody has it for so long.
    Held(Duration),
}

type Raw = Vec<(String, Vec<Vec<u8>>)>;

/// Looks at the log.
pub(super) async fn shape(connection: &mut MultiplexedConnection, keys: &Keys) -> RedisResult<Shape> {
    let answer: RedisResult<Value> = cmd("XINFO").arg("STREAM").arg(&keys.log).query_async(connection).await;
    let value = match answer {
        Ok(value) => value,
        Err(error) if is_no_such_key(&error) => return Ok(Shape { whole: true, ..Shape::default() }),
        Err(error) => return Err(error),
    };
    let fields: Vec<Value> = Vec::from_redis_value(value)?;
    let mut shape = Shape::default();
    let (mut length, mut added) = (0_u64, None);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        match String::from_redis_value(name)?.as_str() {
            "length" => length = u64::from_redis_value(value)?,
            "entries-added" => added = Some(u64::from_redis_value(value)?),
            "last-generated-id" => shape.given = id(&String::from_redis_value(value)?)?,
            "first-entry" => shape.first = entry_id(value)?,
            "last-entry" => shape.last = entry_id(value)?,
            _ => {}
        }
    }
    shape.whole = added == Some(length);
    Ok(shape)
}

/// The log's last events, in order, up to so many and so many bytes.
pub(super) async fn latest(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    (events, bytes): (usize, usize),
) -> RedisResult<Vec<Logged>> {
    let (mut latest, mut end, mut size, mut count) = (Vec::new(), "+".to_owned(), 0, 1);
    while latest.len() < events && size < bytes && count > 0 {
        let mut command = cmd("XREVRANGE");
        command.arg(&keys.log).arg(&end).arg("-").arg("COUNT").arg(count.min(PAGE.0));
        let page: Raw = command.query_async(connection).await?;
        let Some((first, _)) = page.last() else { break };
        end = format!("({first}");
        for raw in page {
            let logged = logged(raw)?;
            size += logged.weight();
            latest.push(logged);
        }
        count = next_count(count, latest.len(), size, (events, bytes));
    }
    latest.reverse();
    Ok(latest)
}

/// A page of the events behind a place: as many as fit into it, one at least if there is one.
pub(super) async fn behind(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    after: FeedId,
) -> RedisResult<Vec<Logged>> {
    let (mut page, mut bytes, mut count, mut after) = (Vec::<Logged>::new(), 0, 1, after);
    while count > 0 {
        let mut command = cmd("XRANGE");
        command.arg(&keys.log).arg(format!("({after}")).arg("+").arg("COUNT").arg(count);
        let read: Raw = command.query_async(connection).await?;
        let is_end = read.len() < count;
        for raw in read {
            let logged = logged(raw)?;
            bytes += logged.weight();
            if bytes > PAGE.1 && !page.is_empty() {
                return Ok(page);
            }
            after = logged.id;
            page.push(logged);
        }
        count = if is_end { 0 } else { next_count(count, page.len(), bytes, PAGE) };
    }
    Ok(page)
}

/// The events behind a place, as soon as there are some; none if there are none for so long.
pub(super) async fn read(
    mut connection: MultiplexedConnection,
    keys: Keys,
    after: FeedId,
    Stride(count): Stride,
    wait: Duration,
) -> RedisResult<Vec<Logged>> {
    let mut command = cmd("XREAD");
    let wait = millis(wait);
    command.arg("COUNT").arg(count).arg("BLOCK").arg(wait);
    command.arg("STREAMS").arg(&keys.log).arg(after.to_string());
    let answer: Option<Vec<(String, Raw)>> = command.query_async(&mut connection).await?;
    let entries = answer.into_iter().flatten().flat_map(|(_, entries)| entries);
    entries.map(logged).collect()
}

/// Asks for the lease. Taking it makes the log give greater ids than `floor`.
pub(super) async fn ask(
    mut connection: MultiplexedConnection,
    keys: Keys,
    token: String,
    length: Duration,
    floor: FeedId,
) -> RedisResult<Asked> {
    let mut command = cmd("SET");
    command.arg(&keys.lease).arg(&token).arg("NX").arg("PX").arg(lasting(length));
    let taken: Option<String> = command.query_async(&mut connection).await?;
    if taken.is_none() {
        let left: i64 = cmd("PTTL").arg(&keys.lease).query_async(&mut connection).await?;
        return Ok(Asked::Held(Duration::from_millis(u64::try_from(left).unwrap_or(0))));
    }
    let shape = shape(&mut connection, &keys).await?;
    if shape.given < floor {
        raise(&mut connection, &keys, floor).await?;
    }
    Ok(Asked::Taken { up_to: shape.last })
}

/// Makes the log give greater ids than `floor`.
async fn raise(connection: &mut MultiplexedConnection, keys: &Keys, floor: FeedId) -> RedisResult<()> {
    // The only command that makes an empty stream is the one that makes a group.
    let mut commands = redis::pipe();
    commands.atomic();
    commands.cmd("XGROUP").arg("CREATE").arg(&keys.log).arg("none").arg("$").arg("MKSTREAM").ignore();
    commands.cmd("XGROUP").arg("DESTROY").arg(&keys.log).arg("none").ignore();
    commands.cmd("XSETID").arg(&keys.log).arg(floor.to_string()).ignore();
    commands.query_async(connection).await
}

/// Lengthens the lease. False: it is lost.
pub(super) async fn renew(
    mut connection: MultiplexedConnection,
    keys: Keys,
    token: String,
    length: Duration,
) -> RedisResult<bool> {
    let mut call = RENEW.key(&keys.lease);
    call.arg(&token).arg(lasting(length)).invoke_async(&mut connection).await
}

/// Ends the lease, if it is the token's.
pub(super) async fn release(
    mut connection: MultiplexedConnection,
    keys: Keys,
    token: String,
) -> RedisResult<bool> {
    RELEASE.key(&keys.lease).arg(&token).invoke_async(&mut connection).await
}

/// Writes events, before them a gap if events are gone; the log keeps so many, and so many bytes. False: the lease is lost,
/// and nothing was written.
pub(super) async fn write(
    mut connection: MultiplexedConnection,
    keys: Keys,
    token: String,
    (length, bytes): (u64, u64),
    gap: bool,
    events: Vec<Published>,
) -> RedisResult<bool> {
    let mut call = WRITE.key(&keys.log);
    call.key(&keys.lease).key(&keys.bytes).arg(&token).arg(length).arg(bytes);
    if gap {
        call.arg(GAP).arg("").arg("{}");
    }
    for event in &events {
        call.arg(event.kind.as_str()).arg(event.agent.as_deref().unwrap_or_default()).arg(&*event.data);
    }
    call.invoke_async(&mut connection).await
}

/// A length of time that Redis takes: nothing at all it refuses.
fn lasting(length: Duration) -> u64 {
    millis(length).max(1)
}

fn id(text: &str) -> RedisResult<FeedId> {
    text.parse().map_err(|_| unreadable("an id of the feed's log"))
}

fn entry_id(value: Value) -> RedisResult<Option<FeedId>> {
    if value == Value::Nil {
        return Ok(None);
    }
    let entry: Vec<Value> = Vec::from_redis_value(value)?;
    let first = entry.into_iter().next().ok_or_else(|| unreadable("an entry of the feed's log"))?;
    id(&String::from_redis_value(first)?).map(Some)
}

fn logged((text, fields): (String, Vec<Vec<u8>>)) -> RedisResult<Logged> {
    let id = id(&text)?;
    let field = |name: &[u8]| {
        let at = fields.chunks_exact(2).position(|pair| pair[0] == name)?;
        std::str::from_utf8(&fields[at * 2 + 1]).ok()
    };
    let event = || {
        let kind = match field(b"t")? {
            GAP => return Some((Entry::gap(id), None)),
            name => Type::named(name)?,
        };
        let agent = field(b"a").filter(|agent| !agent.is_empty());
        let data = field(b"d").filter(|data| !data.contains(['\n', '\r']))?;
        Some((Entry::new(id, kind, agent, data), Some(digest(kind, agent, data))))
    };
    Ok(Logged { id, event: event() })
}

fn unreadable(what: &'static str) -> RedisError {
    (redis::ErrorKind::UnexpectedReturnType, "can't be read", what.to_owned()).into()
}

fn is_no_such_key(error: &RedisError) -> bool {
    error.code() == Some("ERR") && error.detail().is_some_and(|detail| detail.contains("no such key"))
}
