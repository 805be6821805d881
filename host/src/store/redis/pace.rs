//! Rates over all nodes: a list of the latest grants a key, which Redis forgets when they matter no more.

use std::time::Duration;

use async_trait::async_trait;

use super::super::{Pace, Rate, Room, StoreError};
use super::RedisStore;
use super::link::Again;
use crate::domain::millis;

#[async_trait]
impl Pace for RedisStore {
    async fn reserve(
        &self,
        owner: &str,
        rates: &[Rate],
        max_wait: Duration,
    ) -> Result<Option<Duration>, StoreError> {
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(owner).arg(millis(max_wait));
            for rate in rates {
                cmd.arg(&rate.key).arg(rate.count).arg(millis(rate.per));
            }
        };
        let mut words = self.line.run(|scripts| &scripts.reserve, arguments, Again::No).await?;
        let wait: String = self.line.understood(|| words.text())?;
        if wait.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.line.understood(|| super::reply::number(&wait).map(Duration::from_millis))?))
    }

    async fn peek(&self, owner: &str, rate: &Rate) -> Result<Room, StoreError> {
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(owner).arg(&rate.key).arg(rate.count).arg(millis(rate.per));
        };
        let mut words = self.line.run(|scripts| &scripts.peek, arguments, Again::Yes).await?;
        let room = self.line.understood(|| {
            let (remaining, next, reset) = (words.number()?, words.number()?, words.number()?);
            Ok(Room { remaining, next: Duration::from_millis(next), reset: Duration::from_millis(reset) })
        })?;
        Ok(room)
    }

    async fn pause(&self, owner: &str, key: &str, length: Duration) -> Result<(), StoreError> {
        let arguments = |cmd: &mut redis::Cmd| {
            cmd.arg(owner).arg(key).arg(millis(length).max(1));
        };
        self.line.run(|scripts| &scripts.pause, arguments, Again::Yes).await?;
        Ok(())
    }

    async fn is_paused(&self, owner: &str, rates: &[Rate]) -> Result<bool, StoreError> {
        let mut pipeline = redis::pipe();
        for rate in rates {
            pipeline.cmd("EXISTS").arg(self.line.owned_key("pause", owner, &rate.key));
        }
        let answers = self.line.read(&pipeline).await?;
        Ok(answers.into_iter().any(|answer| answer == redis::Value::Int(1)))
    }
}
