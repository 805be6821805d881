//! A Redis of a unit test's own: a real `redis-server` on a unix socket in a temporary directory, which ends with the test.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

/// Longest that a test waits for one thing.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A server that forgets everything when it stops, unless it is told otherwise.
pub(crate) struct RedisServer {
    directory: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one, and waits until it listens.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// The same with these arguments.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { directory, arguments, child: None };
        server.start_again();
        server
    }

    /// Starts it in the same directory, after it was stopped.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--unixsocket", "redis.sock", "--save", ""]);
        command.args(["--enable-debug-command", "yes"]).args(&self.arguments);
        command.current_dir(self.directory.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("redis-server is not installed: sudo apt-get install redis-server"),
            _ => panic!("redis-server does not start: {error}"),
        });
        self.child = Some(child);
        let end = Instant::now() + DEADLINE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < end, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Changes an argument for the next start.
    pub(crate) fn set_argument(&mut self, name: &str, value: &str) {
        let at = self.arguments.iter().position(|argument| argument == name).unwrap();
        self.arguments[at + 1] = value.to_owned();
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        std::fs::remove_file(self.socket()).ok();
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A connection of one's own.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Says something to it, as an operator does.
    pub(crate) async fn tell(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        self.connection().await.send_packed_command(&command).await.unwrap()
    }

    /// Publishes a text: how many heard it.
    pub(crate) async fn publish(&self, channel: &str, text: &str) -> u64 {
        let mut connection = self.connection().await;
        redis::cmd("PUBLISH").arg(channel).arg(text).query_async(&mut connection).await.unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until something holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let end = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
