//! A plugin's log: what it says by `host.log`, and what it writes to standard output and error, line by line.
//!
//! Invariant: one exchange writes a bounded number of bytes; what exceeds them ends the exchange.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use bytesize::ByteSize;
use tokio::io::AsyncWrite;
use tracing::Level;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::sandbox::LimitExceeded;
use crate::egress::Grant;

/// Longest line that is logged as one; longer ones are broken.
const LINE: usize = 4_096;
/// What every line costs of the budget beside its own bytes.
const LINE_OVERHEAD: u64 = 32;

/// Where one exchange's log lines go.
#[derive(Debug)]
pub struct GuestLog {
    grant: Grant,
    plugin: Arc<str>,
    exchange: Mutex<Arc<str>>,
    budget: ByteSize,
    written: AtomicU64,
}

impl GuestLog {
    /// A log that names the plugin and the exchange on every line, and holds none of the grant's secrets.
    pub fn new(grant: Grant, plugin: Arc<str>, exchange: Arc<str>, budget: ByteSize) -> Arc<Self> {
        let exchange = Mutex::new(exchange);
        Arc::new(Self { grant, plugin, exchange, budget, written: AtomicU64::new(0) })
    }

    /// Begins anew for another call of the same instance, which lines are named by from here on.
    pub(super) fn begin(&self, exchange: &Arc<str>) {
        let mut named = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&named, exchange) {
            *named = exchange.clone();
        }
        self.written.store(0, Ordering::Relaxed);
    }

    /// Writes one message.
    ///
    /// # Errors
    /// The exchange has used its budget up.
    pub fn write(&self, level: Level, message: &str) -> Result<(), LimitExceeded> {
        let cost = message.len() as u64 + LINE_OVERHEAD;
        let before = self.written.fetch_add(cost, Ordering::Relaxed);
        if before + cost > self.budget.as_u64() {
            return Err(LimitExceeded::Log(self.budget));
        }
        let exchange = self.exchange.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (plugin, exchange) = (&*self.plugin, &*exchange);
        let message = self.line(message);
        match level {
            Level::ERROR => tracing::error!(target: "plugin", plugin, exchange, "{message}"),
            Level::WARN => tracing::warn!(target: "plugin", plugin, exchange, "{message}"),
            Level::INFO => tracing::info!(target: "plugin", plugin, exchange, "{message}"),
            _ => tracing::debug!(target: "plugin", plugin, exchange, "{message}"),
        }
        Ok(())
    }

    /// A message as it stands in the log.
    fn line(&self, message: &str) -> String {
        let message = self.grant.redactor().text(message.trim_end_matches(['\n', '\r']));
        one_line(&message).into_owned()
    }

    /// A stream whose lines become messages of that level.
    pub(crate) fn stream(self: &Arc<Self>, level: Level) -> LogStream {
        LogStream { log: self.clone(), level, pending: Arc::default() }
    }
}

/// A message as one line: what a plugin logs must not look like a line of the gateway's.
fn one_line(message: &str) -> Cow<'_, str> {
    let odd = |c: char| c.is_control() && c != '\t';
    if !message.contains(odd) {
        return message.into();
    }
    let mut line = String::with_capacity(message.len() + 16);
    for c in message.chars() {
        if odd(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line.into()
}

/// Standard output or error of a guest. Clones share the unfinished line.
#[derive(Clone, Debug)]
pub(crate) struct LogStream {
    log: Arc<GuestLog>,
    level: Level,
    pending: Arc<Mutex<Vec<u8>>>,
}

impl LogStream {
    fn push(&self, bytes: &[u8]) -> Result<(), LimitExceeded> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            pending.extend_from_slice(piece);
            if piece.ends_with(b"\n") || pending.len() >= LINE {
                let line = std::mem::take(&mut *pending);
                let line = String::from_utf8_lossy(&line);
                if !line.trim().is_empty() {
                    self.log.write(self.level, &line)?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        if Arc::strong_count(&self.pending) == 1 {
            // Over the budget the last line is lost; the exchange has ended anyway.
            let _ = self.push(b"\n");
        }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this form, and it is not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes).map_err(|limit| StreamError::Trap(limit.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Secret;

    #[test]
    fn a_line_of_the_log_is_one_line_and_holds_no_secret() {
        let secrets = [("token".to_owned(), Secret::new("4711:AA-secret").unwrap())].into();
        let grant = Grant::plugin("p", [], Vec::new(), secrets);
        let log = GuestLog::new(grant, "p".into(), "e".into(), ByteSize::kib(1));
        assert_eq!(log.line("GET /bot4711:AA-secret/x\nfaked\n"), "GET /bot[secret:token]/x\\nfaked");
    }
}
