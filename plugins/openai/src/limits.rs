//! How often a caller may ask for an answer, and the headers that tell what is left.

use crate::config::Config;
use plugway_sdk::{Error, Reply, Request, Result, pacing};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Counts a request. None: it was one too many, and is answered.
///
/// # Errors
/// More callers than anybody counts.
pub(crate) fn admit(request: &Request, config: &Config, reply: Reply) -> Result<Option<Reply>> {
    let most = config.requests_per_minute;
    if most == 0 {
        return Ok(Some(reply));
    }
    let caller = match &request.caller {
        Some(name) => format!("caller/{name}"),
        None => format!("address/{}", request.client),
    };
    let granted = pacing::acquire(&caller, most, MINUTE, Duration::ZERO)?;
    let room = pacing::peek(&caller, most, MINUTE)?;
    let reply = reply
        .header("x-ratelimit-limit-requests", most.to_string())
        .header("x-ratelimit-remaining-requests", room.remaining.to_string())
        .header("x-ratelimit-reset-requests", shown(room.reset));
    if granted {
        return Ok(Some(reply));
    }
    reply.send(Error::RateLimited { retry_after: room.next }.response())?;
    Ok(None)
}

/// A time as OpenAI's headers have it: `120ms`, `8.5s`, `1m30s`.
fn shown(time: Duration) -> String {
    let (minutes, seconds) = (time.as_secs() / 60, Duration::from_millis((time.as_millis() % 60_000) as u64));
    match (minutes, time) {
        (0, _) if time < Duration::from_secs(1) => format!("{}ms", time.as_millis()),
        (0, _) => format!("{}s", seconds.as_secs_f64()),
        _ => format!("{minutes}m{}s", seconds.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_openai_shows_them() {
        for (ms, text) in
            [(0, "0ms"), (120, "120ms"), (8_640, "8.64s"), (60_000, "1m0s"), (90_500, "1m30.5s")]
        {
            assert_eq!(shown(Duration::from_millis(ms)), text);
        }
    }
}
