//! Names of places on the feed's stream: where a client stands on the feed, and where in its session. The text is the
//! `id:` of the stream's events, URL-safe and bounded; whoever reads one decides what it may open.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::{Cursor, InvalidId, SessionId};

/// Longest text of a place, in bytes: two numbers of 20 digits, and a session's name in base64.
const LONGEST: usize = 768;
/// Between the feed's part and the session's.
const SESSION: char = '~';
/// Before a session's name.
const NAME: char = '.';
/// In place of the feed's part where the feed's log was out of reach all the time.
const NOWHERE: &str = "0";

/// Place of an event in the feed's log: the id that Redis gave it, the same on every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FeedId {
    ms: u64,
    seq: u64,
}

impl FeedId {
    /// Before every event.
    pub const START: Self = Self { ms: 0, seq: 0 };

    /// When Redis gave it, in milliseconds since the Unix epoch.
    pub(super) fn ms(self) -> u64 {
        self.ms
    }

    /// Whether Redis gave it at this time (milliseconds since the Unix epoch) or later.
    pub(super) fn is_since(self, ms: u64) -> bool {
        self.ms >= ms
    }

    /// The greatest place before this one.
    pub(super) fn before(self) -> Self {
        match (self.ms, self.seq) {
            (_, 1..) => Self { seq: self.seq - 1, ..self },
            (1.., 0) => Self { ms: self.ms - 1, seq: u64::MAX },
            (0, 0) => Self::START,
        }
    }
}

impl fmt::Display for FeedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for FeedId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u64>().ok()).flatten()
        };
        let parse = || {
            let (ms, seq) = text.split_once('-')?;
            Some(Self { ms: number(ms)?, seq: number(seq)? })
        };
        parse().ok_or_else(|| invalid(text))
    }
}

/// A client's place: what it has of the feed, and of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The last event of the feed's log before it; none: that was out of reach.
    pub feed: Option<FeedId>,
    /// Its session, if the id tells.
    pub session: Option<SessionPlace>,
}

/// A client's place in its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionPlace {
    /// The session has told nothing yet.
    Named(SessionId),
    /// It has, up to here.
    Said(Cursor),
}

impl Place {
    /// The place on the feed alone.
    pub(super) fn on_feed(feed: Option<FeedId>) -> Self {
        Self { feed, session: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.feed {
            Some(id) => write!(f, "{id}")?,
            None => f.write_str(NOWHERE)?,
        }
        match &self.session {
            None => Ok(()),
            Some(SessionPlace::Said(cursor)) => write!(f, "{SESSION}{cursor}"),
            Some(SessionPlace::Named(session)) => {
                write!(f, "{SESSION}{NAME}{}", URL_SAFE_NO_PAD.encode(session.name()))
            }
        }
    }
}

impl FromStr for Place {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() > LONGEST {
            return Err(invalid(text));
        }
        let (feed, session) = match text.split_once(SESSION) {
            Some((feed, session)) => (feed, Some(session)),
            None => (text, None),
        };
        let feed = if feed == NOWHERE { None } else { Some(feed.parse()?) };
        let session = session.map(|part| match part.strip_prefix(NAME) {
            None => part.parse().map(SessionPlace::Said),
            Some(name) => named(name).map(SessionPlace::Named).ok_or_else(|| invalid(text)),
        });
        Ok(Self { feed, session: session.transpose()? })
    }
}

/// A session of the gateway's own routes, from its name in base64.
fn named(encoded: &str) -> Option<SessionId> {
    let name = String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?;
    SessionId::new("", &name).ok()
}

fn invalid(text: &str) -> InvalidId {
    InvalidId { kind: "id of this stream", text: text.chars().take(80).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Position, TaskId};

    fn id(text: &str) -> FeedId {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_survives_its_text_which_is_url_safe_and_bounded() {
        let longest = SessionId::new("", &"ü".repeat(256)).unwrap();
        let cursor = Cursor { task: TaskId::new(), position: Position { attempt: u32::MAX, seq: u64::MAX } };
        for feed in [None, Some(id("1738413296000-7")), Some(FeedId { ms: u64::MAX, seq: u64::MAX })] {
            for session in [
                None,
                Some(SessionPlace::Said(cursor)),
                Some(SessionPlace::Named(SessionId::new("", "desk 1/~.%").unwrap())),
                Some(SessionPlace::Named(longest.clone())),
            ] {
                let place = Place { feed, session };
                let text = place.to_string();
                assert_eq!(text.parse(), Ok(place));
                assert!(text.len() <= LONGEST, "{}", text.len());
                let safe = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
                assert!(text.chars().all(safe), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "",
            "1",
            "-",
            "1-",
            "-1",
            "+1-1",
            "1-+1",
            "1-1-1",
            "a-1",
            "1-1~",
            "1-1~.",
            "1-1~.%",
            "1-1~x",
            "1-1~.YQ~.YQ",
            "~.YQ",
            " 1-1",
            "99999999999999999999999-0",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
        assert!(format!("1-1~.{}", "YWFh".repeat(400)).parse::<Place>().is_err());
    }

    #[test]
    fn places_are_ordered_as_numbers() {
        assert!(id("9-0") < id("10-0") && id("10-9") < id("10-10"));
        assert_eq!(id("5-3").before(), id("5-2"));
        assert_eq!(id("5-0").before(), FeedId { ms: 4, seq: u64::MAX });
        assert_eq!(FeedId::START.before(), FeedId::START);
    }
}
