//! Which session a chat is in. `/new` starts the next one; that it did is stored with the update that asked for it, so that
//! the same update twice starts one.

use plugway_sdk::{SessionId, kv};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Turn {
    generation: u64,
    /// Update that started this generation.
    by: Option<i64>,
}

/// The line of talk of a chat, or of one topic in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) chat: i64,
    pub(crate) topic: Option<i64>,
}

impl Place {
    fn name(self) -> String {
        match self.topic {
            None => format!("telegram:{}", self.chat),
            Some(topic) => format!("telegram:{}:{topic}", self.chat),
        }
    }

    fn key(self) -> String {
        format!("session/{}", self.name())
    }

    /// The session that it is in.
    pub(crate) fn session(self) -> Result<SessionId, kv::Error> {
        let turn = kv::get_json::<Turn>(&self.key())?.map(|entry| entry.value).unwrap_or_default();
        Ok(self.id(&turn))
    }

    /// Starts the next one, unless this update has done so before.
    pub(crate) fn renew(self, update: i64) -> Result<SessionId, kv::Error> {
        let turn = kv::update(&self.key(), None, |turn: &mut Turn| {
            if turn.by != Some(update) {
                *turn = Turn { generation: turn.generation + 1, by: Some(update) };
            }
        })?;
        Ok(self.id(&turn))
    }

    fn id(self, turn: &Turn) -> SessionId {
        match turn.generation {
            0 => self.name().into(),
            generation => format!("{}#{generation}", self.name()).into(),
        }
    }
}
