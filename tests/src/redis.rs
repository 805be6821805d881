//! A real `redis-server` on a port of its own: stop, kill, hold still, start again, and what a test asks of it.

use std::io::ErrorKind;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisError, RedisResult};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::eventually::{DEADLINE, eventually};
use crate::ports::Port;
use crate::process::{Output, Process};

const MISSING: &str =
    "redis-server is not installed, run ./tests/run, or on Debian: sudo apt-get install redis-server";

/// How long an attempt to connect may take: one to a server that is held still is accepted by the kernel.
const CONNECT: Duration = Duration::from_secs(5);

/// What it keeps over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Persistence {
    /// Nothing.
    None,
    /// All that it has acknowledged.
    Always,
}

/// A server that was started. It dies with this; its log is printed when the test fails.
#[derive(Debug)]
pub struct RedisServer {
    directory: TempDir,
    port: Port,
    persistence: Persistence,
    process: Option<Process>,
    output: Output,
    /// What commands go over, once there was one.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl RedisServer {
    /// Starts one that forgets everything when it stops, and waits until it answers.
    ///
    /// # Panics
    ///
    /// With its log, when it ends instead or doesn't answer in time; when it is not installed.
    pub async fn start() -> Self {
        Self::start_with(Persistence::None).await
    }

    /// The same; what it has acknowledged is there again after [`stop`](Self::stop) or [`kill`](Self::kill), and
    /// [`start_again`](Self::start_again).
    pub async fn start_durable() -> Self {
        Self::start_with(Persistence::Always).await
    }

    async fn start_with(persistence: Persistence) -> Self {
        let mut server = Self {
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
            port: Port::lease(),
            persistence,
            process: None,
            output: Output::default(),
            connection: Mutex::new(None),
        };
        server.launch().await;
        server
    }

    async fn launch(&mut self) {
        let installed = Command::new("redis-server").arg("--version").output();
        assert!(!matches!(installed, Err(error) if error.kind() == ErrorKind::NotFound), "{MISSING}");
        let mut process = Process::start(self.invocation(), Output::default(), self.output.clone());
        eventually(DEADLINE, || {
            if let Some(status) = process.ended() {
                panic!("redis-server ended with {status}");
            }
            // While it reads its files it answers with an error.
            async { self.ask::<String>(&["PING"]).await.map_err(|error| error.to_string()) }
        })
        .await;
        self.process = Some(process);
    }

    fn invocation(&self) -> Command {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.number().to_string(), "--save", ""]);
        command.arg("--dir").arg(self.directory.path());
        command.args(match self.persistence {
            Persistence::None => ["--appendonly", "no"].as_slice(),
            Persistence::Always => ["--appendonly", "yes", "--appendfsync", "always"].as_slice(),
        });
        command
    }

    /// Its address, the same for as long as this lives.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port.number())
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub async fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("redis-server runs");
        *self.connection.get_mut() = None;
        process.signal(Signal::TERM);
        process.wait(DEADLINE).await
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        *self.connection.get_mut() = None;
    }

    /// Starts it again on the same port, with what it kept, and waits until it answers.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "redis-server runs still");
        self.output.push("---- started again ----".to_owned());
        self.launch().await;
    }

    /// SIGSTOP: connections stay and are accepted, nothing is answered.
    pub fn pause(&self) {
        self.process.as_ref().expect("redis-server runs").signal(Signal::STOP);
    }

    /// SIGCONT: it goes on as if nothing had happened.
    pub fn resume(&self) {
        self.process.as_ref().expect("redis-server runs").signal(Signal::CONT);
    }

    /// Publishes `text` on `channel`: how many subscribers it had.
    pub async fn publish(&self, channel: &str, text: &str) -> u64 {
        self.command(&["PUBLISH", channel, text]).await
    }

    /// Sends a command: what it is answered with.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub async fn command<T: FromRedisValue>(&self, parts: &[&str]) -> T {
        self.ask(parts).await.unwrap_or_else(|error| panic!("{parts:?} failed: {error}"))
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// What the server refused it with, or why it wasn't reached.
    pub async fn ask<T: FromRedisValue>(&self, parts: &[&str]) -> RedisResult<T> {
        let mut command = redis::Cmd::new();
        for part in parts {
            command.arg(*part);
        }
        let mut kept = self.connection.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.connection().await?,
        };
        let answer = command.query_async(&mut connection).await;
        if !answer.as_ref().is_err_and(is_broken) {
            *kept = Some(connection);
        }
        answer
    }

    /// A connection of one's own, for pipelines and whatever else.
    ///
    /// # Errors
    ///
    /// When it can't be made.
    pub async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(DEADLINE));
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Lines that it has written so far.
    pub fn log(&self) -> Vec<String> {
        self.output.lines()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        self.output.print_if_failing(&format!("redis-server at {}", self.url()));
    }
}

/// Whether the connection that `error` came over is of no more use.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}
