//! One client of the feed: a cursor into the ring, and its session's turns while there are any.
//!
//! An idle client holds no queue, no timer and nothing boxed; that is all that it costs.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::id::{Place, SessionPlace};
use super::ring::{Entry, Taken, frame};
use super::sessions::Connected;
use super::turns::{From, Told, turns};
use super::{Feed, FeedId, Inner, Type, dialect};
use crate::domain::{Cursor, Position, SessionId, rfc3339};
use crate::hub::{Frame, SessionBell};

/// Events shown at once.
const BATCH: usize = 256;
/// Events that a client may not be shown before it is told where it stands.
const UNTOLD: u32 = 256;

/// What a client wants to see. Empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Types of events.
    pub types: Vec<Type>,
    /// Values of the member `agent_name` of published events. A session's own turns are shown whatever is here.
    pub agents: Vec<Box<str>>,
}

impl Filter {
    fn passes(&self, kind: Option<Type>) -> bool {
        self.types.is_empty() || kind.is_some_and(|kind| self.types.contains(&kind))
    }

    fn lets(&self, entry: &Entry) -> bool {
        if entry.kind.is_none() {
            return true;
        }
        let agent =
            || entry.agent.as_deref().is_some_and(|agent| self.agents.iter().any(|name| **name == *agent));
        self.passes(entry.kind) && (self.agents.is_empty() || agent())
    }
}

/// What is said before anything else.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// Events before the place that the client named are gone.
    pub(super) gap: bool,
    /// The last signals, while Redis is out of reach.
    pub(super) signals: Vec<Entry>,
}

/// A client of the feed, in a session. Dropping it ends its connection.
pub struct Follower {
    broadcast: Broadcast,
    connected: Connected,
    bell: SessionBell,
    /// Times that the bell had rung when the session was looked at.
    rung: u64,
    turns: Option<BoxStream<'static, Told>>,
    opening: Option<Box<Opening>>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("session", self.connected.session()).finish_non_exhaustive()
    }
}

/// What is published, as clients see it of whose sessions nothing is shown.
#[derive(Debug)]
pub struct Broadcast {
    feed: Feed,
    line: Line,
}

/// Where a client stands who is told nothing of its session. All who want to see the same, and stand at the same place,
/// are shown the same frames from there on, but for the marks that say where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing(Option<FeedId>);

/// Where the client stands, and what it wants to see.
#[derive(Clone, Debug)]
struct Line {
    at: Option<FeedId>,
    cursor: Option<Cursor>,
    /// Events that it was not shown since it was told where it stands.
    untold: u32,
    /// The log has come to its place, though this node has not.
    awaited: bool,
    filter: Option<Arc<Filter>>,
}

impl Follower {
    pub(super) fn new(
        feed: Feed,
        connected: Connected,
        bell: SessionBell,
        at: Option<FeedId>,
        from: Option<From>,
        filter: Filter,
        opening: Opening,
    ) -> Self {
        let cursor = match from {
            Some(From::Event(cursor)) => Some(cursor),
            Some(From::Turn(task)) => {
                Some(Cursor { task, position: Position { attempt: u32::MAX, seq: u64::MAX } })
            }
            Some(From::Recent) | None => None,
        };
        let filter = (filter != Filter::default()).then(|| Arc::new(filter));
        let line = Line { at, cursor, untold: 0, awaited: false, filter };
        // Before the session is looked at, so that nothing is missed in between.
        let rung = bell.times();
        let turns = from.map(|from| turns(Arc::clone(&feed.inner), connected.session().clone(), from));
        let broadcast = Broadcast { feed, line };
        Self { broadcast, connected, bell, rung, turns, opening: Some(Box::new(opening)) }
    }

    /// Its session.
    pub fn session(&self) -> &SessionId {
        self.connected.session()
    }

    /// What it wants to see; none: everything.
    pub fn filter(&self) -> Option<&Arc<Filter>> {
        self.broadcast.line.filter.as_ref()
    }

    /// Where it stands among those who want to see the same; none: it is told something of its own.
    pub fn standing(&self) -> Option<Standing> {
        let Line { at, cursor, .. } = &self.broadcast.line;
        let plain = self.opening.is_none() && self.turns.is_none() && cursor.is_none() && at.is_some();
        (plain && !self.has_rung()).then(|| self.broadcast.standing())
    }

    /// What it sees from there on, for all who stand there.
    pub fn broadcast(&self) -> Broadcast {
        let Broadcast { feed, line } = &self.broadcast;
        let line = Line { cursor: None, awaited: false, ..line.clone() };
        Broadcast { feed: feed.clone(), line }
    }

    /// Goes on from a place to which it was shown everything.
    pub fn move_to(&mut self, standing: Standing) {
        let line = &mut self.broadcast.line;
        // When it was told last is not known.
        let untold = if line.filter.is_some() { UNTOLD } else { 0 };
        (line.at, line.untold, line.awaited) = (standing.0, untold, false);
    }

    /// Completes when its session may have something to tell. Exclusive because its turns can't be shared.
    pub async fn called(&mut self) {
        // Made before looking, so that it knows of all that happens afterwards.
        let rung = self.bell.rung();
        if !self.has_rung() {
            rung.await;
        }
    }

    fn has_rung(&self) -> bool {
        self.bell.times() != self.rung
    }

    /// Appends the next frames to `frames`, waiting until there is one. Never ends. Cancel safe.
    pub async fn next(&mut self, frames: &mut Vec<Frame>) {
        if let Some(opening) = self.opening.take() {
            self.greet(&opening, frames);
            return;
        }
        loop {
            let Broadcast { feed, line } = &mut self.broadcast;
            let inner = &*feed.inner;
            // Made before looking, so that they know of all that happens afterwards.
            let woken = inner.ring.woken();
            let rung = self.bell.rung();
            let more = line.look(inner, frames).await;
            line.tell(frames);
            if self.turns.is_none() && self.bell.times() != self.rung {
                self.rung = self.bell.times();
                let from = line.cursor.map_or(From::Recent, |cursor| From::Turn(cursor.task));
                let session = self.connected.session().clone();
                self.turns = Some(turns(Arc::clone(&feed.inner), session, from));
            }
            if !frames.is_empty() {
                // What the session has to say comes along if it is there.
                if let Some(turns) = &mut self.turns
                    && let Some(told) = futures::FutureExt::now_or_never(turns.next())
                {
                    hear(told, &mut self.turns, line, inner, frames);
                }
                return;
            }
            if more {
                // None of those that were there was for this client.
                continue;
            }
            match &mut self.turns {
                Some(turns) => tokio::select! {
                    told = turns.next() => {
                        hear(told, &mut self.turns, line, inner, frames);
                        if !frames.is_empty() {
                            return;
                        }
                    }
                    () = woken => {}
                },
                None => tokio::select! {
                    () = woken => {}
                    () = rung => {}
                },
            }
        }
    }

    fn greet(&mut self, opening: &Opening, frames: &mut Vec<Frame>) {
        let Broadcast { feed, line } = &mut self.broadcast;
        let (inner, session) = (&*feed.inner, self.connected.session());
        let place = Place {
            feed: line.at,
            session: Some(match line.cursor {
                Some(cursor) => SessionPlace::Said(cursor),
                None => SessionPlace::Named(session.clone()),
            }),
        };
        let now = rfc3339(inner.clock.now_ms());
        let data = serde_json::json!({ "session_id": session.name(), "timestamp": now }).to_string();
        frames.push(frame(&place, "session_start", &data));
        if opening.gap {
            frames.push(gap(&place, serde_json::json!({ "timestamp": now })));
        }
        for entry in opening.signals.iter().filter(|entry| line.lets(entry)) {
            frames.push(entry.frame.clone());
        }
    }
}

/// Notes what the session told; none: it has nothing more to tell at the moment.
fn hear(
    told: Option<Told>,
    turns: &mut Option<BoxStream<'static, Told>>,
    line: &mut Line,
    inner: &Inner,
    frames: &mut Vec<Frame>,
) {
    match told {
        None => *turns = None,
        Some(told) => line.tell_turn(told, inner, frames),
    }
}

impl Broadcast {
    /// Where all stand who see it.
    pub fn standing(&self) -> Standing {
        Standing(self.line.at)
    }

    /// Appends the next frames to `frames`, waiting until the place moves; none if there was nothing on the way for who
    /// wants to see the same. Never ends. Cancel safe.
    pub async fn next(&mut self, frames: &mut Vec<Frame>) {
        let inner = &*self.feed.inner;
        loop {
            let woken = inner.ring.woken();
            let more = self.line.look(inner, frames).await;
            self.line.tell(frames);
            if more || !frames.is_empty() {
                return;
            }
            woken.await;
        }
    }
}

impl Line {
    /// Shows what is there now. Whether that was anything, for this client or for others.
    async fn look(&mut self, inner: &Inner, frames: &mut Vec<Frame>) -> bool {
        match inner.ring.take(self.at, BATCH, |entry| self.show(entry, frames)) {
            Taken::Up(at) => {
                self.at = Some(at);
                return true;
            }
            Taken::Nothing(at) => self.at = Some(at),
            Taken::Unknown => {}
            Taken::Beyond(at) => {
                self.at = Some(at);
                let beyond = if self.awaited { None } else { Box::pin(inner.is_beyond(at)).await };
                match beyond {
                    // Waiting for what is behind it would be in vain.
                    Some(true) => {
                        self.at = inner.ring.last();
                        self.gap(at, inner, frames);
                    }
                    Some(false) => self.awaited = true,
                    // Redis is away: the ring's bell tells when it is back.
                    None => {}
                }
            }
            Taken::Behind { at, floor } => {
                let page = Box::pin(inner.behind(at, floor)).await;
                if page.gap {
                    self.at = Some(page.from);
                    self.gap(at, inner, frames);
                }
                for entry in &page.entries {
                    self.show(entry, frames);
                }
                self.at = Some(page.at);
                return true;
            }
        }
        false
    }

    fn lets(&self, entry: &Entry) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.lets(entry))
    }

    /// Shows an event of the feed if the client wants to see it. Everybody gets the same bytes, but whose session has
    /// spoken: its ids tell that too.
    fn show(&mut self, entry: &Entry, frames: &mut Vec<Frame>) {
        self.at = Some(entry.id);
        if !self.lets(entry) {
            self.untold += 1;
            return;
        }
        self.untold = 0;
        frames.push(match self.cursor {
            None => entry.frame.clone(),
            Some(_) => entry.under(&self.place()),
        });
    }

    fn place(&self) -> Place {
        Place { session: self.cursor.map(SessionPlace::Said), ..Place::on_feed(self.at) }
    }

    /// Tells the client where it stands, if it was not shown anything for long.
    fn tell(&mut self, frames: &mut Vec<Frame>) {
        if self.untold >= UNTOLD {
            self.untold = 0;
            frames.push(self.mark());
        }
    }

    /// Moves a client's last id without an event.
    fn mark(&self) -> Frame {
        Frame::text(&format!("id: {}\n\n", self.place()))
    }

    fn gap(&self, after: FeedId, inner: &Inner, frames: &mut Vec<Frame>) {
        let now = rfc3339(inner.clock.now_ms());
        let data = serde_json::json!({ "after": after.to_string(), "timestamp": now });
        frames.push(gap(&self.place(), data));
    }

    fn tell_turn(&mut self, told: Told, inner: &Inner, frames: &mut Vec<Frame>) {
        match told {
            Told::Begun(task) => {
                // From here on ids lead to the session, even if nothing else comes through.
                self.cursor = Some(Cursor { task, position: Position::START });
                frames.push(self.mark());
            }
            Told::Events(entries) => {
                for entry in entries {
                    self.cursor = Some(entry.event().cursor());
                    let Some((kind, frame)) = dialect::shown(entry.event(), &self.place()) else { continue };
                    if self.filter.as_ref().is_none_or(|filter| filter.passes(kind)) {
                        frames.push(frame);
                    }
                }
            }
            Told::Gap { task, attempt, first, last } => {
                self.cursor = Some(Cursor { task, position: Position { attempt, seq: last } });
                let now = rfc3339(inner.clock.now_ms());
                let request = task.request_id();
                let data = serde_json::json!({ "signal_id": request, "first": first, "last": last, "timestamp": now });
                frames.push(gap(&self.place(), data));
            }
        }
    }
}

/// Says that events are gone.
fn gap(place: &Place, data: serde_json::Value) -> Frame {
    frame(place, "gap", &data.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_small() {
        assert!(size_of::<Follower>() <= 256, "{} bytes", size_of::<Follower>());
    }
}
