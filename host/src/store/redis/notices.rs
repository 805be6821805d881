//! Notices on their way to the hub: bounded in bytes. What comes too fast is dropped, and the hub told that it was.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::super::{Notice, Notices};

/// Between who hears of things and who is told.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    limit: usize,
    filled: Notify,
    /// There is room again.
    pub(super) drained: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    notices: VecDeque<Notice>,
    bytes: usize,
    /// Somebody wants to be told.
    wanted: bool,
}

impl Inbox {
    pub(super) fn new(limit: usize) -> Self {
        Self { queue: Mutex::default(), limit, filled: Notify::new(), drained: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a notice in. False: there was no room, and all that waited was replaced by [`Notice::Lost`].
    pub(super) fn push(&self, notice: Notice) -> bool {
        let mut queue = self.queue();
        if !queue.wanted {
            return true;
        }
        let bytes = weight(&notice);
        let fits = queue.bytes + bytes <= self.limit || queue.notices.is_empty();
        if fits {
            queue.bytes += bytes;
            queue.notices.push_back(notice);
        } else {
            queue.notices.clear();
            queue.notices.push_back(Notice::Lost);
            queue.bytes = weight(&Notice::Lost);
        }
        drop(queue);
        self.filled.notify_one();
        fits
    }

    /// Says that notices were missed. Those that wait are of no use any more.
    pub(super) fn lose(&self) {
        let mut queue = self.queue();
        if queue.wanted {
            queue.notices.clear();
            queue.notices.push_back(Notice::Lost);
            queue.bytes = weight(&Notice::Lost);
            drop(queue);
            self.filled.notify_one();
        }
    }

    /// Whether half of the room is free.
    pub(super) fn has_room(&self) -> bool {
        let queue = self.queue();
        queue.notices.is_empty() || queue.bytes <= self.limit / 2
    }
}

fn weight(notice: &Notice) -> usize {
    let own = std::mem::size_of::<Notice>();
    own + match notice {
        Notice::Events(events) => events.iter().map(crate::domain::Event::weight).sum(),
        Notice::SessionGrew(session) => session.as_key().len(),
        Notice::Cancel { reason, .. } => reason.len(),
        Notice::Watching(_) | Notice::Lost => 0,
    }
}

/// The hub's end.
pub(super) struct Receiver {
    inbox: Arc<Inbox>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

impl Receiver {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        inbox.queue().wanted = true;
        Self { inbox }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        *self.inbox.queue() = Queue::default();
    }
}

#[async_trait]
impl Notices for Receiver {
    async fn next(&mut self) -> Notice {
        loop {
            let (taken, has_room) = {
                let mut queue = self.inbox.queue();
                let taken = queue.notices.pop_front();
                queue.bytes = taken.as_ref().map_or(0, |notice| queue.bytes.saturating_sub(weight(notice)));
                (taken, queue.notices.is_empty() || queue.bytes <= self.inbox.limit / 2)
            };
            if has_room {
                self.inbox.drained.notify_one();
            }
            match taken {
                Some(notice) => return notice,
                None => self.inbox.filled.notified().await,
            }
        }
    }
}
