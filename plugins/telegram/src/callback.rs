//! The result callback: once per task, after its answer is in the chat (or will never be).

use crate::answer::Answer;
use plugway_sdk::prelude::*;
use serde::Serialize;
use std::time::SystemTime;

/// What the callback says. Its shape is that of the webhook gateways' document.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    success: bool,
    error: Option<String>,
    messages: Vec<Message>,
    progress_updates: u64,
    started: Option<SystemTime>,
    ended: Option<SystemTime>,
}

#[derive(Debug, Serialize)]
struct Message {
    chat_id: i64,
    text: String,
    parse_mode: Option<&'static str>,
    reply_to_message_id: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    task_id: &'a TaskId,
    success: bool,
    messages: &'a [Message],
    error: Option<&'a str>,
    duration_ms: u64,
    progress_updates: u64,
}

impl Outcome {
    /// Takes note of an event. A run that was voided counts for nothing but the time that it took.
    pub(crate) fn note(&mut self, event: &Event) {
        self.started.get_or_insert(event.at);
        if event.is_terminal() {
            self.ended = Some(event.at);
        }
        match &event.kind {
            EventKind::Started(_) => self.progress_updates = 1,
            EventKind::Completed(_) => {
                self.success = true;
                self.progress_updates += 1;
            }
            EventKind::Failed(failed) => {
                self.error = Some(failed.error.clone());
                self.progress_updates += 1;
            }
            EventKind::Cancelled(_) => {
                self.error = Some("cancelled".to_owned());
                self.progress_updates += 1;
            }
            EventKind::Thinking(_)
            | EventKind::ToolStarted(_)
            | EventKind::ToolCompleted(_)
            | EventKind::ResponseChunk(_) => self.progress_updates += 1,
            _ => {}
        }
    }

    /// What is in the chat now.
    pub(crate) fn messages(&mut self, answer: &Answer, chat_id: i64) {
        let said = answer.said.iter().enumerate();
        self.messages = said
            .map(|(index, said)| Message {
                chat_id,
                text: said.text.clone(),
                parse_mode: said.formatted.then_some("MarkdownV2"),
                reply_to_message_id: answer.replies_to(index),
            })
            .collect();
    }

    /// The answer can't be brought to the chat.
    pub(crate) fn undeliverable(&mut self, why: &str) {
        self.success = false;
        self.error = Some(format!("not delivered: {why}"));
    }

    /// Hands it to the host, which sees to it that it is sent once.
    pub(crate) fn report(&self, task: &TaskRef, url: Option<&str>) {
        let time = self.started.zip(self.ended).and_then(|(start, end)| end.duration_since(start).ok());
        let report = Report {
            task_id: &task.id,
            success: self.success,
            messages: &self.messages,
            error: self.error.as_deref(),
            duration_ms: time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            progress_updates: self.progress_updates,
        };
        if let Err(error) = webhooks::post(url, &report, task.id.as_str()) {
            warn!("no result callback for {}: {error}", task.id);
        }
    }
}
