//! What the programs share that print figures (`tests/bench`, `tests/load`, `tests/chat`): servers as child processes,
//! streams as they come over the wire, statistics, and the table at the end. Nothing here knows what is measured.

pub mod limits;
pub mod mark;
pub mod process;
pub mod python;
pub mod report;
pub mod statistics;
pub mod unframing;
