//! What this node heard over the channels and has not yet seen in the feed's log.
//!
//! Every node hears the same in the same order, and one of them writes it into the log. So an entry of the log confirms
//! what was heard, and all that was heard before it; what is left when the writer dies is what the next one has to write.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::event::Published;

/// How long a connection may lag behind the other. An equal event that is published meanwhile is taken for the first.
const EARLY: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Item {
    digest: u64,
    at: Instant,
    event: Published,
    /// Number of the write that it is in; none: it is in no write.
    write: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Heard {
    items: VecDeque<Item>,
    bytes: usize,
    /// Entries of the log that came before they were heard: the two come over different connections.
    early: VecDeque<(u64, Instant)>,
    writes: u64,
    max_events: usize,
    max_bytes: usize,
    hold: Duration,
}

impl Heard {
    /// Holds so much, for so long.
    pub(super) fn new(max_events: usize, max_bytes: usize, hold: Duration) -> Self {
        let (items, early) = (VecDeque::new(), VecDeque::new());
        Self { items, bytes: 0, early, writes: 0, max_events, max_bytes, hold }
    }

    /// Notes an event. How many had to be given up for it that nobody may have written.
    pub(super) fn hear(&mut self, event: Published, now: Instant) -> usize {
        let digest = event.digest();
        if let Some(at) = self.early.iter().position(|(early, _)| *early == digest) {
            self.early.drain(..=at);
            return 0;
        }
        self.bytes += event.weight();
        self.items.push_back(Item { digest, at: now, event, write: None });
        let mut lost = 0;
        while self.items.len() > self.max_events || (self.bytes > self.max_bytes && self.items.len() > 1) {
            lost += usize::from(self.drop_first());
        }
        lost
    }

    /// An entry of the log came. How long ago it was heard, if it was; if not, whether it is `yet` to be heard.
    pub(super) fn confirm(&mut self, digest: u64, yet: bool, now: Instant) -> Option<Duration> {
        let Some(place) = self.items.iter().position(|item| item.digest == digest) else {
            if yet {
                self.early.push_back((digest, now));
            }
            while self.early.len() > self.max_events {
                self.early.pop_front();
            }
            return None;
        };
        let at = self.items[place].at;
        for _ in 0..=place {
            self.drop_first();
        }
        Some(now.saturating_duration_since(at))
    }

    /// The first events that are in no write, to be written together: up to `events`, and one or no more than `bytes`.
    pub(super) fn begin_write(&mut self, events: usize, bytes: usize) -> (u64, Vec<Published>) {
        self.writes += 1;
        let (mut taken, mut size) = (Vec::new(), 0);
        for item in self.items.iter_mut().filter(|item| item.write.is_none()).take(events) {
            size += item.event.weight();
            if size > bytes && !taken.is_empty() {
                break;
            }
            item.write = Some(self.writes);
            taken.push(item.event.clone());
        }
        (self.writes, taken)
    }

    /// A write did not take place, or nobody knows.
    pub(super) fn undo_write(&mut self, write: u64) {
        for item in self.items.iter_mut().filter(|item| item.write == Some(write)) {
            item.write = None;
        }
    }

    /// Whether anything is in no write.
    pub(super) fn has_unwritten(&self) -> bool {
        // The latest are written last.
        self.items.back().is_some_and(|item| item.write.is_none())
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
    }

    /// The channels were out of reach since `then`: no time passed.
    pub(super) fn resume(&mut self, then: Instant, now: Instant) {
        let away = now.saturating_duration_since(then);
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
        self.bytes = 0;
        self.early.clear();
    }

    /// Whether what was dropped was in no write.
    fn drop_first(&mut self) -> bool {
        let Some(item) = self.items.pop_front() else { return false };
        self.bytes -= item.event.weight();
        item.write.is_none()
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
        let mut heard = Heard::new(10, 1 << 20, HOLD);
        for n in events {
            assert_eq!(heard.hear(event(*n), Instant::now()), 0);
        }
        heard
    }

    fn unwritten(heard: &mut Heard) -> Vec<Published> {
        heard.begin_write(100, 1 << 20).1
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
        let (first, events) = heard.begin_write(1, 1 << 20);
        assert_eq!((events.len(), heard.has_unwritten()), (1, true));
        let (second, _) = heard.begin_write(9, 1 << 20);
        assert!(!heard.has_unwritten());
        heard.undo_write(second);
        assert_eq!(unwritten(&mut heard), [event(2)]);
        heard.undo_write(first);
        assert_eq!(unwritten(&mut heard), [event(1)]);
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

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_bounded_and_what_is_given_up_counted() {
        let mut heard = Heard::new(2, 1 << 20, HOLD);
        assert_eq!((1..=3).map(|n| heard.hear(event(n), Instant::now())).sum::<usize>(), 1);
        assert_eq!(unwritten(&mut heard), [event(2), event(3)]);
        let mut heard = Heard::new(9, 1, HOLD);
        assert_eq!((1..=3).map(|n| heard.hear(event(n), Instant::now())).sum::<usize>(), 2);
    }
}
