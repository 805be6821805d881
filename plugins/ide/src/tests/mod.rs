//! The adapter against a scripted agent.

mod frames_down;
mod frames_up;
mod reconnects;
mod rubbish;

use crate::Ide;
use plugway_sdk::mock::{Mock, Script, Served, Submission, Upgrade};
use serde_json::{Value, json};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn mock() -> Mock {
    let mock = Mock::new();
    mock.add_agent("runtime", "an agent runtime");
    mock
}

/// A connection to a session, from the session's start on.
fn whole(mock: &Mock) -> Upgrade {
    mock.websocket("/ws/s?after=")
}

fn user(content: &str) -> Value {
    json!({"type": "user_message", "role": "user", "content": content})
}

fn error(content: &str) -> Value {
    json!({"type": "error", "content": content})
}

/// Says something and stays for a minute: what comes back.
fn ask(mock: &Mock, content: &str) -> Vec<Value> {
    stay(mock.websocket("/ws/s").json(&user(content))).json()
}

/// Stays for a minute more.
fn stay(upgrade: Upgrade) -> Served {
    let served = upgrade.wait(MINUTE).leave().serve(&Ide);
    assert_eq!((&served.error, &served.closed), (&None, &None));
    served
}

/// An agent that says the same in every turn.
fn says(mock: &Mock, script: Script) {
    mock.agent(move |_: &Submission| script.clone());
}

/// A script whose agent has frames of its own.
trait Framed {
    fn framed(self, kind: &str, data: Value, frame: &Value) -> Self;
}

impl Framed for Script {
    fn framed(self, kind: &str, mut data: Value, frame: &Value) -> Self {
        data["raw"] = frame.clone();
        self.event(kind, data)
    }
}
