//! Three gateways on one Redis with the clients spread over them, against one gateway that has them all.

use plugway_figures::report::Row;
use plugway_figures::statistics::{ratio, written};

use crate::peers::{Kind, nodes};
use crate::subjects::{Subject, check};
use crate::workshop::Workshop;

const NODES: usize = 3;
const EVENTS: usize = 200;

pub(super) fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let title = format!("CPU for a delivery on one Redis, {} clients", workshop.clients);
    if !workshop.has(Kind::Plugway) {
        return Ok(vec![Row::new(title, "–", "")]);
    }
    let mut one = Subject::open("one node", nodes(workshop, 1, workshop.clients)?, workshop)?;
    let mut three = Subject::open("three nodes", nodes(workshop, NODES, workshop.clients)?, workshop)?;
    for _ in 0..workshop.rounds {
        one.burst(EVENTS, 1)?;
        three.burst(EVENTS, 1)?;
    }
    check([&mut one, &mut three])?;
    let against = written(ratio(&three.costs, &one.costs), 2, "×");
    Ok(vec![
        Row::new(title, "", ""),
        one.cost_row(),
        three.cost_row(),
        Row::new("  three nodes against one", against, "≤ 1.3 ×"),
    ])
}
