//! CPU for a delivery when events come faster than they can be written one by one: bursts, pipelined.

use plugway_figures::report::Row;
use plugway_figures::statistics::{ratio, written};

use crate::peers::Kind;
use crate::subjects::{all, check, costs};
use crate::workshop::Workshop;

const BURST: usize = 50;
const BURSTS: usize = 8;
/// Of the slowest server.
const FEW: usize = 1;

pub(super) fn measure(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let mut subjects = all(workshop)?;
    for _ in 0..workshop.rounds {
        for (kind, subject) in &mut subjects {
            subject.burst(if *kind == Kind::Python { FEW } else { BURSTS }, BURST)?;
        }
    }
    check(subjects.iter_mut().map(|(_, subject)| subject))?;
    let title = format!("CPU for a delivery, bursts of {BURST} events, {} clients", workshop.clients);
    let mut rows = vec![Row::new(title, "", "")];
    rows.extend(subjects.iter().map(|(_, subject)| subject.cost_row()));
    let times_less = ratio(costs(&subjects, Kind::Nchan), costs(&subjects, Kind::Plugway));
    rows.push(Row::new("  less than nchan by", written(times_less, 1, "×"), "≥ 8 ×"));
    Ok(rows)
}
