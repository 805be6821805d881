//! The chain of filters that every task's input and every event of an agent passes, before anything is logged or shown.
//!
//! Invariant: what a filter was to judge goes on only if it judged it, unless the operator says of this filter that what
//! it can't judge is passed on.

mod chain;
mod figures;
mod names;
mod verdict;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use chain::{Broken, Chain, Passed};
pub use names::Chains;

pub use crate::plugins::Draft;

use crate::domain::{TaskInput, TaskRecord};
use crate::plugins::{Admission, Filter, FilterDirectory, FilterFault, Policy, shorten};
use chain::Link;
use figures::Figures;

/// How much of a filter's reason the caller is told.
const REASON: usize = 1_024;

/// All filters that the configuration names. Cheap to clone.
#[derive(Clone)]
pub struct Filters {
    inner: Arc<Inner>,
}

struct Inner {
    chains: Chains,
    /// None where no chain has a filter.
    directory: Option<FilterDirectory>,
    figures: BTreeMap<Arc<str>, Arc<Figures>>,
}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filters").field("chains", &self.inner.chains).finish_non_exhaustive()
    }
}

/// Why an input may not become a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A filter refuses it, or could not judge it: what the caller is told.
    Refused(String),
    /// A filter is not there: what the caller is told.
    Unavailable(String),
}

impl Filters {
    /// The chains that the configuration names, of the filters in the directory.
    pub fn new(chains: Chains, directory: FilterDirectory) -> Self {
        let figures = directory.named().into_iter().map(|(settings, _)| {
            let name = settings.name.clone();
            (name.clone(), Arc::new(Figures::new(name)))
        });
        let figures = figures.collect();
        Self { inner: Arc::new(Inner { chains, directory: Some(directory), figures }) }
    }

    /// No filters at all.
    pub fn none() -> Self {
        let inner = Inner { chains: Chains::default(), directory: None, figures: BTreeMap::new() };
        Self { inner: Arc::new(inner) }
    }

    /// The filters of tasks that an adapter (empty: the gateway itself) submits to an agent, in their order.
    fn named(&self, adapter: &str, agent: &str) -> Vec<Named> {
        let Some(directory) = &self.inner.directory else { return Vec::new() };
        let names = self.inner.chains.of(adapter, agent).into_iter();
        let named = names.filter_map(|name| {
            let settings = directory.settings(name)?;
            let figures = self.inner.figures.get(name)?.clone();
            Some(Named { name: settings.name.clone(), policy: settings.policy, figures })
        });
        named.collect()
    }

    /// Lets the filters judge a task's input: the document that goes on.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn admit(
        &self,
        adapter: &str,
        agent: &str,
        input: String,
        max_input: usize,
    ) -> Result<String, Refusal> {
        let Some(directory) = &self.inner.directory else { return Ok(input) };
        let mut filters = Vec::new();
        for Named { name, policy, figures } in self.named(adapter, agent) {
            match directory.get(&name) {
                Ok(filter) => filters.push((filter, figures)),
                Err(_) if policy == Policy::Skip => figures.fault("absent", policy),
                Err(absent) => {
                    figures.fault("absent", policy);
                    tracing::warn!(filter = %name, "a task is not accepted, its filter is not there: {absent}");
                    return Err(Refusal::Unavailable(format!("the filter `{name}` is not there")));
                }
            }
        }
        let Some((first, _)) = filters.first() else { return Ok(input) };
        let guests = first.guests().clone();
        let judging = guests.spawn(async move {
            let mut input = input;
            for (filter, figures) in filters {
                input = judge(&filter, &figures, input, max_input).await?;
            }
            Ok(input)
        });
        AbortOnDropHandle::new(judging).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the host failed while filters judged an input");
            Err(Refusal::Refused("the input could not be judged".to_owned()))
        })
    }

    /// The chain of a run of this task, with nothing remembered; none if it passes no filter. A filter that is not there is
    /// waited for a while. Each filter is the generation that serves now, until the run ends.
    ///
    /// # Errors
    /// [`Broken`]: a filter is not there, and nothing may pass without it.
    pub async fn begin(&self, task: &TaskRecord) -> Result<Option<Chain>, Broken> {
        let Some(directory) = &self.inner.directory else { return Ok(None) };
        let mut links = Vec::new();
        for Named { name, policy, figures } in self.named(&task.adapter, &task.agent) {
            match directory.wait(&name).await {
                Ok(filter) => links.push(Link::new(filter, figures)),
                Err(absent) => {
                    figures.fault("absent", policy);
                    tracing::warn!(filter = %name, policy = policy.as_str(), "a task's filter is not there: {absent}");
                    if policy == Policy::Fail {
                        let reason = format!("the filter `{name}` is not there");
                        return Err(Broken { reason });
                    }
                }
            }
        }
        Ok((!links.is_empty()).then(|| Chain::new(task.id, links)))
    }
}

/// A filter that a chain names.
struct Named {
    name: Arc<str>,
    policy: Policy,
    figures: Arc<Figures>,
}

/// Lets one filter judge an input.
async fn judge(filter: &Filter, figures: &Figures, input: String, max: usize) -> Result<String, Refusal> {
    if filter.is_aside() {
        figures.fault("aside", Policy::Skip);
        return Ok(input);
    }
    let began = Instant::now();
    let admission = filter.admit(&"admit".into(), &input, began).await;
    figures.admit_seconds.record(began.elapsed().as_secs_f64());
    let admission = admission.and_then(|admission| match admission {
        Admission::Replace(document) => acceptable(filter, document, max).map(Admission::Replace),
        other => Ok(other),
    });
    match admission {
        Ok(Admission::Pass) => {
            figures.inputs_passed.increment(1);
            Ok(input)
        }
        Ok(Admission::Replace(document)) => {
            figures.inputs_replaced.increment(1);
            Ok(document)
        }
        Ok(Admission::Refuse(why)) => {
            figures.inputs_refused.increment(1);
            tracing::info!(filter = %filter.name(), "a filter refused a task's input");
            Err(Refusal::Refused(shorten(&why, REASON)))
        }
        Err(fault) => {
            let policy = filter.policy();
            figures.fault(fault.kind, policy);
            tracing::error!(
                filter = %filter.name(),
                kind = fault.kind,
                policy = policy.as_str(),
                "a filter did not judge a task's input: {fault}"
            );
            match policy {
                Policy::Skip => {
                    filter.passed_over(began);
                    Ok(input)
                }
                Policy::Fail => Err(Refusal::Refused("the input could not be judged".to_owned())),
            }
        }
    }
}

/// A document that takes the place of an input must be one.
fn acceptable(filter: &Filter, document: String, max: usize) -> Result<String, FilterFault> {
    let most = filter.limits().filter_bytes;
    if document.len() as u64 > most.as_u64() {
        let reason = format!("it gave back {} bytes, over {most} (limits.filter_bytes)", document.len());
        return Err(FilterFault::new("bound", reason));
    }
    if document.len() > max {
        let reason = format!("it made an input of {} bytes, over {max} (workers.input)", document.len());
        return Err(FilterFault::new("bound", reason));
    }
    match TaskInput::parse(&document) {
        Ok(_) => Ok(document),
        Err(_) => Err(FilterFault::new("invalid", "what it made of an input is no task input document")),
    }
}
