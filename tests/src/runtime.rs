//! The agent runtime of `tests/python/runtime`: a FastAPI program on a port of its own, started and killed as a test wants.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::client;
use crate::eventually::{DEADLINE, eventually};
use crate::ports::Port;
use crate::process::{Output, Process};

const MISSING: &str = "the runtime is not installed, run ./tests/run";

/// The key that it wants to see.
pub const INTERNAL_KEY: &str = "an-internal-key-that-no-log-may-show";

/// A runtime that was started. It dies with this; its log is printed when the test fails.
#[derive(Debug)]
pub struct Runtime {
    port: Port,
    process: Option<Process>,
    output: Output,
}

impl Runtime {
    /// Starts one, and waits until it answers.
    ///
    /// # Panics
    ///
    /// With its log, when it ends instead or doesn't answer in time; when it is not installed.
    pub async fn start() -> Self {
        let mut runtime = Self::stopped();
        runtime.start_again().await;
        runtime
    }

    /// Only its address, where nobody listens until it is started.
    pub fn stopped() -> Self {
        Self { port: Port::lease(), process: None, output: Output::default() }
    }

    /// Starts it, again or for the first time; it has forgotten everything.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "the runtime runs still");
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let python = directory.join(".venv/bin/python");
        assert!(python.is_file(), "{MISSING}");
        let mut command = Command::new(python);
        command.args(["-m", "runtime", "--port", &self.port.number().to_string()]);
        command
            .current_dir(directory)
            .env("INTERNAL_API_KEY", INTERNAL_KEY)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let mut process = Process::start(command, Output::default(), self.output.clone());
        eventually(DEADLINE, || {
            if let Some(status) = process.ended() {
                panic!("the runtime ended with {status}: {:#?}", self.output.lines());
            }
            async { self.ask("/health").await.map(drop) }
        })
        .await;
        self.process = Some(process);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Its URL, the same for as long as this lives.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// What it was asked so far: `session_id`, `message`, `port` of the connection, and `state` (streaming, ended, gone,
    /// cut).
    pub async fn asked(&self) -> Vec<Value> {
        let asked = self.ask("/requests").await.expect("the runtime answers");
        asked.as_array().expect("a list").clone()
    }

    /// Waits until the last request is in this state, and returns it.
    pub async fn last_is(&self, state: &str) -> Value {
        eventually(DEADLINE, || async {
            let asked = self.asked().await;
            let last = asked.last().filter(|last| last["state"] == state).cloned();
            last.ok_or_else(|| format!("asked {asked:#?}"))
        })
        .await
    }

    async fn ask(&self, path: &str) -> Result<Value, String> {
        let answer = client::plain().get(format!("{}{path}", self.url())).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        answer.json().await.map_err(|error| error.to_string())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.kill();
        self.output.print_if_failing(&format!("the runtime at {}", self.url()));
    }
}
