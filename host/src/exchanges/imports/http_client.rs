//! `http-client`: outgoing requests, to granted origins, with secrets put in on the way out.

use std::time::Duration;

use crate::egress::{EgressError, EgressRequest};
use crate::exchanges::bindings::{http_client, types};
use crate::exchanges::exchange::{Exchange, waited};
use crate::plugins::LimitExceeded;

impl http_client::Host for Exchange {
    async fn send(
        &mut self,
        request: http_client::Request,
    ) -> wasmtime::Result<Result<types::HttpResponse, http_client::Error>> {
        let live = self.live()?;
        let bound = live.plugin.settings.limits.requests;
        live.requests_sent += 1;
        if live.requests_sent > bound {
            return Err(LimitExceeded::Requests(bound).into());
        }
        let request = EgressRequest {
            method: request.method,
            url: request.url,
            headers: request.headers,
            body: request.body.into(),
            timeout: Duration::from_millis(request.timeout_ms.into()),
        };
        let (result, pended) = waited(live.services.egress.send(&live.plugin.settings.grant, request)).await;
        self.new_step_if(pended);
        Ok(match result {
            Ok(response) => Ok(types::HttpResponse {
                status: response.status,
                headers: response.headers,
                body: response.body.into(),
            }),
            Err(EgressError::Denied(why)) => Err(http_client::Error::Denied(why)),
            Err(EgressError::Timeout) => Err(http_client::Error::Timeout),
            Err(EgressError::Unreachable(why)) => Err(http_client::Error::Unreachable(why)),
            Err(EgressError::Interrupted(why)) => Err(http_client::Error::Interrupted(why)),
        })
    }
}
