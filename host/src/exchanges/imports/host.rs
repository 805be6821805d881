//! `host`: log, configuration, secrets by name, time, randomness. The one interface that `describe` may call.

use crate::domain::bounds::RANDOM;
use crate::exchanges::bindings::host;
use crate::exchanges::exchange::Exchange;

impl host::Host for Exchange {
    fn log(&mut self, level: host::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            host::Level::Debug => tracing::Level::DEBUG,
            host::Level::Info => tracing::Level::INFO,
            host::Level::Warn => tracing::Level::WARN,
            host::Level::Error => tracing::Level::ERROR,
        };
        Ok(self.sandbox_ref().log.write(level, &message)?)
    }

    fn config(&mut self) -> wasmtime::Result<String> {
        Ok(self.sandbox_ref().settings.config_json.to_string())
    }

    fn has_secret(&mut self, name: String) -> wasmtime::Result<bool> {
        Ok(self.sandbox_ref().settings.grant.secret(&name).is_some())
    }

    fn secret_equals(&mut self, name: String, candidate: String) -> wasmtime::Result<bool> {
        let secret = self.sandbox_ref().settings.grant.secret(&name);
        Ok(secret.is_some_and(|secret| secret.matches(&candidate)))
    }

    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self
            .live_opt()
            .map_or_else(|| crate::domain::Clock::System.now_ms(), |live| live.services.clock.now_ms()))
    }

    fn random(&mut self, bytes: u32) -> wasmtime::Result<Vec<u8>> {
        if bytes > RANDOM {
            return Err(wasmtime::Error::msg(format!(
                "asked for {bytes} random bytes; at most {RANDOM} a call"
            )));
        }
        let mut random = vec![0; bytes as usize];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut random);
        Ok(random)
    }
}
