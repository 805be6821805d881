//! The figures, each measured in a module of its own.

mod accepts;
mod events;
mod filters;
mod held;
mod reload;
mod requests;
mod sockets;
mod spinning;
mod start;
mod stores;
mod topics;

use clap::ValueEnum;
use plugway_figures::report::Row;

use crate::workshop::Workshop;

/// Something to measure.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Figure {
    /// A request through a plugin against one to a native handler.
    Requests,
    /// Events rendered by an exchange.
    Events,
    /// Events through filters.
    Filters,
    /// Latency while exchanges of another plugin compute without end.
    Spinning,
    /// Tasks accepted durably.
    Accepts,
    /// Tasks that Redis and SQLite accept, without a gateway.
    AcceptsRedis,
    /// A plugin's file replaced, until its new generation serves.
    Reload,
    /// The gateway's start, and its memory when idle.
    Start,
    /// Memory of exchanges that hold a stream open.
    Held,
    /// WebSockets through the plugin `ide`: frames relayed, memory, latency.
    Sockets,
    /// An event through the hub, with few topics and with many.
    Topics,
}

impl Figure {
    pub(crate) const ALL: [Self; 11] = [
        Self::Requests,
        Self::Events,
        Self::Filters,
        Self::Spinning,
        Self::Accepts,
        Self::AcceptsRedis,
        Self::Reload,
        Self::Start,
        Self::Held,
        Self::Sockets,
        Self::Topics,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Requests => "requests through a plugin",
            Self::Events => "events rendered by an exchange",
            Self::Filters => "events through filters",
            Self::Spinning => "latency while exchanges spin",
            Self::Accepts => "durable accepts",
            Self::AcceptsRedis => "durable accepts by the stores",
            Self::Reload => "hot reload",
            Self::Start => "start and idle memory",
            Self::Held => "held exchanges",
            Self::Sockets => "WebSockets",
            Self::Topics => "events of many topics",
        }
    }

    pub(crate) async fn measure(self, workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Requests => requests::measure(workshop).await,
            Self::Events => events::measure(workshop).await,
            Self::Filters => filters::measure(workshop).await,
            Self::Spinning => spinning::measure(workshop).await,
            Self::Accepts => accepts::measure(workshop).await,
            Self::AcceptsRedis => stores::measure(workshop).await,
            Self::Reload => reload::measure(workshop).await,
            Self::Start => start::measure(workshop).await,
            Self::Held => held::measure(workshop).await,
            Self::Sockets => sockets::measure(workshop).await,
            Self::Topics => topics::measure(workshop).await,
        }
    }
}
