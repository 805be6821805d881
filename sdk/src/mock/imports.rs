//! The contract's imports, answered by the mock's state. Same signatures as the generated ones, so that `sys` may take
//! either.

use super::{
    Outgoing, Webhook,
    agent::next_message,
    state::{Entry, Pace, State, count_import, import, with},
};
use crate::sys::raw;

pub(crate) mod host {
    use super::*;
    use crate::host::Level;

    pub(crate) fn log(level: raw::host::Level, message: &str) {
        let level = match level {
            raw::host::Level::Debug => Level::Debug,
            raw::host::Level::Info => Level::Info,
            raw::host::Level::Warn => Level::Warn,
            raw::host::Level::Error => Level::Error,
        };
        import(|state| state.logs.push((level, message.to_owned())));
    }

    pub(crate) fn config() -> String {
        import(|state| state.config.clone())
    }

    pub(crate) fn has_secret(name: &str) -> bool {
        import(|state| state.secrets.contains_key(name))
    }

    pub(crate) fn secret_equals(name: &str, candidate: &str) -> bool {
        import(|state| state.secrets.get(name).is_some_and(|secret| secret == candidate))
    }

    pub(crate) fn now_ms() -> u64 {
        import(|state| state.now_ms)
    }

    pub(crate) fn random(bytes: u32) -> Vec<u8> {
        assert!(bytes <= crate::bounds::RANDOM, "the host traps whoever asks for {bytes} random bytes");
        import(|state| {
            let byte = |_| {
                state.random ^= state.random << 13;
                state.random ^= state.random >> 7;
                state.random ^= state.random << 17;
                (state.random >> 32) as u8
            };
            (0..bytes).map(byte).collect()
        })
    }
}

pub(crate) mod agents {
    use super::*;

    pub(crate) fn all() -> Vec<raw::agents::Agent> {
        import(|state| {
            let agents = state.agents.iter().cloned();
            agents
                .map(|agent| raw::agents::Agent {
                    name: agent.name,
                    summary: agent.summary,
                    default: agent.default,
                })
                .collect()
        })
    }
}

pub(crate) use super::tasks;

pub(crate) mod mailbox {
    use super::*;

    pub(crate) fn next(timeout_ms: Option<u64>) -> Option<raw::mailbox::Message> {
        import(|state| {
            let until_ms = timeout_ms.map_or(u64::MAX - 1, |timeout| state.now_ms.saturating_add(timeout));
            let Some((at_ms, message)) = next_message(state, until_ms) else {
                assert!(timeout_ms.is_some(), "the adapter waits for ever: nothing will reach its mailbox");
                state.now_ms = until_ms;
                return None;
            };
            state.now_ms = state.now_ms.max(at_ms);
            Some(message)
        })
    }
}

pub(crate) mod responder {
    use super::*;
    use crate::bounds::{ANSWER_OWN_HEADERS, HTTP_HEADER_BYTES, HTTP_HEADERS};
    use raw::types::{Header, HttpResponse};

    pub(crate) fn send(response: &HttpResponse) -> Result<(), String> {
        import(|state| {
            begin(&mut state.exchange, response.status, &response.headers)?;
            state.exchange.pieces.push(response.body.clone());
            state.exchange.ended_cleanly = true;
            Ok(())
        })
    }

    pub(crate) fn start(status: u16, headers: &[Header]) -> Result<Body, String> {
        import(|state| begin(&mut state.exchange, status, headers)).map(|()| Body { private: () })
    }

    fn begin(
        exchange: &mut super::super::state::Exchange,
        status: u16,
        headers: &[Header],
    ) -> Result<(), String> {
        if exchange.head.is_some() {
            return Err("this exchange was answered before".to_owned());
        }
        if !(200..600).contains(&status) {
            return Err(format!("{status} is no status for an answer"));
        }
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if headers.len() > HTTP_HEADERS || bytes > HTTP_HEADER_BYTES {
            return Err(format!("headers: {} of {bytes} bytes", headers.len()));
        }
        let own = |name: &str| ANSWER_OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str());
        if let Some((name, _)) = headers.iter().find(|(name, value)| !is_header(name, value) || own(name)) {
            return Err(format!("header {name:?} is not acceptable"));
        }
        // The host knows a body's length better.
        let sent = headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
        exchange.head = Some((status, sent.cloned().collect()));
        Ok(())
    }

    pub(super) fn is_header(name: &str, value: &str) -> bool {
        let visible = |byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !name.is_empty() && name.bytes().all(token) && value.bytes().all(visible)
    }

    #[derive(Debug)]
    pub(crate) struct Body {
        private: (),
    }

    impl Body {
        pub(crate) fn write(&self, bytes: &[u8]) -> bool {
            let () = self.private;
            import(|state| {
                if let Some(left) = &mut state.exchange.writes_left {
                    if *left == 0 {
                        return false;
                    }
                    *left -= 1;
                }
                state.exchange.pieces.push(bytes.to_vec());
                true
            })
        }

        pub(crate) fn finish(this: Body) {
            let () = this.private;
            import(|state| state.exchange.ended_cleanly = true);
        }
    }
}

pub(crate) mod connection {
    use super::*;
    use crate::bounds::{CLOSE_REASON, is_close_code};
    use raw::types::Frame;

    pub(crate) fn send(frame: &Frame) -> bool {
        import(|state| {
            let gone = state.exchange.close_code.is_some()
                || state.exchange.frames_left == Some(0)
                || state.exchange.closed.is_some_and(|(at_ms, reason)| {
                    (at_ms < state.now_ms || state.exchange.closed_told)
                        && reason == raw::mailbox::Reason::PeerGone
                });
            if !gone {
                state.exchange.frames_sent.push(frame.clone());
                if let Some(left) = &mut state.exchange.frames_left {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        state.exchange.peer_goes(state.now_ms);
                    }
                }
            }
            !gone
        })
    }

    pub(crate) fn close(code: u16, reason: &str) -> Result<(), String> {
        import(|state| {
            if !is_close_code(code) {
                return Err(format!("code: {code} is none that may be sent"));
            }
            if reason.len() > CLOSE_REASON {
                return Err(format!("reason: has {} bytes", reason.len()));
            }
            let close = &mut state.exchange.close_code;
            if close.is_some() {
                return Err("the connection was closed already".to_owned());
            }
            *close = Some((code, reason.to_owned()));
            Ok(())
        })
    }
}

pub(crate) mod http_client {
    use super::*;
    use crate::bounds::{HTTP_HEADER_BYTES, HTTP_HEADERS, HTTP_METHODS, HTTP_OWN_HEADERS, HTTP_URL};
    use crate::{http, sys::raw::http_client::Error};
    use std::time::{Duration, SystemTime};

    pub(crate) fn send(request: &raw::http_client::Request) -> Result<raw::types::HttpResponse, Error> {
        let result = send_now(request);
        count_import();
        result.map(crate::Response::into_raw).map_err(|error| match error {
            http::Error::Denied(why) => Error::Denied(why),
            http::Error::Timeout => Error::Timeout,
            http::Error::Unreachable(why) => Error::Unreachable(why),
            http::Error::Interrupted(why) => Error::Interrupted(why),
            http::Error::Status(_) => panic!("a server answers with `Ok`, whatever the status"),
        })
    }

    fn send_now(request: &raw::http_client::Request) -> Result<crate::Response, http::Error> {
        let outgoing = with(|state| {
            let outgoing = Outgoing {
                method: request.method.clone(),
                url: request.url.clone(),
                headers: request.headers.clone(),
                body: request.body.clone(),
                timeout: Duration::from_millis(request.timeout_ms.into()),
                at: SystemTime::UNIX_EPOCH + Duration::from_millis(state.now_ms),
            };
            vet(state, request).map_err(http::Error::Denied)?;
            let values = request.headers.iter().map(|(_, value)| value.as_str());
            let mut named = values.chain([request.url.as_str()]).flat_map(secrets);
            if let Some(name) = named.find(|name| !state.secrets.contains_key(*name)) {
                return Err(http::Error::Denied(format!("secret {name:?} is not granted")));
            }
            state.sent.push(outgoing.clone());
            Ok(outgoing)
        })?;
        let (next, server) = with(|state| (state.answers.pop_front(), state.server.take()));
        let mut server = server;
        let answer = match (next, &mut server) {
            (Some(answer), _) => answer,
            (None, Some(server)) => server(&outgoing),
            (None, None) => {
                Err(http::Error::Denied("the mock has no answer: call `Mock::outgoing`".to_owned()))
            }
        };
        with(|state| state.server = state.server.take().or(server));
        answer
    }

    /// What the host refuses before it sends anything.
    fn vet(state: &State, request: &raw::http_client::Request) -> Result<(), String> {
        let method = request.method.to_ascii_uppercase();
        if !HTTP_METHODS.contains(&method.as_str()) {
            return Err(format!("the method must be one of {}", HTTP_METHODS.join(", ")));
        }
        if request.url.len() > HTTP_URL {
            return Err("the URL is not acceptable: it is longer than 16 KiB".to_owned());
        }
        let url = Url::read(&request.url).ok_or("the URL is not acceptable: it is no http or https URL")?;
        if url.has_login {
            return Err("the URL is not acceptable: it holds a user name or password".to_owned());
        }
        if secrets(url.query).next().is_some() {
            return Err("the URL is not acceptable: a secret can't stand in its query".to_owned());
        }
        if state.exchange.origins.as_ref().is_some_and(|granted| !granted.contains(&url.origin)) {
            let origin = url.origin;
            return Err(format!(
                "the origin {origin} is not granted: it is not in the manifest; see Mock::grant_origin"
            ));
        }
        let bytes: usize = request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if request.headers.len() > HTTP_HEADERS || bytes > HTTP_HEADER_BYTES {
            return Err(format!("the request has {} headers of {bytes} bytes", request.headers.len()));
        }
        for (name, value) in &request.headers {
            if !responder::is_header(name, value) {
                return Err(format!("the header {name:?} is not acceptable"));
            }
            if HTTP_OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(format!("the header `{name}` belongs to the connection and can't be set"));
            }
        }
        Ok(())
    }

    fn secrets(text: &str) -> impl Iterator<Item = &str> {
        text.split("{secret:").skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name)
    }
}

pub(crate) mod webhooks {
    use super::*;
    use crate::bounds::{WEBHOOK_KEY, WEBHOOK_URL};
    use raw::webhooks::Error;

    /// Largest body, as `callbacks.body` is by default.
    const BODY: usize = 1 << 20;

    pub(crate) fn check(url: &str) -> Result<(), String> {
        import(|_| check_url(url))
    }

    /// As the host does as far as its grammar goes; addresses that are not public are the real host's to know.
    fn check_url(url: &str) -> Result<(), String> {
        if url.len() > WEBHOOK_URL {
            return Err(format!("the URL is longer than {WEBHOOK_URL} bytes"));
        }
        let odd = url.contains(|char: char| char.is_whitespace() || char.is_control());
        match Url::read(url) {
            Some(url) if !odd && !url.has_login => Ok(()),
            _ => Err("the URL is not acceptable: it is no http or https URL without a password".to_owned()),
        }
    }

    pub(crate) fn post(url: Option<&str>, body: &str, key: &str) -> Result<bool, Error> {
        import(|state| {
            if let Some(url) = url {
                if url.len() > WEBHOOK_URL {
                    return Err(Error::TooLarge(format!("the URL has {} bytes", url.len())));
                }
                check_url(url).map_err(Error::UnacceptableUrl)?;
            } else if !state.result_url {
                return Ok(false);
            }
            if key.is_empty() {
                return Err(Error::Invalid("the key is empty".to_owned()));
            }
            if key.len() > WEBHOOK_KEY {
                return Err(Error::TooLarge(format!("the key has {} bytes", key.len())));
            }
            if body.len() > BODY {
                return Err(Error::TooLarge(format!("the body has {} bytes", body.len())));
            }
            let body = serde_json::from_str(body)
                .map_err(|error| Error::Invalid(format!("the body is not JSON: {error}")))?;
            if let Some(fault) = &state.outbox_fault {
                return Err(Error::Unavailable(fault.clone()));
            }
            if !state.webhooks.iter().any(|webhook| webhook.key == key) {
                state.webhooks.push(Webhook { url: url.map(str::to_owned), body, key: key.to_owned() });
            }
            Ok(true)
        })
    }
}

/// A URL as far as the mock looks into it.
struct Url<'a> {
    /// Lower case, without the scheme's own port.
    origin: String,
    query: &'a str,
    has_login: bool,
}

impl<'a> Url<'a> {
    /// None unless it is an http or https URL with a host.
    fn read(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let own_port = match &*scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (login, host) = authority.rsplit_once('@').map_or(("", authority), |(login, host)| (login, host));
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix(own_port).unwrap_or(&host);
        let query = path.split_once('?').map_or("", |(_, query)| query);
        let origin = format!("{scheme}://{host}");
        (!host.is_empty()).then_some(Self { origin, query, has_login: !login.is_empty() })
    }
}

pub(crate) mod kv {
    use super::*;
    use crate::bounds::{KV_KEY, KV_KEYS, KV_VALUE};
    use raw::kv::Error;

    fn check_key(key: &str) -> Result<(), Error> {
        if key.is_empty() || key.len() > KV_KEY {
            return Err(Error::TooLarge(format!("key: has {} bytes", key.len())));
        }
        Ok(())
    }

    pub(crate) fn get(key: &str) -> Result<Option<raw::kv::Entry>, Error> {
        import(|state| {
            if let Some(fault) = &state.store_fault {
                return Err(Error::Unavailable(fault.clone()));
            }
            let entry = state.kv_entry(key);
            Ok(entry.map(|entry| raw::kv::Entry { value: entry.value.clone(), version: entry.version }))
        })
    }

    pub(crate) fn put(
        key: &str,
        value: &[u8],
        version: Option<u64>,
        ttl_ms: Option<u64>,
    ) -> Result<u64, Error> {
        import(|state| {
            check_key(key)?;
            if value.len() > KV_VALUE {
                return Err(Error::TooLarge(format!("value: has {} bytes", value.len())));
            }
            if let Some(fault) = &state.store_fault {
                return Err(Error::Unavailable(fault.clone()));
            }
            let present = state.kv_entry(key).map_or(0, |entry| entry.version);
            if version.is_some_and(|version| version != present) {
                return Err(Error::Conflict(present));
            }
            let now_ms = state.now_ms;
            let others = state.kv.iter().filter(|(other, entry)| *other != key && entry.expires_ms > now_ms);
            let used: usize = others.map(|(key, entry)| key.len() + entry.value.len()).sum();
            if used + key.len() + value.len() > state.store_quota {
                return Err(Error::Full(format!("{used} of {} bytes are used", state.store_quota)));
            }
            state.kv_version += 1;
            let expires_ms = ttl_ms.map_or(u64::MAX, |ttl| state.now_ms.saturating_add(ttl));
            let entry = Entry { value: value.to_vec(), version: state.kv_version, expires_ms };
            state.kv.insert(key.to_owned(), entry);
            Ok(state.kv_version)
        })
    }

    pub(crate) fn delete(key: &str) -> Result<(), Error> {
        import(|state| match &state.store_fault {
            Some(fault) => Err(Error::Unavailable(fault.clone())),
            None => {
                state.kv.remove(key);
                Ok(())
            }
        })
    }

    pub(crate) fn keys(prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, Error> {
        import(|state| {
            if limit > KV_KEYS {
                return Err(Error::TooLarge(format!("limit: {limit} keys")));
            }
            if let Some(fault) = &state.store_fault {
                return Err(Error::Unavailable(fault.clone()));
            }
            let now_ms = state.now_ms;
            let live = state.kv.iter().filter(|(_, entry)| entry.expires_ms > now_ms).map(|(key, _)| key);
            let wanted =
                live.filter(|key| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
            Ok(wanted.take(limit as usize).cloned().collect())
        })
    }
}

pub(crate) mod pacing {
    use super::*;
    use crate::bounds::{
        PACING_COUNT, PACING_KEY, PACING_KEYS, PACING_PAUSE_MS, PACING_RATES, PACING_WINDOW_MS,
    };
    use raw::pacing::{Error, Rate, Room};

    fn check(fits: bool, what: impl FnOnce() -> String) -> Result<(), Error> {
        if fits { Ok(()) } else { Err(Error::Invalid(what())) }
    }

    fn check_key(key: &str) -> Result<(), Error> {
        check(key.len() <= PACING_KEY, || format!("key: has {} bytes", key.len()))
    }

    fn check_rate(rate: &Rate) -> Result<(), Error> {
        check_key(&rate.key)?;
        check((1..=PACING_COUNT).contains(&rate.count), || format!("count: {}", rate.count))?;
        check(rate.per_ms <= PACING_WINDOW_MS, || format!("per-ms: {}", rate.per_ms))
    }

    fn check_rates(rates: &[Rate], max_wait_ms: u32) -> Result<(), Error> {
        check((1..=PACING_RATES).contains(&rates.len()), || format!("rates: {}", rates.len()))?;
        for (index, rate) in rates.iter().enumerate() {
            check_rate(rate)?;
            let again = rates[..index].iter().any(|other| other.key == rate.key);
            check(!again, || format!("key: {:?} is named twice", rate.key))?;
        }
        check(max_wait_ms <= PACING_WINDOW_MS, || format!("max-wait-ms: {max_wait_ms}"))
    }

    impl State {
        fn lane(&mut self, key: &str) -> Result<&mut Pace, Error> {
            let now_ms = self.now_ms;
            if !self.pace.contains_key(key) && self.pace.len() >= PACING_KEYS {
                self.pace.retain(|_, pace| pace.idle_after > now_ms);
                if self.pace.len() >= PACING_KEYS {
                    return Err(Error::TooManyKeys);
                }
            }
            Ok(self.pace.entry(key.to_owned()).or_default())
        }
    }

    pub(crate) fn acquire(rates: &[Rate], max_wait_ms: u32) -> Result<bool, Error> {
        import(|state| {
            check_rates(rates, max_wait_ms)?;
            let mut at_ms = state.now_ms;
            for rate in rates {
                let pace = state.lane(&rate.key)?;
                let full = pace.grants.len().checked_sub(rate.count as usize);
                let free = full.map_or(0, |oldest| pace.grants[oldest] + u64::from(rate.per_ms));
                at_ms = at_ms.max(pace.paused_until).max(free);
            }
            if at_ms - state.now_ms > u64::from(max_wait_ms) {
                return Ok(false);
            }
            for rate in rates {
                let pace = state.lane(&rate.key)?;
                pace.grants.push(at_ms);
                pace.idle_after = pace.idle_after.max(at_ms + u64::from(rate.per_ms));
            }
            state.now_ms = at_ms;
            Ok(true)
        })
    }

    pub(crate) fn peek(rate: &Rate) -> Result<Room, Error> {
        import(|state| {
            check_rate(rate)?;
            let (now_ms, per_ms) = (state.now_ms, u64::from(rate.per_ms));
            let pace = state.lane(&rate.key)?;
            let ends =
                pace.grants.iter().map(|at| at + per_ms).filter(|end| *end > now_ms).collect::<Vec<_>>();
            let count = rate.count as usize;
            let full = ends.len().checked_sub(count).map_or(0, |oldest| ends[oldest]);
            let next = now_ms.max(full).max(pace.paused_until);
            let reset = ends.last().map_or(next, |last| next.max(*last));
            let left = |at: u64| u32::try_from(at - now_ms).unwrap_or(u32::MAX);
            let remaining = if next > now_ms { 0 } else { rate.count - ends.len() as u32 };
            Ok(Room { remaining, next_ms: left(next), reset_ms: left(reset) })
        })
    }

    pub(crate) fn pause(key: &str, ms: u32) -> Result<(), Error> {
        import(|state| {
            check_key(key)?;
            check(ms <= PACING_PAUSE_MS, || format!("ms: {ms}"))?;
            let until = state.now_ms + u64::from(ms);
            let pace = state.lane(key)?;
            pace.paused_until = pace.paused_until.max(until);
            pace.idle_after = pace.idle_after.max(until);
            Ok(())
        })
    }
}
