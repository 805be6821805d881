//! Promises of the plugins' kv.

use std::time::Duration;

use super::*;
use crate::store::{KvError, KvQuota};

const PLENTY: KvQuota = KvQuota { bytes: 1 << 20 };
const HOUR: Duration = Duration::from_secs(3600);

async fn put(store: &dyn Store, key: &str, value: &str, version: Option<u64>) -> Result<u64, KvError> {
    store.put("plug", key, value.into(), version, None, PLENTY).await
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    let entry = store.get("plug", key).await.unwrap()?;
    Some(String::from_utf8(entry.value).unwrap())
}

fn conflict(result: Result<u64, KvError>) -> Option<u64> {
    match result {
        Err(KvError::Conflict(version)) => Some(version),
        _ => None,
    }
}

pub(crate) async fn a_kv_write_is_refused_unless_the_version_fits<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    assert_eq!(value(&*store, "k").await, None);
    assert_eq!(conflict(put(&*store, "k", "a", Some(7)).await), Some(0));
    let first = put(&*store, "k", "a", Some(0)).await.unwrap();
    assert_eq!(conflict(put(&*store, "k", "b", Some(0)).await), Some(first));
    let second = put(&*store, "k", "b", Some(first)).await.unwrap();
    assert!(second > first);
    assert_eq!(conflict(put(&*store, "k", "c", Some(first)).await), Some(second));
    assert_eq!(value(&*store, "k").await.as_deref(), Some("b"));
    let third = put(&*store, "k", "c", None).await.unwrap();
    let entry = store.get("plug", "k").await.unwrap().unwrap();
    assert_eq!((&*entry.value, entry.version), (&b"c"[..], third));
}

pub(crate) async fn a_kv_version_never_comes_back<F: Fixture>() {
    let mut fixture = F::new(ROOMY).await;
    let mut last = 0;
    for round in 0..6 {
        let store = fixture.store();
        for _ in 0..3 {
            let version = put(&*store, "k", "v", Some(0)).await.unwrap();
            assert!(version > last, "{version} after {last}");
            last = version;
            store.delete("plug", "k").await.unwrap();
            store.delete("plug", "k").await.unwrap();
        }
        drop(store);
        if round % 2 == 0 {
            fixture.reopen().await;
        } else {
            fixture.crash().await;
        }
    }
}

pub(crate) async fn an_expired_entry_is_absent<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let version = store.put("plug", "k", b"v".into(), None, Some(HOUR), PLENTY).await.unwrap();
    clock.advance(HOUR - Duration::from_millis(1));
    assert_eq!(value(&*store, "k").await.as_deref(), Some("v"));
    clock.advance(Duration::from_millis(1));
    assert_eq!(value(&*store, "k").await, None);
    assert!(store.keys("plug", "", None, 10).await.unwrap().is_empty());
    assert_eq!(conflict(put(&*store, "k", "w", Some(version)).await), Some(0));
    assert!(put(&*store, "k", "w", Some(0)).await.unwrap() > version);
    // Written without one, it has no expiry any more.
    clock.advance(100 * HOUR);
    assert_eq!(value(&*store, "k").await.as_deref(), Some("w"));
}

pub(crate) async fn a_quota_counts_keys_and_values_and_what_is_gone_no_more<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let quota = KvQuota { bytes: 20 };
    let put = async |key: &str, bytes: usize, ttl| match store
        .put("plug", key, vec![7; bytes], None, ttl, quota)
        .await
    {
        Ok(_) => None,
        Err(KvError::Quota { used, quota, needed }) => Some((used, quota, needed)),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(put("a", 9, None).await, None);
    assert_eq!(put("bb", 8, Some(HOUR)).await, None);
    assert_eq!(put("c", 0, None).await, Some((20, 20, 1)));
    assert_eq!(put("a", 10, None).await, Some((20, 20, 1)));
    assert_eq!(put("a", 8, None).await, None);
    assert_eq!(put("c", 0, None).await, None);
    store.delete("plug", "c").await.unwrap();
    store.delete("plug", "c").await.unwrap();
    assert_eq!(put("\u{e9}", 0, None).await, Some((19, 20, 2)));
    // Another owner has a quota of its own.
    store.put("other", "x", vec![0; 19], None, None, quota).await.unwrap();
    clock.advance(HOUR);
    assert_eq!(put("d", 10, None).await, None);
    assert_eq!(put("e", 0, None).await, Some((20, 20, 1)));
    // Writing an expired entry's key again counts it once.
    store.delete("plug", "d").await.unwrap();
    assert_eq!(put("f", 3, Some(HOUR)).await, None);
    clock.advance(HOUR);
    assert_eq!(put("f", 10, None).await, None);
    assert_eq!(put("g", 0, None).await, Some((20, 20, 1)));
    let owned = |owner: &str, bytes| (owner.to_owned(), bytes);
    assert_eq!(store.usage().await.unwrap(), [owned("other", 20), owned("plug", 20)]);
    for key in ["a", "f"] {
        store.delete("plug", key).await.unwrap();
    }
    assert_eq!(store.usage().await.unwrap(), [owned("other", 20)], "whoever has nothing is not named");
}

pub(crate) async fn much_that_has_expired_at_once_makes_room_for_what_is_written<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let (store, clock) = (fixture.store(), fixture.clock());
    let quota = KvQuota { bytes: 3_000 * 10 };
    for number in 0..3_000 {
        store.put("plug", &format!("{number:06}"), vec![7; 4], None, Some(HOUR), quota).await.unwrap();
    }
    clock.advance(HOUR);
    store.put("plug", "large!", vec![7; 3_000 * 10 - 6], None, None, quota).await.unwrap();
    assert_eq!(store.usage().await.unwrap(), [("plug".to_owned(), quota.bytes)]);
}

pub(crate) async fn keys_are_listed_by_prefix_in_byte_order<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    for key in ["b", "a/2", "a/10", "a/1", "a", "a0", "A", "a/\u{e9}", "a/%", "a/_"] {
        put(&*store, key, "", None).await.unwrap();
    }
    let keys = async |prefix: &str, after: Option<&str>, limit| {
        store.keys("plug", prefix, after, limit).await.unwrap()
    };
    assert_eq!(keys("a/", None, 10).await, ["a/%", "a/1", "a/10", "a/2", "a/_", "a/\u{e9}"]);
    assert_eq!(keys("a/", None, 2).await, ["a/%", "a/1"]);
    assert_eq!(keys("a/", Some("a/1"), 2).await, ["a/10", "a/2"]);
    assert_eq!(keys("a/", Some("a"), 1).await, ["a/%"]);
    assert_eq!(keys("", None, 2).await, ["A", "a"]);
    assert!(keys("a/", Some("b"), 10).await.is_empty());
    assert!(keys("c", None, 10).await.is_empty());
}

pub(crate) async fn owners_do_not_see_each_others_entries<F: Fixture>() {
    let fixture = F::new(ROOMY).await;
    let store = fixture.store();
    put(&*store, "k", "mine", None).await.unwrap();
    assert_eq!(store.get("other", "k").await.unwrap(), None);
    store.delete("other", "k").await.unwrap();
    assert!(store.keys("other", "", None, 10).await.unwrap().is_empty());
    assert_eq!(value(&*store, "k").await.as_deref(), Some("mine"));
}
