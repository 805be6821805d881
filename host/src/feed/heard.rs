//! What this node heard over the channels and has not yet seen in the feed's log.
//!
//! Every node hears the same in the same order, and one of them writes it into the log. So an entry of the log confirms
//! what was heard, and all that was heard before it; what is left when the writer dies is what the next one has to write.
//!
//! Beyond its bound the first of what is in no write is given up. That is remembered until the log says that it was written
//! after all, or a gap is written in its place.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::event::Published;

/// How long a connection may lag behind the other. An equal event that is published meanwhile is taken for the first.
const EARLY: Duration = Duration::from_secs(2);
/// Entries of the log that may come before they are heard.
const MAX_EARLY: usize = 10_000;

#[derive(Debug)]
struct Item {
    digest: u64,
    at: Instant,
    event: Published,
    /// Number of the write that it is in; none: it is in no write.
    write: Option<u64>,
}

impl Item {
    fn weight(&self) -> usize {
        self.event.data.len()
            + self.event.agent.as_ref().map_or(0, |agent| agent.len())
            + std::mem::size_of::<Self>()
    }
}

#[derive(Debug)]
struct Write {
    number: u64,
    /// It tells a gap.
    gap: bool,
}

/// What was dropped that nobody may have written.
#[derive(Debug, Default)]
struct GivenUp {
    /// When it was; none: nothing was, or a gap tells of it.
    at: Option<Instant>,
    /// Events that were not counted yet.
    uncounted: u64,
}

/// What is to be written together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) write: u64,
    /// Events before these are gone.
    pub(super) gap: bool,
    pub(super) events: Vec<Published>,
}

#[derive(Debug)]
pub(super) struct Heard {
    /// Those that are in a write come first.
    items: VecDeque<Item>,
    /// How many there are of each digest.
    digests: HashMap<u64, u32>,
    bytes: usize,
    /// Entries of the log that came before they were heard: the two come over different connections.
    early: VecDeque<(u64, Instant)>,
    writes: u64,
    /// The write that nobody knows the end of.
    under_way: Option<Write>,
    given_up: GivenUp,
    max_bytes: usize,
    hold: Duration,
}

impl Heard {
    /// Holds so much, or one event, for so long.
    pub(super) fn new(max_bytes: usize, hold: Duration) -> Self {
        Self {
            items: VecDeque::new(),
            digests: HashMap::new(),
            bytes: 0,
            early: VecDeque::new(),
            writes: 0,
            under_way: None,
            given_up: GivenUp::default(),
            max_bytes,
            hold,
        }
    }

    /// Notes an event. Others are given up if there is no room for it.
    pub(super) fn hear(&mut self, event: Published, now: Instant) {
        let digest = event.digest();
        if let Some(at) = self.early.iter().position(|(early, _)| *early == digest) {
            self.early.drain(..=at);
            return;
        }
        let item = Item { digest, at: now, event, write: None };
        self.bytes += item.weight();
        *self.digests.entry(digest).or_default() += 1;
        self.items.push_back(item);
        while self.bytes > self.max_bytes && self.items.len() > 1 {
            self.give_up(now);
        }
    }

    /// Makes room.
    fn give_up(&mut self, now: Instant) {
        let written = self.items.partition_point(|item| item.write.is_some());
        let under_way = self.under_way.as_ref().map(|write| write.number);
        let settled = self.items.front().is_some_and(|item| item.write.is_some() && item.write != under_way);
        if settled && written + 1 >= self.items.len() {
            // It is in the log.
            self.drop_first();
            return;
        }
        self.drop_at(written.min(self.items.len() - 1));
        self.given_up.at = Some(now);
        self.given_up.uncounted += 1;
    }

    /// How many events were given up since this was last asked.
    pub(super) fn count_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up.uncounted)
    }

    /// An entry of the log came. How long ago it was heard, if it was; if not, whether it is `yet` to be heard.
    pub(super) fn confirm(&mut self, digest: u64, yet: bool, now: Instant) -> Option<Duration> {
        let known = self.digests.contains_key(&digest);
        let place = known.then(|| self.items.iter().position(|item| item.digest == digest)).flatten();
        let Some(place) = place else {
            if yet {
                self.early.push_back((digest, now));
            }
            while self.early.len() > MAX_EARLY {
                self.early.pop_front();
            }
            return None;
        };
        // What was given up came before it: the writer had it, or told the gap.
        if self.items[place].write.is_none() {
            self.given_up = GivenUp::default();
        }
        let at = self.items[place].at;
        for _ in 0..=place {
            self.drop_first();
        }
        Some(now.saturating_duration_since(at))
    }

    /// The first events that are in no write, to be written together: up to `events`, and one or no more than `bytes`.
    pub(super) fn begin_write(&mut self, events: usize, bytes: usize) -> Batch {
        self.writes += 1;
        let gap = self.given_up.at.take().is_some();
        self.under_way = Some(Write { number: self.writes, gap });
        let written = self.items.partition_point(|item| item.write.is_some());
        let (mut taken, mut size) = (Vec::new(), 0);
        for item in self.items.range_mut(written..).take(events) {
            size += item.event.weight();
            if size > bytes && !taken.is_empty() {
                break;
            }
            item.write = Some(self.writes);
            taken.push(item.event.clone());
        }
        Batch { write: self.writes, gap, events: taken }
    }

    /// The write under way took place.
    pub(super) fn written(&mut self) {
        self.under_way = None;
    }

    /// A write did not take place, or nobody knows.
    pub(super) fn undo_write(&mut self, write: u64, now: Instant) {
        if self.under_way.take_if(|under_way| under_way.number == write).is_some_and(|write| write.gap) {
            self.given_up.at = Some(now);
        }
        for item in self.items.iter_mut().filter(|item| item.write == Some(write)) {
            item.write = None;
        }
    }

    /// Whether anything is in no write, be it a gap.
    pub(super) fn has_unwritten(&self) -> bool {
        // The latest are written last.
        self.given_up.at.is_some() || self.items.back().is_some_and(|item| item.write.is_none())
    }

    /// Forgets what is too old to matter: what is not `ours` to write, or was written and never came.
    pub(super) fn expire(&mut self, now: Instant, ours: bool) {
        let older = |at: Instant, than: Duration| now.saturating_duration_since(at) > than;
        while self.early.front().is_some_and(|(_, at)| older(*at, EARLY)) {
            self.early.pop_front();
        }
        let hold = self.hold;
        while self.items.front().is_some_and(|item| older(item.at, hold) && (!ours || item.write.is_some())) {
            self.drop_first();
        }
        if !ours && self.given_up.at.is_some_and(|at| older(at, hold)) {
            self.given_up = GivenUp::default();
        }
    }

    /// The channels were out of reach since `then`: no time passed.
    pub(super) fn resume(&mut self, then: Instant, now: Instant) {
        let away = now.saturating_duration_since(then);
        if self.under_way.take().is_some_and(|write| write.gap) {
            self.given_up.at = Some(now);
        }
        if let Some(at) = &mut self.given_up.at {
            *at = (*at + away).min(now);
        }
        for item in &mut self.items {
            item.at += away;
            // Whatever was under way, the log tells what became of it.
            item.write = None;
        }
        self.early.clear();
    }

    /// The log was lost, and all that it confirmed with it.
    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.digests.clear();
        self.bytes = 0;
        self.early.clear();
        (self.under_way, self.given_up) = (None, GivenUp::default());
    }

    fn drop_first(&mut self) {
        self.drop_at(0);
    }

    fn drop_at(&mut self, place: usize) {
        let Some(item) = self.items.remove(place) else { return };
        self.bytes -= item.weight();
        if let Entry::Occupied(mut known) = self.digests.entry(item.digest) {
            *known.get_mut() -= 1;
            if *known.get() == 0 {
                known.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Type;
    use super::*;

    const HOLD: Duration = Duration::from_secs(9);

    fn event(n: u32) -> Published {
        Published { kind: Type::Signal, agent: None, data: format!("{{\"n\":{n}}}").into() }
    }

    fn heard(events: &[u32]) -> Heard {
        let mut heard = Heard::new(1 << 20, HOLD);
        for n in events {
            heard.hear(event(*n), Instant::now());
        }
        heard
    }

    fn unwritten(heard: &mut Heard) -> Vec<Published> {
        heard.begin_write(100, 1 << 20).events
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_log_has_not_confirmed_is_left_to_write() {
        let mut heard = heard(&[1, 2, 3, 4]);
        tokio::time::advance(Duration::from_millis(3)).await;
        assert_eq!(heard.confirm(event(2).digest(), true, Instant::now()), Some(Duration::from_millis(3)));
        assert_eq!(unwritten(&mut heard), [event(3), event(4)]);
        assert!(!heard.has_unwritten());
    }

    #[tokio::test(start_paused = true)]
    async fn equal_events_are_confirmed_one_by_one() {
        let mut heard = heard(&[1, 1, 1]);
        heard.confirm(event(1).digest(), true, Instant::now());
        assert_eq!(unwritten(&mut heard).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_may_come_before_it_is_heard() {
        let mut heard = heard(&[]);
        assert_eq!(heard.confirm(event(1).digest(), true, Instant::now()), None);
        heard.hear(event(1), Instant::now());
        heard.hear(event(2), Instant::now());
        assert_eq!(unwritten(&mut heard), [event(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_equal_event_is_not_taken_for_one_of_before() {
        let mut heard = heard(&[]);
        // From before this node heard anything.
        heard.confirm(event(1).digest(), false, Instant::now());
        heard.confirm(event(2).digest(), true, Instant::now());
        tokio::time::advance(EARLY * 2).await;
        heard.expire(Instant::now(), true);
        heard.hear(event(1), Instant::now());
        heard.hear(event(2), Instant::now());
        assert_eq!(unwritten(&mut heard), [event(1), event(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_did_not_take_place_is_written_again() {
        let mut heard = heard(&[1, 2]);
        let first = heard.begin_write(1, 1 << 20);
        assert_eq!((first.events.len(), heard.has_unwritten()), (1, true));
        heard.written();
        let second = heard.begin_write(9, 1 << 20).write;
        assert!(!heard.has_unwritten());
        heard.undo_write(second, Instant::now());
        let again = heard.begin_write(9, 1 << 20);
        assert_eq!((again.events, again.gap), (vec![event(2)], false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_is_forgotten_unless_it_is_ours_to_write() {
        let mut heard = heard(&[1, 2]);
        heard.begin_write(1, 1 << 20);
        tokio::time::advance(HOLD * 2).await;
        heard.expire(Instant::now(), true);
        assert_eq!(unwritten(&mut heard), [event(2)]);
        heard.hear(event(3), Instant::now());
        tokio::time::advance(HOLD * 2).await;
        heard.expire(Instant::now(), false);
        assert!(heard.items.is_empty() && heard.bytes == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn time_out_of_reach_does_not_count() {
        let mut heard = heard(&[1]);
        heard.begin_write(1, 1 << 20);
        let then = Instant::now();
        tokio::time::advance(HOLD * 5).await;
        heard.resume(then, Instant::now());
        heard.expire(Instant::now(), false);
        assert_eq!(unwritten(&mut heard), [event(1)]);
    }

    /// Room for so many events.
    fn narrow(events: usize) -> Heard {
        let item = Item { digest: 0, at: Instant::now(), event: event(1), write: None };
        Heard::new(events * item.weight(), HOLD)
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_the_first_unwritten_are_given_up_counted_and_told_once() {
        let mut heard = narrow(3);
        (1..=5).for_each(|n| heard.hear(event(n), Instant::now()));
        assert_eq!((heard.count_given_up(), heard.count_given_up()), (2, 0));
        let batch = heard.begin_write(1, 1 << 20);
        assert_eq!((batch.gap, batch.events), (true, vec![event(3)]));
        // What is being written stays, as it may have to be written again.
        (6..=8).for_each(|n| heard.hear(event(n), Instant::now()));
        assert_eq!(heard.count_given_up(), 3);
        heard.undo_write(batch.write, Instant::now());
        let batch = heard.begin_write(9, 1 << 20);
        assert_eq!((batch.gap, batch.events), (true, vec![event(3), event(7), event(8)]));
        heard.written();
        assert!(!heard.has_unwritten());
        // What is in the log makes room for nothing.
        heard.hear(event(9), Instant::now());
        assert_eq!(heard.count_given_up(), 0);
        assert!(!heard.begin_write(9, 1 << 20).gap);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_is_no_loss_if_somebody_else_wrote_it() {
        let given_up = || {
            let mut heard = narrow(2);
            (1..=4).for_each(|n| heard.hear(event(n), Instant::now()));
            heard
        };
        let mut heard = given_up();
        for n in [1, 2] {
            heard.confirm(event(n).digest(), false, Instant::now());
        }
        assert!(heard.begin_write(9, 1 << 20).gap);
        let mut heard = given_up();
        heard.confirm(event(3).digest(), false, Instant::now());
        assert_eq!(heard.count_given_up(), 0);
        let batch = heard.begin_write(9, 1 << 20);
        assert_eq!((batch.gap, batch.events), (false, vec![event(4)]));
        let mut heard = given_up();
        tokio::time::advance(HOLD * 2).await;
        heard.expire(Instant::now(), false);
        assert!(!heard.has_unwritten() && heard.digests.is_empty());
    }
}
