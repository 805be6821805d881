//! The contract's imports, answered by the mock's state. Same signatures as the generated ones, so that `sys` may take
//! either.

use super::{
    Outgoing, Webhook,
    agent::next_message,
    state::{Entry, count_import, import, with},
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
        let visible = |text: &str| text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
        let token = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        };
        if let Some((name, _)) = headers.iter().find(|(name, value)| !token(name) || !visible(value)) {
            return Err(format!("header {name:?} is not acceptable"));
        }
        exchange.head = Some((status, headers.to_vec()));
        Ok(())
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
    use raw::types::Frame;

    pub(crate) fn send(frame: &Frame) -> bool {
        import(|state| {
            let gone = state.exchange.close_code.is_some()
                || state.exchange.closed.is_some_and(|(at_ms, reason)| {
                    (at_ms < state.now_ms || state.exchange.closed_told)
                        && reason == raw::mailbox::Reason::PeerGone
                });
            if !gone {
                state.exchange.frames_sent.push(frame.clone());
            }
            !gone
        })
    }

    pub(crate) fn close(code: u16, reason: &str) {
        import(|state| {
            let close = &mut state.exchange.close_code;
            close.get_or_insert_with(|| (code, reason.to_owned()));
        });
    }
}

pub(crate) mod http_client {
    use super::*;
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

    fn secrets(text: &str) -> impl Iterator<Item = &str> {
        text.split("{secret:").skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name)
    }
}

pub(crate) mod webhooks {
    use super::*;

    pub(crate) fn post(url: Option<&str>, body: &str, key: &str) -> Result<bool, String> {
        import(|state| {
            if let Some(url) = url
                && !url.starts_with("http://")
                && !url.starts_with("https://")
            {
                return Err(format!("{url:?} is not an http or https URL"));
            }
            if url.is_none() && !state.result_url {
                return Ok(false);
            }
            if !state.webhooks.iter().any(|webhook| webhook.key == key) {
                let body = serde_json::from_str(body).map_err(|error| error.to_string())?;
                state.webhooks.push(Webhook { url: url.map(str::to_owned), body, key: key.to_owned() });
            }
            Ok(true)
        })
    }
}

pub(crate) mod kv {
    use super::*;
    use raw::kv::Error;

    pub(crate) fn get(key: &str) -> Result<Option<raw::kv::Entry>, Error> {
        import(|state| {
            if let Some(fault) = &state.kv_fault {
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
            if let Some(fault) = &state.kv_fault {
                return Err(Error::Unavailable(fault.clone()));
            }
            let present = state.kv_entry(key).map_or(0, |entry| entry.version);
            if version.is_some_and(|version| version != present) {
                return Err(Error::Conflict(present));
            }
            state.kv_version += 1;
            let expires_ms = ttl_ms.map_or(u64::MAX, |ttl| state.now_ms.saturating_add(ttl));
            let entry = Entry { value: value.to_vec(), version: state.kv_version, expires_ms };
            state.kv.insert(key.to_owned(), entry);
            Ok(state.kv_version)
        })
    }

    pub(crate) fn delete(key: &str) -> Result<(), Error> {
        import(|state| match &state.kv_fault {
            Some(fault) => Err(Error::Unavailable(fault.clone())),
            None => {
                state.kv.remove(key);
                Ok(())
            }
        })
    }

    pub(crate) fn keys(prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, Error> {
        import(|state| {
            if let Some(fault) = &state.kv_fault {
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

    pub(crate) fn acquire(key: &str, count: u32, per_ms: u32, max_wait_ms: u32) -> bool {
        import(|state| {
            let pace = state.pace.entry(key.to_owned()).or_default();
            let (count, per_ms) = (count.max(1) as usize, u64::from(per_ms));
            let full = pace.grants.len().checked_sub(count).map(|oldest| pace.grants[oldest] + per_ms);
            let granted = state.now_ms.max(pace.paused_until).max(full.unwrap_or(0));
            if granted - state.now_ms > u64::from(max_wait_ms) {
                return false;
            }
            pace.grants.push(granted);
            state.now_ms = granted;
            true
        })
    }

    pub(crate) fn pause(key: &str, ms: u32) {
        import(|state| {
            let until = state.now_ms + u64::from(ms);
            let pace = state.pace.entry(key.to_owned()).or_default();
            pace.paused_until = pace.paused_until.max(until);
        });
    }
}
