//! The documents of the benchmark's plain request. Its native handler includes this file too, so that both sides read
//! and write the same.

use serde::{Deserialize, Serialize};

/// Somebody asks a model something: about 500 bytes as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    model: String,
    user: String,
    stream: bool,
    temperature: f64,
    max_tokens: u32,
    messages: Vec<Message>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// The answer, about as long.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    stream: bool,
    model: String,
    user: String,
    choices: [Choice; 1],
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: u32,
    message: Message,
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    temperature: f64,
    max_tokens: u32,
}

impl Question {
    /// Answers with what was said, in one message.
    pub(crate) fn answer(self) -> Answer {
        let prompt_tokens = self.messages.len();
        let content: String = self.messages.into_iter().map(|message| message.content).collect();
        Answer {
            stream: self.stream,
            model: self.model,
            user: self.user,
            usage: Usage {
                prompt_tokens,
                completion_tokens: content.len(),
                temperature: self.temperature,
                max_tokens: self.max_tokens,
            },
            choices: [Choice { index: 0, message: Message { role: "assistant".to_owned(), content } }],
        }
    }
}
