//! `responder`: the answer to the exchange's request.

use wasmtime::component::Resource;

use crate::exchanges::bindings::{responder, types};
use crate::exchanges::exchange::{Exchange, waited};
use crate::exchanges::responder::Body;

const NO_REQUEST: &str = "this exchange has no request to answer";

impl responder::Host for Exchange {
    fn send(&mut self, response: types::HttpResponse) -> wasmtime::Result<Result<(), String>> {
        let Some(responder) = &mut self.live()?.responder else { return Ok(Err(NO_REQUEST.into())) };
        Ok(responder.send(response.status, &response.headers, response.body))
    }

    fn start(
        &mut self,
        status: u16,
        headers: Vec<types::Header>,
    ) -> wasmtime::Result<Result<Resource<Body>, String>> {
        let Some(responder) = &mut self.live()?.responder else { return Ok(Err(NO_REQUEST.into())) };
        match responder.start(status, &headers) {
            Ok(body) => Ok(Ok(self.table().push(body)?)),
            Err(why) => Ok(Err(why)),
        }
    }
}

impl responder::HostBody for Exchange {
    async fn write(&mut self, body: Resource<Body>, bytes: Vec<u8>) -> wasmtime::Result<bool> {
        let body = self.table().get(&body)?;
        let (there, pended) = waited(body.write(bytes)).await;
        self.new_step_if(pended);
        Ok(there)
    }

    fn finish(&mut self, body: Resource<Body>) -> wasmtime::Result<()> {
        self.table().delete(body)?.finish();
        Ok(())
    }

    async fn drop(&mut self, body: Resource<Body>) -> wasmtime::Result<()> {
        // Dropped without `finish`: the client sees the body cut off.
        self.table().delete(body)?;
        Ok(())
    }
}
