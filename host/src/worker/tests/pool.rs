//! The pool as a whole: shutdown, trouble with the disk, upkeep, figures.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_tasks_end_and_gives_back_those_that_do_not() {
    let mut gateway = Gateway::new(|turn| match turn.input.text().as_str() {
        "short" => futures::stream::once(async {
            sleep(Duration::from_secs(20)).await;
            completed("short")
        })
        .boxed(),
        _ => hangs(vec![chunk("a")]),
    });
    gateway.start();
    let (short, long) = (gateway.submit("short").await, gateway.submit("long").await);
    sleep(SECOND).await;
    let began = tokio::time::Instant::now();
    gateway.shutdown.cancel();
    sleep(SECOND).await;
    let late = gateway.submit("late").await;
    gateway.stop().await;
    assert_eq!(began.elapsed().as_secs(), 30);
    assert_eq!(gateway.record(short).await.state, TaskState::Completed);
    let (long, late) = (gateway.record(long).await, gateway.record(late).await);
    assert_eq!((long.state, long.attempt, long.deaths), (TaskState::Queued, 1, 0));
    assert_eq!((late.state, late.attempt), (TaskState::Queued, 0));
    // What it said until then is kept, and the next run takes over.
    assert_eq!(kinds(&gateway.logged(long.id).await), ["started", "response_chunk"]);
    let claims = gateway.store.claim(5, SECOND).await.unwrap().items;
    assert_eq!(claims.iter().map(|claim| claim.task.attempt).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_may_not_be_run_again_fails_when_the_shutdown_breaks_it_off() {
    let mut gateway = Gateway::with(|_| hangs(vec![chunk("a")]), |_, agent| agent.retry_on_crash = false);
    gateway.start();
    let task = gateway.submit("x").await;
    sleep(SECOND).await;
    gateway.stop().await;
    assert_eq!(gateway.record(task).await.state, TaskState::Failed);
    let (end, error_type) = gateway.failure(task).await;
    assert_eq!((error_type.as_str(), end.position), ("abandoned", Position { attempt: 1, seq: 3 }));
    let data: Value = serde_json::from_str(&end.data).unwrap();
    assert_eq!((&data["error"], &data["recoverable"]), (&json!("the gateway stopped"), &json!(true)));
    assert!(gateway.store.claim(5, SECOND).await.unwrap().items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_idle_pool_stops_at_once() {
    let mut gateway = Gateway::new(|_| says(Vec::new()));
    gateway.start();
    sleep(10 * SECOND).await;
    let began = tokio::time::Instant::now();
    gateway.stop().await;
    assert!(began.elapsed() < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_disk_refuses_is_written_when_it_has_room() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let agent_gate = Arc::clone(&gate);
    let mut gateway = Gateway::new(move |_| {
        let gate = Arc::clone(&agent_gate);
        futures::stream::once(async move {
            gate.acquire().await.unwrap().forget();
            completed(&"x".repeat(100_000))
        })
        .boxed()
    });
    gateway.start();
    let task = gateway.submit("x").await;
    sleep(SECOND).await;
    gateway.store.fill_disk();
    gate.add_permits(1);
    sleep(5 * SECOND).await;
    assert_eq!(gateway.record(task).await.state, TaskState::Running);
    gateway.store.make_room();
    assert_eq!(kinds(&gateway.heard(task).await), ["started", "completed"]);
    assert_eq!(gateway.record(task).await.deaths, 0);
    gateway.stop().await;
}

#[test]
fn what_happens_is_counted_under_bounded_labels() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut gateway = Gateway::new(|turn| match turn.input.text().as_str() {
                "fail" => says(vec![failed("no")]),
                "hang" => hangs(Vec::new()),
                text => says(vec![other(&format!("invented_{text}")), completed(text)]),
            });
            gateway.start();
            for text in ["a", "b", "fail"] {
                let task = gateway.submit(text).await;
                gateway.heard(task).await;
            }
            gateway.submit("hang").await;
            sleep(SECOND).await;
            let upkeep = CancellationToken::new();
            let maintenance = maintain(gateway.store.clone(), Maintenance::default(), upkeep.clone());
            tokio::time::timeout(SECOND, maintenance).await.unwrap_err();
            let text = handle.render();
            for line in [
                r#"plugway_tasks_submitted_total{adapter="plug"} 4"#,
                r#"plugway_tasks_ended_total{agent="scripted",state="completed",error_type=""} 2"#,
                r#"plugway_tasks_ended_total{agent="scripted",state="failed",error_type="agent_error"} 1"#,
                r#"plugway_events_total{kind="started"} 4"#,
                r#"plugway_events_total{kind="other"} 2"#,
                "plugway_tasks_running 1",
                "plugway_tasks_queued 0",
                r#"plugway_task_seconds_count{agent="scripted"} 3"#,
            ] {
                assert!(text.contains(line), "{line}\n{text}");
            }
            assert!(!text.contains("invented"));
        });
    });
}

#[tokio::test(start_paused = true)]
async fn maintenance_sweeps_until_the_shutdown() {
    let mut gateway = Gateway::new(|_| says(vec![chunk("a"), completed("a")]));
    gateway.wind_clock();
    gateway.start();
    let task = gateway.submit("x").await;
    gateway.heard(task).await;
    let retention = Retention { events: 100 * SECOND, tasks: 300 * SECOND };
    let config = Maintenance { retention, ..Maintenance::default() };
    let shutdown = CancellationToken::new();
    let upkeep = tokio::spawn(maintain(gateway.store.clone(), config, shutdown.clone()));
    sleep(130 * SECOND).await;
    assert_eq!(kinds(&gateway.logged(task).await), ["completed"]);
    sleep(250 * SECOND).await;
    assert_eq!(gateway.tasks.task(task).await.unwrap(), None);
    shutdown.cancel();
    upkeep.await.unwrap();
    gateway.stop().await;
}
