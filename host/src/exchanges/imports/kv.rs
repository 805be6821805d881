//! `kv`: the plugin's own durable storage.

use std::time::Duration;

use crate::domain::bounds::{KV_KEY, KV_KEYS, KV_VALUE};
use crate::exchanges::bindings::kv;
use crate::exchanges::exchange::{Exchange, waited};
use crate::store::{KvError, KvQuota, StoreError};

fn unavailable(error: StoreError) -> kv::Error {
    kv::Error::Unavailable(error.to_string())
}

fn check_key(key: &str) -> Result<(), kv::Error> {
    if key.is_empty() || key.len() > KV_KEY {
        return Err(kv::Error::TooLarge(format!("key: has {} bytes, 1 to {KV_KEY} are allowed", key.len())));
    }
    Ok(())
}

impl kv::Host for Exchange {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<kv::Entry>, kv::Error>> {
        let live = self.live()?;
        let owner = live.plugin.name().clone();
        let (entry, pended) = waited(live.services.store.get(&owner, &key)).await;
        self.new_step_if(pended);
        let entry =
            entry.map(|entry| entry.map(|entry| kv::Entry { value: entry.value, version: entry.version }));
        Ok(entry.map_err(unavailable))
    }

    async fn put(
        &mut self,
        key: String,
        value: Vec<u8>,
        version: Option<u64>,
        ttl_ms: Option<u64>,
    ) -> wasmtime::Result<Result<u64, kv::Error>> {
        if let Err(error) = check_key(&key) {
            return Ok(Err(error));
        }
        if value.len() > KV_VALUE {
            return Ok(Err(kv::Error::TooLarge(format!(
                "value: has {} bytes, at most {KV_VALUE} are allowed",
                value.len()
            ))));
        }
        let live = self.live()?;
        let owner = live.plugin.name().clone();
        let quota = KvQuota { bytes: live.plugin.settings.limits.kv.as_u64() };
        let ttl = ttl_ms.map(Duration::from_millis);
        let (written, pended) =
            waited(live.services.store.put(&owner, &key, value, version, ttl, quota)).await;
        self.new_step_if(pended);
        Ok(written.map_err(|error| match error {
            KvError::Conflict(version) => kv::Error::Conflict(version),
            KvError::Quota { .. } => kv::Error::Full(format!("the plugin's storage (limits.kv): {error}")),
            KvError::Store(error) => unavailable(error),
        }))
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<Result<(), kv::Error>> {
        let live = self.live()?;
        let owner = live.plugin.name().clone();
        let (deleted, pended) = waited(live.services.store.delete(&owner, &key)).await;
        self.new_step_if(pended);
        Ok(deleted.map_err(unavailable))
    }

    async fn keys(
        &mut self,
        prefix: String,
        after: Option<String>,
        limit: u32,
    ) -> wasmtime::Result<Result<Vec<String>, kv::Error>> {
        if limit > KV_KEYS {
            let what = format!("limit: {limit} keys, at most {KV_KEYS} a call are allowed");
            return Ok(Err(kv::Error::TooLarge(what)));
        }
        let live = self.live()?;
        let owner = live.plugin.name().clone();
        let keys = live.services.store.keys(&owner, &prefix, after.as_deref(), limit as usize);
        let (keys, pended) = waited(keys).await;
        self.new_step_if(pended);
        Ok(keys.map_err(unavailable))
    }
}
