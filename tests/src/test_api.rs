//! The npm package `telegram-test-api`: a Bot API server that nobody here wrote.

use std::process::Command;

use serde_json::{Value, json};

use crate::eventually::{DEADLINE, eventually};
use crate::files;
use crate::process::{Output, Process};

/// The running server. It has one client route to say something as a user, and one to see what it keeps.
#[derive(Debug)]
pub(crate) struct TestApi {
    _process: Process,
    client: reqwest::Client,
    address: String,
    token: String,
}

impl TestApi {
    pub(crate) async fn start(token: &str) -> Self {
        let node = files::workspace().join("tests/node");
        assert!(node.join("node_modules").is_dir(), "telegram-test-api is not installed, run ./tests/run");
        let mut command = Command::new("node");
        command.arg("telegram-test-api.js").current_dir(node);
        let (stdout, output) = (Output::default(), Output::default());
        let mut process = Process::start(command, stdout.clone(), output.clone());
        let port = eventually(DEADLINE, || {
            let found = match (stdout.after(""), process.ended()) {
                (Some(port), _) => Ok(port),
                (None, Some(status)) => {
                    panic!("telegram-test-api ended with {status}: {:#?}", output.lines())
                }
                (None, None) => Err("telegram-test-api has not printed its port".to_owned()),
            };
            async move { found }
        })
        .await;
        let client = crate::client::plain();
        Self {
            _process: process,
            client,
            address: format!("http://127.0.0.1:{port}"),
            token: token.to_owned(),
        }
    }

    /// Calls a method of the Bot API.
    pub(crate) async fn call(&self, method: &str, body: &Value) -> (u16, Value) {
        self.post(&format!("/bot{}/{method}", self.token), body).await
    }

    /// Says something as a user: the message is pushed to the bot's webhook.
    pub(crate) async fn say(&self, message: &Value) {
        let mut message = message.clone();
        message["botToken"] = json!(self.token);
        let (status, answer) = self.post("/sendMessage", &message).await;
        assert_eq!(status, 200, "telegram-test-api answered {answer}");
    }

    /// What the bot has sent and not deleted: chat, message id and text as sent.
    pub(crate) async fn sent(&self) -> Vec<(i64, i64, String)> {
        let (_, history) = self.post("/getUpdatesHistory", &json!({ "token": self.token })).await;
        let updates = history["result"].as_array().expect("the history is a list");
        updates
            .iter()
            .filter_map(|update| {
                let message = &update["message"];
                let chat = number(&message["chat_id"])?;
                Some((chat, number(&update["messageId"])?, message["text"].as_str()?.to_owned()))
            })
            .collect()
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.address)).json(body);
        let response = request.send().await.expect("telegram-test-api answers");
        let status = response.status().as_u16();
        (status, response.json().await.expect("telegram-test-api answers with JSON"))
    }
}

/// A number that may be written as a string, as ids in calls of the Bot API may.
pub(crate) fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}
