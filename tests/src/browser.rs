//! A real browser with a page of the test's own: Chromium without a window, and the server that the page comes from.
//!
//! The page tells what it sees by posting it to where it came from, so that nothing but the web's own means is used.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::eventually::{DEADLINE, eventually};
use crate::process::{Output, Process};

/// Names that it goes by.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

const MISSING: &str =
    "chromium is not installed, run ./tests/run, or on Debian: sudo apt-get install chromium";

/// Reports are posted one after the other, in the order in which they were made.
const REPORT: &str = r#"
let last = Promise.resolve();
function report(value) {
  last = last.then(() => fetch("/reports", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value),
  }));
}
window.onerror = (message) => report({ error: String(message) });
"#;

#[derive(Debug, Default)]
struct Shared {
    html: Mutex<String>,
    reports: Mutex<Vec<Value>>,
}

/// A page, served from an origin of its own. The browser dies with this; what it wrote is printed when the test fails.
#[derive(Debug)]
pub struct Page {
    port: u16,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
    browser: Option<Process>,
    output: Output,
    directory: TempDir,
}

/// A file of a package that is installed for Node.
async fn module(Path(path): Path<String>) -> Response {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("node/node_modules").join(path);
    match std::fs::read(file) {
        Ok(code) => ([(header::CONTENT_TYPE, "text/javascript")], code).into_response(),
        Err(error) => (StatusCode::NOT_FOUND, error.to_string()).into_response(),
    }
}

impl Page {
    /// Starts the server of a page that is yet to be written.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let port = listener.local_addr().expect("the listener is bound").port();
        let shared = Arc::new(Shared::default());
        let router = Router::new()
            .route(
                "/",
                get(|State(shared): State<Arc<Shared>>| async move { Html(locked(&shared.html).clone()) }),
            )
            .route(
                "/reports",
                post(|State(shared): State<Arc<Shared>>, Json(report): Json<Value>| async move {
                    locked(&shared.reports).push(report);
                }),
            )
            .route("/modules/{*path}", get(module))
            .with_state(Arc::clone(&shared));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("the page is served") });
        Self {
            port,
            shared,
            _server: server,
            browser: None,
            output: Output::default(),
            directory: tempfile::tempdir().expect("a temporary directory can be made"),
        }
    }

    /// Origin of the page, as gateways are told by `cors.origins`.
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Opens the page in a browser, with this script, which has a function `report` for any value. It may import what is
    /// installed for Node, as `/modules/openai/index.mjs`.
    ///
    /// # Panics
    ///
    /// When no browser is installed.
    pub fn open(&mut self, script: &str) {
        *locked(&self.shared.html) = format!(
            "<!doctype html><meta charset=\"utf-8\"><title>test</title><script>{REPORT}{script}</script>"
        );
        let mut command = Command::new(installed());
        // Root can't use its sandbox, and this page is our own.
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--no-first-run", "--no-proxy-server", "--disable-extensions", "--disable-sync"]);
        command.args(["--disable-background-networking", "--disable-component-update"]);
        command.arg(format!("--user-data-dir={}", self.directory.path().display()));
        command.arg(self.origin());
        command.env_clear().env("HOME", self.directory.path());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        self.browser = Some(Process::start(command, Output::default(), self.output.clone()));
    }

    /// What the page has reported so far.
    pub fn reports(&self) -> Vec<Value> {
        locked(&self.shared.reports).clone()
    }

    /// Waits until the reports satisfy `test`, and returns them.
    pub async fn reports_when(&self, test: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(DEADLINE, || async {
            let reports = self.reports();
            if test(&reports) { Ok(reports) } else { Err(format!("the page reported {reports:#?}")) }
        })
        .await
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.browser = None;
        if thread::panicking() {
            let mut text = String::new();
            for line in self.output.lines() {
                let _ = writeln!(text, "  {line}");
            }
            eprintln!("---- output of the browser ----\n{text}---- end of the output ----");
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no handler panicked")
}

fn installed() -> &'static str {
    let is_there = |program: &&&str| !matches!(Command::new(program).arg("--version").output(), Err(error) if error.kind() == ErrorKind::NotFound);
    PROGRAMS.iter().find(is_there).unwrap_or_else(|| panic!("{MISSING}"))
}
