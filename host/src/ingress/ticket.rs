//! Stream tickets: what a page of a browser shows instead of a key, since an `EventSource` can't send headers.
//!
//! A ticket opens the streams of one session until its time is over, and nothing else. It is signed, not stored: every
//! node with the same keys takes it, whichever gave it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac_sha256::HMAC;
use http::HeaderMap;
use subtle::ConstantTimeEq as _;

use super::App;
use super::error::ApiError;
use crate::domain::{SessionId, millis};
use crate::egress::Secret;

/// What is signed beside a ticket's own words, so that no signature for something else is one for a ticket.
const PURPOSE: &[u8] = b"plugway stream ticket 1";
/// Longest ticket, in bytes.
const LONGEST: usize = 1_024;

/// Gives and takes tickets.
pub(super) struct Tickets {
    /// The first one signs; all of them verify, so that keys can be changed one after the other.
    keys: Vec<[u8; 32]>,
    ttl: Duration,
}

/// What a caller may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// Every stream.
    All,
    /// The streams of this session.
    Session(SessionId),
}

impl Right {
    /// Whether it opens the streams of a session.
    pub(super) fn covers(&self, session: &SessionId) -> bool {
        match self {
            Self::All => true,
            Self::Session(own) => own == session,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Expired,
    NoTicket,
}

impl Tickets {
    /// Tickets signed with the first of the gateway's keys. Without keys, they are good at this process only.
    pub(super) fn new(keys: &[Secret], ttl: Duration) -> Self {
        let mut keys: Vec<_> = keys.iter().map(|key| HMAC::mac(PURPOSE, key.expose())).collect();
        if keys.is_empty() {
            keys.push(rand::random());
        }
        Self { keys, ttl }
    }

    /// A ticket for a session of the gateway's own routes, and when it expires (milliseconds since the Unix epoch).
    pub(super) fn issue(&self, session: &SessionId, now_ms: u64) -> (String, u64) {
        let expires_ms = now_ms.saturating_add(millis(self.ttl));
        let words = format!("{expires_ms}.{}", URL_SAFE_NO_PAD.encode(session.name()));
        // There is always a key.
        let key = self.keys.first().copied().unwrap_or_default();
        (format!("{words}.{}", URL_SAFE_NO_PAD.encode(sign(&key, &words))), expires_ms)
    }

    fn session(&self, ticket: &str, now_ms: u64) -> Result<SessionId, Refused> {
        if ticket.len() > LONGEST {
            return Err(Refused::NoTicket);
        }
        let (words, signature) = ticket.rsplit_once('.').ok_or(Refused::NoTicket)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refused::NoTicket)?;
        // All are compared, whichever fits.
        let signed = self.keys.iter().fold(false, |found, key| {
            found | bool::from(sign(key, words).as_slice().ct_eq(signature.as_slice()))
        });
        if !signed {
            return Err(Refused::NoTicket);
        }
        let read = || {
            let (expires, name) = words.split_once('.')?;
            let name = String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()?;
            Some((expires.parse::<u64>().ok()?, SessionId::new("", &name).ok()?))
        };
        let (expires_ms, session) = read().ok_or(Refused::NoTicket)?;
        if expires_ms <= now_ms { Err(Refused::Expired) } else { Ok(session) }
    }
}

fn sign(key: &[u8; 32], words: &str) -> [u8; 32] {
    HMAC::mac(words, key)
}

/// What a caller may open, by the ticket in its query or else by its key. A ticket binds whoever shows it, whatever key is
/// shown beside it.
pub(super) fn right(app: &App, headers: &HeaderMap, query: Option<&str>) -> Result<Right, ApiError> {
    let mut tickets = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(name, _)| name == "ticket");
    let Some((_, ticket)) = tickets.next() else {
        return app.auth.caller(headers).map(|_| Right::All);
    };
    if tickets.next().is_some() {
        return Err(ApiError::bad_request("ticket", "ticket: is given more than once"));
    }
    app.tickets.session(&ticket, app.clock.now_ms()).map(Right::Session).map_err(|refused| {
        ApiError::bad_ticket(match refused {
            Refused::Expired => {
                "the ticket has expired: get a new one (POST /api/agent/ticket), and go on with last_event_id"
            }
            Refused::NoTicket => "this is no ticket of this gateway: get one (POST /api/agent/ticket)",
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_738_413_296_000;

    fn tickets(keys: &[&str]) -> Tickets {
        let keys: Vec<_> = keys.iter().map(|key| Secret::new(key).unwrap()).collect();
        Tickets::new(&keys, Duration::from_secs(60))
    }

    fn session(name: &str) -> SessionId {
        SessionId::new("", name).unwrap()
    }

    #[test]
    fn a_ticket_names_its_session_until_its_time_is_over() {
        let tickets = tickets(&["a-key-of-callers-0123456789"]);
        for name in ["desk", "a.b/c~ü", &"x".repeat(512)] {
            let (ticket, expires) = tickets.issue(&session(name), NOW);
            assert_eq!(expires, NOW + 60_000);
            assert!(ticket.len() <= LONGEST, "{}", ticket.len());
            assert_eq!(tickets.session(&ticket, expires - 1), Ok(session(name)));
            assert_eq!(tickets.session(&ticket, expires), Err(Refused::Expired));
        }
    }

    #[test]
    fn every_key_verifies_and_no_other() {
        let (old, new) = ("the-old-key-of-callers-012345", "the-new-key-of-callers-012345");
        let ticket = |keys: &[&str]| tickets(keys).issue(&session("desk"), NOW).0;
        assert!(tickets(&[new, old]).session(&ticket(&[old]), NOW).is_ok());
        assert!(tickets(&[old, new]).session(&ticket(&[new, old]), NOW).is_ok());
        assert_eq!(tickets(&[new]).session(&ticket(&[old, new]), NOW), Err(Refused::NoTicket));
        // Without keys, no process takes another's.
        assert_eq!(tickets(&[]).session(&ticket(&[]), NOW), Err(Refused::NoTicket));
    }

    #[test]
    fn a_ticket_that_was_tampered_with_is_none() {
        let tickets = tickets(&["a-key-of-callers-0123456789"]);
        let (ticket, _) = tickets.issue(&session("desk"), NOW);
        for at in 0..ticket.len() {
            for with in ["A", "9", ".", ""] {
                let mut other = ticket.clone();
                other.replace_range(at..=at, with);
                assert!(other == ticket || tickets.session(&other, NOW).is_err(), "{other}");
            }
        }
        let (other, _) = tickets.issue(&session("other"), NOW);
        let signature = ticket.rsplit_once('.').unwrap().1;
        let words = other.rsplit_once('.').unwrap().0;
        assert!(tickets.session(&format!("{words}.{signature}"), NOW).is_err());
        for text in ["", ".", "..", "1.2.3", &"x".repeat(2_000)] {
            assert_eq!(tickets.session(text, NOW), Err(Refused::NoTicket));
        }
    }
}
