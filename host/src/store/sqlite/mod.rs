//! The embedded store: one SQLite file in the data directory, for one gateway process.
//!
//! One thread writes. It puts all that waits into one transaction and commits once (`synchronous=FULL`), so that a
//! thousand callers share an fsync. Reads go to a few read-only connections and see every commit that was answered.
//! The data directory is locked while the store is open: nobody else can hold a lease in it.

mod group;
mod kv;
mod log;
mod outbox;
mod queue;
mod reader;
mod schema;
mod sweep;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Backlog, Retention, Store, StoreError, Swept};
use crate::domain::Clock;
use reader::Readers;
use writer::Writer;

/// How the store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tasks that may be accepted and not started; more are refused.
    pub queue_limit: u64,
    /// Where time stamps and expiries take the time from; leases and waits take its steady time.
    pub clock: Clock,
    /// Read-only connections, each with at most one read at a time.
    pub readers: usize,
    /// How long events that nobody waits for wait for company before they are committed.
    pub group_wait: Duration,
    /// Bytes that may wait for the writer, half of them events; beyond it callers wait.
    pub pending_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_limit: 10_000,
            clock: Clock::System,
            readers: 4,
            group_wait: Duration::from_millis(5),
            pending_bytes: 32 << 20,
        }
    }
}

/// The store over one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
    queue_limit: u64,
    clock: Clock,
    /// Held until everything above is closed.
    _lock: File,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store in a data directory, which is created if it is not there. Leases of the process that had it
    /// before have run out: its tasks and deliveries can be claimed at once.
    ///
    /// Blocks while it reads and migrates; call it before serving.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the directory can't be written, or another gateway uses it.
    /// [`StoreError::Corrupt`]: the file is of a newer gateway, or no store at all.
    pub fn open(data_dir: &Path, options: Options) -> Result<Self, StoreError> {
        std::fs::create_dir_all(data_dir).map_err(|e| named(data_dir, e))?;
        let lock = lock(data_dir)?;
        let path = data_dir.join("store.db");
        let mut conn = connect(&path).map_err(|e| error(&e))?;
        schema::migrate(&mut conn)?;
        let writer = Writer::start(conn, path.clone(), &options).map_err(|e| error(&e))?;
        let readers = Readers::new(path.clone(), options.readers);
        Ok(Self {
            path,
            writer,
            readers,
            queue_limit: options.queue_limit,
            clock: options.clock,
            _lock: lock,
        })
    }

    /// Stops as a killed process does: what was not committed is gone.
    #[cfg(test)]
    pub(crate) fn crash(self) {
        self.writer.crash();
    }

    /// Makes the disk full for the writer until [`SqliteStore::make_room`].
    #[cfg(test)]
    pub(crate) fn fill_disk(&self) {
        self.writer.fill_disk(true);
    }

    /// Makes a task's row unreadable.
    #[cfg(test)]
    pub(crate) async fn damage(&self, task: crate::domain::TaskId) {
        let damage = move |tx: &mut writer::Tx<'_>| {
            tx.conn.execute("UPDATE tasks SET attempt = -1 WHERE id = ?1", [task.to_bytes()]).map(drop)
        };
        self.writer.call(0, damage).await.unwrap();
    }

    /// From now on nothing can be read.
    #[cfg(test)]
    pub(crate) fn stop_reading(&self) {
        self.readers.close();
    }

    /// Gives the writer room again.
    #[cfg(test)]
    pub(crate) fn make_room(&self) {
        self.writer.fill_disk(false);
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn probe(&self) -> Result<(), StoreError> {
        self.writer.call(0, |tx| tx.probe()).await
    }

    async fn sweep(&self, retention: Retention) -> Result<Swept, StoreError> {
        sweep::sweep(&self.writer, retention).await
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        Ok(self.writer.backlog())
    }

    async fn close(&self) {
        self.writer.close().await;
    }
}

fn lock(data_dir: &Path) -> Result<File, StoreError> {
    let path = data_dir.join("plugway.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| named(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Unavailable(
            format!(
                "{} is in use by another plugway; stop that one, or give this one a directory of its own (--data-dir)",
                data_dir.display()
            )
            .into(),
        )),
        Err(TryLockError::Error(e)) => Err(named(&path, e)),
    }
}

fn named(path: &Path, error: std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}", path.display()).into())
}

/// A connection that writes, as this store wants it.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    // A checkpoint costs two fsyncs and holds up writes: every 32 MiB of log. One that grew beyond 64 MiB is cut.
    conn.pragma_update(None, "wal_autocheckpoint", 8_000)?;
    conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
    conn.pragma_update(None, "cache_size", -16_384)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.set_prepared_statement_cache_capacity(128);
    keep_plans(&conn)?;
    Ok(conn)
}

/// A connection that reads.
fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.pragma_update(None, "cache_size", -4_096)?;
    conn.set_prepared_statement_cache_capacity(64);
    keep_plans(&conn)?;
    Ok(conn)
}

/// Keeps the plan of a cached statement whatever is bound to it; else it is prepared anew at nearly every use.
fn keep_plans(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Whether everybody's writes fail, rather than this one: the disk, the file, its permissions.
fn is_environment(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        None | Some(
            ErrorCode::ConstraintViolation
                | ErrorCode::TooBig
                | ErrorCode::TypeMismatch
                | ErrorCode::ApiMisuse
                | ErrorCode::ParameterOutOfRange
                | ErrorCode::Unknown
        )
    )
}

fn error(error: &rusqlite::Error) -> StoreError {
    use rusqlite::Error as E;
    match (error.sqlite_error_code(), error) {
        (Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase), _)
        | (_, E::FromSqlConversionFailure(..) | E::InvalidColumnType(..) | E::IntegralValueOutOfRange(..)) => {
            StoreError::Corrupt(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string().into()),
    }
}

/// A number as SQLite keeps it; what is beyond its range stands still at the end of it.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A number that SQLite kept.
fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Lets the file grow no further, or as far as it likes.
#[cfg(test)]
fn limit(conn: &Connection, full: bool) -> rusqlite::Result<()> {
    let used: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let most = if full { used } else { 1 << 30 };
    conn.query_row(&format!("PRAGMA max_page_count = {most}"), [], |_| Ok(()))
}
