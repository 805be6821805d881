//! The outbox worker against receivers over TCP that hang, break and change their minds, and against plugins that do.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use base64::Engine as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::fake::FakeOutbox;
use super::*;
use crate::egress::testing::{Server, Step, answer};
use crate::egress::{self, SecretRef, Tls};
use crate::store::{DeliveryTarget, Settlement};

/// A worker over a fake outbox.
struct Bench {
    outbox: Arc<FakeOutbox>,
    webhooks: Webhooks,
    stop: CancellationToken,
    worker: AbortOnDropHandle<()>,
}

fn quick() -> Retry {
    Retry {
        attempts: 4,
        first_delay: Duration::from_millis(4),
        max_delay: Duration::from_millis(20),
        ..Retry::default()
    }
}

fn settings() -> (Config, CallbacksConfig) {
    let config = Config {
        lease: Duration::from_millis(600),
        poll: Duration::from_millis(500),
        drain: Duration::from_millis(100),
        retry: quick(),
        ..Config::default()
    };
    let callbacks = CallbacksConfig {
        private_networks: vec!["127.0.0.0/8".parse().unwrap()],
        timeout: Duration::from_millis(300),
        retry: quick(),
        ..CallbacksConfig::default()
    };
    (config, callbacks)
}

fn absent() -> PluginDeliver {
    Arc::new(|_| {
        let after = Duration::from_secs(60);
        Box::pin(async move { Err(DeliveryFailure::NotNow { after, reason: "absent".to_owned() }) })
    })
}

fn start((config, callbacks): (Config, CallbacksConfig), deliver: PluginDeliver) -> Bench {
    let callbacks = Callbacks::new(callbacks).unwrap();
    let outbox = Arc::new(FakeOutbox::default());
    let shared: Arc<dyn Outbox> = Arc::clone(&outbox) as Arc<dyn Outbox>;
    let webhooks = Webhooks::new(Arc::clone(&shared), callbacks.clone());
    let egress = Egress::new(egress::Config::default(), Tls::default(), tokio::runtime::Handle::current());
    let stop = CancellationToken::new();
    let worker = Worker { outbox: shared, egress, callbacks, deliver, config, clock: Clock::System, seed: 1 };
    let worker = AbortOnDropHandle::new(tokio::spawn(run(worker, stop.clone())));
    Bench { outbox, webhooks, stop, worker }
}

impl Bench {
    async fn post(&self, url: &str, key: &str) {
        let body = format!("{{\"key\":\"{key}\"}}");
        assert!(self.webhooks.post("p", Some(url.to_owned()), body, key.to_owned()).await.unwrap());
    }

    /// Waits for a delivery to end.
    async fn ended(&self, index: usize) -> Result<(), String> {
        eventually(|| self.outbox.row(index).end).await
    }

    fn errors(&self, index: usize) -> Vec<String> {
        let error = |settlement: &Settlement| match settlement {
            Settlement::Done => "done".to_owned(),
            Settlement::Retry { error, .. } | Settlement::Dead { error } => error.clone(),
        };
        self.outbox.row(index).settlements.iter().map(error).collect()
    }

    fn plugin(&self, plugin: &str, session: &str) -> usize {
        let target = DeliveryTarget::Plugin {
            plugin: plugin.to_owned(),
            task: TaskId::new(),
            session: SessionId::new(plugin, session).unwrap(),
            address: "chat 7".to_owned(),
        };
        self.outbox.add(target, &format!("{plugin}/{session}"))
    }
}

async fn eventually<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it did not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_webhook_arrives_signed() {
    let server = Server::answering(answer(204, "", "")).await;
    let (config, mut callbacks) = settings();
    let (new, old) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
    callbacks.secret = SecretRef::parse(new).unwrap();
    callbacks.previous_secret = SecretRef::parse(old).unwrap();
    callbacks.result_url = format!("{}/hook?t=1", server.origin());
    let bench = start((config, callbacks), absent());
    assert!(bench.webhooks.post("p", None, "{\"a\":\"ü\"}".to_owned(), "task_1".to_owned()).await.unwrap());
    assert!(bench.webhooks.post("p", None, "{}".to_owned(), "task_1".to_owned()).await.unwrap());
    bench.ended(0).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].head.starts_with("POST /hook?t=1 HTTP/1.1"), "{}", seen[0].head);
    assert_eq!(seen[0].body, "{\"a\":\"ü\"}");
    assert_eq!(seen[0].header("content-type"), Some("application/json"));
    assert!(seen[0].header("user-agent").unwrap().starts_with("plugway/"));
    // As a receiver with either secret checks it.
    let mut headers = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(name, seen[0].header(name).unwrap().parse().unwrap());
    }
    for secret in [new, old] {
        standardwebhooks::Webhook::new(secret).unwrap().verify(seen[0].body.as_bytes(), &headers).unwrap();
    }
    let other = base64::engine::general_purpose::STANDARD.encode("somebody else's key");
    assert!(
        standardwebhooks::Webhook::new(&other).unwrap().verify(seen[0].body.as_bytes(), &headers).is_err()
    );
}

#[tokio::test]
async fn a_failing_receiver_is_tried_again_under_the_same_id() {
    let server = Server::start(|_, before| match before {
        0 => vec![Step::Send(answer(500, "", "oops"))],
        1 => vec![Step::Reset],
        2 => vec![Step::Send(answer(404, "", ""))],
        // A body that does not come to its end changes nothing about a 200.
        _ => vec![Step::Send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_owned()), Step::Hang],
    })
    .await;
    let bench = start(settings(), absent());
    bench.post(&server.origin(), "k").await;
    bench.ended(0).await.unwrap();
    let errors = bench.errors(0);
    assert!(errors[0].contains("status 500") && errors[2].contains("status 404"), "{errors:?}");
    let ids: std::collections::BTreeSet<_> =
        server.seen().iter().map(|seen| seen.header("webhook-id").unwrap().to_owned()).collect();
    assert_eq!((server.seen().len(), ids.len()), (4, 1));
    assert!(server.seen()[0].header("webhook-signature").is_none());
}

#[tokio::test]
async fn tries_end_in_a_dead_letter() {
    let redirecting = Server::answering(answer(302, "location: http://127.0.0.1:1/\r\n", "")).await;
    let gone = Server::answering(answer(410, "", "")).await;
    let bench = start(settings(), absent());
    bench.post(&redirecting.origin(), "a").await;
    bench.post(&gone.origin(), "b").await;
    bench.post("http://127.0.0.1:1/", "c").await;
    let error = bench.ended(0).await.unwrap_err();
    assert!(error.contains("after 4 tries") && error.contains("redirect"), "{error}");
    assert_eq!(redirecting.seen().len(), 4);
    let error = bench.ended(1).await.unwrap_err();
    assert!(error.contains("410") && gone.seen().len() == 1, "{error}");
    let error = bench.ended(2).await.unwrap_err();
    assert!(error.contains("can't be reached"), "{error}");
}

#[tokio::test]
async fn a_receiver_is_not_asked_before_it_wants_to_be() {
    let server = Server::start(|_, before| {
        vec![Step::Send(if before == 0 {
            answer(429, "retry-after: 1\r\n", "")
        } else {
            answer(200, "", "")
        })]
    })
    .await;
    let bench = start(settings(), absent());
    bench.post(&server.origin(), "k").await;
    let row = eventually(|| Some(bench.outbox.row(0)).filter(|row| !row.settlements.is_empty())).await;
    let Settlement::Retry { after, counts: true, .. } = &row.settlements[0] else { panic!("{row:?}") };
    assert!(*after >= Duration::from_secs(1), "{row:?}");
    bench.ended(0).await.unwrap();
}

#[tokio::test]
async fn dead_endpoints_do_not_hold_up_a_live_one() {
    let hanging = Server::start(|_, _| vec![Step::Hang]).await;
    let live = Server::answering(answer(200, "", "")).await;
    let (config, mut callbacks) = settings();
    callbacks.timeout = Duration::from_secs(60);
    // Four slots of eight are the most that one dead URL can hold.
    let bench = start((Config { webhooks: 8, ..config }, callbacks), absent());
    for key in 0..40 {
        bench.post(&hanging.origin(), &format!("dead {key}")).await;
    }
    for key in 0..20 {
        bench.post(&live.origin(), &format!("live {key}")).await;
    }
    for index in 40..60 {
        bench.ended(index).await.unwrap();
    }
    assert_eq!((hanging.seen().len(), live.seen().len()), (4, 20));
}

#[tokio::test]
async fn a_dead_path_does_not_hold_up_another_of_its_origin() {
    let server = Server::start(|seen, _| {
        let head = &seen.head;
        match () {
            () if head.starts_with("POST /hangs") => vec![Step::Hang],
            () if head.starts_with("POST /down") => {
                vec![Step::Send(answer(503, "retry-after: 3600\r\n", ""))]
            }
            () => vec![Step::Send(answer(200, "", ""))],
        }
    })
    .await;
    let (config, mut callbacks) = settings();
    (callbacks.timeout, callbacks.per_origin) = (Duration::from_secs(60), 6);
    let bench = start((config, callbacks), absent());
    for key in 0..40 {
        bench.post(&format!("{}/hangs", server.origin()), &format!("hangs {key}")).await;
        bench.post(&format!("{}/down", server.origin()), &format!("down {key}")).await;
    }
    for key in 0..20 {
        bench.post(&format!("{}/live/{key}", server.origin()), &format!("live {key}")).await;
    }
    for index in 80..100 {
        bench.ended(index).await.unwrap();
    }
    let seen = server.seen();
    let to = |path: &str| seen.iter().filter(|seen| seen.head.starts_with(&format!("POST {path}"))).count();
    assert_eq!((to("/hangs"), to("/live")), (4, 20));
}

#[tokio::test]
async fn an_origin_gets_no_more_at_once_than_the_configuration_allows() {
    let server = Server::start(|_, _| vec![Step::Hang]).await;
    let (config, mut callbacks) = settings();
    (callbacks.timeout, callbacks.per_origin) = (Duration::from_secs(60), 3);
    let bench = start((config, callbacks), absent());
    for path in 0..20 {
        bench.post(&format!("{}/{path}", server.origin()), &path.to_string()).await;
    }
    eventually(|| (server.seen().len() == 3).then_some(())).await;
    let live = Server::answering(answer(200, "", "")).await;
    bench.post(&live.origin(), "live").await;
    bench.ended(20).await.unwrap();
    assert_eq!(server.seen().len(), 3);
    let given_back: usize = (0..20).map(|index| bench.outbox.row(index).settlements.len()).sum();
    assert_eq!(given_back, 0, "what has no place is not claimed");
}

#[tokio::test]
async fn a_callback_that_waits_for_another_try_holds_up_none_to_the_same_url() {
    let server = Server::start(|_, before| {
        let first = answer(503, "retry-after: 3600\r\n", "");
        vec![Step::Send(if before == 0 { first } else { answer(200, "", "") })]
    })
    .await;
    let (config, mut callbacks) = settings();
    callbacks.per_url = 1;
    let bench = start((config, callbacks), absent());
    bench.post(&server.origin(), "first").await;
    eventually(|| (!bench.outbox.row(0).settlements.is_empty()).then_some(())).await;
    bench.post(&server.origin(), "second").await;
    bench.ended(1).await.unwrap();
    assert!(bench.outbox.row(0).end.is_none());
}

#[tokio::test]
async fn without_a_permit_for_webhooks_plugins_are_still_called() {
    let hanging = Server::start(|_, _| vec![Step::Hang]).await;
    let (config, mut callbacks) = settings();
    callbacks.timeout = Duration::from_secs(60);
    let deliver: PluginDeliver = Arc::new(|_| Box::pin(async { Ok(()) }));
    let bench = start((Config { webhooks: 1, ..config }, callbacks), deliver);
    for key in 0..20 {
        bench.post(&hanging.origin(), &key.to_string()).await;
    }
    eventually(|| (!hanging.seen().is_empty()).then_some(())).await;
    let plugin = bench.plugin("telegram", "chat");
    bench.ended(plugin).await.unwrap();
    assert_eq!(hanging.seen().len(), 1);
    let attempts: u32 = (0..20).map(|index| bench.outbox.row(index).attempts).sum();
    assert_eq!(attempts, 0);
}

#[tokio::test]
async fn urls_inside_are_refused_at_once() {
    let (config, mut callbacks) = settings();
    callbacks.private_networks.clear();
    let bench = start((config, callbacks), absent());
    for url in [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://0x7f.1/",
        "ftp://a.example/",
        "nonsense",
        "http://u:p@a.example/",
    ] {
        let refused = bench.webhooks.post("p", Some(url.to_owned()), "{}".to_owned(), "k".to_owned()).await;
        assert!(matches!(refused, Err(WebhookError::Url(_))), "{url}: {refused:?}");
        assert!(bench.webhooks.validate_url(url).is_err());
    }
    let long = format!("https://a.example/{}", "x".repeat(3000));
    assert!(bench.webhooks.validate_url(&long).is_err());
    let post = |body: &str, key: String| {
        bench.webhooks.post("p", Some("https://a.example/".to_owned()), body.to_owned(), key)
    };
    assert!(matches!(post("{", "k".to_owned()).await, Err(WebhookError::Invalid(_))));
    assert!(matches!(post("{}", String::new()).await, Err(WebhookError::Invalid(_))));
    assert!(matches!(post("{}", "k".repeat(600)).await, Err(WebhookError::TooLarge(_))));
    let large = format!("\"{}\"", "x".repeat(1 << 20));
    assert!(matches!(post(&large, "k".to_owned()).await, Err(WebhookError::TooLarge(_))));
    let told = bench.webhooks.post("p", Some(long), "{}".to_owned(), "k".to_owned()).await;
    assert!(matches!(told, Err(WebhookError::TooLarge(_))), "{told:?}");
    assert!(!bench.webhooks.post("p", None, "{}".to_owned(), "k".to_owned()).await.unwrap());
    // A name that leads inside is found out at the try.
    bench.post("http://localhost/hook", "local").await;
    let error = bench.ended(0).await.unwrap_err();
    assert!(error.contains("[callbacks] in plugway.toml"), "{error}");
}

#[tokio::test]
async fn a_plugin_says_what_becomes_of_its_delivery() {
    let calls: Arc<Mutex<Vec<PluginDelivery>>> = Arc::default();
    let seen = Arc::clone(&calls);
    let deliver: PluginDeliver = Arc::new(move |call| {
        let attempt = call.attempt;
        let session = call.session.name().to_owned();
        let mut seen = seen.lock().unwrap();
        let calls_before = seen.iter().filter(|before| before.session == call.session).count();
        seen.push(call);
        Box::pin(async move {
            match (session.as_str(), attempt) {
                ("fine", _) => Ok(()),
                ("later", _) if calls_before == 0 => {
                    let reason = "429 Too Many Requests".to_owned();
                    Err(DeliveryFailure::Retry { after: Duration::from_millis(300), reason })
                }
                ("broken", 1 | 2) => Err(DeliveryFailure::Broken("trapped".to_owned())),
                ("never", _) => Err(DeliveryFailure::Permanent("blocked by the user".to_owned())),
                ("hopeless", _) => Err(DeliveryFailure::Broken("trapped".to_owned())),
                _ => Ok(()),
            }
        })
    });
    let bench = start(settings(), deliver);
    let indices =
        ["fine", "later", "broken", "never", "hopeless"].map(|session| bench.plugin("telegram", session));
    let mut ends = Vec::new();
    for index in indices {
        ends.push(bench.ended(index).await);
    }
    assert_eq!(ends[..4], [Ok(()), Ok(()), Ok(()), Err("blocked by the user".to_owned())]);
    assert!(ends[4].as_ref().unwrap_err().contains("after 4 tries: trapped"));
    let row = bench.outbox.row(indices[1]);
    let Settlement::Retry { after, counts: false, ref error } = row.settlements[0] else { panic!("{row:?}") };
    assert!(after >= Duration::from_millis(300) && error == "429 Too Many Requests", "{row:?}");
    let calls = calls.lock().unwrap();
    assert_eq!(
        (calls[0].plugin.as_str(), calls[0].address.as_str(), calls[0].attempt),
        ("telegram", "chat 7", 1)
    );
}

#[tokio::test]
async fn an_outage_of_the_platform_costs_no_tries_and_ends_with_age_and_the_plugins_reason() {
    let calls: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let seen = Arc::clone(&calls);
    let deliver: PluginDeliver = Arc::new(move |call| {
        seen.lock().unwrap().push(call.given_up.clone());
        let reason = "502 Bad Gateway".to_owned();
        Box::pin(async move {
            match call.given_up {
                None => Err(DeliveryFailure::Retry { after: Duration::ZERO, reason }),
                Some(_) => Ok(()),
            }
        })
    });
    let (mut config, callbacks) = settings();
    config.retry.max_age = Duration::from_millis(400);
    let bench = start((config, callbacks), deliver);
    let index = bench.plugin("telegram", "a");
    let error = bench.ended(index).await.unwrap_err();
    assert!(error.contains("given up after") && error.contains("502 Bad Gateway"), "{error}");
    let row = bench.outbox.row(index);
    assert!(row.attempts == 0 && row.settlements.len() > 4, "more tries than the four that count: {row:?}");
    let calls = calls.lock().unwrap();
    let told: Vec<_> = calls.iter().flatten().collect();
    assert_eq!(told, [&error], "the plugin hears once that it is given up");
    assert_eq!(calls.last().unwrap().as_ref(), Some(&error));
}

#[tokio::test]
async fn an_absent_plugin_is_left_alone_and_costs_no_tries() {
    let (calls, back) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, is_back) = (Arc::clone(&calls), Arc::clone(&back));
    let deliver: PluginDeliver = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        let back = is_back.load(Ordering::SeqCst) > 0;
        let after = Duration::from_millis(150);
        Box::pin(async move {
            if back { Ok(()) } else { Err(DeliveryFailure::NotNow { after, reason: "absent".to_owned() }) }
        })
    });
    let bench = start(settings(), deliver);
    let first = bench.plugin("telegram", "a");
    eventually(|| (calls.load(Ordering::SeqCst) == 1).then_some(())).await;
    eventually(|| (!bench.outbox.row(first).settlements.is_empty()).then_some(())).await;
    let others: Vec<_> = (0..50).map(|chat| bench.plugin("telegram", &format!("b{chat}"))).collect();
    let other_plugin = bench.plugin("other", "a");
    back.store(1, Ordering::SeqCst);
    for index in others.into_iter().chain([first, other_plugin]) {
        bench.ended(index).await.unwrap();
        assert_eq!(bench.outbox.row(index).attempts, 0);
    }
}

#[tokio::test]
async fn a_plugin_gets_no_more_at_once_than_it_takes() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, peak) = (Arc::clone(&now), Arc::clone(&most));
    let deliver: PluginDeliver = Arc::new(move |_| {
        let running = Arc::clone(&running);
        peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        })
    });
    let (config, callbacks) = settings();
    let bench = start((Config { per_plugin: 3, ..config }, callbacks), deliver);
    let all: Vec<_> = (0..12).map(|chat| bench.plugin("telegram", &chat.to_string())).collect();
    for index in all {
        bench.ended(index).await.unwrap();
    }
    assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}

#[tokio::test]
async fn a_long_delivery_keeps_its_lease_and_a_lost_one_is_dropped() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let watched = Arc::clone(&dropped);
    let deliver: PluginDeliver = Arc::new(move |call| {
        let guard = Dropped(Arc::clone(&watched));
        Box::pin(async move {
            let _guard = guard;
            if call.attempt == 1 && call.session.name() == "lost" {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(1500)).await;
            Ok(())
        })
    });
    let bench = start(settings(), deliver);
    let long = bench.plugin("telegram", "long");
    bench.ended(long).await.unwrap();
    let row = bench.outbox.row(long);
    assert!(row.renewals >= 2 && row.settlements.len() == 1, "{row:?}");

    let lost = bench.plugin("telegram", "lost");
    eventually(|| (bench.outbox.row(lost).token == 1).then_some(())).await;
    // Somebody else claims it.
    bench.outbox.change(lost, |row| {
        row.token += 1;
        row.attempts = 1;
    });
    eventually(|| (dropped.load(Ordering::SeqCst) >= 2).then_some(())).await;
    assert!(bench.outbox.row(lost).settlements.is_empty());
    bench.outbox.change(lost, |row| row.leased_until = None);
    bench.ended(lost).await.unwrap();
}

#[tokio::test]
async fn a_settlement_waits_for_the_store() {
    let deliver: PluginDeliver = Arc::new(|_| Box::pin(async { Ok(()) }));
    let bench = start(settings(), deliver);
    bench.outbox.broken.store(true, Ordering::SeqCst);
    let index = bench.plugin("telegram", "a");
    eventually(|| (bench.outbox.row(index).token == 1).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.outbox.broken.store(false, Ordering::SeqCst);
    bench.ended(index).await.unwrap();
    assert_eq!(bench.outbox.row(index).token, 1);
}

#[tokio::test]
async fn stopping_gives_back_what_is_not_finished() {
    let deliver: PluginDeliver = Arc::new(|call| {
        Box::pin(async move {
            match call.session.name() {
                "quick" => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => std::future::pending().await,
            }
            Ok(())
        })
    });
    let bench = start(settings(), deliver);
    let (quick, endless) = (bench.plugin("telegram", "quick"), bench.plugin("telegram", "endless"));
    eventually(|| (bench.outbox.row(quick).token + bench.outbox.row(endless).token == 2).then_some(())).await;
    bench.stop.cancel();
    bench.worker.await.unwrap();
    assert_eq!(bench.outbox.row(quick).end, Some(Ok(())));
    let row = bench.outbox.row(endless);
    assert!(matches!(row.settlements[..], [Settlement::Retry { counts: false, .. }]), "{row:?}");
    assert_eq!((row.leased_until, row.attempts), (None, 0));
}
