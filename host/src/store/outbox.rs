//! The outbox: what must leave on its own (plugin deliveries, webhooks), kept until it has, or is a dead letter.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::{Claimed, StoreError};
use crate::domain::{SessionId, TaskId};

/// Names a delivery within the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub u64);

/// Where a delivery goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryTarget {
    /// To a plugin's delivery role.
    Plugin {
        /// The plugin.
        plugin: String,
        /// The task whose outcome it carries.
        task: TaskId,
        /// The task's session.
        session: SessionId,
        /// The plugin's own note of where it goes.
        address: String,
    },
    /// To somebody's URL.
    Webhook {
        /// Who asked for it; empty for the gateway itself.
        owner: String,
        /// The owner's name for it, the stem of its `webhook-id`.
        key: String,
        /// Where it goes.
        url: String,
        /// JSON body.
        body: Box<str>,
    },
}

/// A callback that somebody wants made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWebhook {
    /// Who asks; empty for the gateway itself.
    pub owner: String,
    /// The same key of the same owner is sent once within the retention time.
    pub key: String,
    /// Where it goes.
    pub url: String,
    /// Scheme, host and port of the URL: what [`Except`] bounds.
    pub origin: String,
    /// Webhooks of one lane leave one at a time; lanes don't wait for each other, and two owners never share one.
    pub lane: String,
    /// JSON body.
    pub body: Box<str>,
}

/// The right to make a delivery, until it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryLease {
    /// The delivery.
    pub id: DeliveryId,
    /// Grows with every claim.
    pub token: u64,
}

/// Deliveries that are not to be claimed.
#[derive(Clone, Debug)]
pub struct Except {
    /// Those to these plugins.
    pub plugins: Vec<String>,
    /// Webhooks.
    pub webhooks: bool,
    /// Webhooks to these origins beyond so many.
    pub origins: BTreeMap<String, usize>,
    /// Webhooks to any other origin beyond so many.
    pub per_origin: usize,
}

impl Default for Except {
    /// None.
    fn default() -> Self {
        Self { plugins: Vec::new(), webhooks: false, origins: BTreeMap::new(), per_origin: usize::MAX }
    }
}

impl Except {
    /// Takes one of the places that are left for an origin; false if there is none.
    pub(crate) fn take_place(&mut self, origin: &str) -> bool {
        let left = match self.origins.get_mut(origin) {
            Some(left) => left,
            None => self.origins.entry(origin.to_owned()).or_insert(self.per_origin),
        };
        let taken = left.checked_sub(1);
        *left = taken.unwrap_or(0);
        taken.is_some()
    }
}

/// A delivery that is the caller's to make.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The right to make it.
    pub lease: DeliveryLease,
    /// Where it goes.
    pub target: DeliveryTarget,
    /// Tries before this one that counted; one whose lease ran out counts, since nobody knows what it did.
    pub attempts: u32,
    /// When its moment came, or when it was last replayed, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// What a try came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It arrived.
    Done,
    /// Try again.
    Retry {
        /// Not before so much time has passed.
        after: Duration,
        /// Whether this try counts as an attempt; one that never left does not.
        counts: bool,
        /// What went wrong.
        error: String,
    },
    /// It will never arrive: it becomes a dead letter and holds up nobody.
    Dead {
        /// What went wrong.
        error: String,
    },
}

/// A delivery that was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its id.
    pub id: DeliveryId,
    /// Where it would have gone.
    pub target: DeliveryTarget,
    /// Tries made.
    pub attempts: u32,
    /// The last try's error.
    pub error: String,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub died_ms: u64,
}

/// The outbox. Plugin deliveries come in with [`super::TaskQueue::submit`]; those of one session are a lane of their own,
/// and leave it in order: one that waits for another try holds up those behind it, since they are turns of one talk.
///
/// Webhooks have no order: within a lane the one whose time came first goes first, and one that waits for another try
/// waits outside of the line. So a lane bounds what is under way to a receiver, and a dead letter or a retry of it costs
/// the others nothing.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Puts a webhook in. False: the key was known, nothing was written.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn enqueue_webhook(&self, webhook: NewWebhook) -> Result<bool, StoreError>;

    /// Takes up to `limit` deliveries that are due, are first in their lane, and whose lease, if any, ran out; those of
    /// `except` are left where they are, and it costs nothing that they are due.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn claim_deliveries(
        &self,
        limit: usize,
        lease: Duration,
        except: &Except,
    ) -> Result<Claimed<Delivery>, StoreError>;

    /// Returns when there may be something to claim that was not there before. May return for nothing.
    async fn delivery_ready(&self);

    /// Lengthens a lease from now on.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`].
    async fn renew_delivery(&self, lease: DeliveryLease, length: Duration) -> Result<(), StoreError>;

    /// Says what a try came to.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]: nothing was written.
    async fn settle(&self, lease: DeliveryLease, settlement: Settlement) -> Result<(), StoreError>;

    /// Dead letters, the latest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError>;

    /// Makes a dead letter due again, last in its lane (a webhook: as if it came now), with its attempts forgotten. False if there is none of that id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn replay(&self, id: DeliveryId) -> Result<bool, StoreError>;
}
