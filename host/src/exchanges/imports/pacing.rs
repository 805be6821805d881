//! `pacing`: rates that hold over all exchanges of the plugin.

use std::time::Duration;

use crate::exchanges::bindings::pacing;
use crate::exchanges::exchange::{Exchange, waited};

/// Largest count that a key may have: what has to be remembered is bounded by it.
const COUNT: u32 = 1_000;
/// Longest window, wait and pause.
const LONGEST: Duration = Duration::from_secs(3_600);
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
        let lanes = self.live()?.lanes();
        let (per, max_wait) = (bounded(per_ms), bounded(max_wait_ms));
        let (granted, pended) = waited(lanes.acquire(&key, count.min(COUNT), per, max_wait)).await;
        self.new_step_if(pended);
        Ok(granted)
    }

    fn pause(&mut self, key: String, ms: u32) -> wasmtime::Result<()> {
        check_key(&key)?;
        self.live()?.lanes().pause(&key, bounded(ms));
        Ok(())
    }
}

fn bounded(ms: u32) -> Duration {
    Duration::from_millis(ms.into()).min(LONGEST)
}
