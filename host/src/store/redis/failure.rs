//! What Redis refused or failed to do, in words that an operator understands.

use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::super::StoreError;

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
    Refused { at: Arc<str>, why: Arc<str> },
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
        let refused = |why: String| Self::Refused { at: Arc::clone(&at), why: why.into() };
        match error.kind() {
            ErrorKind::AuthenticationFailed => {
                refused("does not accept the user or password of store.url".into())
            }
            ErrorKind::Server(ServerErrorKind::ReadOnly) => {
                refused("is a read-only replica; store.url has to name the primary".into())
            }
            ErrorKind::Server(ServerErrorKind::BusyLoading) => refused("is still loading its data".into()),
            ErrorKind::Server(ServerErrorKind::NoPerm) => {
                refused(format!("does not permit its user what the store needs: {detail}"))
            }
            ErrorKind::Server(
                ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown | ServerErrorKind::TryAgain,
            ) => refused(format!("does not serve now: {error}")),
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) => {
                refused("is a cluster, and another node of it has the store's keys; name that one".into())
            }
            ErrorKind::Server(_) | ErrorKind::Extension => match error.code() {
                Some("OOM") => refused(
                    "is out of memory (maxmemory) and refuses to write; reads go on. Give it more, or shorten store.task_retention"
                        .into(),
                ),
                Some("MISCONF") => refused(format!("can't save its data and refuses to write: {detail}")),
                Some("NOAUTH" | "WRONGPASS") => {
                    refused("does not accept the user or password of store.url".into())
                }
                Some("BUSY") => refused("is busy with a script of somebody else".into()),
                Some("NOREPLICAS") => refused("has too few replicas and refuses to write".into()),
                _ => Self::Unreadable { at, why: error.to_string().into() },
            },
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                Self::Unreadable { at, why: error.to_string().into() }
            }
            _ => Self::Away { at, why: error.to_string().into() },
        }
    }

    /// Whether the connection is of no use any more.
    pub(super) fn is_of_the_line(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Slow { .. } => true,
            // After a failover the name of the primary leads elsewhere.
            Self::Refused { why, .. } => why.contains("replica;"),
            Self::Unreadable { .. } | Self::Closed => false,
        }
    }

    /// Whether trying again for a while may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Slow { .. } => true,
            Self::Refused { why, .. } => why.contains("loading") || why.contains("serve now"),
            Self::Unreadable { .. } | Self::Closed => false,
        }
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
