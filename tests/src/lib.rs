//! Harness of the end-to-end tests: the real `plugway` process in a directory of its own, real clients, and fakes
//! only where software that nobody here wrote can't be made to fail.
//!
//! What it starts dies with the test that started it, and its logs are printed when the test fails. Nothing here
//! sleeps for a fixed time: what has to happen is waited for with [`eventually`] and a deadline.

mod answer;
pub mod bot_api;
mod browser;
pub mod client;
mod eventually;
mod files;
mod gateway;
pub mod markdown;
mod metrics;
pub mod model;
mod plugins;
mod ports;
mod process;
mod receiver;
mod redis;
mod relay;
mod runtime;
mod sse;
mod test_api;
pub mod update;

pub use answer::Answer;
pub use browser::Page;
pub use eventually::{DEADLINE, eventually, within};
pub use files::{fixture, plugin, plugway, workspace};
pub use gateway::{Builder, Failure, Gateway, run};
pub use metrics::Metrics;
pub use plugins::{compile_bomb, exporting, install, overwrite_bytes, salted, with_contract_version};
pub use receiver::{Receiver, Reception};
pub use redis::RedisServer;
pub use relay::Relay;
pub use runtime::{INTERNAL_KEY, Runtime};
pub use sse::{Event, Sse};
