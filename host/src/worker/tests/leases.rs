//! Leases and wishes: who may write, and who has to stop.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_stops_at_once_and_emits_no_further_events() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let mut gateway = Gateway::new(move |_| watched(hangs(vec![chunk("a")]), &flag));
    gateway.start();
    let task = gateway.submit("x").await;
    let mut follower = gateway.hub.follow(task, Position::START);
    let mut entries = Vec::new();
    while entries.len() < 2 {
        follower.next(&mut entries, 10).await.unwrap();
    }
    let began = tokio::time::Instant::now();
    assert!(gateway.tasks.cancel(task, "changed my mind").await.unwrap());
    while follower.next(&mut entries, 10).await.unwrap() != Step::Ended {}
    assert!(began.elapsed() < Duration::from_millis(100));
    let events: Vec<_> = entries.iter().map(|entry| Event::clone(entry.event())).collect();
    assert_eq!(kinds(&events), ["started", "response_chunk", "cancelled"]);
    assert_eq!(&*events[2].data, r#"{"reason":"changed my mind"}"#);
    assert_eq!(events, gateway.logged(task).await);
    assert!(dropped.load(Ordering::SeqCst));
    assert!(!gateway.tasks.cancel(task, "again").await.unwrap());
    assert_eq!(gateway.record(task).await.state, TaskState::Cancelled);
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_somebody_else_noted_is_heard_at_the_next_renewal() {
    let mut gateway = Gateway::new(|_| hangs(Vec::new()));
    gateway.start();
    let task = gateway.submit("x").await;
    sleep(SECOND).await;
    // As another node does it.
    gateway.store.cancel(task, "from afar").await.unwrap();
    let began = tokio::time::Instant::now();
    let heard = gateway.heard(task).await;
    assert_eq!(kinds(&heard), ["started", "cancelled"]);
    assert!(began.elapsed() <= gateway.worker.config.lease / 3);
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_noted_on_a_run_that_died_ends_the_task_without_another() {
    let mut gateway = Gateway::new(|_| says(vec![completed("never")]));
    let task = gateway.submit("x").await;
    gateway.store.claim(1, SECOND).await.unwrap();
    gateway.store.cancel(task, "stop").await.unwrap();
    gateway.clock.advance(2 * SECOND);
    gateway.start();
    let heard = gateway.heard(task).await;
    assert_eq!((kinds(&heard), heard[0].position), (vec!["cancelled"], Position { attempt: 2, seq: 1 }));
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn cancelling_while_the_claim_is_under_way_is_never_overlooked() {
    for delay in 0..20 {
        let mut gateway = Gateway::new(|_| hangs(Vec::new()));
        gateway.start();
        let task = gateway.submit("x").await;
        for _ in 0..delay {
            tokio::task::yield_now().await;
        }
        let began = tokio::time::Instant::now();
        assert!(gateway.tasks.cancel(task, "now").await.unwrap());
        let heard = gateway.heard(task).await;
        assert_eq!(heard.last().unwrap().kind, Kind::Cancelled);
        assert!(began.elapsed() < SECOND, "after {delay} turns");
        gateway.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_task_keeps_its_lease() {
    let mut gateway = Gateway::with(
        |_| {
            futures::stream::iter([chunk("a"), completed("a")])
                .then(async |event| {
                    sleep(Duration::from_secs(200)).await;
                    event
                })
                .boxed()
        },
        |_, agent| agent.silence = Duration::from_secs(3600),
    );
    gateway.wind_clock();
    gateway.start();
    let task = gateway.submit("x").await;
    assert_eq!(kinds(&gateway.heard(task).await), ["started", "response_chunk", "completed"]);
    let record = gateway.record(task).await;
    assert_eq!((record.attempt, record.deaths), (1, 0));
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_lease_stops_without_a_word() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let mut gateway =
        Gateway::with(move |_| watched(hangs(vec![chunk("a")]), &flag), |config, _| config.count = 1);
    gateway.start();
    let task = gateway.submit("x").await;
    sleep(SECOND).await;
    // Somebody else takes the task, as another node does after a long pause of this one.
    gateway.clock.advance(Duration::from_secs(60));
    let taken = gateway.store.claim(1, Duration::from_secs(3600)).await.unwrap().items.remove(0);
    assert_eq!((taken.task.attempt, taken.task.deaths), (2, 1));
    sleep(gateway.worker.config.lease).await;
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(gateway.record(task).await.state, TaskState::Running);
    let heard = gateway.logged(task).await;
    assert_eq!(kinds(&heard), ["started", "response_chunk"]);
    gateway.stop().await;
    assert_eq!(gateway.record(task).await.state, TaskState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_worker_died_runs_again_until_it_is_given_up() {
    for (retry_on_crash, deaths, runs_again) in [(true, 2, true), (true, 3, false), (false, 1, false)] {
        let mut gateway = Gateway::with(
            |_| says(vec![completed("done")]),
            |_, agent| agent.retry_on_crash = retry_on_crash,
        );
        let task = gateway.submit("x").await;
        for attempt in 1..=deaths {
            let claim = gateway.store.claim(1, SECOND).await.unwrap().items.remove(0);
            let position = Position { attempt, seq: 1 };
            let session = claim.task.session;
            let event = Event { task, session, position, kind: Kind::Started, at_ms: 0, data: "{}".into() };
            gateway.store.append(vec![Arc::new(event)]).await.unwrap();
            gateway.store.probe().await.unwrap();
            gateway.clock.advance(2 * SECOND);
        }
        gateway.start();
        if runs_again {
            gateway.heard(task).await;
            let logged = gateway.logged(task).await;
            assert_eq!(kinds(&logged), ["started", "completed"]);
            assert_eq!(&*logged[0].data, r#"{"agent":"scripted","attempt":3}"#);
        } else {
            let (end, error_type) = gateway.failure(task).await;
            assert_eq!(
                (error_type.as_str(), end.position),
                ("abandoned", Position { attempt: deaths + 1, seq: 1 })
            );
            // What the last run said is there before it.
            assert_eq!(kinds(&gateway.logged(task).await), ["started", "failed"]);
        }
        gateway.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_pool_leaves_the_task_to_the_next_one() {
    let mut gateway = Gateway::new(|turn| match turn.attempt {
        1 => hangs(vec![chunk("lost")]),
        _ => says(vec![completed("found")]),
    });
    gateway.start();
    let task = gateway.submit("x").await;
    sleep(SECOND).await;
    gateway.pool.take().unwrap().abort();
    sleep(SECOND).await;
    gateway.clock.advance(gateway.worker.config.lease * 2);
    gateway.start();
    // Who follows from before the new run hears what was left of the old one first.
    let heard = gateway.heard(task).await;
    assert!(kinds(&heard).ends_with(&["started", "completed"]));
    let logged = gateway.logged(task).await;
    assert_eq!((kinds(&logged), logged[0].position.attempt), (vec!["started", "completed"], 2));
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_ever_ends_with_the_lease_of_a_store_that_is_gone() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let mut gateway = Gateway::with(
        move |_| watched(hangs(Vec::new()), &flag),
        |_, agent| agent.silence = Duration::from_secs(3600),
    );
    gateway.start();
    gateway.submit("x").await;
    sleep(SECOND).await;
    gateway.store.close().await;
    sleep(gateway.worker.config.lease * 2).await;
    assert!(dropped.load(Ordering::SeqCst));
    gateway.stop().await;
}
