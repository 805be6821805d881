//! `pacing`: rates that hold over all exchanges of the plugin.

use std::time::Duration;

use crate::domain::bounds::{PACING_COUNT, PACING_KEY, PACING_PAUSE_MS, PACING_RATES, PACING_WINDOW_MS};
use crate::exchanges::bindings::pacing;
use crate::exchanges::exchange::{Exchange, waited};
use crate::exchanges::pacing::TooManyKeys;
use crate::store::Rate;

fn invalid<T>(what: String) -> Result<T, pacing::Error> {
    Err(pacing::Error::Invalid(what))
}

fn check_key(key: &str) -> Result<(), pacing::Error> {
    if key.len() > PACING_KEY {
        return invalid(format!("key: has {} bytes, at most {PACING_KEY} are allowed", key.len()));
    }
    Ok(())
}

fn check_time(what: &str, ms: u32, longest_ms: u32) -> Result<Duration, pacing::Error> {
    if ms > longest_ms {
        return invalid(format!("{what}: {ms} ms, at most {longest_ms} ms are allowed"));
    }
    Ok(Duration::from_millis(ms.into()))
}

fn check_rate(rate: pacing::Rate) -> Result<Rate, pacing::Error> {
    check_key(&rate.key)?;
    if !(1..=PACING_COUNT).contains(&rate.count) {
        return invalid(format!("count: {}, 1 to {PACING_COUNT} are allowed", rate.count));
    }
    let per = check_time("per-ms", rate.per_ms, PACING_WINDOW_MS)?;
    Ok(Rate { key: rate.key, count: rate.count as usize, per })
}

fn check_rates(rates: Vec<pacing::Rate>) -> Result<Vec<Rate>, pacing::Error> {
    if !(1..=PACING_RATES).contains(&rates.len()) {
        return invalid(format!("rates: {}, 1 to {PACING_RATES} are allowed", rates.len()));
    }
    let mut checked: Vec<Rate> = Vec::with_capacity(rates.len());
    for rate in rates {
        let rate = check_rate(rate)?;
        if checked.iter().any(|other| other.key == rate.key) {
            return invalid(format!("key: {:?} is named twice", rate.key));
        }
        checked.push(rate);
    }
    Ok(checked)
}

impl From<TooManyKeys> for pacing::Error {
    fn from(TooManyKeys: TooManyKeys) -> Self {
        Self::TooManyKeys
    }
}

impl pacing::Host for Exchange {
    async fn acquire(
        &mut self,
        rates: Vec<pacing::Rate>,
        max_wait_ms: u32,
    ) -> wasmtime::Result<Result<bool, pacing::Error>> {
        let checked = check_rates(rates)
            .and_then(|rates| Ok((rates, check_time("max-wait-ms", max_wait_ms, PACING_WINDOW_MS)?)));
        let (rates, max_wait) = match checked {
            Ok(checked) => checked,
            Err(error) => return Ok(Err(error)),
        };
        let lanes = self.live()?.lanes();
        let (granted, pended) = waited(lanes.acquire(&rates, max_wait)).await;
        self.new_step_if(pended);
        Ok(granted.map_err(Into::into))
    }

    async fn peek(&mut self, rate: pacing::Rate) -> wasmtime::Result<Result<pacing::Room, pacing::Error>> {
        let rate = match check_rate(rate) {
            Ok(rate) => rate,
            Err(error) => return Ok(Err(error)),
        };
        let lanes = self.live()?.lanes();
        let (room, pended) = waited(lanes.peek(&rate)).await;
        self.new_step_if(pended);
        let whole = |time: Duration| u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        let room = room.map(|room| pacing::Room {
            remaining: u32::try_from(room.remaining).unwrap_or(u32::MAX),
            next_ms: whole(room.next),
            reset_ms: whole(room.reset),
        });
        Ok(room.map_err(Into::into))
    }

    fn pause(&mut self, key: String, ms: u32) -> wasmtime::Result<Result<(), pacing::Error>> {
        let checked = check_key(&key).and_then(|()| check_time("ms", ms, PACING_PAUSE_MS));
        let length = match checked {
            Ok(length) => length,
            Err(error) => return Ok(Err(error)),
        };
        Ok(self.live()?.lanes().pause(&key, length).map_err(Into::into))
    }
}
