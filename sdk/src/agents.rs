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
pub fn all() -> Vec<Agent> {
    let agents = sys::agents::all().into_iter();
    agents.map(|agent| Agent { name: agent.name, summary: agent.summary, default: agent.default }).collect()
}
