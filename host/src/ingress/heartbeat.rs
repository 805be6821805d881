//! Heartbeats of all streams from one timer. Streams are spread over groups, one of which is told at a time, so that
//! thousands of them do not wake at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::{Clock, rfc3339};
use crate::hub::Frame;

/// Most groups.
const GROUPS: usize = 64;
/// Shortest time between two of them.
const APART: Duration = Duration::from_millis(10);

/// What a stream hears its heartbeats by: the latest one, encoded once for everybody. It closes when all streams have
/// to end.
pub(super) type Heartbeat = watch::Receiver<Frame>;

/// Where streams get their heartbeats.
#[derive(Debug)]
pub(super) struct Heartbeats {
    groups: Vec<Heartbeat>,
    next: AtomicUsize,
}

/// The timer.
#[derive(Debug)]
pub(super) struct Timer {
    groups: Vec<watch::Sender<Frame>>,
    period: Duration,
    clock: Clock,
}

/// Heartbeats with a period, and the timer that makes them.
pub(super) fn heartbeats(period: Duration, clock: Clock) -> (Heartbeats, Timer) {
    let period = period.max(APART);
    let count = usize::try_from(period.as_millis() / APART.as_millis()).unwrap_or(GROUPS).min(GROUPS);
    let (senders, receivers) = (0..count).map(|_| watch::channel(Frame::empty())).unzip();
    let timer = Timer { groups: senders, period, clock };
    (Heartbeats { groups: receivers, next: AtomicUsize::new(0) }, timer)
}

impl Heartbeats {
    /// The heartbeats of a new stream: one in every period, the first within one.
    pub(super) fn join(&self) -> Heartbeat {
        let group = self.next.fetch_add(1, Ordering::Relaxed) % self.groups.len();
        let mut heartbeat = self.groups[group].clone();
        heartbeat.mark_unchanged();
        heartbeat
    }
}

impl Timer {
    /// Beats until all streams have to end.
    pub(super) async fn run(self, end: CancellationToken) {
        let count = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        let mut ticks = tokio::time::interval(self.period / count);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for group in self.groups.iter().cycle() {
            tokio::select! {
                () = end.cancelled() => return,
                _ = ticks.tick() => {}
            }
            // One receiver is the group's own.
            if group.receiver_count() > 1 {
                let now = rfc3339(self.clock.now_ms());
                let text = format!("event: heartbeat\ndata: {{\"timestamp\":\"{now}\"}}\n\n");
                group.send_replace(Frame::text(&text));
            }
        }
    }
}
