//! The plugin against a simulated Bot API: what stands in the chats at the end is compared with what the agent said.

mod bot_api;
mod deliveries;
mod faults;
mod reader;
mod replies;
mod texts;
mod updates;
