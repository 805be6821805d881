//! The south side: the agents that do the work, one file a kind. An agent gets one turn and tells what happens as a
//! stream of events; dropping the stream stops it.

use futures::stream::BoxStream;

use crate::domain::{AgentEvent, SessionId, TaskId, TaskInput};
use crate::domain::HistoryMessage;

/// One turn of work for an agent.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The task.
    pub task: TaskId,
    /// Its session.
    pub session: SessionId,
    /// The run's number, from 1.
    pub attempt: u32,
    /// What is to be done.
    pub input: TaskInput,
    /// The input document as it was submitted, for backends that pass it on.
    pub document: Box<str>,
    /// Earlier turns, oldest first: the input's own history where it has one, else the session's.
    pub history: Vec<HistoryMessage>,
}

/// Events of one turn. Ends after one terminal event ([`AgentEvent::Completed`] or [`AgentEvent::Failed`]).
pub type AgentStream = BoxStream<'static, AgentEvent>;

/// A backend that runs turns.
pub trait Agent: Send + Sync + std::fmt::Debug {
    /// Begins a turn. Nothing happens before the stream is polled; dropping it stops the work.
    fn run(&self, turn: Turn) -> AgentStream;
}
