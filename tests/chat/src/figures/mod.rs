//! The figures, each measured in a module of its own.

mod echo;
mod flat;
mod held;
mod memory;
mod paced;

use clap::ValueEnum;
use plugway_figures::report::Row;
use plugway_figures::statistics::{ratio, written};

use crate::subjects::{Kind, Subject};
use crate::workshop::Workshop;

/// Something to measure.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Figure {
    /// The way of chunks through gateways, one stream alone.
    Alone,
    /// The same with many streams at once, and their CPU.
    Together,
    /// CPU for a chunk when they come as fast as they can.
    Flat,
    /// Memory of gateways, idle and after streams.
    Memory,
    /// CPU for a chunk of the echo agent, by the plugin and by the native stream.
    Echo,
    /// Memory of many streams that are under way at once.
    Held,
}

impl Figure {
    pub(crate) const ALL: [Self; 6] =
        [Self::Alone, Self::Together, Self::Flat, Self::Memory, Self::Echo, Self::Held];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Alone => "one stream alone",
            Self::Together => "streams at once",
            Self::Flat => "streams flat out",
            Self::Memory => "memory",
            Self::Echo => "plugin and echo agent",
            Self::Held => "streams that are held",
        }
    }

    pub(crate) fn measure(self, workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Alone => paced::alone(workshop),
            Self::Together => paced::together(workshop),
            Self::Flat => flat::measure(workshop),
            Self::Memory => memory::measure(workshop),
            Self::Echo => echo::measure(workshop),
            Self::Held => held::measure(workshop),
        }
    }
}

/// Rows of how many times less CPU for a chunk the gateway takes than LiteLLM, and how many times less the model server
/// itself takes, which no gateway before it can reach. None without LiteLLM.
fn against_litellm(subjects: &[Subject], costs: &[Vec<f64>]) -> Vec<Row> {
    let of = |kind| {
        let found = subjects.iter().zip(costs).find(|(subject, _)| subject.kind == kind);
        found.map_or(&[][..], |(_, costs)| costs)
    };
    let litellm = of(Kind::Litellm);
    if litellm.is_empty() {
        return Vec::new();
    }
    let less = |kind| written(ratio(litellm, of(kind)), 0, "×");
    vec![
        Row::new("  LiteLLM / Plugway", less(Kind::Plugway), "≥ 40 ×, stretch 100 ×"),
        Row::new("  LiteLLM / model server", less(Kind::Direct), ""),
    ]
}
