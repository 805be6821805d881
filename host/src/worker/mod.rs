//! Running tasks: a bounded pool that claims what is due, runs it on its agent, numbers what the agent says, fans it
//! out and logs it, and ends it once.
//!
//! A permit comes before a claim, so that what is claimed runs at once. The lease is kept while a task runs; who loses
//! it stops without a word, since somebody else may have the task now.

mod execution;
mod lease;
mod maintenance;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

pub use maintenance::{Maintenance, maintain};

use crate::agents::Agent;
use crate::domain::{Clock, back_off};
use crate::filters::Filters;
use crate::hub::Hub;
use crate::store::{Claim, Store, StoreError};
use crate::tasks::{Limits, Run, Tasks};

/// How long what was told to stop may take to give its lease back.
const GOODBYE: Duration = Duration::from_secs(5);

/// An agent, ready to run tasks.
#[derive(Clone, Debug)]
pub struct RunnableAgent {
    /// The backend.
    pub agent: Arc<dyn Agent>,
    /// How long it may give no sign of life.
    pub silence: Duration,
    /// Runs of a task whose worker may die before it is given up.
    pub max_attempts: u32,
    /// Whether a task whose worker died, or that the shutdown broke off, is run again at all.
    pub retry_on_crash: bool,
}

impl RunnableAgent {
    fn limits(&self) -> Limits {
        Limits { max_attempts: self.max_attempts, retry_on_crash: self.retry_on_crash }
    }
}

/// Finds an agent by its name.
pub type Lookup = Arc<dyn Fn(&str) -> Option<RunnableAgent> + Send + Sync>;

/// Size and patience of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Tasks that run at once.
    pub count: usize,
    /// Length of a lease; it is renewed every third of it.
    pub lease: Duration,
    /// How long one run may take.
    pub task_deadline: Duration,
    /// How long running tasks may go on after the shutdown began.
    pub drain: Duration,
    /// How often the pool looks for work that nobody told it of.
    pub poll: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            count: 4,
            lease: Duration::from_secs(30),
            task_deadline: Duration::from_secs(600),
            drain: Duration::from_secs(30),
            poll: Duration::from_secs(1),
        }
    }
}

/// What the pool works with.
#[derive(Clone)]
pub struct Worker {
    /// Where tasks come from and their events go.
    pub store: Arc<dyn Store>,
    /// Who shows the events.
    pub hub: Hub,
    /// Who is asked to cancel, and knows the turns before.
    pub tasks: Tasks,
    /// The agents.
    pub agents: Lookup,
    /// What their events pass.
    pub filters: Filters,
    /// Size and patience.
    pub config: Config,
    /// Stamps events.
    pub clock: Clock,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Runs tasks until the shutdown, then gives the running ones their time, gives back what is left, and returns.
pub async fn run(worker: Worker, shutdown: CancellationToken) {
    let worker = Arc::new(worker);
    let permits = Arc::new(Semaphore::new(worker.config.count.max(1)));
    let release = CancellationToken::new();
    let mut running = JoinSet::new();
    let mut trouble = Trouble::default();
    loop {
        while let Some(ended) = running.try_join_next() {
            notice(ended);
        }
        let Some(mut free) = free_permits(&permits, &shutdown).await else { break };
        let pause = match claim(&worker, &mut free, &release, &mut running).await {
            Ok(_) if free.is_empty() => continue,
            Ok(next_due) => {
                trouble.over();
                next_due.unwrap_or(worker.config.poll).min(worker.config.poll)
            }
            Err(error) => trouble.met(&error),
        };
        drop(free);
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = worker.store.task_ready(), if trouble.is_over() => {}
            () = tokio::time::sleep(pause.max(Duration::from_millis(1))) => {}
        }
    }
    drain(&worker.config, running, &release).await;
}

/// All permits that are free, at least one; none: the shutdown began.
async fn free_permits(
    permits: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<Vec<OwnedSemaphorePermit>> {
    let first = tokio::select! {
        biased;
        () = shutdown.cancelled() => return None,
        permit = Arc::clone(permits).acquire_owned() => permit.ok()?,
    };
    let others = std::iter::from_fn(|| Arc::clone(permits).try_acquire_owned().ok());
    Some(std::iter::once(first).chain(others).collect())
}

/// Claims a task for every permit that is free, and starts them. The claim is never abandoned half-way: what it
/// brings would lie leased to nobody.
async fn claim(
    worker: &Arc<Worker>,
    free: &mut Vec<OwnedSemaphorePermit>,
    release: &CancellationToken,
    running: &mut JoinSet<()>,
) -> Result<Option<Duration>, StoreError> {
    let claiming = worker.tasks.claiming().await;
    let claimed = worker.store.claim(free.len(), worker.config.lease).await?;
    for claim in claimed.items {
        let Some(permit) = free.pop() else { break };
        let run = claiming.begin(claim.lease.task);
        running.spawn(start(Arc::clone(worker), claim, run, permit, release.clone()));
    }
    Ok(claimed.next_due)
}

fn start(
    worker: Arc<Worker>,
    claim: Claim,
    run: Run,
    permit: OwnedSemaphorePermit,
    release: CancellationToken,
) -> impl Future<Output = ()> {
    let task = &claim.task;
    let span = info_span!(
        parent: None,
        "task",
        task = %task.id,
        session = %task.session,
        adapter = task.adapter,
        agent = task.agent,
    );
    async move {
        let keep = lease::keep(&*worker.store, claim.lease, worker.config.lease, &run);
        let execution = execution::execute(&worker, &claim, &run, permit, &release);
        tokio::select! {
            biased;
            () = execution => {}
            () = keep => warn!(attempt = claim.task.attempt, "the lease was lost: somebody else may run the task now, or the store has forgotten it"),
        }
    }
    .instrument(span)
}

/// Lets running tasks end within their time, then asks them to give their leases back.
async fn drain(config: &Config, mut running: JoinSet<()>, release: &CancellationToken) {
    if !running.is_empty() {
        info!(running = running.len(), "waiting for running tasks");
    }
    if tokio::time::timeout(config.drain, join_all(&mut running)).await.is_ok() {
        return;
    }
    info!(running = running.len(), "giving back the tasks that still run");
    release.cancel();
    if tokio::time::timeout(GOODBYE, join_all(&mut running)).await.is_err() {
        error!(running = running.len(), "some tasks could not be given back, their leases have to run out");
    }
}

async fn join_all(running: &mut JoinSet<()>) {
    while let Some(ended) = running.join_next().await {
        notice(ended);
    }
}

/// A run that panicked in the gateway's own code has lost its lease without a word: it is run again when that ends.
fn notice(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a run broke down");
    }
}

/// A store that can't be claimed from: how long to leave it alone.
#[derive(Debug, Default)]
struct Trouble {
    times: u32,
}

impl Trouble {
    fn is_over(&self) -> bool {
        self.times == 0
    }

    fn over(&mut self) {
        if std::mem::take(&mut self.times) > 0 {
            info!("tasks can be claimed again");
        }
    }

    fn met(&mut self, error: &StoreError) -> Duration {
        if self.times == 0 {
            warn!(%error, "tasks can't be claimed");
        }
        self.times = self.times.saturating_add(1);
        back_off(self.times)
    }
}
