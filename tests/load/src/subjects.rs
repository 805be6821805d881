//! Servers side by side, each with clients that stay, and what each round of a measurement came to.

use std::time::Duration;

use anyhow::Context as _;
use plugway_figures::report::Row;
use plugway_figures::statistics::{median, micros, written};

use crate::clients::{Clients, Received};
use crate::event::Clock;
use crate::peers::{CALIBRATION, Kind, Peer};
use crate::workshop::Workshop;

/// A server with its clients.
pub(crate) struct Subject {
    pub(crate) title: String,
    pub(crate) peer: Peer,
    pub(crate) clients: Clients,
    /// Bytes of an event on the wire.
    pub(crate) wire: u64,
    clock: Clock,
    published: u64,
    /// CPU for a delivery in microseconds, of every round.
    pub(crate) costs: Vec<f64>,
    /// The same of its Redis.
    redis_costs: Vec<f64>,
}

impl Subject {
    pub(crate) fn open(title: &str, mut peer: Peer, workshop: &Workshop) -> anyhow::Result<Self> {
        let clock = workshop.clock;
        let mut follow = || {
            let mut clients = peer.follow(workshop.clients, clock)?;
            let wire = peer.calibrate(&mut clients, clock)?;
            anyhow::Ok((clients, wire))
        };
        let (clients, wire) = follow().with_context(|| title.to_owned())?;
        Ok(Self {
            title: title.to_owned(),
            peer,
            clients,
            wire,
            clock,
            published: CALIBRATION,
            costs: Vec::new(),
            redis_costs: Vec::new(),
        })
    }

    /// Publishes so many bursts, and takes down what the server's CPU did for each delivery.
    pub(crate) fn burst(&mut self, bursts: usize, events: usize) -> anyhow::Result<Received> {
        let (cpu, redis) = (self.peer.cpu()?, self.peer.redis_cpu()?);
        let received = self.peer.burst(&mut self.clients, bursts, events, self.clock);
        let received = received.with_context(|| self.title.clone())?;
        self.published += (bursts * events) as u64;
        let each = |used: Duration| micros(used) / received.events as f64;
        self.costs.push(each(self.peer.cpu()? - cpu));
        if let (Some(before), Some(now)) = (redis, self.peer.redis_cpu()?) {
            self.redis_costs.push(each(now - before));
        }
        Ok(received)
    }

    /// Publishes so many events at a steady rate.
    pub(crate) fn pace(&mut self, events: usize, pause: Duration) -> anyhow::Result<Received> {
        let received = self.peer.pace(&mut self.clients, events, pause, self.clock);
        self.published += events as u64;
        received.with_context(|| self.title.clone())
    }

    /// A row with the cost of a delivery.
    pub(crate) fn cost_row(&self) -> Row {
        let mut cost = written(median(&self.costs), 2, "µs");
        if !self.redis_costs.is_empty() {
            cost += &format!(", its Redis {}", written(median(&self.redis_costs), 2, "µs"));
        }
        Row::new(format!("  {} ({} bytes)", self.title, self.wire), cost, "")
    }

    /// An error unless sampled clients have seen only whole events, and all of them.
    fn check(&mut self) -> anyhow::Result<()> {
        self.clients.audit(self.published).with_context(|| self.title.clone())
    }
}

/// All kinds of servers that are there.
pub(crate) fn all(workshop: &Workshop) -> anyhow::Result<Vec<(Kind, Subject)>> {
    let kinds = Kind::ALL.into_iter().filter(|kind| workshop.has(*kind));
    kinds
        .map(|kind| {
            let peer = kind.start(workshop, workshop.clients)?;
            Ok((kind, Subject::open(kind.title(), peer, workshop)?))
        })
        .collect()
}

/// Checks what they all sent, once the last of it was measured.
pub(crate) fn check<'a>(subjects: impl IntoIterator<Item = &'a mut Subject>) -> anyhow::Result<()> {
    subjects.into_iter().try_for_each(Subject::check)
}

/// What each round of this kind of server cost; empty if it was left out.
pub(crate) fn costs(subjects: &[(Kind, Subject)], kind: Kind) -> &[f64] {
    subjects.iter().find(|(found, _)| *found == kind).map_or(&[], |(_, subject)| &subject.costs)
}
