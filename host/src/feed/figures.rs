//! The feed's figures, by the names that dashboards know.

use metrics::{Counter, Gauge, Histogram, Unit};

use super::event::Type;

/// Handles of the metrics, looked up once.
pub(super) struct Figures {
    pub(super) connections: Gauge,
    pub(super) sessions: Gauge,
    pub(super) latency: Histogram,
    pub(super) commands: Counter,
    pub(super) payload_errors: Counter,
    pub(super) redis_errors: Counter,
    pub(super) overflow_errors: Counter,
    published: [Counter; Type::ALL.len()],
}

impl Figures {
    pub(super) fn new() -> Self {
        metrics::describe_gauge!(
            "agent_gateway_connections_active",
            "Clients that have the agent feed open on this node."
        );
        metrics::describe_counter!(
            "agent_gateway_events_published_total",
            "Events of the feed's log that this node put before its clients, by type; once each, however many clients there are."
        );
        metrics::describe_histogram!(
            "agent_gateway_event_latency_ms",
            Unit::Milliseconds,
            "Time on this node from hearing an event on its Redis channel, over its place in the feed's log, to its clients being woken for it. Without events that this node did not hear itself."
        );
        metrics::describe_counter!("agent_gateway_commands_total", "Commands accepted by this node.");
        metrics::describe_counter!(
            "agent_gateway_errors_total",
            "What went wrong on the feed, by type: payload (no event), redis (connection lost or write refused), overflow (heard and given up before anybody wrote it: clients get a gap), command (refused)."
        );
        metrics::describe_gauge!(
            "plugway_feed_sessions",
            "Sessions of the feed that have a client here, or had one within feed.session_timeout."
        );
        let error = |kind: &'static str| metrics::counter!("agent_gateway_errors_total", "type" => kind);
        Self {
            connections: metrics::gauge!("agent_gateway_connections_active"),
            sessions: metrics::gauge!("plugway_feed_sessions"),
            latency: metrics::histogram!("agent_gateway_event_latency_ms"),
            commands: metrics::counter!("agent_gateway_commands_total"),
            payload_errors: error("payload"),
            redis_errors: error("redis"),
            overflow_errors: error("overflow"),
            published: Type::ALL.map(
                |kind| metrics::counter!("agent_gateway_events_published_total", "type" => kind.as_str()),
            ),
        }
    }

    /// Counts an event that clients are shown.
    pub(super) fn published(&self, kind: Type) {
        self.published[kind as usize].increment(1);
    }
}
