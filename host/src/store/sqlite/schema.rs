//! The tables, and how an older file becomes a present one. A file of a newer gateway is refused, never touched.

use rusqlite::{Connection, OptionalExtension};

use super::super::StoreError;
use super::error;

/// Version of the tables below; a file's own is its `user_version`.
const VERSION: i64 = 1;

/// What a file of version N needs to become one of version N + 1.
const MIGRATIONS: [&str; VERSION as usize] = [V1];

/// Task states. The first three are open, in the order that a task takes them.
pub(super) mod task {
    /// An earlier turn of its session is open.
    pub(in super::super) const WAITING: i64 = 0;
    /// First of its session, for the next worker.
    pub(in super::super) const READY: i64 = 1;
    /// Leased.
    pub(in super::super) const RUNNING: i64 = 2;
    /// Ended well.
    pub(in super::super) const COMPLETED: i64 = 3;
    /// Ended badly.
    pub(in super::super) const FAILED: i64 = 4;
    /// Was stopped.
    pub(in super::super) const CANCELLED: i64 = 5;
}

/// Delivery states. The first four are open: such a row is in its lane.
pub(super) mod delivery {
    /// Its moment has not come.
    pub(in super::super) const HELD: i64 = 0;
    /// Its moment has come; another of its lane is before it.
    pub(in super::super) const WAITING: i64 = 1;
    /// First in its lane; to be made once `due_ms` is reached.
    pub(in super::super) const READY: i64 = 2;
    /// Leased until `due_ms`.
    pub(in super::super) const LEASED: i64 = 3;
    /// Arrived; kept for its key.
    pub(in super::super) const DONE: i64 = 4;
    /// Given up.
    pub(in super::super) const DEAD: i64 = 5;
}

/// `n` is the order of acceptance. Inputs have a table of their own, since an update rewrites the whole row. A claim
/// is a range scan of `tasks_ready` or `tasks_leased`, whatever else waits.
const V1: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE tasks (
  n INTEGER PRIMARY KEY,
  id BLOB NOT NULL,
  adapter TEXT NOT NULL,
  agent TEXT NOT NULL,
  session TEXT NOT NULL,
  key TEXT,
  delivery INTEGER,
  state INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  deaths INTEGER NOT NULL DEFAULT 0,
  run_from INTEGER NOT NULL DEFAULT 0,
  token INTEGER NOT NULL DEFAULT 0,
  lease_ms INTEGER,
  cancel TEXT,
  created_ms INTEGER NOT NULL,
  started_ms INTEGER,
  ended_ms INTEGER,
  end_attempt INTEGER,
  end_seq INTEGER,
  end_data TEXT
) STRICT;
CREATE UNIQUE INDEX tasks_id ON tasks (id);
CREATE UNIQUE INDEX tasks_key ON tasks (adapter, key) WHERE key IS NOT NULL;
CREATE INDEX tasks_session ON tasks (session);
CREATE INDEX tasks_open ON tasks (session) WHERE state <= 2;
CREATE INDEX tasks_ready ON tasks (state) WHERE state = 1;
CREATE INDEX tasks_leased ON tasks (lease_ms) WHERE state = 2;
CREATE INDEX tasks_ended ON tasks (ended_ms) WHERE ended_ms IS NOT NULL;

CREATE TABLE inputs (n INTEGER PRIMARY KEY, input TEXT NOT NULL) STRICT;

CREATE TABLE events (
  task INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  kind TEXT NOT NULL,
  at_ms INTEGER NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (task, attempt, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  lane TEXT NOT NULL,
  place INTEGER NOT NULL,
  state INTEGER NOT NULL,
  due_ms INTEGER,
  token INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  since_ms INTEGER NOT NULL,
  settled_ms INTEGER,
  error TEXT,
  plugin TEXT NOT NULL,
  task BLOB,
  session TEXT,
  address TEXT,
  moment INTEGER,
  owner TEXT,
  key TEXT,
  url TEXT,
  origin TEXT
) STRICT;
CREATE INDEX outbox_lane ON outbox (lane, place) WHERE state <= 3;
CREATE INDEX outbox_due ON outbox (plugin, due_ms, origin) WHERE due_ms IS NOT NULL;
CREATE UNIQUE INDEX outbox_key ON outbox (owner, key) WHERE key IS NOT NULL;
CREATE INDEX outbox_settled ON outbox (settled_ms) WHERE settled_ms IS NOT NULL;
CREATE INDEX outbox_dead ON outbox (settled_ms) WHERE state = 5;
CREATE TABLE bodies (id INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;

CREATE TABLE kv (
  owner TEXT NOT NULL,
  key TEXT NOT NULL,
  version INTEGER NOT NULL,
  expires_ms INTEGER,
  value BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX kv_key ON kv (owner, key);
CREATE INDEX kv_expiry ON kv (expires_ms) WHERE expires_ms IS NOT NULL;
CREATE TABLE kv_usage (owner TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Brings the file to the present version, all or nothing.
pub(super) fn migrate(conn: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(|e| error(&e))?;
    if found > VERSION {
        return Err(StoreError::Corrupt(format!(
            "written by a newer plugway (tables of version {found}, this one knows {VERSION})"
        )));
    }
    let foreign = found == 0
        && conn
            .query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |_| Ok(()))
            .optional()
            .map_err(|e| error(&e))?
            .is_some();
    if foreign {
        return Err(StoreError::Corrupt("the file is a database of something else".into()));
    }
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        apply(conn, version, migration).map_err(|e| error(&e))?;
    }
    Ok(())
}

fn apply(conn: &mut Connection, version: i64, migration: &str) -> rusqlite::Result<()> {
    let tx = conn.transaction()?;
    tx.execute_batch(migration)?;
    tx.pragma_update(None, "user_version", version)?;
    tx.commit()
}
