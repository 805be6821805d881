//! Streams that show the same and stand at the same place are a group's members: one task waits for what comes next and
//! writes it to all of them, instead of waking a task for each.
//!
//! A member that takes less than it is offered leaves, with what it was not given, and goes on by itself; so does one
//! that gets something of its own to show. Every stream keeps its own source for that, and comes back when it stands
//! where the group stands.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::wire::{Outlet, Unwritten};
use crate::hub::{Frame, Member, Registry};

/// Streams of one kind that are no group yet: so few cost less by themselves.
const FEW: usize = 16;
/// Members of a group before a second one is made for another processor.
const MANY: usize = 128;
/// Frames that a group has room for while it waits.
const KEPT: usize = 4;

/// What a group tells its members.
pub(super) trait Shared: Send + 'static {
    /// Names all that show the same.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// How far somebody has come. Whoever stands at the same place is shown the same next.
    type Place: Copy + PartialEq + Send + Sync + 'static;

    /// Where it stands.
    fn place(&self) -> Self::Place;

    /// As [`Source::next`](super::sse::Source::next), but that it may append nothing where only the place has moved. What
    /// a call appends is what lies between the places before and after it.
    fn next(&mut self, frames: &mut Vec<Frame>) -> impl Future<Output = bool> + Send;
}

/// All groups of a kind of streams.
pub(super) struct Groups<S: Shared> {
    registry: Arc<Registry<S::Key, Kin<S::Place>>>,
    /// Groups of one key, at most.
    most: usize,
}

impl<S: Shared> Default for Groups<S> {
    fn default() -> Self {
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        Self { registry: Arc::default(), most }
    }
}

/// The groups of one key.
#[derive(Debug)]
struct Kin<P> {
    groups: Mutex<Vec<Arc<Group<P>>>>,
}

#[derive(Debug)]
struct Group<P> {
    state: Mutex<State<P>>,
    emptied: Notify,
}

#[derive(Debug)]
struct State<P> {
    /// Where who joins has to stand.
    place: P,
    members: BTreeMap<u64, Arc<Seat<P>>>,
    next: u64,
    closed: bool,
}

/// A member as its group sees it.
#[derive(Debug)]
struct Seat<P> {
    outlet: Outlet,
    state: Mutex<Seated<P>>,
    out: Notify,
}

#[derive(Debug)]
struct Seated<P> {
    place: P,
    /// It is written to no more.
    out: bool,
    /// There is nothing behind the place.
    ended: bool,
    unwritten: Option<Unwritten>,
}

/// Where a stream goes on that has left its group.
#[derive(Debug)]
pub(super) struct Departure<P> {
    /// Where it stands when what is unwritten is written.
    pub(super) place: P,
    /// What its socket did not take, or could not.
    pub(super) unwritten: Option<Unwritten>,
    /// There is nothing behind the place.
    pub(super) ended: bool,
}

/// A stream among those of its key.
pub(super) struct Relative<S: Shared> {
    kin: Arc<Member<S::Key, Kin<S::Place>>>,
    most: usize,
}

/// A stream's membership. It ends when this is dropped.
pub(super) struct Membership<P> {
    group: Arc<Group<P>>,
    seat: Arc<Seat<P>>,
    number: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Shared> Groups<S> {
    /// A stream that begins. It counts as long as this is held.
    pub(super) fn enter(&self, key: &S::Key) -> Relative<S> {
        let kin = Registry::enter(&self.registry, key, || Kin { groups: Mutex::default() });
        Relative { kin, most: self.most }
    }
}

impl<S: Shared> Relative<S> {
    /// Makes a stream that stands at a place a member of a group that stands there, if there is one or it is worth it.
    pub(super) fn join(
        &self,
        outlet: &Outlet,
        place: S::Place,
        lead: impl FnOnce() -> S,
    ) -> Option<Membership<S::Place>> {
        // Every stream holds it, and hardly anybody else does.
        if Arc::strong_count(&self.kin) <= FEW {
            return None;
        }
        let mut groups = locked(&self.kin.groups);
        let smallest = groups
            .iter()
            .filter_map(|group| Some((group.room_at(place)?, group)))
            .min_by_key(|found| found.0);
        let (group, leader) = match smallest {
            Some((members, group)) if members < MANY || groups.len() >= self.most => {
                (Arc::clone(group), None)
            }
            None if groups.len() >= self.most => return None,
            Some(_) | None => {
                let group = Arc::new(Group::new(place));
                groups.push(Arc::clone(&group));
                let leader = Leader { kin: Arc::clone(&self.kin), group: Arc::clone(&group), ended: false };
                (group, Some(leader))
            }
        };
        let membership = group.seat(outlet, place);
        // A leader begins with a member, whose leaving ends it, and locks what is locked here when it ends.
        drop(groups);
        if let Some(leader) = leader {
            tokio::spawn(leader.lead(lead()));
        }
        membership
    }
}

impl<P: Copy + PartialEq> Group<P> {
    fn new(place: P) -> Self {
        let state = State { place, members: BTreeMap::new(), next: 0, closed: false };
        Self { state: Mutex::new(state), emptied: Notify::new() }
    }

    /// How many members there are, if one who stands there may join.
    fn room_at(&self, place: P) -> Option<usize> {
        let state = locked(&self.state);
        (!state.closed && state.place == place).then(|| state.members.len())
    }

    fn seat(self: Arc<Self>, outlet: &Outlet, place: P) -> Option<Membership<P>> {
        let mut state = locked(&self.state);
        // It may have gone on by now.
        if state.closed || state.place != place {
            return None;
        }
        let seated = Seated { place, out: false, ended: false, unwritten: None };
        let seat = Arc::new(Seat { outlet: outlet.clone(), state: Mutex::new(seated), out: Notify::new() });
        let number = state.next;
        state.next += 1;
        state.members.insert(number, Arc::clone(&seat));
        drop(state);
        Some(Membership { group: self, seat, number })
    }
}

impl<P: Copy> Seat<P> {
    /// Writes frames, and notes where the member stands with them.
    fn write(&self, frames: &[Frame], place: Option<P>) {
        let mut state = locked(&self.state);
        if state.out {
            return;
        }
        state.place = place.unwrap_or(state.place);
        state.unwritten = self.outlet.offer(frames);
        if state.unwritten.is_some() {
            state.out = true;
            self.out.notify_one();
        }
    }
}

impl<P: Copy> Membership<P> {
    /// Completes when the stream has to leave.
    pub(super) async fn out(&self) {
        self.seat.out.notified().await;
    }

    /// Writes a frame that belongs to no place. If the socket does not take all of it the stream has to leave.
    pub(super) fn write(&self, frame: &Frame) {
        self.seat.write(std::slice::from_ref(frame), None);
    }

    /// Leaves the group.
    pub(super) fn leave(self) -> Departure<P> {
        let mut state = locked(&self.seat.state);
        state.out = true;
        Departure { place: state.place, unwritten: state.unwritten.take(), ended: state.ended }
    }
}

impl<P> Drop for Membership<P> {
    fn drop(&mut self) {
        // It may be dropped without having left.
        locked(&self.seat.state).out = true;
        let mut state = locked(&self.group.state);
        state.members.remove(&self.number);
        if state.members.is_empty() {
            self.group.emptied.notify_one();
        }
    }
}

/// Writes to a group's members as long as there are some. Whatever ends it, they go on by themselves.
struct Leader<K: Eq + Hash, P> {
    kin: Arc<Member<K, Kin<P>>>,
    group: Arc<Group<P>>,
    ended: bool,
}

impl<K: Eq + Hash, P: Copy + PartialEq> Leader<K, P> {
    async fn lead<S: Shared<Key = K, Place = P>>(mut self, mut shared: S) {
        let (mut frames, mut seats) = (Vec::new(), Vec::new());
        loop {
            let more = tokio::select! {
                biased;
                more = shared.next(&mut frames) => more,
                () = self.group.emptied.notified() => {
                    // Joining holds the same lock.
                    let _groups = locked(&self.kin.groups);
                    let mut state = locked(&self.group.state);
                    state.closed = state.members.is_empty();
                    if state.closed {
                        return;
                    }
                    continue;
                }
            };
            {
                let mut state = locked(&self.group.state);
                state.place = shared.place();
                seats.extend(state.members.values().cloned());
            }
            for seat in seats.drain(..) {
                seat.write(&frames, Some(shared.place()));
                // Even a large group lets others run.
                tokio::task::coop::consume_budget().await;
            }
            self.ended = !more;
            if self.ended {
                return;
            }
            frames.clear();
            frames.shrink_to(KEPT);
        }
    }
}

impl<K: Eq + Hash, P> Drop for Leader<K, P> {
    fn drop(&mut self) {
        locked(&self.kin.groups).retain(|group| !Arc::ptr_eq(group, &self.group));
        let mut state = locked(&self.group.state);
        state.closed = true;
        for seat in state.members.values() {
            let mut seated = locked(&seat.state);
            if !seated.out {
                (seated.out, seated.ended) = (true, self.ended);
                seat.out.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests;
