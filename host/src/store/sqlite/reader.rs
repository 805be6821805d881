//! Read-only connections. Owns a bounded number of them, opened when first needed; a read never runs on a thread of
//! the async runtime.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::super::StoreError;
use super::{connect_reader, error};

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    turn: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, count: usize) -> Self {
        Self { path, idle: Arc::default(), turn: Arc::new(Semaphore::new(count.max(1))) }
    }

    #[cfg(test)]
    pub(super) fn close(&self) {
        self.turn.close();
    }

    /// Runs a read; all that it reads is of one moment.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub(super) async fn read<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let stopped = |_| StoreError::Unavailable("the store stopped reading".into());
        let turn = Arc::clone(&self.turn)
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Unavailable("the store is closed".into()))?;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let work = move || {
            let _turn = turn;
            let pooled = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let conn = match pooled {
                Some(conn) => conn,
                None => connect_reader(&path)?,
            };
            let result = in_snapshot(&conn, read);
            if conn.is_autocommit() {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
            }
            result
        };
        tokio::task::spawn_blocking(work).await.map_err(stopped)?.map_err(|e| error(&e))
    }
}

fn in_snapshot<T>(
    conn: &Connection,
    read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    conn.prepare_cached("BEGIN")?.execute([])?;
    let result = read(conn);
    conn.prepare_cached("COMMIT")?.execute([])?;
    result
}
