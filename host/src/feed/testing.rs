//! A real redis-server for unit tests, on a socket of its own in a directory of its own.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use crate::egress::Secret;

/// Longest that a test waits for one thing.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A server that forgets everything when it stops, and dies with this.
pub(crate) struct RedisServer {
    directory: TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one, and waits until it answers.
    pub(crate) async fn start() -> Self {
        let mut server = Self { directory: tempfile::tempdir().unwrap(), child: None };
        server.start_again().await;
        server
    }

    /// Starts it on the same socket, and waits until it answers.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let _ = std::fs::remove_file(self.socket());
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(self.socket())
            .arg("--dir")
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("redis-server is not installed: sudo apt-get install redis-server"),
            _ => panic!("redis-server does not start: {error}"),
        });
        self.child = Some(child);
        let end = Instant::now() + DEADLINE;
        while self.try_connect().await.is_none() {
            assert!(Instant::now() < end, "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its address.
    pub(crate) fn url(&self) -> Secret {
        Secret::new(&format!("unix://{}", self.socket().display())).unwrap()
    }

    async fn try_connect(&self) -> Option<MultiplexedConnection> {
        let client = redis::Client::open(self.url().expose()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        redis::cmd("PING").exec_async(&mut connection).await.ok()?;
        Some(connection)
    }

    /// A connection of one's own.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        self.try_connect().await.expect("redis-server answers")
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
