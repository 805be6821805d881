//! CPU for a delivery when each event is a write of its own: the next one is published when all clients have the last.

use plugway_figures::report::Row;
use plugway_figures::statistics::{ratio, written};

use crate::peers::Kind;
use crate::subjects::{all, check, costs};
use crate::workshop::Workshop;

const EVENTS: usize = 200;
/// Of the slowest server.
const FEW: usize = 40;

pub(super) fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let mut subjects = all(workshop)?;
    for _ in 0..workshop.rounds {
        for (kind, subject) in &mut subjects {
            subject.burst(if *kind == Kind::Python { FEW } else { EVENTS }, 1)?;
        }
    }
    check(subjects.iter_mut().map(|(_, subject)| subject))?;
    let mut rows = vec![Row::new(
        format!("CPU for a delivery, one event a write, {} clients", workshop.clients),
        "",
        "",
    )];
    rows.extend(subjects.iter().map(|(_, subject)| subject.cost_row()));
    let against = |kind| written(ratio(costs(&subjects, Kind::Plugway), costs(&subjects, kind)), 2, "×");
    rows.push(Row::new("  Plugway against the raw send loop", against(Kind::Raw), "≤ 1.3 ×"));
    rows.push(Row::new("  Plugway against nchan", against(Kind::Nchan), "≤ 0.65 ×"));
    rows.push(Row::new("  Plugway against FastAPI", against(Kind::Python), ""));
    Ok(rows)
}
