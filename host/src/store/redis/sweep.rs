//! Forgetting: indexes of what has ended are gone through in portions, each of them one script, so that others' calls go
//! in between. One node at a time does it, as long as it holds a lease.

use std::time::Duration;

use super::super::{Retention, Swept};
use super::Line;
use super::failure::Failure;
use super::link::Again;
use crate::domain::millis;

/// Things that one script looks at.
const PORTION: usize = 200;
/// A node that dies while it sweeps keeps the others from it for so long.
const LEASE: Duration = Duration::from_secs(60);

/// What one portion came to.
#[derive(Debug, Default)]
struct Portion {
    looked: usize,
    tasks: u64,
    events: u64,
    others: u64,
    stay: usize,
}

/// Removes what is older than its retention. Nothing if another node is at it.
pub(super) async fn sweep(line: &Line, retention: Retention) -> Result<Swept, Failure> {
    let node = format!("{:032x}", rand::random::<u128>());
    if !take_lease(line, &node).await? {
        return Ok(Swept::default());
    }
    let swept = sweep_all(line, retention, &node).await;
    let given_back = set_lease(line, &node, "").await;
    let swept = swept?;
    given_back?;
    Ok(swept)
}

async fn sweep_all(line: &Line, retention: Retention, node: &str) -> Result<Swept, Failure> {
    let mut swept = Swept::default();
    let kinds = [
        ("events", retention.events),
        ("tasks", retention.tasks),
        ("deliveries", retention.tasks),
        ("kv", Duration::ZERO),
    ];
    for (what, keep) in kinds {
        let mut pass = 0;
        loop {
            let portion = portion(line, what, keep, pass).await?;
            swept.events += portion.events;
            swept.tasks += portion.tasks;
            let others = if what == "kv" { &mut swept.kv } else { &mut swept.deliveries };
            *others += portion.others;
            pass += portion.stay;
            if portion.looked < PORTION {
                break;
            }
            set_lease(line, node, &millis(LEASE).to_string()).await?;
        }
    }
    Ok(swept)
}

async fn portion(line: &Line, what: &str, keep: Duration, pass: usize) -> Result<Portion, Failure> {
    let arguments = |cmd: &mut redis::Cmd| {
        cmd.arg(what).arg(millis(keep)).arg(PORTION).arg(pass);
    };
    let mut words = line.run(|scripts| &scripts.sweep, arguments, Again::No).await?;
    line.understood(|| {
        Ok(Portion {
            looked: words.number()?,
            tasks: words.number()?,
            events: words.number()?,
            others: words.number()?,
            stay: words.number()?,
        })
    })
}

/// False: another node has it. Where Redis is too full for a lease the sweep, which makes room, goes on without.
async fn take_lease(line: &Line, node: &str) -> Result<bool, Failure> {
    let mut take = redis::cmd("SET");
    take.arg(format!("{}:sweeper", line.base)).arg(node).arg("NX").arg("PX").arg(millis(LEASE));
    match line.link.call(&take, Again::No, false).await {
        Ok(redis::Value::Nil) => Ok(false),
        Ok(_) | Err(Failure::Refused { .. }) => Ok(true),
        Err(failure) => Err(failure),
    }
}

async fn set_lease(line: &Line, node: &str, length: &str) -> Result<(), Failure> {
    let arguments = |cmd: &mut redis::Cmd| {
        cmd.arg(node).arg(length);
    };
    line.run(|scripts| &scripts.release_sweep, arguments, Again::No).await.map(drop)
}
