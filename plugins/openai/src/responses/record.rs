//! What is kept of a response: what was asked, from its beginning on, and what came of it, once that is known.

use super::{
    growth::Growth,
    object::{Base, Outcome, key_of},
};
use crate::{config::Config, failure::not_found, room::RESPONSES, store};
use plugway_sdk::{Error, EventKind, Result, TaskRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What was asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) base: Base,
    pub(crate) input: Vec<Value>,
    /// The response that it goes on from, by its key.
    pub(crate) previous: Option<String>,
    pub(crate) instructions: Option<String>,
}

fn asked(key: &str) -> String {
    format!("{RESPONSES}{key}/in")
}

fn came(key: &str) -> String {
    format!("{RESPONSES}{key}/out")
}

fn unknown(field: &str, id: &str) -> Error {
    not_found("not_found", "response", id, field)
}

impl Record {
    /// The record of a response, by its id.
    ///
    /// # Errors
    /// 404 if there is none, which names the field that the id came in; the store does not answer.
    pub(crate) fn find(field: &str, id: &str) -> Result<Self> {
        let key = key_of(id).ok_or_else(|| unknown(field, id))?;
        Self::of(key)?.ok_or_else(|| unknown(field, id))
    }

    /// The record of a response, by its key.
    ///
    /// # Errors
    /// The store does not answer.
    pub(crate) fn of(key: &str) -> Result<Option<Self>> {
        store::read(&asked(key))
    }

    /// Keeps what was asked.
    ///
    /// # Errors
    /// The store does not answer, or has no room.
    pub(crate) fn keep(&self, config: &Config) -> Result<()> {
        store::write(&asked(self.base.key()), self, config.keep()).map(|_| ())
    }

    pub(crate) fn task(&self) -> TaskRef {
        TaskRef::new(self.base.task())
    }

    /// What has come of it by now.
    ///
    /// # Errors
    /// The store does not answer.
    pub(crate) fn outcome(&self, config: &Config) -> Result<Outcome> {
        Ok(self.outcome_weighed(config)?.0)
    }

    /// The same, and about how many bytes of an instance it takes.
    ///
    /// # Errors
    /// As [`Record::outcome`].
    pub(crate) fn outcome_weighed(&self, config: &Config) -> Result<(Outcome, u64)> {
        if let Some(found) = store::read_weighed(&came(self.base.key()))? {
            return Ok(found);
        }
        self.outcome_now(config).map(|outcome| (outcome, 0))
    }

    fn outcome_now(&self, config: &Config) -> Result<Outcome> {
        if let Some(outcome) = store::read(&came(self.base.key()))? {
            return Ok(outcome);
        }
        let state = self.task().describe()?;
        let state = state.as_ref().and_then(|task| task["state"].as_str());
        match state {
            Some("queued") => Ok(Outcome::queued()),
            Some("running") => Ok(Outcome::under_way()),
            Some(_) => self.settle(config),
            // The task's retention is shorter than the response's, and it was not delivered.
            None => Ok(Outcome::failed(Vec::new(), "server_error", "the answer was lost")),
        }
    }

    /// Waits for its end, and keeps what came of it.
    ///
    /// # Errors
    /// The store does not answer, or the exchange has to end before.
    pub(crate) fn settle(&self, config: &Config) -> Result<Outcome> {
        if let Some(outcome) = store::read(&came(self.base.key()))? {
            return Ok(outcome);
        }
        let mut growth = Growth::untold(&self.base);
        for event in self.task().events() {
            let event = match event {
                // What is left is better than nothing: the last event has the whole text.
                Err(Error::Gap { .. }) => continue,
                event => event?,
            };
            if let EventKind::Started(started) = &event.kind {
                growth.restart(started.attempt);
            }
            if let Some(outcome) = growth.take(event, &mut |_, _, _| Ok(()))? {
                store::write(&came(self.base.key()), &outcome, config.keep())?;
                if Self::of(self.base.key())?.is_none() {
                    // It was deleted meanwhile.
                    Self::forget(self.base.key())?;
                }
                return Ok(outcome);
            }
        }
        Err(Error::internal("the task ended without a last event"))
    }

    /// Removes all that is kept of a response.
    ///
    /// # Errors
    /// The store does not answer.
    pub(crate) fn forget(key: &str) -> Result<()> {
        store::remove(&asked(key))?;
        store::remove(&came(key))?;
        Ok(())
    }
}
