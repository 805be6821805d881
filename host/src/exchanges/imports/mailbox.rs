//! `mailbox`: the exchange's one place to wait.

use std::time::Duration;

use crate::exchanges::bindings::mailbox;
use crate::exchanges::exchange::Exchange;
use crate::plugins::HostFault;

impl mailbox::Host for Exchange {
    async fn next(&mut self, timeout_ms: Option<u64>) -> wasmtime::Result<Option<mailbox::Message>> {
        let received = self.live()?.mailbox.next(timeout_ms.map(Duration::from_millis)).await;
        let received = received.map_err(|error| {
            wasmtime::Error::from(HostFault(format!("the event log can't be read: {error}")))
        })?;
        if received.new_step {
            self.new_step();
        }
        Ok(received.message)
    }
}
