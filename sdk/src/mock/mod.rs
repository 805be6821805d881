//! A host for native tests: the same adapter code, run by `cargo test`.
//!
//! [`Mock::new`] becomes the host of this thread until it is dropped. Its clock is virtual: waiting (for the mailbox, for
//! [`pacing`](crate::pacing)) moves it, so a test of an hour takes no time and always goes the same way. The agent is a
//! [`Script`] per submitted task, outgoing HTTP is answered by a closure, and everything that leaves is recorded.
//!
//! ```
//! use plugway_sdk::{mock::{Mock, Script}, prelude::*};
//! use std::time::Duration;
//!
//! struct Notify;
//!
//! impl Delivery for Notify {
//!     type Address = String;
//!
//!     fn deliver(&self, task: TaskRef, url: String) -> Result<(), Failure> {
//!         http::post(&url).body(task.answer()?).send()?.ok()?;
//!         Ok(())
//!     }
//! }
//!
//! plugway_sdk::export!(Notify: delivery, origins = ["https://a.example"]);
//!
//! # fn main() {
//! let mock = Mock::new();
//! mock.agent(|task| Script::new().started().wait(Duration::from_secs(60)).completed(&format!("{}!", task.text())));
//! mock.outgoing(|_| Ok(Response::empty(204)));
//!
//! let task = Task::message("done").deliver(&"https://a.example/", Moment::Start).submit().unwrap();
//! let start = mock.now();
//! mock.deliver(&Notify, &task.id).unwrap();
//!
//! assert_eq!(mock.sent()[0].text(), "done!");
//! assert_eq!(mock.now().duration_since(start).unwrap(), Duration::from_secs(60));
//!
//! mock.outgoing(|_| Ok(Response::empty(503)));
//! assert!(matches!(mock.deliver(&Notify, &task.id), Err(Failure::Retry { .. })), "only a success is one");
//! # }
//! ```
//!
//! What the host refuses the mock refuses too: origins that the manifest does not name, headers of the connection, what
//! is over one of the [`bounds`](crate::bounds).

mod agent;
mod exchange;
pub(crate) mod imports;
mod state;
pub(crate) mod tasks;

pub use agent::{Script, Submission};
pub use exchange::{Answer, Call, FilterRun, Served, Upgrade};

use crate::{
    agents::Agent,
    bindings::delivery::Failure as RawFailure,
    component,
    host::Level,
    http,
    ids::TaskId,
    mailbox::Reason,
    manifest::Plugin,
    response::Response,
    role::{Delivery, Failure, Filter},
    task::SubmitError,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use state::{Killed, State, with};
use std::{
    borrow::Cow,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, SystemTime},
};

/// This thread's host, until it is dropped.
#[derive(Debug)]
#[must_use = "the host is gone once this is dropped"]
pub struct Mock {
    this_thread: PhantomData<*const ()>,
}

/// A request that left through [`http`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outgoing {
    /// Upper case.
    pub method: String,
    /// As the adapter wrote it: `{secret:NAME}` still stands in it.
    pub url: String,
    /// Lower-case names, and values.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// How long the adapter would wait.
    pub timeout: Duration,
    /// When it left.
    pub at: SystemTime,
}

impl Outgoing {
    /// The body as text.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body as JSON; null if it is something else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A callback that was put into the outbox.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Webhook {
    /// Where to; none for the operator's own URL.
    pub url: Option<String>,
    /// What.
    pub body: Value,
    /// The same key is sent once.
    pub key: String,
}

impl Mock {
    /// A fresh host: an agent that answers with the words it was sent, no configuration, no secrets, an empty store, and
    /// no server that could be reached.
    pub fn new() -> Self {
        state::install(State::default());
        Self { this_thread: PhantomData }
    }

    /// Sets the plugin's configuration.
    pub fn config<T: Serialize>(&self, config: T) {
        with(|state| state.config = serde_json::to_value(config).unwrap_or_default().to_string());
    }

    /// Grants a secret.
    pub fn secret(&self, name: &str, value: &str) {
        with(|state| _ = state.secrets.insert(name.to_owned(), value.to_owned()));
    }

    /// Configures one more agent; the first one is the default.
    pub fn add_agent(&self, name: &str, summary: &str) {
        with(|state| {
            let default = state.agents.is_empty();
            state.agents.push(Agent { name: name.to_owned(), summary: summary.to_owned(), default });
        });
    }

    /// What the agent does with each task.
    pub fn agent(&self, script: impl FnMut(&Submission) -> Script + 'static) {
        with(|state| state.script = Some(Box::new(script)));
    }

    /// From now on submitting fails like this; none lets it work again.
    pub fn refuse_tasks(&self, error: Option<SubmitError>) {
        with(|state| state.submit_fault = error);
    }

    /// Grants an origin beside those of the manifest, as `https://api.example.com`: one that the configuration names.
    pub fn grant_origin(&self, origin: &str) {
        with(|state| state.granted.push(origin.to_owned()));
    }

    /// What the servers outside answer. In the closure the host is there: it may [advance](Mock::advance) the clock, say.
    pub fn outgoing(&self, server: impl FnMut(&Outgoing) -> Result<Response, http::Error> + 'static) {
        with(|state| state.server = Some(Box::new(server)));
    }

    /// Answers the next outgoing request; several are used in order, before the [closure](Mock::outgoing) is asked.
    pub fn answer_next(&self, answer: Result<Response, http::Error>) {
        with(|state| state.answers.push_back(answer));
    }

    /// Whether the operator configured a URL for callbacks that name none.
    pub fn callback_url_configured(&self, configured: bool) {
        with(|state| state.result_url = configured);
    }

    /// From now on everything that is stored fails with this message: `kv`, looking up and following tasks. None lets it
    /// work again.
    pub fn break_storage(&self, message: Option<&str>) {
        with(|state| state.store_fault = message.map(str::to_owned));
    }

    /// From now on `kv` takes no more than so many bytes of keys and values.
    pub fn storage_quota(&self, bytes: usize) {
        with(|state| state.store_quota = bytes);
    }

    /// From now on no callback can be stored, with this message; none lets it work again.
    pub fn break_outbox(&self, message: Option<&str>) {
        with(|state| state.outbox_fault = message.map(str::to_owned));
    }

    /// The exchanges that start from now on are closed this much later.
    pub fn close_after(&self, time: Duration, reason: Reason) {
        with(|state| state.close_after = Some((time, reason)));
    }

    /// Tasks submitted so far.
    pub fn submissions(&self) -> Vec<Submission> {
        with(|state| state.submissions.clone())
    }

    /// Whether the task has been cancelled.
    pub fn is_cancelled(&self, task: &TaskId) -> bool {
        with(|state| state.tasks.get(task.as_str()).is_some_and(agent::TaskLog::is_cancelled))
    }

    /// Requests that left so far, those that failed too.
    pub fn sent(&self) -> Vec<Outgoing> {
        with(|state| state.sent.clone())
    }

    /// Callbacks put into the outbox so far.
    pub fn webhooks(&self) -> Vec<Webhook> {
        with(|state| state.webhooks.clone())
    }

    /// Lines logged so far.
    pub fn logs(&self) -> Vec<(Level, String)> {
        with(|state| state.logs.clone())
    }

    /// Whether a line of this level contains the text.
    pub fn has_logged(&self, level: Level, text: &str) -> bool {
        with(|state| state.logs.iter().any(|(at, line)| *at == level && line.contains(text)))
    }

    /// What is stored under a key, as JSON.
    pub fn stored<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        with(|state| {
            let entry = state.kv_entry(key)?;
            serde_json::from_slice(&entry.value).ok()
        })
    }

    /// Every key that is stored.
    pub fn stored_keys(&self) -> Vec<String> {
        with(|state| state.kv.keys().cloned().collect())
    }

    /// The virtual time.
    pub fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(with(|state| state.now_ms))
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        with(|state| state.now_ms += crate::sys::millis64(time));
    }

    /// A request to the plugin. `path` may have a query.
    pub fn request(&self, method: &str, path: &str) -> Call {
        Call::new(method, path)
    }

    /// A GET to the plugin.
    pub fn get(&self, path: &str) -> Call {
        self.request("GET", path)
    }

    /// A POST to the plugin.
    pub fn post(&self, path: &str) -> Call {
        self.request("POST", path)
    }

    /// A WebSocket upgrade to the plugin.
    pub fn websocket(&self, path: &str) -> Upgrade {
        Upgrade::new(path)
    }

    /// Runs a filter.
    pub fn filter<'a, A: Filter>(&self, adapter: &'a A) -> FilterRun<'a, A> {
        FilterRun::new(adapter)
    }

    /// Delivers a task to the address that it was submitted with. One that fails for good is [given up](Mock::give_up), as
    /// by the host.
    ///
    /// # Errors
    /// As the adapter says.
    ///
    /// # Panics
    /// If the task is unknown or was submitted without a delivery.
    pub fn deliver<A: Delivery + Plugin>(&self, adapter: &A, task: &TaskId) -> Result<(), Failure> {
        self.deliver_and_kill(adapter, task, usize::MAX).expect("an exchange with a long life is not killed")
    }

    fn address(task: &TaskId) -> String {
        let address = with(|state| {
            let submitted = state.submissions.iter().find(|submission| submission.task == *task);
            let deliver = submitted.and_then(|submission| submission.deliver.as_ref());
            deliver.map(|(_, address)| address.to_string())
        });
        address.unwrap_or_else(|| panic!("task {task} was not submitted with a delivery"))
    }

    /// As [`Mock::deliver`], in a host that dies right after the exchange's `imports`-th call of it: what was done by then
    /// is done, and the adapter does not hear of it. None if it died so.
    ///
    /// # Panics
    /// If the task is unknown or was submitted without a delivery.
    pub fn deliver_and_kill<A: Delivery + Plugin>(
        &self,
        adapter: &A,
        task: &TaskId,
        imports: usize,
    ) -> Option<Result<(), Failure>> {
        let address = Self::address(task);
        with(|state| state.open_exchange::<A>(imports));
        let run = AssertUnwindSafe(|| component::deliver(adapter, task.to_string(), &address));
        let outcome = catch_unwind(run);
        with(|state| state.exchange.origins = None);
        match outcome {
            Ok(Ok(())) => Some(Ok(())),
            Ok(Err(RawFailure::Retry(retry))) => {
                Some(Err(Failure::retry(Duration::from_millis(retry.after_ms), retry.reason)))
            }
            Ok(Err(RawFailure::Permanent(why))) => {
                // It is in the log if the adapter can't tell; nothing else comes of it.
                _ = self.give_up(adapter, task, &why);
                Some(Err(Failure::Permanent(why)))
            }
            Err(panic) if panic.is::<Killed>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Tells the adapter that the host gives a delivery up.
    ///
    /// # Errors
    /// What the host would log.
    ///
    /// # Panics
    /// If the task is unknown or was submitted without a delivery.
    pub fn give_up<A: Delivery + Plugin>(
        &self,
        adapter: &A,
        task: &TaskId,
        reason: &str,
    ) -> Result<(), String> {
        let address = Self::address(task);
        with(|state| state.open_exchange::<A>(usize::MAX));
        let told = component::given_up(adapter, task.to_string(), &address, reason);
        with(|state| state.exchange.origins = None);
        told
    }

    /// Calls of the host in the last exchange: every number up to it is a place for
    /// [`Mock::deliver_and_kill`] to die.
    pub fn imports_called(&self) -> usize {
        with(|state| state.exchange.imports)
    }
}

impl Default for Mock {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        state::uninstall();
    }
}
