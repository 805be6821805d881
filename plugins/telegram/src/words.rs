//! Every sentence that a user of the bot may read.

use plugway_sdk::prelude::*;

pub(crate) const WELCOME: &str = "Hello! Write to me, and I will answer.\n\n/new starts a new conversation, /cancel stops an answer, /help tells more.";
pub(crate) const HELP: &str = "Write to me, and I will answer; send a file or a picture, and I will look at it.\n\n/new – start a new conversation\n/cancel – stop what I am doing\n/help – this text";
pub(crate) const NEW: &str = "A new conversation: I have put the old one aside.";
pub(crate) const NOTHING_TO_CANCEL: &str = "There is nothing to stop.";
pub(crate) const CANCELLING: &str = "Stopping.";

pub(crate) const NO_ANSWER: &str = "I have no answer to that.";
pub(crate) const STOPPED: &str = "⏹ Stopped.";
/// What is left of a message that the answer no longer needs, where it can't be deleted.
pub(crate) const SUPERSEDED: &str = "…";

/// What a failed task looks like in the chat.
pub(crate) fn failure(failed: &plugway_sdk::Failed) -> String {
    let sentence = match failed.error_type.as_str() {
        "agent_unreachable" => "I can't be reached at the moment. Please try again later.".to_owned(),
        "agent_silent" | "deadline" => "That took too long. Please try again.".to_owned(),
        "abandoned" => "I was interrupted. Please try again.".to_owned(),
        _ => {
            let line = failed.error.lines().map(str::trim).find(|line| !line.is_empty());
            let short = |line: &str| line.chars().take(200).collect::<String>();
            line.map_or_else(
                || "Something went wrong.".to_owned(),
                |line| format!("Something went wrong: {}", short(line)),
            )
        }
    };
    format!("⚠️ {sentence}")
}

/// What a refused message is answered with.
pub(crate) fn refusal(error: &SubmitError) -> String {
    format!("⚠️ I can't take that message: {error}")
}
