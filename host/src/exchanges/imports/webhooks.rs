//! `webhooks`: callbacks that the host makes on its own.

use crate::exchanges::bindings::webhooks;
use crate::exchanges::exchange::{Exchange, waited};

impl webhooks::Host for Exchange {
    async fn post(
        &mut self,
        url: Option<String>,
        body: String,
        key: String,
    ) -> wasmtime::Result<Result<bool, String>> {
        let live = self.live()?;
        let owner = live.plugin.name().clone();
        let (result, pended) = waited(live.services.webhooks.post(&owner, url, body, key)).await;
        self.new_step_if(pended);
        Ok(result.map_err(|error| error.to_string()))
    }
}
