//! Plain data and pure rules: ids, tasks, events, sessions. Nothing here does I/O or knows a wire format.

#[path = "../../../wit/bounds.rs"]
pub mod bounds;
mod clock;
mod event;
mod id;
mod input;
mod task;

pub use clock::{Clock, Steady, rfc3339, sleep_until};
pub(crate) use clock::{back_off, millis};
pub use event::{AgentEvent, ErrorType, Event, Kind, Position, RawFrame, read_data};
pub use id::{Cursor, InvalidId, SessionId, TaskId};
pub use input::{Decision, HistoryMessage, InvalidInput, Message, TaskInput, ToolResult};
pub use task::{DeliveryOrder, Moment, NewTask, TaskRecord, TaskState, TaskStatus};
