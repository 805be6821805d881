//! The figures, each measured in a module of its own.

mod backlog;
mod deliveries;
mod held;
mod latency;
mod nodes;
mod silent;

use clap::ValueEnum;
use plugway_figures::report::Row;

use crate::workshop::Workshop;

/// Something to measure.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Figure {
    /// CPU for a delivery when each event is a write.
    Deliveries,
    /// CPU for a delivery when many events are pending.
    Backlog,
    /// Memory and latency of many clients that are held.
    Held,
    /// From publishing until clients have it, at a steady rate.
    Latency,
    /// What clients that never read do to the others.
    Silent,
    /// Three nodes on one Redis against one.
    Nodes,
}

impl Figure {
    pub(crate) const ALL: [Self; 6] =
        [Self::Deliveries, Self::Backlog, Self::Held, Self::Latency, Self::Silent, Self::Nodes];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries of one event a write",
            Self::Backlog => "deliveries with a backlog",
            Self::Held => "held clients",
            Self::Latency => "latency at a steady rate",
            Self::Silent => "clients that never read",
            Self::Nodes => "three nodes",
        }
    }

    pub(crate) fn measure(self, workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Deliveries => deliveries::measure(workshop),
            Self::Backlog => backlog::measure(workshop),
            Self::Held => held::measure(workshop),
            Self::Latency => latency::measure(workshop),
            Self::Silent => silent::measure(workshop),
            Self::Nodes => nodes::measure(workshop),
        }
    }
}
