//! The bot's own commands. Any other text with a slash is the agent's business.

use crate::{config::Config, update::Message};

/// What a text asks of the bot itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Start,
    Help,
    Cancel,
    New,
}

/// Whom a message is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// The bot itself.
    Command(Command),
    /// The agent.
    Talk,
    /// Another bot in the group.
    Other,
}

/// Reads the first word. In a group whose bot knows its name, a command counts only with that name on it (`/help@name`) or
/// in reply to the bot, since others may have the same commands.
pub(crate) fn intent(message: &Message, config: &Config) -> Intent {
    let word = message.words().split(char::is_whitespace).next().unwrap_or_default();
    let Some(word) = word.strip_prefix('/') else { return Intent::Talk };
    let (name, bot) = word.split_once('@').map_or((word, None), |(name, bot)| (name, Some(bot)));
    if bot.is_some_and(|bot| !config.is_me(bot)) {
        return Intent::Other;
    }
    let command = match name.to_ascii_lowercase().as_str() {
        "start" => Command::Start,
        "help" => Command::Help,
        "cancel" => Command::Cancel,
        "new" => Command::New,
        _ => return Intent::Talk,
    };
    let knows_itself = config.bot_username.is_some();
    let replied =
        message.reply_to_message.as_ref().and_then(|replied| replied.from.as_ref()?.username.as_deref());
    let addressed = bot.is_some() || replied.is_some_and(|bot| config.is_me(bot));
    if message.chat.is_group() && knows_itself && !addressed {
        return Intent::Other;
    }
    Intent::Command(command)
}
