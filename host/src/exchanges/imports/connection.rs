//! `connection`: the exchange's open WebSocket.

use crate::exchanges::bindings::{connection, types};
use crate::exchanges::exchange::{Exchange, waited};

const NO_CONNECTION: &str = "this exchange has no WebSocket";

impl connection::Host for Exchange {
    async fn send(&mut self, frame: types::Frame) -> wasmtime::Result<bool> {
        let Some(outlet) = &self.live()?.connection else { return Err(wasmtime::Error::msg(NO_CONNECTION)) };
        let (there, pended) = waited(outlet.send(frame)).await;
        self.new_step_if(pended);
        Ok(there)
    }

    fn close(&mut self, code: u16, reason: String) -> wasmtime::Result<Result<(), String>> {
        match &mut self.live()?.connection {
            Some(outlet) => Ok(outlet.close(code, reason)),
            None => Ok(Err(NO_CONNECTION.into())),
        }
    }
}
