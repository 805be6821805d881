//! What a client hears, whatever happens between the worker, the log and the client's connection.

mod equivalence;
mod nodes;

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::{Config, Entry, Follower, Frame, Hub, Publisher, SessionFollower, Step};
use crate::domain::{Clock, Cursor, Event, Kind, NewTask, Position, SessionId, TaskId};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{Claim, EventLog, Retention, Store, TaskQueue};

const LEASE: Duration = Duration::from_secs(30);

/// A store, a hub over it, and the run of one task, every step of which the test decides.
struct Stage {
    _dir: TempDir,
    store: Arc<SqliteStore>,
    clock: Clock,
    hub: Hub,
    config: Config,
    task: TaskId,
    claim: Option<Claim>,
    publisher: Option<Publisher>,
    unlogged: Vec<Arc<Event>>,
    last: Position,
    end: Option<Position>,
}

fn new_task(session: &SessionId) -> NewTask {
    NewTask {
        id: TaskId::new(),
        adapter: "plug".into(),
        agent: "echo".into(),
        session: session.clone(),
        input: "{}".into(),
        deliver: None,
        idempotency_key: None,
    }
}

fn session() -> SessionId {
    SessionId::new("plug", "s").unwrap()
}

impl Stage {
    async fn new(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(1_000_000);
        let options = Options { clock: clock.clone(), ..Options::default() };
        let store = Arc::new(SqliteStore::open(dir.path(), options).unwrap());
        let task = store.submit(new_task(&session())).await.unwrap().task;
        let hub = Hub::new(store.clone(), config);
        Self {
            _dir: dir,
            store,
            clock,
            hub,
            config,
            task,
            claim: None,
            publisher: None,
            unlogged: Vec::new(),
            last: Position::START,
            end: None,
        }
    }

    fn event(&self, position: Position, kind: Kind) -> Event {
        let data = format!(r#"{{"at":"{}-{}"}}"#, position.attempt, position.seq).into();
        Event { task: self.task, session: session(), position, kind, at_ms: self.clock.now_ms(), data }
    }

    /// Claims the task, as the first or the next attempt, without saying that it started.
    async fn claim(&mut self) {
        self.clock.advance(2 * LEASE);
        let claim = self.store.claim(1, LEASE).await.unwrap().items.remove(0);
        self.publisher = Some(self.hub.publisher(self.task));
        self.last = Position { attempt: claim.task.attempt, seq: 0 };
        self.claim = Some(claim);
    }

    async fn start(&mut self) {
        self.claim().await;
        self.publish(Kind::Started);
    }

    /// Fans an event out; the log does not have it yet.
    fn publish(&mut self, kind: Kind) {
        self.last.seq += 1;
        let event = Arc::new(self.event(self.last, kind));
        self.publisher.as_ref().unwrap().publish(Arc::clone(&event));
        self.unlogged.push(event);
    }

    fn chunks(&mut self, count: u64) {
        for _ in 0..count {
            self.publish(Kind::ResponseChunk);
        }
    }

    /// Logs the first so many of what was fanned out, and waits until they are readable.
    async fn log(&mut self, count: usize) {
        let count = count.min(self.unlogged.len());
        self.store.append(self.unlogged.drain(..count).collect()).await.unwrap();
        self.store.probe().await.unwrap();
    }

    async fn finish(&mut self, kind: Kind) {
        self.log(usize::MAX).await;
        self.last.seq += 1;
        let end = self.event(self.last, kind);
        self.store.finish(self.claim.as_ref().unwrap().lease, end.clone()).await.unwrap();
        self.end = Some(self.last);
        if let Some(publisher) = self.publisher.take() {
            publisher.publish(Arc::new(end));
            publisher.end();
        }
    }

    /// The run is lost: what was not logged never will be.
    fn lose_run(&mut self) {
        self.publisher = None;
        self.unlogged.clear();
    }

    /// The whole process is lost.
    fn lose_process(&mut self) {
        self.lose_run();
        self.hub = Hub::new(self.store.clone(), self.config);
    }

    fn follow(&self, after: Position) -> Follower {
        self.hub.follow(self.task, after)
    }
}

/// All that a follower can get without waiting for longer than the log may be behind.
async fn drained(follower: &mut Follower, max: usize) -> (Vec<Entry>, Vec<Step>) {
    let (mut entries, mut steps) = (Vec::new(), Vec::new());
    while let Ok(step) =
        tokio::time::timeout(Duration::from_millis(50), follower.next(&mut entries, max)).await
    {
        let step = step.unwrap();
        if step == Step::Ended {
            steps.push(step);
            break;
        }
        steps.push(step);
    }
    (entries, steps)
}

fn places(entries: &[Entry]) -> Vec<(u32, u64)> {
    entries.iter().map(|entry| entry.event().position).map(|at| (at.attempt, at.seq)).collect()
}

fn run(attempt: u32, seqs: std::ops::RangeInclusive<u64>) -> Vec<(u32, u64)> {
    seqs.map(|seq| (attempt, seq)).collect()
}

/// A poll that never helps: whatever is heard, a bell brought it.
fn deaf() -> Config {
    Config { poll: Duration::from_secs(86_400), ..Config::default() }
}

fn small_ring(events: usize) -> Config {
    Config { ring_events: events, ..deaf() }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_falls_off_the_ring_reads_on_from_the_log() {
    let mut stage = Stage::new(small_ring(4)).await;
    stage.start().await;
    let mut follower = stage.follow(Position::START);
    stage.chunks(29);
    stage.log(30).await;
    stage.chunks(3);
    let (entries, steps) = drained(&mut follower, 7).await;
    assert_eq!(places(&entries), run(1, 1..=33));
    assert_eq!(steps[0], Step::Events { replayed: true, behind: 4 });
    assert_eq!(steps.last(), Some(&Step::Events { replayed: false, behind: 0 }));
    stage.finish(Kind::Completed).await;
    let (entries, steps) = drained(&mut follower, 7).await;
    assert_eq!((places(&entries), steps.last()), (run(1, 34..=34), Some(&Step::Ended)));
}

#[tokio::test(start_paused = true)]
async fn a_reader_off_the_ring_waits_for_a_log_that_is_behind() {
    let mut stage = Stage::new(small_ring(2)).await;
    stage.start().await;
    let mut follower = stage.follow(Position::START);
    stage.chunks(9);
    let mut entries = Vec::new();
    let (step, ()) = tokio::join!(follower.next(&mut entries, 100), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stage.log(5).await;
    });
    assert_eq!(step.unwrap(), Step::Events { replayed: true, behind: 2 });
    assert_eq!(places(&entries), run(1, 1..=5));
    stage.log(100).await;
    let (more, _) = drained(&mut follower, 100).await;
    assert_eq!(places(&more), run(1, 6..=10));
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_a_voided_run_begins_the_present_run_anew() {
    let mut stage = Stage::new(small_ring(100)).await;
    stage.start().await;
    stage.chunks(8);
    stage.log(5).await;
    stage.lose_run();
    stage.start().await;
    stage.chunks(2);
    for seen in [0, 3, 5, 9] {
        let mut follower = stage.follow(Position { attempt: 1, seq: seen });
        assert_eq!(places(&drained(&mut follower, 10).await.0), run(2, 1..=3), "after {seen}");
    }
    stage.log(100).await;
    stage.lose_process();
    let mut follower = stage.follow(Position { attempt: 1, seq: 3 });
    assert_eq!(places(&drained(&mut follower, 10).await.0), run(2, 1..=3));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_given_up_replays_its_dead_run_before_its_end() {
    let mut stage = Stage::new(small_ring(100)).await;
    stage.start().await;
    stage.chunks(8);
    stage.log(5).await;
    stage.lose_process();
    stage.claim().await;
    let mut waiting = stage.follow(Position { attempt: 1, seq: 9 });
    let (end, ()) = tokio::join!(drained(&mut waiting, 10), stage.finish(Kind::Failed));
    assert_eq!((places(&end.0), end.1.last()), (vec![(2, 1)], Some(&Step::Ended)));
    let mut fresh = stage.follow(Position::START);
    let expected: Vec<_> = run(1, 1..=5).into_iter().chain([(2, 1)]).collect();
    assert_eq!(places(&drained(&mut fresh, 3).await.0), expected);
}

#[tokio::test(start_paused = true)]
async fn an_ended_task_whose_log_is_forgotten_has_its_end_alone() {
    let mut stage = Stage::new(deaf()).await;
    stage.start().await;
    stage.chunks(8);
    stage.finish(Kind::Completed).await;
    stage.clock.advance(Duration::from_secs(100));
    let retention = Retention { events: Duration::from_secs(10), tasks: Duration::from_secs(1000) };
    assert_eq!(stage.store.sweep(retention).await.unwrap().events, 9);
    let (entries, steps) = drained(&mut stage.follow(Position::START), 10).await;
    assert_eq!(places(&entries), [(1, 10)]);
    assert_eq!(steps, [Step::Events { replayed: true, behind: 0 }, Step::Ended]);
    // Who had heard a part is told what is missing.
    let (entries, steps) = drained(&mut stage.follow(Position { attempt: 1, seq: 4 }), 10).await;
    assert_eq!((places(&entries), steps[0]), (vec![(1, 10)], Step::Gap { attempt: 1, first: 5, last: 9 }));
    for seq in [10, 11, u64::MAX] {
        let (entries, steps) = drained(&mut stage.follow(Position { attempt: 1, seq }), 10).await;
        assert_eq!((entries.len(), steps), (0, vec![Step::Ended]));
    }
    stage.clock.advance(Duration::from_secs(2000));
    stage.store.sweep(retention).await.unwrap();
    assert_eq!(drained(&mut stage.follow(Position::START), 10).await.1, [Step::Ended]);
}

#[tokio::test(start_paused = true)]
async fn a_follower_hears_of_an_end_that_nobody_published() {
    let stage = Stage::new(deaf()).await;
    let mut follower = stage.follow(Position::START);
    let mut entries = Vec::new();
    // Told of it: at once.
    let wait = tokio::time::timeout(Duration::from_millis(500), follower.next(&mut entries, 5));
    let (step, ()) = tokio::join!(wait, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stage.store.cancel(stage.task, "").await.unwrap();
        stage.hub.task_changed(stage.task);
    });
    step.unwrap().unwrap();
    assert_eq!(places(&entries), [(1, 1)]);
    // Not told of it: when it looks by itself.
    let stage = Stage::new(Config::default()).await;
    let mut follower = stage.follow(Position::START);
    entries.clear();
    let wait = tokio::time::timeout(Duration::from_secs(40), follower.next(&mut entries, 5));
    let (step, ()) = tokio::join!(wait, async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        stage.store.cancel(stage.task, "").await.unwrap();
    });
    step.unwrap().unwrap();
    assert_eq!(places(&entries), [(1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_taken_over_is_not_heard_any_more() {
    let mut stage = Stage::new(deaf()).await;
    stage.start().await;
    let zombie = stage.publisher.take().unwrap();
    stage.start().await;
    zombie.publish(Arc::new(stage.event(Position { attempt: 1, seq: 2 }, Kind::Completed)));
    stage.chunks(1);
    drop(zombie);
    let (entries, _) = drained(&mut stage.follow(Position::START), 10).await;
    assert_eq!(places(&entries), run(2, 1..=2));
}

#[tokio::test(start_paused = true)]
async fn the_ring_is_bounded_in_bytes_as_well() {
    let mut stage = Stage::new(Config { ring_bytes: 100_000, ..deaf() }).await;
    stage.start().await;
    for _ in 0..99 {
        let mut event = stage.event(stage.last, Kind::ResponseChunk);
        event.position.seq += 1;
        event.data = "x".repeat(10_000).into();
        stage.last = event.position;
        stage.publisher.as_ref().unwrap().publish(Arc::new(event));
    }
    let mut entries = Vec::new();
    let topic = stage.hub.topic(stage.task);
    let held = topic.pending(Position::START);
    let before = Position { seq: 100 - held as u64, ..stage.last };
    assert_eq!(topic.take(before, &mut entries, 99), super::topic::Found::Events { behind: 0 });
    // What a ring holds is counted with the frames that its readers make it hold.
    let encode = |event: &Event| Frame::text(&event.data);
    let bytes =
        entries.iter().map(|entry| entry.event().weight() + entry.frame(encode).chunk().len()).sum::<usize>();
    assert!((80_000..=100_000).contains(&bytes), "{held} entries of {bytes} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_reader_holds_a_bounded_number_of_bytes_at_a_time() {
    let mut stage = Stage::new(deaf()).await;
    stage.start().await;
    stage.log(1).await;
    let mut follower = stage.follow(Position::START);
    let mut entries = Vec::new();
    follower.next(&mut entries, 100).await.unwrap();
    for _ in 0..20 {
        stage.last.seq += 1;
        let event = Event { data: "x".repeat(10_000).into(), ..stage.event(stage.last, Kind::ResponseChunk) };
        stage.publisher.as_ref().unwrap().publish(Arc::new(event));
    }
    for behind in [16, 12] {
        entries.clear();
        let step = follower.next(&mut entries, 100).await.unwrap();
        assert_eq!((entries.len(), step), (4, Step::Events { replayed: false, behind }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_task_leaves_nothing_in_the_hub() {
    let mut stage = Stage::new(deaf()).await;
    assert_eq!(stage.hub.topics(), 0);
    stage.start().await;
    let mut follower = stage.follow(Position::START);
    assert_eq!(stage.hub.topics(), 1);
    stage.chunks(3);
    stage.finish(Kind::Completed).await;
    assert_eq!(stage.hub.topics(), 1, "the follower is not through");
    let mut entries = Vec::new();
    assert_eq!(follower.try_next(&mut entries, 10), Some(Step::Events { replayed: false, behind: 0 }));
    assert_eq!(follower.try_next(&mut entries, 10), Some(Step::Ended));
    drop(follower);
    assert_eq!(stage.hub.topics(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_tasks_leave_nothing_in_the_hub() {
    let stage = Stage::new(deaf()).await;
    for _ in 0..100_000 {
        let task = TaskId::new();
        let publisher = stage.hub.publisher(task);
        let mut follower = stage.hub.follow(task, Position::START);
        let position = Position { attempt: 1, seq: 1 };
        publisher.publish(Arc::new(Event { task, ..stage.event(position, Kind::Completed) }));
        let mut entries = Vec::new();
        assert!(follower.try_next(&mut entries, 10).is_none(), "the log tells what was before");
        publisher.end();
    }
    assert_eq!(stage.hub.topics(), 0);
    let names = stage.hub.inner.tasks.lock().capacity();
    assert!(names < 100, "room for {names} names");
}

#[tokio::test(start_paused = true)]
async fn an_event_is_encoded_once_for_all_followers() {
    let mut stage = Stage::new(deaf()).await;
    stage.start().await;
    let mut encoded = 0;
    let mut frames = Vec::new();
    for _ in 0..5 {
        let (entries, _) = drained(&mut stage.follow(Position::START), 10).await;
        let encode = |event: &Event| {
            encoded += 1;
            Frame::text(&event.cursor().to_string())
        };
        frames.push(entries[0].frame(encode).clone());
    }
    assert_eq!(encoded, 1);
    assert!(frames.iter().all(|frame| frame.chunk().as_ptr() == frames[0].chunk().as_ptr()));
}

#[tokio::test(start_paused = true)]
async fn waiting_is_cancel_safe() {
    let mut stage = Stage::new(small_ring(3)).await;
    stage.start().await;
    let mut follower = stage.follow(Position::START);
    let mut entries = Vec::new();
    for round in 0..40 {
        if round % 4 == 0 {
            stage.chunks(5);
            stage.log(3).await;
        }
        // Given up at whatever point it has reached.
        let wait = Duration::from_micros(700 * (round % 11));
        tokio::time::timeout(wait, follower.next(&mut entries, 2)).await.ok();
    }
    stage.finish(Kind::Completed).await;
    entries.extend(drained(&mut follower, 10).await.0);
    assert_eq!(places(&entries), run(1, 1..=52));
}

async fn session_drained(follower: &mut SessionFollower, max: usize) -> Vec<Cursor> {
    let mut entries = Vec::new();
    while let Ok(step) =
        tokio::time::timeout(Duration::from_millis(50), follower.next(&mut entries, max)).await
    {
        assert_ne!(step.unwrap(), Step::Ended);
    }
    entries.iter().map(|entry| entry.event().cursor()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_session_is_its_tasks_one_behind_the_other_and_resumes_anywhere() {
    let mut stage = Stage::new(deaf()).await;
    let first = stage.task;
    let cancelled = stage.store.submit(new_task(&session())).await.unwrap().task;
    let third = stage.store.submit(new_task(&session())).await.unwrap().task;
    stage.store.cancel(cancelled, "").await.unwrap();
    let mut follower = stage.hub.follow_session(session(), None);
    stage.start().await;
    stage.chunks(2);
    let mut heard = session_drained(&mut follower, 2).await;
    let at = |task, seq| Cursor { task, position: Position { attempt: 1, seq } };
    assert_eq!(heard, [at(first, 1), at(first, 2), at(first, 3)]);
    stage.finish(Kind::Completed).await;
    heard.extend(session_drained(&mut follower, 2).await);
    stage.task = third;
    stage.start().await;
    heard.extend(session_drained(&mut follower, 2).await);
    let late = stage.store.submit(new_task(&session())).await.unwrap().task;
    let (more, ()) = tokio::join!(session_drained(&mut follower, 2), async {
        stage.finish(Kind::Completed).await;
        stage.store.cancel(late, "").await.unwrap();
        stage.hub.task_changed(late);
    });
    heard.extend(more);
    let expected = [
        at(first, 1),
        at(first, 2),
        at(first, 3),
        at(first, 4),
        at(cancelled, 1),
        at(third, 1),
        at(third, 2),
        at(late, 1),
    ];
    assert_eq!(heard, expected);
    assert_eq!(follower.cursor().map(|cursor| cursor.task), Some(late));
    for (n, cursor) in expected.iter().enumerate() {
        let mut follower = stage.hub.follow_session(session(), Some(*cursor));
        assert_eq!(session_drained(&mut follower, 3).await, expected[n + 1..], "after {n}");
    }
    // A cursor of another session opens nothing.
    let foreign = SessionId::new("other", "s").unwrap();
    let mut follower = stage.hub.follow_session(foreign, Some(expected[0]));
    assert!(session_drained(&mut follower, 3).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_gets_a_task_wakes_who_waits() {
    let stage = Stage::new(Config { poll: Duration::from_secs(3600), ..Config::default() }).await;
    stage.store.cancel(stage.task, "").await.unwrap();
    let mut follower = stage.hub.follow_session(session(), None);
    assert_eq!(session_drained(&mut follower, 5).await.len(), 1);
    let mut entries = Vec::new();
    let wait = tokio::time::timeout(Duration::from_secs(1), follower.next(&mut entries, 5));
    let (step, ()) = tokio::join!(wait, async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let next = stage.store.submit(new_task(&session())).await.unwrap().task;
        stage.store.cancel(next, "").await.unwrap();
        stage.hub.session_grew(&session());
    });
    step.unwrap().unwrap();
    assert_eq!(entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_followers_at_once_hear_everything_in_order() {
    const EVENTS: u64 = 5_000;
    let mut stage = Stage::new(small_ring(64)).await;
    stage.start().await;
    let mut followers = tokio::task::JoinSet::new();
    for n in 0..40_usize {
        let mut follower = stage.follow(Position::START);
        followers.spawn(async move {
            let mut heard = Vec::new();
            loop {
                match follower.next(&mut heard, 1 + n).await.unwrap() {
                    Step::Ended => return places(&heard),
                    Step::Events { .. } => {}
                    gap @ Step::Gap { .. } => panic!("{gap:?}"),
                }
                if n % 7 == 0 {
                    tokio::time::sleep(Duration::from_micros(50)).await;
                }
            }
        });
    }
    for burst in 0..EVENTS / 10 {
        stage.chunks(10);
        stage.store.append(std::mem::take(&mut stage.unlogged)).await.unwrap();
        if burst % 3 == 0 {
            tokio::task::yield_now().await;
        }
    }
    stage.finish(Kind::Completed).await;
    let all = run(1, 1..=EVENTS + 2);
    let wait = async {
        while let Some(heard) = followers.join_next().await {
            assert_eq!(heard.unwrap(), all);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("a follower sleeps for ever");
    assert_eq!(stage.hub.topics(), 0);
}
