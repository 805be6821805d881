//! Updates as files: what comes in, what is answered, and what becomes a task. And what files can't say.

use super::bot_api::{Stage, group, private, update};
use plugway_sdk::{
    Plugin, SubmitError,
    host::Level,
    mock::{Mock, Script},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fs, path::Path, time::Duration};

/// One file of `updates/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    config: Value,
    #[serde(default)]
    query: String,
    /// Sent instead of `update`, where it is no JSON.
    body: Option<String>,
    #[serde(default)]
    update: Value,
    status: u16,
    /// Fields that the answer has, among others.
    answer: Value,
    /// Fields of the task that it becomes; none if it becomes none.
    task: Option<Value>,
}

#[test]
fn every_update_is_answered_as_its_file_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/updates");
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() > 20);
    for path in names {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let case: Case = serde_json::from_str(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        run(&name, case);
    }
}

fn run(name: &str, case: Case) {
    let stage = Stage::new(if case.config.is_null() { json!({}) } else { case.config });
    let body = case.body.unwrap_or_else(|| case.update.to_string());
    let call = stage.mock.post(&format!("/webhook{}", case.query));
    let answer = call.header("X-Telegram-Bot-Api-Secret-Token", "s3cret").body(body).handle(&crate::Telegram);
    let said: Value = answer.parse().unwrap();
    assert_eq!(answer.status, case.status, "{name}: {said}");
    has(name, &said, &case.answer);
    let submissions = stage.mock.submissions();
    assert_eq!(submissions.len(), usize::from(case.task.is_some()), "{name}");
    if let (Some(expected), Some(task)) = (case.task, submissions.first()) {
        let deliver = task.deliver.as_ref().map(|(_, address)| address);
        let actual = json!({"session": task.session, "agent": task.agent, "input": task.input, "address": deliver,
                            "idempotency_key": task.idempotency_key});
        has(name, &actual, &expected);
    }
}

/// Every field of `expected` is in `actual`; null stands for absent.
fn has(name: &str, actual: &Value, expected: &Value) {
    match (actual, expected) {
        (Value::Object(_), Value::Object(fields)) => {
            fields
                .iter()
                .for_each(|(field, expected)| has(&format!("{name}.{field}"), &actual[field], expected));
        }
        _ => assert_eq!(actual, expected, "{name}"),
    }
}

#[test]
fn the_secret_token_is_checked_where_it_is_granted() {
    let stage = Stage::new(json!({}));
    for (header, status) in [(Some("s3cret"), 200), (Some("wrong"), 401), (None, 401)] {
        let call = stage.mock.post("/webhook").json(&update(1, &private(), "Hi"));
        let call = match header {
            Some(value) => call.header("X-Telegram-Bot-Api-Secret-Token", value),
            None => call,
        };
        assert_eq!(call.handle(&crate::Telegram).status, status);
    }
    assert_eq!(stage.mock.submissions().len(), 1);
}

#[test]
fn without_a_granted_secret_updates_are_taken_with_a_warning() {
    let mock = Mock::new();
    for id in 1..=2 {
        assert_eq!(
            mock.post("/webhook").json(&update(id, &private(), "Hi")).handle(&crate::Telegram).status,
            200
        );
    }
    assert_eq!(mock.submissions().len(), 2);
    let warnings = mock.logs().into_iter().filter(|(_, line)| line.contains("unverified")).count();
    assert_eq!(warnings, 1, "once an hour is enough");
}

#[test]
fn an_update_that_is_sent_again_becomes_no_second_task() {
    let stage = Stage::new(json!({}));
    let answers: Vec<Value> =
        (0..3).map(|_| stage.webhook(&update(9, &private(), "Hi")).parse().unwrap()).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(stage.mock.submissions().len(), 1);
}

#[test]
fn a_full_queue_is_503_with_the_time_to_come_back() {
    let stage = Stage::new(json!({}));
    stage.mock.refuse_tasks(Some(SubmitError::Busy { retry_after: Duration::from_secs(7) }));
    let answer = stage.webhook(&update(9, &private(), "Hi"));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")));
}

#[test]
fn storage_that_fails_is_503_so_that_telegram_comes_again() {
    let stage = Stage::new(json!({}));
    stage.mock.break_storage(Some("disk full"));
    assert_eq!(stage.webhook(&update(9, &private(), "Hi")).status, 503);
}

#[test]
fn what_a_filter_refuses_is_told_to_the_user_and_not_sent_again() {
    let stage = Stage::new(json!({}));
    stage.mock.refuse_tasks(Some(SubmitError::Refused("not about cats".into())));
    let answer = stage.webhook(&update(9, &private(), "cats"));
    let said: Value = answer.parse().unwrap();
    assert_eq!(
        (answer.status, &said["status"], &said["method"]),
        (200, &json!("refused"), &json!("sendMessage"))
    );
    assert_eq!(said["text"], "⚠️ I can't take that message: not about cats");
}

#[test]
fn new_starts_another_session_once_per_update() {
    let stage = Stage::new(json!({}));
    let session = |id: i64| {
        stage.webhook(&update(id, &private(), "Hi"));
        stage.mock.submissions().last().unwrap().session.to_string()
    };
    assert_eq!(session(1), "telegram:5");
    stage.webhook(&update(2, &private(), "/new"));
    stage.webhook(&update(2, &private(), "/new"));
    assert_eq!(session(3), "telegram:5#1");
    stage.webhook(&update(4, &private(), "/new"));
    assert_eq!(session(5), "telegram:5#2");
    stage.webhook(&update(6, &group(), "Hi"));
    assert_eq!(stage.mock.submissions().last().unwrap().session, "telegram:-100");
}

#[test]
fn cancel_stops_what_runs_and_says_so_again_when_asked_again() {
    let stage = Stage::new(json!({}));
    let task = stage.ask(&private(), Script::new().started().wait(Duration::from_secs(60)).completed("late"));
    for _ in 0..2 {
        let said: Value = stage.webhook(&update(8, &private(), "/cancel")).parse().unwrap();
        assert_eq!((&said["method"], &said["text"]), (&json!("sendMessage"), &json!("Stopping.")));
    }
    assert!(stage.mock.is_cancelled(&task));
    let said: Value = stage.webhook(&update(9, &private(), "/cancel")).parse().unwrap();
    assert_eq!(said["text"], "There is nothing to stop.");
    stage.deliver(&task, &[]).unwrap();
    assert_eq!(stage.texts(), ["⏹ Stopped."]);
}

#[test]
fn the_stop_button_of_a_draft_stops_what_runs() {
    let stage = Stage::new(json!({"drafts": true, "allowed_users": "@ada"}));
    let task = stage.ask(&private(), Script::new().started().wait(Duration::from_secs(60)).completed("late"));
    let press = |stage: &Stage, username: &str| -> Value {
        let chat = json!({"id": 5, "type": "private", "username": username});
        let stop = json!({"update_id": 8, "stopped_message_generation": {"chat": chat, "draft_id": 11}});
        stage.webhook(&stop).parse().unwrap()
    };
    assert_eq!(press(&stage, "eve"), json!({"status": "ignored"}), "of somebody who may not use the bot");
    assert!(!stage.mock.is_cancelled(&task));
    assert_eq!(press(&stage, "ada"), json!({"status": "handled", "cancelled": 1}));
    assert!(stage.mock.is_cancelled(&task));
}

#[test]
fn the_configuration_is_checked_by_name() {
    let _mock = Mock::new();
    let check = |config: Value| crate::Telegram::check(&config.to_string());
    assert_eq!(check(json!({})), Ok(()));
    assert_eq!(check(json!({"edit_interval_ms": 1000})), Ok(()));
    assert_eq!(check(json!({"allowed_users": "1, @ada,bob", "allowed_chats": [-100, "7"]})), Ok(()));
    for (config, field) in [
        (json!({"edit_interval_ms": "fast"}), "edit_interval_ms"),
        (json!({"edit_interval_ms": 0}), "edit_interval_ms"),
        (json!({"edit_interval_ms": 999}), "edit_interval_ms"),
        (json!({"streem": true}), "streem"),
        (json!({"api_base": "api.telegram.org"}), "api_base"),
        (json!({"allowed_chats": ["family"]}), "allowed_chats"),
        (json!({"allowed_users": {"a": 1}}), "allowed_users"),
    ] {
        let problem = check(config).unwrap_err();
        assert!(problem.starts_with(field), "{problem}");
    }
}

#[test]
fn an_open_bot_is_warned_of_when_it_goes_live() {
    let mock = Mock::new();
    crate::Telegram::check("{}").unwrap();
    assert!(mock.has_logged(Level::Warn, "everyone may use this bot"));
    assert!(mock.has_logged(Level::Warn, "webhook_secret"));

    let mock = Mock::new();
    mock.secret("webhook_secret", "x");
    mock.secret("bot_token", "42:x");
    crate::Telegram::check(r#"{"allowed_users": [1]}"#).unwrap();
    assert!(mock.logs().is_empty());
}

#[test]
fn the_manifest_names_what_the_host_has_to_know() {
    let manifest = crate::Telegram::manifest();
    assert_eq!(
        (manifest.name.as_str(), manifest.origins, manifest.secrets.len()),
        ("telegram", vec!["https://api.telegram.org".to_owned()], 2)
    );
    assert!(manifest.routes[0].by_plugin && manifest.routes[0].path == "/webhook");
    let schema: Value = serde_json::from_str(&manifest.config_schema).unwrap();
    assert_eq!(schema["properties"]["min_tokens"]["default"], 20);
    assert_eq!(schema["additionalProperties"], false);
    assert!(
        schema["properties"]["allowed_users"]["description"]
            .as_str()
            .unwrap()
            .contains("separated by commas")
    );
}
