//! `agents`: which agents there are.

use crate::exchanges::bindings::agents;
use crate::exchanges::exchange::Exchange;

impl agents::Host for Exchange {
    fn all(&mut self) -> wasmtime::Result<Vec<agents::Agent>> {
        let agents = self.live()?.services.tasks.agents();
        Ok(agents
            .iter()
            .map(|agent| agents::Agent {
                name: agent.name.clone(),
                summary: agent.summary.clone(),
                default: agent.default,
            })
            .collect())
    }
}
