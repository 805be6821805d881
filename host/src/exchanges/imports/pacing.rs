//! `pacing`: rates that hold over all exchanges of the plugin.

use std::time::Duration;

use crate::exchanges::bindings::pacing;
use crate::exchanges::exchange::Exchange;

/// Largest window and count that a key may have: what has to be remembered is bounded by the count.
const COUNT: u32 = 10_000;
/// Longest key, in bytes.
const KEY: usize = 512;

fn check_key(key: &str) -> wasmtime::Result<()> {
    if key.len() > KEY {
        return Err(wasmtime::Error::msg(format!(
            "a pacing key of {} bytes; at most {KEY} are allowed",
            key.len()
        )));
    }
    Ok(())
}

impl pacing::Host for Exchange {
    async fn acquire(
        &mut self,
        key: String,
        count: u32,
        per_ms: u32,
        max_wait_ms: u32,
    ) -> wasmtime::Result<bool> {
        check_key(&key)?;
        let live = self.live()?;
        let (plugin, services) = (live.plugin.name().clone(), live.services.clone());
        let (per, max_wait) =
            (Duration::from_millis(per_ms.into()), Duration::from_millis(max_wait_ms.into()));
        let before = tokio::time::Instant::now();
        let granted = services.pacer.acquire(&plugin, &key, count.min(COUNT), per, max_wait).await;
        if before.elapsed() >= Duration::from_millis(1) {
            self.new_step();
        }
        Ok(granted)
    }

    fn pause(&mut self, key: String, ms: u32) -> wasmtime::Result<()> {
        check_key(&key)?;
        let live = self.live()?;
        live.services.pacer.pause(live.plugin.name(), &key, Duration::from_millis(ms.into()));
        Ok(())
    }
}
