//! Agents that work, break, hang and lie.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_task_runs_and_everybody_hears_the_same() {
    let mut gateway = Gateway::new(|turn| {
        assert_eq!((turn.attempt, turn.input.text().as_str()), (1, "hello"));
        says(vec![chunk("he"), chunk("llo"), completed("hello"), chunk("too late")])
    });
    let task = gateway.submit("hello").await;
    gateway.start();
    let heard = gateway.heard(task).await;
    assert_eq!(kinds(&heard), ["started", "response_chunk", "response_chunk", "completed"]);
    let places: Vec<_> = heard.iter().map(|event| (event.position.attempt, event.position.seq)).collect();
    assert_eq!(places, [(1, 1), (1, 2), (1, 3), (1, 4)]);
    assert_eq!(&*heard[0].data, r#"{"agent":"scripted","attempt":1}"#);
    assert_eq!(heard, gateway.logged(task).await);
    let record = gateway.record(task).await;
    assert_eq!((record.state, record.end.as_ref()), (TaskState::Completed, heard.last()));
    let document = Tasks::document(&record);
    assert_eq!((&document["state"], &document["result"]["text"]), (&json!("completed"), &json!("hello")));
    assert_eq!(
        (&document["created_at"], &document["attempt"]),
        (&json!("1970-01-01T00:16:40.000Z"), &json!(1))
    );
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_breaks_down_fails_its_task_and_nothing_else() {
    let mut gateway = Gateway::with(
        |turn| match turn.input.text().as_str() {
            "ends" => says(vec![chunk("a")]),
            "panics at once" => panic!("on purpose"),
            "panics later" => {
                says(vec![chunk("a")]).chain(futures::stream::once(async { panic!("on purpose") })).boxed()
            }
            _ => says(vec![completed("fine")]),
        },
        |config, _| config.count = 1,
    );
    gateway.start();
    for text in ["ends", "panics at once", "panics later"] {
        let task = gateway.submit(text).await;
        assert_eq!(gateway.failure(task).await.1, "internal", "{text}");
    }
    let task = gateway.submit("works").await;
    assert_eq!(kinds(&gateway.heard(task).await), ["started", "completed"]);
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_is_stopped_and_one_that_is_slow_is_not() {
    let mut gateway = Gateway::with(
        |turn| match turn.input.text().as_str() {
            "silent" => hangs(vec![chunk("a")]),
            _ => futures::stream::iter([chunk("a"), chunk("b"), completed("ab")])
                .then(async |event| {
                    sleep(Duration::from_secs(59)).await;
                    event
                })
                .boxed(),
        },
        |_, agent| agent.silence = Duration::from_secs(60),
    );
    gateway.start();
    let began = tokio::time::Instant::now();
    let silent = gateway.submit("silent").await;
    let (end, error_type) = gateway.failure(silent).await;
    assert_eq!(error_type, "agent_silent");
    assert!(end.data.contains("for 1m"), "{}", end.data);
    assert_eq!(began.elapsed().as_secs(), 60);
    let slow = gateway.submit("slow").await;
    assert_eq!(gateway.heard(slow).await.last().unwrap().kind, Kind::Completed);
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sign_of_life_ends_the_silence_and_is_neither_numbered_nor_logged() {
    let mut gateway = Gateway::with(
        |turn| {
            let slow = futures::stream::repeat(AgentSignal::Alive).take(5).then(async |signal| {
                sleep(Duration::from_secs(59)).await;
                signal
            });
            let begun = says(vec![chunk("a")]).chain(slow);
            match turn.input.text().as_str() {
                "hangs" => begun.chain(futures::stream::pending()).boxed(),
                _ => begun.chain(says(vec![AgentSignal::Alive, chunk("b"), completed("ab")])).boxed(),
            }
        },
        |_, agent| agent.silence = Duration::from_secs(60),
    );
    gateway.start();
    let task = gateway.submit("goes on").await;
    let heard = gateway.heard(task).await;
    assert_eq!(kinds(&heard), ["started", "response_chunk", "response_chunk", "completed"]);
    assert_eq!(heard.last().unwrap().position.seq, 4);
    assert_eq!(heard, gateway.logged(task).await);
    let began = tokio::time::Instant::now();
    let task = gateway.submit("hangs").await;
    assert_eq!(gateway.failure(task).await.1, "agent_silent");
    assert_eq!(began.elapsed().as_secs(), 5 * 59 + 60);
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_takes_too_long_is_stopped() {
    let dropped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&dropped);
    let mut gateway = Gateway::with(
        move |_| {
            let seconds = futures::stream::repeat(chunk("x")).then(async |event| {
                sleep(SECOND).await;
                event
            });
            watched(seconds.boxed(), &flag)
        },
        |config, _| config.task_deadline = Duration::from_secs(90),
    );
    gateway.start();
    let task = gateway.submit("for ever").await;
    let (end, error_type) = gateway.failure(task).await;
    assert_eq!(error_type, "deadline");
    assert!((89..=92).contains(&end.position.seq), "{end:?}");
    assert!(dropped.load(Ordering::SeqCst));
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_of_an_agent_that_is_gone_fails() {
    let mut gateway = Gateway::new(|_| says(vec![completed("no")]));
    let task = gateway.submit_to(Some("gone"), None, "x").await;
    gateway.start();
    let (end, error_type) = gateway.failure(task).await;
    assert_eq!((error_type.as_str(), end.position), ("unknown_agent", Position { attempt: 1, seq: 1 }));
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_told_the_answers_before_it() {
    let told: Arc<Mutex<VecDeque<String>>> = Arc::default();
    let heard = Arc::clone(&told);
    let mut gateway = Gateway::new(move |turn| {
        let history: Vec<_> =
            turn.history.iter().map(|m| format!("{}: {}", m.role, m.content.as_str().unwrap())).collect();
        heard.lock().unwrap().push_back(history.join(", "));
        let text = turn.input.text();
        if text == "fail" {
            return says(vec![failed("no")]);
        }
        says(vec![completed(&text.to_uppercase())])
    });
    let mut turns = Vec::new();
    for text in ["a", "fail", "b", "c"] {
        turns.push(gateway.submit_to(None, Some("s"), text).await);
    }
    gateway.start();
    for turn in turns {
        gateway.heard(turn).await;
    }
    let told: Vec<_> = told.lock().unwrap().drain(..).collect();
    let expected = [
        "",
        "user: a, assistant: A",
        "user: a, assistant: A",
        "user: a, assistant: A, user: b, assistant: B",
    ];
    assert_eq!(told, expected);
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_tasks_run_at_once_than_the_pool_has_places() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (Arc::clone(&running), Arc::clone(&most));
    let mut gateway = Gateway::with(
        move |_| {
            let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
            futures::stream::once(async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(SECOND).await;
                now.fetch_sub(1, Ordering::SeqCst);
                completed("x")
            })
            .boxed()
        },
        |config, _| config.count = 3,
    );
    gateway.start();
    let mut tasks = Vec::new();
    for _ in 0..10 {
        tasks.push(gateway.submit("x").await);
    }
    let began = tokio::time::Instant::now();
    for task in tasks {
        gateway.heard(task).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert!(began.elapsed() < 5 * SECOND, "places stayed empty: {:?}", began.elapsed());
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_can_not_speak_for_the_gateway() {
    let mut gateway = Gateway::new(move |_| {
        let forged = ["started", "cancelled", "completed", "failed", "workflow_step"];
        says(forged.into_iter().map(other).chain([completed("ok")]).collect())
    });
    gateway.start();
    let task = gateway.submit("x").await;
    assert_eq!(kinds(&gateway.heard(task).await), ["started", "workflow_step", "completed"]);
    gateway.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_chunks_is_logged_whole() {
    let mut gateway = Gateway::new(|_| {
        let chunks = (0..20_000).map(|n| chunk(&format!("w{n} ")));
        says(chunks.chain([completed("done")]).collect())
    });
    gateway.start();
    let task = gateway.submit("x").await;
    let heard = gateway.heard(task).await;
    assert_eq!(heard.len(), 20_002);
    assert_eq!(heard, gateway.logged(task).await);
    gateway.stop().await;
}
