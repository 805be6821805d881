//! Acceptance: what a submission must be, and what its refusal says.

use std::sync::atomic::Ordering;
use std::time::Duration;

use metrics::counter;
use tracing::warn;

use super::{OnBusy, Tasks};
use crate::domain::bounds::{TASK_ADDRESS, TASK_KEY};
use crate::domain::{DeliveryOrder, InvalidInput, NewTask, SessionId, TaskId, TaskInput, TaskState};
use crate::filters::Refusal;
use crate::store::{StoreError, Submitted};

/// A task that somebody wants accepted.
#[derive(Clone, Debug, Default)]
pub struct SubmitRequest {
    /// Agent to run it; none: the default one.
    pub agent: Option<String>,
    /// The owner's name of its session; none: one of its own.
    pub session: Option<String>,
    /// Task input document (JSON).
    pub input: String,
    /// Makes the owner's delivery role carry the outcome to its platform.
    pub deliver: Option<DeliveryOrder>,
    /// The same key of the same owner names the same task within the retention time.
    pub idempotency_key: Option<String>,
}

/// Why a task was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// No agent of that name is configured.
    #[error("unknown agent `{0}`")]
    UnknownAgent(String),
    /// The input, or another field of the request, is not acceptable.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The input is too large.
    #[error("the task input has {bytes} bytes, {max} are allowed")]
    TooLarge {
        /// Bytes that it has.
        bytes: usize,
        /// Bytes that are allowed.
        max: usize,
    },
    /// A filter refuses the input: why.
    #[error("{0}")]
    Refused(String),
    /// As many tasks wait as may.
    #[error("too many tasks are waiting")]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store can't take it, a filter is not there, or the gateway is about to stop.
    #[error("{0}")]
    Unavailable(String),
}

impl Tasks {
    /// Accepts a task for an owner (a plugin's name; empty for the gateway's own routes). When this returns, it is
    /// durable.
    ///
    /// # Errors
    /// Nothing was accepted; the error says why. After [`SubmitError::Unavailable`] it may have been all the same,
    /// where the answer of the store was lost.
    pub async fn submit(&self, owner: &str, request: SubmitRequest) -> Result<Submitted, SubmitError> {
        if self.inner.closing.load(Ordering::Relaxed) {
            return Err(SubmitError::Unavailable("the gateway is shutting down".into()));
        }
        let named_session = request.session.is_some();
        let (mut task, interrupts) = self.checked(owner, request)?;
        let max = self.inner.config.max_input;
        let input = self.inner.filters.admit(owner, &task.agent, task.input.into(), max).await;
        task.input = input
            .map_err(|refusal| match refusal {
                Refusal::Refused(why) => SubmitError::Refused(why),
                Refusal::Unavailable(why) => SubmitError::Unavailable(why),
            })?
            .into();
        let submitted = self.inner.store.submit(task).await.map_err(|error| match error {
            StoreError::QueueFull { .. } => SubmitError::Busy { retry_after: self.inner.config.retry_after },
            other => SubmitError::Unavailable(other.to_string()),
        })?;
        if !submitted.duplicate {
            counter!("plugway_tasks_submitted_total", "adapter" => owner.to_owned()).increment(1);
            self.inner.hub.session_grew(&submitted.session);
            if named_session && interrupts && self.inner.config.on_busy == OnBusy::Interrupt {
                self.interrupt_earlier(&submitted).await;
            }
        }
        Ok(submitted)
    }

    /// The task, and whether it is one that may take the place of another.
    fn checked(&self, owner: &str, request: SubmitRequest) -> Result<(NewTask, bool), SubmitError> {
        let agents = &self.inner.agents;
        let agent = match &request.agent {
            Some(name) => agents.iter().find(|agent| agent.name == *name),
            None => agents.iter().find(|agent| agent.default),
        };
        let agent = agent.ok_or_else(|| SubmitError::UnknownAgent(request.agent.unwrap_or_default()))?;
        let (bytes, max) = (request.input.len(), self.inner.config.max_input);
        if bytes > max {
            return Err(SubmitError::TooLarge { bytes, max });
        }
        let interrupts = speaks(&TaskInput::parse(&request.input)?);
        let session = match request.session {
            Some(name) => {
                SessionId::new(owner, &name).map_err(|error| invalid("session", error.to_string()))?
            }
            None => SessionId::fresh(owner),
        };
        if request.idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > TASK_KEY) {
            return Err(invalid("idempotency_key", format!("must have 1 to {TASK_KEY} bytes")).into());
        }
        if request.deliver.as_ref().is_some_and(|order| order.address.len() > TASK_ADDRESS) {
            return Err(invalid("deliver.address", format!("must have at most {TASK_ADDRESS} bytes")).into());
        }
        let task = NewTask {
            id: TaskId::new(),
            adapter: owner.to_owned(),
            agent: agent.name.clone(),
            session,
            input: request.input.into(),
            deliver: request.deliver,
            idempotency_key: request.idempotency_key,
        };
        Ok((task, interrupts))
    }

    /// The message that was accepted takes the place of what runs, and of messages that wait. It is accepted whatever comes
    /// of that.
    pub(super) async fn interrupt_earlier(&self, submitted: &Submitted) {
        let earlier = async {
            let mut replaced = Vec::new();
            for task in self.inner.store.open_tasks(&submitted.session, Some(submitted.task)).await? {
                if !self.is_answer_that_waits(task).await? {
                    replaced.push(task);
                }
            }
            self.cancel_all(replaced, "interrupted by a new message").await
        };
        if let Err(error) = earlier.await {
            warn!(task = %submitted.task, %error, "the turn before could not be interrupted");
        }
    }

    /// Whether it brings something that the agent has asked for, and has not begun: without it the agent's conversation
    /// would have a call without a result.
    async fn is_answer_that_waits(&self, task: TaskId) -> Result<bool, StoreError> {
        let task = self.inner.store.task(task).await?;
        Ok(task.is_some_and(|task| {
            task.state == TaskState::Queued
                && TaskInput::parse(&task.input).is_ok_and(|input| !speaks(&input))
        }))
    }
}

/// Whether somebody says something with it, beside results, decisions and orders.
fn speaks(input: &TaskInput) -> bool {
    matches!(input, TaskInput::Message(_) | TaskInput::Command { .. })
}

fn invalid(field: &str, reason: String) -> InvalidInput {
    InvalidInput { field: Some(field.into()), reason }
}
