//! What Redis refused or failed to do, in words that an operator understands.

use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

use super::super::StoreError;

/// Why Redis refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// After a failover the name of the primary leads elsewhere: it has to be looked up again.
    Replica,
    /// It goes by itself.
    Passing,
    /// Somebody has to do something.
    Lasting,
}

/// Why a call came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    /// There is no connection, or it was lost while the call was under way.
    #[error("can't reach redis at {at}: {why}")]
    Away {
        /// Without its password.
        at: Arc<str>,
        why: Arc<str>,
    },
    /// There was no answer in time.
    #[error("redis at {at} did not answer within {}", humantime::format_duration(*.after))]
    Slow { at: Arc<str>, after: Duration },
    /// Redis answered, and it will not serve now.
    #[error("redis at {at} {why}")]
    Refused { at: Arc<str>, why: Arc<str>, cause: Cause },
    /// What Redis holds, or answered, is not what this store writes.
    #[error("redis at {at}: {why}")]
    Unreadable { at: Arc<str>, why: Arc<str> },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Failure {
    /// What an error of the client library means.
    pub(super) fn of(at: &Arc<str>, error: &RedisError) -> Self {
        let at = Arc::clone(at);
        let detail = error.detail().unwrap_or_default();
        let refused = |cause, why: String| Self::Refused { at: Arc::clone(&at), why: why.into(), cause };
        let lasting = |why: String| refused(Cause::Lasting, why);
        let passing = |why: String| refused(Cause::Passing, why);
        let unreadable = || Self::Unreadable { at: Arc::clone(&at), why: error.to_string().into() };
        let no_entry = || lasting("does not accept the user or password of store.url".into());
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => no_entry(),
            (_, Some("READONLY")) => {
                refused(Cause::Replica, "is a read-only replica; store.url has to name the primary".into())
            }
            (_, Some("LOADING")) => passing("is still loading its data".into()),
            (_, Some("CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN")) => {
                passing(format!("does not serve now: {error}"))
            }
            (_, Some("BUSY")) => passing("is busy with a script of somebody else".into()),
            (_, Some("NOREPLICAS")) => passing("has too few replicas and refuses to write".into()),
            (_, Some("NOPERM")) => {
                lasting(format!("does not permit its user what the store needs: {detail}"))
            }
            (_, Some("MOVED" | "ASK")) => {
                lasting("is a cluster, and another node of it has the store's keys; name that one".into())
            }
            (_, Some("OOM")) => lasting(
                "is out of memory (maxmemory) and refuses to write, reads go on; give it more, or shorten \
                 store.task_retention"
                    .into(),
            ),
            (_, Some("MISCONF")) => lasting(format!("can't save its data and refuses to write: {detail}")),
            (ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::Parse, _)
            | (ErrorKind::UnexpectedReturnType, _) => unreadable(),
            _ => Self::Away { at: Arc::clone(&at), why: error.to_string().into() },
        }
    }

    /// Whether the connection is of no use any more.
    pub(super) fn is_of_the_line(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Slow { .. } | Self::Refused { cause: Cause::Replica, .. })
    }

    /// Whether trying again for a while may help.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Slow { .. } | Self::Refused { cause: Cause::Passing, .. })
    }

    /// Whether the call may have been carried out all the same.
    pub(super) fn is_unsure(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Slow { .. })
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreadable { .. } => Self::Corrupt(failure.to_string()),
            _ => Self::Unavailable(Box::new(failure)),
        }
    }
}
