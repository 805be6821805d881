//! What the gateway's CPU does for each event of a task that nobody follows, for every filter that it passes: none, one
//! and three that pass everything. All are reached in one round, one after the other.
//!
//! The agent speaks as fast as it is heard, so many events go to the filters at once; and, at the pace of a model, one at
//! a time, where each event costs a change of threads as well.

use std::fs;

use plugway_figures::report::Row;
use plugway_figures::statistics::{median, micros};

use crate::workshop::{Gateway, Workshop};

const ROUNDS: usize = 10;
const EVENTS: usize = 100_000;
/// Events of a task that speaks slowly: a thousand a second.
const SLOW_EVENTS: usize = 2_000;

const SLOW: &str = "default_agent = \"slow\"\n[agents.slow]\nkind = \"echo\"\nchunk_delay = \"1ms\"\n";

pub(super) async fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let component = fs::read(workshop.filter())?;
    let mut gateways = Vec::new();
    for filters in [&[][..], &["one"], &["one", "two", "three"]] {
        gateways.push(gateway(workshop, filters, "", &component).await?);
    }
    let mut slow = Vec::new();
    for filters in [&[][..], &["one"]] {
        slow.push(gateway(workshop, filters, SLOW, &component).await?);
    }
    let events = workshop.rounds(EVENTS);
    let slow_events = workshop.rounds(SLOW_EVENTS);
    for gateway in gateways.iter().chain(&slow) {
        cost(gateway, 1_000).await?;
    }
    let mut costs = [(); 3].map(|()| Vec::new());
    let mut slow_costs = [(); 2].map(|()| Vec::new());
    for _ in 0..workshop.rounds(ROUNDS) {
        for (gateway, costs) in gateways.iter().zip(&mut costs) {
            costs.push(cost(gateway, events).await?);
        }
        for (gateway, costs) in slow.iter().zip(&mut slow_costs) {
            costs.push(cost(gateway, slow_events).await?);
        }
    }
    let [none, one, three] = &costs;
    let more = |costs: &[f64], than: &[f64]| {
        let differences: Vec<f64> = costs.iter().zip(than).map(|(cost, than)| cost - than).collect();
        format!("{:.1} µs", median(&differences))
    };
    Ok(vec![
        Row::new("event through one filter that passes it: CPU", more(one, none), "≤ 2 µs"),
        Row::new("  through three", more(three, none), "≤ 6 µs"),
        Row::new("  through none", format!("{:.1} µs", median(none)), ""),
        Row::new(
            "  through one, of an agent that says one each ms",
            more(&slow_costs[1], &slow_costs[0]),
            "",
        ),
    ])
}

async fn gateway(
    workshop: &Workshop,
    filters: &[&str],
    config: &str,
    component: &[u8],
) -> anyhow::Result<Gateway> {
    let home = workshop.home(&format!("filters = {filters:?}\n{config}"))?;
    home.install(crate::workshop::BENCH, &fs::read(workshop.plugin())?);
    for filter in filters {
        home.install(filter, component);
    }
    home.start().await
}

/// CPU for each event of a task, in microseconds.
async fn cost(gateway: &Gateway, events: usize) -> anyhow::Result<f64> {
    let before = gateway.server.cpu()?;
    let task = gateway.submit(&format!("/words {events}")).await?;
    gateway.ended(&task).await?;
    Ok(micros(gateway.server.cpu()? - before) / events as f64)
}
