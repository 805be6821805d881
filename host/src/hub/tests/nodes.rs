//! Following on one node what runs on another: what the store's notices bring, and what only the log has.

use super::*;
use crate::store::Notice;

/// The stage's node runs the task; this one follows it.
fn other(stage: &Stage) -> Hub {
    Hub::new(stage.store.clone(), deaf())
}

async fn heard(follower: &mut Follower) -> Vec<(u32, u64)> {
    let mut entries = Vec::new();
    let wait = Duration::from_millis(300);
    while let Ok(step) = tokio::time::timeout(wait, follower.next(&mut entries, 10)).await {
        if step.unwrap() == Step::Ended {
            break;
        }
    }
    places(&entries)
}

/// Logs what was said on the running node, and gives it as the notice that tells the others.
async fn logged(stage: &mut Stage) -> Notice {
    let events = stage.unlogged.iter().map(|event| Event::clone(event)).collect();
    stage.log(usize::MAX).await;
    Notice::Events(events)
}

#[tokio::test(start_paused = true)]
async fn what_another_node_logs_is_heard_by_notice_alone() {
    let mut stage = Stage::new(deaf()).await;
    let here = other(&stage);
    let mut follower = here.follow(stage.task, Position::START);
    assert_eq!(heard(&mut follower).await, []);
    stage.start().await;
    stage.chunks(2);
    // Logged before the watch began: only the log has it.
    logged(&mut stage).await;
    here.hear(Notice::Watching(stage.task));
    assert_eq!(heard(&mut follower).await, run(1, 1..=3));
    stage.chunks(2);
    let notice = logged(&mut stage).await;
    here.hear(notice.clone());
    // They may come twice.
    here.hear(notice);
    assert_eq!(heard(&mut follower).await, run(1, 4..=5));
    // A run that was given back goes on elsewhere.
    stage.start().await;
    let notice = logged(&mut stage).await;
    here.hear(notice);
    assert_eq!(heard(&mut follower).await, run(2, 1..=1));
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_was_missed_is_made_up_for_by_the_log() {
    let mut stage = Stage::new(deaf()).await;
    let here = other(&stage);
    let mut follower = here.follow(stage.task, Position::START);
    assert_eq!(heard(&mut follower).await, []);
    here.hear(Notice::Watching(stage.task));
    stage.start().await;
    let notice = logged(&mut stage).await;
    here.hear(notice);
    assert_eq!(heard(&mut follower).await, run(1, 1..=1));
    stage.chunks(3);
    logged(&mut stage).await;
    stage.chunks(1);
    let notice = logged(&mut stage).await;
    here.hear(notice);
    assert_eq!(heard(&mut follower).await, run(1, 2..=5), "a notice too few");
    stage.chunks(2);
    logged(&mut stage).await;
    here.hear(Notice::Lost);
    assert_eq!(heard(&mut follower).await, run(1, 6..=7), "all notices lost");
    // Watched again, while the follower waits: what came between is in the log.
    let mut entries = Vec::new();
    let (step, ()) = tokio::join!(follower.next(&mut entries, 10), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stage.chunks(2);
        logged(&mut stage).await;
        here.hear(Notice::Watching(stage.task));
    });
    step.unwrap();
    assert_eq!(places(&entries), run(1, 8..=9));
    drop(follower);
    assert_eq!(here.topics(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_another_node_takes_over_goes_on_in_the_same_stream() {
    let mut stage = Stage::new(deaf()).await;
    stage.start().await;
    stage.chunks(2);
    let mut follower = stage.follow(Position::START);
    assert_eq!(heard(&mut follower).await, run(1, 1..=3));
    // The run here dies without a word; what it said was logged.
    stage.log(usize::MAX).await;
    let taken_over = stage.publisher.take();
    drop(taken_over);
    assert_eq!(heard(&mut follower).await, []);
    stage.hub.hear(Notice::Watching(stage.task));
    let start = Position { attempt: 2, seq: 1 };
    let event = stage.event(start, Kind::Started);
    stage.hub.hear(Notice::Events(vec![event]));
    assert_eq!(heard(&mut follower).await, [(2, 1)]);
}
