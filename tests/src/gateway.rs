//! The real gateway in a temporary directory of its own: start, kill, restart, and what a test asks of it.

use std::env::VarError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use http::Method;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use toml::Table;

use crate::answer::Answer;
use crate::eventually::{DEADLINE, eventually};
use crate::files;
use crate::metrics::Metrics;
use crate::plugins::install;
use crate::ports::Port;
use crate::process::{Output, Process};
use crate::redis::RedisServer;
use crate::sse::Sse;

/// What it prints on standard output once it serves, before its address.
const LISTENING: &str = "listening on ";

/// Names the store of gateways whose test sets none: "sqlite" or "redis".
const STORE: &str = "PLUGWAY_TEST_STORE";

/// Length of leases on Redis.
const SHORT_LEASE: &str = "3s";

/// How a gateway is configured and started.
///
/// With `PLUGWAY_TEST_STORE=redis` it keeps its data in a redis-server of its own, which keeps all that it acknowledged
/// and which all gateways of one builder share, unless the test sets `store.kind` itself.
#[derive(Debug, Clone)]
pub struct Builder {
    directory: Arc<TempDir>,
    config: Table,
    plugins: Vec<(String, PathBuf)>,
    environment: Vec<(String, String)>,
    port: Option<Arc<Port>>,
    listen: Option<String>,
    /// Shared by its clones, as the directory is.
    redis: Option<Arc<OnceCell<RedisServer>>>,
}

impl Builder {
    /// Sets `key`, as "workers.count", in the configuration file.
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        let mut table = &mut self.config;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.to_owned(), value.into());
                break;
            }
            table = table
                .entry(part)
                .or_insert_with(|| Table::new().into())
                .as_table_mut()
                .unwrap_or_else(|| panic!("{key} goes through a value"));
        }
        self
    }

    /// Sets an environment variable. The process has no others but `PATH` and a `HOME` of its own.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Installs a bundled plugin under its name.
    pub fn plugin(self, name: &str) -> Self {
        let path = files::plugin(name);
        self.component(name, &path)
    }

    /// Installs the component at `path` as the plugin `name`.
    pub fn component(mut self, name: &str, path: &Path) -> Self {
        self.plugins.push((name.to_owned(), path.to_path_buf()));
        self
    }

    /// Keeps one port over restarts, so that clients find it again.
    pub fn same_port(mut self) -> Self {
        self.port = Some(Arc::new(Port::lease()));
        self
    }

    /// Listens on this address instead of a free port of the loopback interface.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = Some(address.to_owned());
        self
    }

    /// Directory of everything that belongs to this gateway.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// With its logs, when it ends instead or isn't ready in time.
    pub async fn start(self) -> Gateway {
        match self.try_start().await {
            Ok(gateway) => gateway,
            Err(failure) => panic!("the gateway ended while starting: {failure:#?}"),
        }
    }

    /// Starts it, and waits until it is ready or has ended.
    ///
    /// # Errors
    ///
    /// How it ended.
    pub async fn try_start(mut self) -> Result<Gateway, Failure> {
        self = self.with_store().await;
        for (name, path) in &self.plugins {
            install(&self.plugins_dir(), name, path);
        }
        self.share_artefacts();
        let client = crate::client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .read_timeout(DEADLINE)
            .build()
            .expect("a client without TLS can be built");
        let mut gateway = Gateway {
            builder: self,
            client,
            process: None,
            output: Output::default(),
            address: String::new(),
        };
        gateway.launch().await?;
        Ok(gateway)
    }

    async fn with_store(self) -> Self {
        match self.redis.clone() {
            Some(redis) if !self.is_set("store.kind") => {
                let url = redis.get_or_init(RedisServer::start_durable).await.url();
                // There a lease outlives who held it, since another node may hold it: what a test kills is to come
                // back within its deadline.
                self.set("store.kind", "redis")
                    .set("store.url", url)
                    .set_if_unset("workers.lease", SHORT_LEASE)
                    .set_if_unset("delivery.lease", SHORT_LEASE)
            }
            _ => self,
        }
    }

    fn set_if_unset(self, key: &str, value: &str) -> Self {
        if self.is_set(key) { self } else { self.set(key, value) }
    }

    fn is_set(&self, key: &str) -> bool {
        let (table, name) = key.split_once('.').expect("the key is of a table");
        self.config.get(table).is_some_and(|table| table.get(name).is_some())
    }

    fn plugins_dir(&self) -> PathBuf {
        self.directory().join("plugins")
    }

    /// Compiling a plugin takes longer than most tests: what one gateway has compiled is there for the others.
    fn share_artefacts(&self) {
        let (shared, own) = (files::artefacts(), self.directory().join("data"));
        fs::create_dir_all(&shared).expect("the target directory can be written");
        fs::create_dir_all(&own).expect("a temporary directory can be written");
        // A second gateway of this directory finds the link.
        let _ = std::os::unix::fs::symlink(shared, own.join("artefacts"));
    }

    fn command(&self) -> Command {
        let config = self.directory().join("plugway.toml");
        let text = toml::to_string(&self.config).expect("a table is TOML");
        fs::write(&config, text).expect("the configuration can be written");
        fs::create_dir_all(self.plugins_dir()).expect("the directory of plugins can be made");
        let listen = match (&self.listen, &self.port) {
            (Some(address), _) => address.clone(),
            (None, Some(port)) => format!("127.0.0.1:{}", port.number()),
            (None, None) => "127.0.0.1:0".to_owned(),
        };
        let mut command = bare(self.directory());
        command.arg("serve").arg("--config").arg(config).args(["--listen", &listen]);
        command.arg("--data-dir").arg(self.directory().join("data"));
        command.arg("--plugins-dir").arg(self.plugins_dir());
        command.envs(self.environment.iter().cloned());
        command
    }
}

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub struct Failure {
    /// None if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    /// Everything, standard output included.
    pub output: String,
}

/// Runs `plugway` with these arguments to its end, in `directory`.
pub async fn run(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Failure {
    let mut command = bare(directory);
    command.args(arguments).envs(environment.iter().copied());
    let (stdout, output) = (Output::default(), Output::default());
    let mut process = Process::start(command, stdout.clone(), output.clone());
    let status = process.wait(DEADLINE).await;
    Failure { code: status.code(), stdout: stdout.lines().join("\n"), output: output.lines().join("\n") }
}

fn redis_by_environment() -> Option<Arc<OnceCell<RedisServer>>> {
    match std::env::var(STORE).as_deref() {
        Ok("redis") => Some(Arc::default()),
        Ok("sqlite") | Err(VarError::NotPresent) => None,
        other => panic!("{STORE} is \"sqlite\" or \"redis\", not {other:?}"),
    }
}

fn bare(directory: &Path) -> Command {
    let mut command = Command::new(files::plugway());
    command.current_dir(directory).env_clear().env("HOME", directory).env("RUST_BACKTRACE", "1");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// A gateway that was started. It dies with this; its logs are printed when the test fails.
#[derive(Debug)]
pub struct Gateway {
    builder: Builder,
    client: reqwest::Client,
    process: Option<Process>,
    output: Output,
    address: String,
}

impl Gateway {
    /// A gateway without plugins, with the echo agent answering quickly.
    pub fn builder() -> Builder {
        let builder = Builder {
            directory: Arc::new(tempfile::tempdir().expect("a temporary directory can be made")),
            config: Table::new(),
            plugins: Vec::new(),
            environment: Vec::new(),
            port: None,
            listen: None,
            redis: redis_by_environment(),
        };
        builder.set("agents.echo.kind", "echo").set("agents.echo.chunk_delay", "2ms")
    }

    async fn launch(&mut self) -> Result<(), Failure> {
        let stdout = Output::default();
        let mut process = Process::start(self.builder.command(), stdout.clone(), self.output.clone());
        // A gateway that never gets ready is printed by `Drop`, a probe's reason being too little to go by.
        let started = eventually(DEADLINE, || {
            let ended = process.ended();
            let address = stdout.after(LISTENING);
            let client = self.client.clone();
            async move {
                if let Some(status) = ended {
                    return Ok(Err(status));
                }
                let address = address.ok_or("it has not printed where it listens")?;
                let ready = client.get(format!("{address}/ready")).send().await;
                match ready.map(|ready| ready.status().as_u16()) {
                    Ok(200) => Ok(Ok(address)),
                    other => Err(format!("/ready answers {other:?}")),
                }
            }
        })
        .await;
        match started {
            Ok(address) => {
                self.address = address;
                self.process = Some(process);
                Ok(())
            }
            Err(status) => {
                process.wait(DEADLINE).await;
                let stdout = stdout.lines().join("\n");
                Err(Failure { code: status.code(), stdout, output: self.output.lines().join("\n") })
            }
        }
    }

    /// SIGKILL: it has no chance to finish anything.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGKILL, while requests are under way; [`kill`](Self::kill) has to follow.
    pub fn shoot(&self) {
        if let Some(process) = &self.process {
            process.signal(Signal::KILL);
        }
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub async fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the gateway runs");
        process.signal(Signal::TERM);
        // It may give what is under way as long as that, and more to put away.
        process.wait(DEADLINE * 2).await
    }

    /// Starts it again with the same directories and configuration, and waits until it is ready.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "the gateway runs still");
        self.output.push("---- started again ----".to_owned());
        if let Err(failure) = self.launch().await {
            panic!("the gateway ended while starting again: {failure:#?}");
        }
    }

    /// Directory of everything that belongs to it.
    pub fn directory(&self) -> &Path {
        self.builder.directory()
    }

    /// Directory that it serves plugins from.
    pub fn plugins_dir(&self) -> PathBuf {
        self.builder.plugins_dir()
    }

    /// Address of `path` on it.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Host and port, for a connection of one's own.
    pub fn host(&self) -> &str {
        self.address.trim_start_matches("http://")
    }

    /// A request to build up.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// GET, read to its end.
    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// POST of a JSON body, read to its end.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path).json(body)).await
    }

    /// The same; an error when the gateway goes away meanwhile.
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<Answer, reqwest::Error> {
        Answer::read(self.request(Method::POST, path).json(body).send().await?).await
    }

    /// Posts a Telegram update, which has to be accepted as a task.
    ///
    /// # Panics
    ///
    /// When it isn't.
    pub async fn accept(&self, update: &Value) -> String {
        accepted(self.request(Method::POST, "/webhook").json(update)).await
    }

    /// The same with the webhook's secret.
    pub async fn accept_as(&self, update: &Value, secret: &str) -> String {
        let request =
            self.request(Method::POST, "/webhook").header("x-telegram-bot-api-secret-token", secret);
        accepted(request.json(update)).await
    }

    /// Opens a stream of events from its start.
    pub async fn stream(&self, path: &str) -> Sse {
        Sse::open(self.request(Method::GET, path)).await
    }

    /// Opens a stream of events after the event with this id.
    pub async fn stream_after(&self, path: &str, id: &str) -> Sse {
        Sse::open(self.request(Method::GET, path).header("last-event-id", id)).await
    }

    /// Waits until the task has ended, and returns the description of it.
    pub async fn ended(&self, task: &str) -> Value {
        eventually(DEADLINE, || async {
            let description = self.get(&format!("/tasks/{task}")).await.expect(200).json();
            match description["state"].as_str() {
                Some("completed" | "failed" | "cancelled") => Ok(description),
                _ => Err(format!("the task is {description}")),
            }
        })
        .await
    }

    /// What the gateway says of its plugins.
    pub async fn plugins(&self) -> Vec<Value> {
        let list = self.get("/admin/plugins").await.expect(200).json();
        list.as_array().unwrap_or_else(|| panic!("no list: {list}")).clone()
    }

    /// Waits until what the gateway says of the plugin `name` satisfies `test`.
    pub async fn plugin_when(&self, name: &str, test: impl Fn(&Value) -> bool) -> Value {
        eventually(DEADLINE, || async {
            let plugins = self.plugins().await;
            let found = plugins.iter().find(|plugin| plugin["name"] == name);
            found
                .filter(|plugin| test(plugin))
                .cloned()
                .ok_or_else(|| format!("the plugins are {plugins:#?}"))
        })
        .await
    }

    /// Asks the gateway to reload, roll back, disable or enable the plugin.
    pub async fn administer(&self, name: &str, action: &str) -> Answer {
        send(self.request(Method::POST, &format!("/admin/plugins/{name}/{action}"))).await
    }

    /// Memory of its process now, in bytes.
    pub fn memory(&self) -> u64 {
        self.process.as_ref().expect("the gateway runs").memory()
    }

    /// Its figures now.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.get("/metrics").await.expect(200).text())
    }

    /// Tasks that it accepted since it was started.
    pub async fn accepted_tasks(&self) -> f64 {
        self.metrics().await.sum("plugway_tasks_submitted_total", &[])
    }

    /// Lines that it has written so far.
    pub fn log(&self) -> Vec<String> {
        self.output.lines()
    }

    /// Waits until a line contains all of `parts`, whatever their case, and returns it.
    pub async fn logged(&self, parts: &[&str]) -> String {
        eventually(DEADLINE, || async {
            let lines = self.log();
            let found = lines.iter().find(|line| {
                let line = line.to_lowercase();
                parts.iter().all(|part| line.contains(&part.to_lowercase()))
            });
            found.cloned().ok_or_else(|| format!("no line has {parts:?}"))
        })
        .await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        self.output.print_if_failing(&format!("the gateway at {}", self.address));
    }
}

async fn accepted(request: reqwest::RequestBuilder) -> String {
    let answer = send(request).await.expect(200).json();
    assert_eq!(answer["status"], "accepted", "in {answer}");
    answer["task_id"].as_str().unwrap_or_else(|| panic!("no task_id in {answer}")).to_owned()
}

async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("the gateway answers");
    Answer::read(response).await.expect("the answer is whole")
}
