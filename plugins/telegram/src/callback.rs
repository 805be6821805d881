//! The result callback: once per task, after its answer is in the chat (or will never be).

use crate::answer::Answer;
use plugway_sdk::prelude::*;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// How long the next event of a task is waited for that was given up.
const LOOK: Duration = Duration::from_secs(1);

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

    /// The answer was not brought to the chat, and will not be. What is known of the task is read from its log, which
    /// may be at any point of it.
    pub(crate) fn given_up(task: &TaskRef, why: &str) -> Self {
        let mut outcome = Self::default();
        let mut events = task.events();
        loop {
            match events.next_within(Some(LOOK)) {
                Ok(Next::Event(event)) => outcome.note(&event),
                Err(Error::Gap { .. }) => {}
                _ => break,
            }
        }
        outcome.success = false;
        outcome.error = Some(format!("not delivered: {why}"));
        outcome
    }

    /// Hands it to the host, which sees to it that it is sent once.
    ///
    /// # Errors
    /// The host can't take it now.
    pub(crate) fn report(&self, task: &TaskRef, url: Option<&str>) -> Result<(), webhooks::Error> {
        let time = self.started.zip(self.ended).and_then(|(start, end)| end.duration_since(start).ok());
        let report = Report {
            task_id: &task.id,
            success: self.success,
            messages: &self.messages,
            error: self.error.as_deref(),
            duration_ms: time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            progress_updates: self.progress_updates,
        };
        let key = task.id.as_str();
        let posted = match webhooks::post(url, &report, key) {
            Err(webhooks::Error::TooLarge(what)) => {
                let error = format!("the messages are left out: {what}");
                let error = self.error.as_deref().unwrap_or(&error);
                webhooks::post(url, &Report { messages: &[], error: Some(error), ..report }, key)
            }
            posted => posted,
        };
        match posted {
            Err(error @ webhooks::Error::Unavailable(_)) => Err(error),
            Err(error) => {
                warn!("no result callback for {key}: {error}");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }
}
