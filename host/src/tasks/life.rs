//! The life of a task as pure transitions: what a claim leads to, and what a failure says.

use crate::domain::AgentEvent;
use crate::domain::{ErrorType, TaskInput, TaskRecord};

/// How patient the gateway is with tasks of one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Runs whose worker may die before the task is given up.
    pub max_attempts: u32,
    /// Whether it is run again at all when that happens, or when the shutdown broke its run off.
    pub retry_on_crash: bool,
}

/// What a claimed task is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Beginning {
    /// Run, with this input.
    Run(Box<TaskInput>),
    /// End at once, without a run, as a failure.
    Fail(AgentEvent),
    /// End at once, as cancelled.
    Cancel {
        /// Why.
        reason: String,
    },
}

/// Decides what a claimed task is to do. `limits` is none where its agent is not configured (any more).
pub fn beginning(task: &TaskRecord, cancel: Option<&str>, limits: Option<Limits>) -> Beginning {
    if let Some(reason) = cancel {
        return Beginning::Cancel { reason: reason.to_owned() };
    }
    let Some(limits) = limits else {
        let error = format!("no agent is called `{}`", task.agent);
        return Beginning::Fail(failure(task, ErrorType::UnknownAgent, error));
    };
    let most = if limits.retry_on_crash { limits.max_attempts.max(1) } else { 1 };
    if task.deaths >= most {
        let times = if task.deaths == 1 { "once".to_owned() } else { format!("{} times", task.deaths) };
        let error = format!("the worker that ran it died {times}");
        return Beginning::Fail(failure(task, ErrorType::Abandoned, error));
    }
    match TaskInput::parse(&task.input) {
        Ok(input) => Beginning::Run(Box::new(input)),
        Err(error) => Beginning::Fail(failure(task, ErrorType::InvalidInput, error.to_string())),
    }
}

/// A failure that the gateway itself reports. It is recoverable where the cause may pass.
pub fn failure(task: &TaskRecord, error_type: ErrorType, error: String) -> AgentEvent {
    let recoverable = matches!(
        error_type,
        ErrorType::AgentUnreachable | ErrorType::AgentSilent | ErrorType::Deadline | ErrorType::Abandoned
    );
    AgentEvent::Failed { error, error_type, status: None, recoverable, retry_count: task.deaths }
}
