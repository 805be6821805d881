//! `webhooks`: callbacks that the host makes on its own.

use crate::delivery::WebhookError;
use crate::exchanges::bindings::webhooks;
use crate::exchanges::exchange::{Exchange, waited};

impl webhooks::Host for Exchange {
    async fn check(&mut self, url: String) -> wasmtime::Result<Result<(), String>> {
        Ok(self.live()?.services.webhooks.validate_url(&url))
    }

    async fn post(
        &mut self,
        url: Option<String>,
        body: String,
        key: String,
    ) -> wasmtime::Result<Result<bool, webhooks::Error>> {
        let live = self.live()?;
        let owner = live.plugin.name().clone();
        let (result, pended) = waited(live.services.webhooks.post(&owner, url, body, key)).await;
        self.new_step_if(pended);
        Ok(result.map_err(|error| match error {
            WebhookError::Url(why) => webhooks::Error::UnacceptableUrl(why),
            WebhookError::TooLarge(what) => webhooks::Error::TooLarge(what),
            WebhookError::Invalid(why) => webhooks::Error::Invalid(why),
            WebhookError::Store(error) => webhooks::Error::Unavailable(error.to_string()),
        }))
    }
}
