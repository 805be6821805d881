//! One run's way through its filters. What they remember of the task is kept here, between calls of any instance.
//!
//! Invariant: events come out in the order in which they went in, and none that went in comes out unless every filter
//! has judged it; after a fault that may not be passed over nothing comes out any more.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::figures::Figures;
use super::verdict::{self, Tally};
use crate::domain::TaskId;
use crate::plugins::{Draft, Filter, FilterFault, Policy, Step};

/// How long one pass works before it shows what it has.
const SLICE: Duration = Duration::from_millis(2);

/// The filters of one run, each the generation that served when the run began.
pub struct Chain {
    task: Arc<str>,
    guests: Option<Handle>,
    /// None after a fault: then nothing passes.
    links: Option<Vec<Link>>,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("links", &self.links).finish_non_exhaustive()
    }
}

/// Nothing may pass any more: why, for those who wait for the task. Holds nothing of what was to be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Broken {
    /// Names the filter.
    pub reason: String,
}

/// What came out of a chain.
#[derive(Debug)]
pub struct Passed {
    /// In their order.
    pub events: Vec<Draft>,
    /// What has not gone in yet: pass it again.
    pub rest: VecDeque<Draft>,
    /// After those events, nothing passes any more.
    pub broken: Option<Broken>,
}

impl Chain {
    pub(super) fn new(task: TaskId, links: Vec<Link>) -> Self {
        let guests = links.first().map(|link| link.filter.guests().clone());
        Self { task: task.to_string().into(), guests, links: Some(links) }
    }

    /// Lets events pass, as many as a short while allows and at least one. They are judged where guests run. Not cancel
    /// safe: after a call that was dropped nothing passes.
    pub async fn pass(&mut self, mut events: VecDeque<Draft>) -> Passed {
        let broken = |reason: &str| Passed {
            events: Vec::new(),
            rest: VecDeque::new(),
            broken: Some(Broken { reason: reason.to_owned() }),
        };
        let (Some(mut links), Some(guests)) = (self.links.take(), &self.guests) else {
            return broken("a filter failed before");
        };
        let task = self.task.clone();
        let work = guests.spawn(async move {
            let mut out = Vec::with_capacity(events.len());
            let fault = pass(&mut links, &task, &mut events, &mut out).await.err();
            (links, events, out, fault)
        });
        match AbortOnDropHandle::new(work).await {
            Ok((links, rest, events, None)) => {
                self.links = Some(links);
                Passed { events, rest, broken: None }
            }
            Ok((_, _, events, Some(broken))) => {
                Passed { events, rest: VecDeque::new(), broken: Some(broken) }
            }
            Err(error) => {
                tracing::error!(%error, "the host failed while filters judged events");
                broken("the gateway failed while filters judged events")
            }
        }
    }
}

/// Passes events until all did, or a while is over.
async fn pass(
    links: &mut [Link],
    task: &Arc<str>,
    events: &mut VecDeque<Draft>,
    out: &mut Vec<Draft>,
) -> Result<(), Broken> {
    let began = Instant::now();
    while let Some(event) = events.pop_front() {
        let is_terminal = verdict::is_terminal(&event.kind);
        let mut stage = vec![event];
        for link in &mut *links {
            stage = link.judge(task, stage).await?;
        }
        out.append(&mut stage);
        if is_terminal || began.elapsed() > SLICE {
            break;
        }
    }
    Ok(())
}

/// A filter in a run.
pub(super) struct Link {
    filter: Filter,
    figures: Arc<Figures>,
    /// What it remembers of the task.
    state: Vec<u8>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.filter.fmt(f)
    }
}

impl Link {
    pub(super) fn new(filter: Filter, figures: Arc<Figures>) -> Self {
        Self { filter, figures, state: Vec::new() }
    }

    /// What the filter makes of what the ones before it made of one event.
    async fn judge(&mut self, task: &Arc<str>, stage: Vec<Draft>) -> Result<Vec<Draft>, Broken> {
        let room = stage.len() - 1 + self.filter.limits().filter_events;
        let mut out = Vec::with_capacity(stage.len());
        for mut event in stage {
            if self.filter.is_aside() {
                self.figures.fault("aside", Policy::Skip);
                out.push(event);
                continue;
            }
            let began = Instant::now();
            let judged = self.filter.apply(task, &self.state, &mut event, began).await;
            self.figures.apply_seconds.record(began.elapsed().as_secs_f64());
            match judged.and_then(|step| self.take(&event, step, room.saturating_sub(out.len()))) {
                Ok(events) => out.extend(events),
                Err(fault) => {
                    self.failed(task, &fault, began)?;
                    out.push(event);
                }
            }
        }
        Ok(out)
    }

    /// Takes a step over that keeps to the bounds and rules.
    fn take(&mut self, event: &Draft, step: Step, room: usize) -> Result<Vec<Draft>, FilterFault> {
        let limits = self.filter.limits();
        let over = |what: String| FilterFault::new("bound", what);
        if step.state.len() as u64 > limits.filter_state.as_u64() {
            let (bytes, most) = (step.state.len(), limits.filter_state);
            return Err(over(format!(
                "it wants {bytes} bytes remembered, over {most} (limits.filter_state)"
            )));
        }
        if step.events.len() > room {
            let (events, most) = (step.events.len(), limits.filter_events);
            return Err(over(format!("it made {events} events of one, over {most} (limits.filter_events)")));
        }
        let bytes: usize = step.events.iter().map(|event| event.kind.len() + event.data.len()).sum();
        if bytes as u64 > limits.filter_bytes.as_u64() {
            let most = limits.filter_bytes;
            return Err(over(format!("it gave back {bytes} bytes, over {most} (limits.filter_bytes)")));
        }
        let (events, tally) = verdict::check(event, step.events)?;
        self.state = step.state;
        let Tally { outcome, inserted } = tally;
        match outcome {
            verdict::Outcome::Passed => self.figures.passed.increment(1),
            verdict::Outcome::Replaced => self.figures.replaced.increment(1),
            verdict::Outcome::Dropped => self.figures.dropped.increment(1),
        }
        if inserted > 0 {
            self.figures.inserted.increment(inserted as u64);
        }
        Ok(events)
    }

    /// Notes a fault; an error where it may not be passed over.
    fn failed(&self, task: &Arc<str>, fault: &FilterFault, began: Instant) -> Result<(), Broken> {
        let policy = self.filter.policy();
        let name = self.filter.name();
        self.figures.fault(fault.kind, policy);
        tracing::error!(
            filter = %name,
            task = %task,
            kind = fault.kind,
            policy = policy.as_str(),
            "a filter did not judge an event: {fault}"
        );
        match policy {
            Policy::Skip => {
                self.filter.passed_over(began);
                Ok(())
            }
            Policy::Fail => Err(Broken { reason: format!("the filter `{name}` failed: {fault}") }),
        }
    }
}
