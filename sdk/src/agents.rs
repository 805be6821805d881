//! The agents that the operator configured.

use crate::sys;

/// An agent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Agent {
    /// What [`Task::agent`](crate::Task::agent) takes.
    pub name: String,
    /// One sentence for people.
    pub summary: String,
    /// Runs the tasks that name no agent.
    pub default: bool,
}

/// All of them.
///
/// ```
/// # use plugway_sdk::{agents, mock::Mock};
/// # let mock = Mock::new();
/// # mock.add_agent("echo", "answers with what it was asked");
/// let default = agents::all().into_iter().find(|agent| agent.default);
/// assert_eq!(default.unwrap().name, "echo");
/// ```
pub fn all() -> Vec<Agent> {
    let agents = sys::agents::all().into_iter();
    agents.map(|agent| Agent { name: agent.name, summary: agent.summary, default: agent.default }).collect()
}
