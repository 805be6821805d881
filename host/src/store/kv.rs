//! The plugins' own storage: versioned entries with an expiry, one namespace an owner.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// What was stored.
    pub value: Vec<u8>,
    /// Grows with every write of the key, also across deletion, so that an old version never comes back.
    pub version: u64,
}

/// What an owner may store.
#[derive(Clone, Copy, Debug)]
pub struct KvQuota {
    /// Sum of its keys' and values' bytes.
    pub bytes: u64,
}

/// A write that was refused.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The entry has another version than the one named (0: there is none).
    #[error("the entry has version {0}")]
    Conflict(u64),
    /// The owner's quota would be exceeded.
    #[error("{used} of {quota} bytes are used, {needed} more are needed")]
    Quota {
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        quota: u64,
        /// Bytes that this write would add.
        needed: u64,
    },
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Versioned entries by owner and key. An expired entry is as good as absent, whether or not it was swept.
#[async_trait]
pub trait Kv: Send + Sync {
    /// The entry, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn get(&self, owner: &str, key: &str) -> Result<Option<KvEntry>, StoreError>;

    /// Stores a value if the entry has the version (0: is absent; none: whatever is there), and returns its new one.
    /// Without `ttl` it stays for good.
    ///
    /// # Errors
    /// [`KvError::Conflict`], [`KvError::Quota`]: nothing was written.
    async fn put(
        &self,
        owner: &str,
        key: &str,
        value: Vec<u8>,
        version: Option<u64>,
        ttl: Option<Duration>,
        quota: KvQuota,
    ) -> Result<u64, KvError>;

    /// Removes an entry; it need not exist.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn delete(&self, owner: &str, key: &str) -> Result<(), StoreError>;

    /// Up to `limit` keys that begin with `prefix`, in byte order, after the given one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn keys(
        &self,
        owner: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError>;

    /// Owners that have something, and the bytes of their keys and values; what has expired counts until it is swept.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn usage(&self) -> Result<Vec<(String, u64)>, StoreError>;
}
