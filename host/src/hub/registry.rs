//! Things that exist while somebody holds them, found by name.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The registry.
pub(crate) struct Registry<K: Eq + Hash, T> {
    members: Mutex<HashMap<K, Weak<Member<K, T>>>>,
}

/// A thing in a registry; it strikes itself out when nobody holds it any more.
pub(crate) struct Member<K: Eq + Hash, T> {
    thing: T,
    key: K,
    registry: Arc<Registry<K, T>>,
}

impl<K: Eq + Hash, T> Default for Registry<K, T> {
    fn default() -> Self {
        Self { members: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone, T> Registry<K, T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<K, Weak<Member<K, T>>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one of this name, if somebody holds it.
    pub(super) fn find(&self, key: &K) -> Option<Arc<Member<K, T>>> {
        self.lock().get(key)?.upgrade()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Member<K, T>>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// The one of this name, made now if nobody holds it.
    pub(crate) fn enter(registry: &Arc<Self>, key: &K, make: impl FnOnce() -> T) -> Arc<Member<K, T>> {
        let mut members = registry.lock();
        if let Some(member) = members.get(key).and_then(Weak::upgrade) {
            return member;
        }
        let member = Arc::new(Member { thing: make(), key: key.clone(), registry: Arc::clone(registry) });
        members.insert(key.clone(), Arc::downgrade(&member));
        member
    }
}

impl<K: Eq + Hash, T> std::ops::Deref for Member<K, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.thing
    }
}

impl<K: Eq + Hash, T> Drop for Member<K, T> {
    fn drop(&mut self) {
        let mut members = self.registry.members.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have come in between and made a new one of the same name.
        if members.get(&self.key).is_some_and(|member| member.strong_count() == 0) {
            members.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash + fmt::Debug, T: fmt::Debug> fmt::Debug for Member<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Member").field(&self.key).field(&self.thing).finish()
    }
}
