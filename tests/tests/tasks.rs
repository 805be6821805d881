//! The life of a task: looked up, cancelled, timed out, one after the other in its session.

use http::Method;
use plugway_tests::update::message;
use plugway_tests::{Answer, Event, Gateway};

async fn gateway() -> Gateway {
    Gateway::builder().plugin("telegram").start().await
}

#[tokio::test]
async fn a_task_can_be_looked_up() {
    let gateway = gateway().await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let description = gateway.ended(&task).await;
    assert_eq!(description["task_id"], task.as_str(), "in {description}");
    assert_eq!(description["state"], "completed");
    assert_eq!(description["attempt"], 1);
    assert_eq!(description["result"]["text"], "hello");
    gateway.get("/tasks/task_0198c0de000070008000000000000000").await.expect(404).error();
}

#[tokio::test]
async fn a_cancelled_task_emits_no_further_events() {
    let gateway = gateway().await;
    let task = gateway.accept(&message(1, 7, "/sleep 60s")).await;
    let mut stream = gateway.stream(&format!("/stream/{task}")).await;
    stream.until(|event| event.progress() == "started").await;
    let answer = cancel(&gateway, &task).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");

    let rest: Vec<_> = stream.rest().await.iter().map(Event::progress).collect();
    assert_eq!(rest.last().map(String::as_str), Some("failed"), "cancelled is shown as failed: {rest:?}");
    assert_eq!(rest.iter().filter(|kind| ["failed", "completed"].contains(&kind.as_str())).count(), 1);
    assert_eq!(gateway.ended(&task).await["state"], "cancelled");
    cancel(&gateway, "task_0198c0de000070008000000000000000").await.expect(404).error();
}

async fn cancel(gateway: &Gateway, task: &str) -> Answer {
    let request = gateway.request(Method::POST, &format!("/tasks/{task}/cancel"));
    Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer")
}

#[tokio::test]
async fn a_waiting_task_that_is_cancelled_never_starts() {
    let gateway = Gateway::builder().plugin("telegram").set("workers.count", 1).start().await;
    let first = gateway.accept(&message(1, 7, "/sleep 60s")).await;
    let second = gateway.accept(&message(2, 8, "hello")).await;
    cancel(&gateway, &second).await;
    let events = gateway.stream(&format!("/stream/{second}")).await.rest().await;
    assert!(events.iter().all(|event| event.progress() == "failed") && events.len() == 1, "{events:?}");
    cancel(&gateway, &first).await;
    assert_eq!(gateway.ended(&first).await["state"], "cancelled");
}

#[tokio::test]
async fn turns_of_one_session_run_one_after_the_other() {
    let gateway = gateway().await;
    let first = gateway.accept(&message(1, 7, "/sleep 300ms")).await;
    let second = gateway.accept(&message(2, 7, "after that")).await;
    let other = gateway.accept(&message(3, 8, "beside that")).await;
    for task in [&second, &other] {
        assert_eq!(gateway.ended(task).await["state"], "completed");
    }
    // What the store numbered tells the order; the clock is only compared with itself.
    let (first, second) = (gateway.ended(&first).await, gateway.ended(&second).await);
    assert!(second["started_at"].as_str() >= first["ended_at"].as_str(), "{first} {second}");
}

#[tokio::test]
async fn a_task_that_takes_too_long_fails_by_its_deadline() {
    let builder = Gateway::builder().plugin("telegram").set("workers.task_deadline", "300ms");
    let gateway = builder.start().await;
    let task = gateway.accept(&message(1, 7, "/sleep 60s")).await;
    let ended = gateway.ended(&task).await;
    assert_eq!(ended["state"], "failed");
    assert_eq!(ended["result"]["error_type"], "deadline", "in {ended}");
}

#[tokio::test]
async fn an_agent_that_says_nothing_fails_as_silent() {
    let builder = Gateway::builder().plugin("telegram").set("agents.echo.stream_timeout", "300ms");
    let gateway = builder.start().await;
    let task = gateway.accept(&message(1, 7, "/silent")).await;
    let ended = gateway.ended(&task).await;
    assert_eq!(ended["state"], "failed");
    assert_eq!(ended["result"]["error_type"], "agent_silent", "in {ended}");
}

#[tokio::test]
async fn a_default_agent_that_is_not_configured_is_named_at_start() {
    let failure = Gateway::builder().set("default_agent", "nobody").try_start().await;
    let failure = failure.expect_err("it does not start");
    assert!(failure.output.contains("default_agent") && failure.output.contains("nobody"), "{failure:?}");
}
