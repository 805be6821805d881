//! Models are the configured agents, and the names that the operator gave them besides.

use crate::{config::Config, failure::not_found};
use plugway_sdk::{Error, Reply, Request, Result, agents};
use serde_json::{Value, json};

/// Nobody notes when an agent was configured: the same moment for all, in seconds since the Unix epoch (2025-01-01).
const CREATED: u64 = 1_735_689_600;

/// The agent behind a model's name; none asks for the default one.
pub(crate) fn agent(model: Option<&str>, config: &Config) -> Result<Model> {
    let all = agents::all();
    let found = match model {
        None => all.iter().find(|agent| agent.default).or(all.first()),
        Some(name) => {
            let name = config.aliases.get(name).map_or(name, String::as_str);
            all.iter().find(|agent| agent.name == name)
        }
    };
    match (found, model) {
        (Some(agent), model) => {
            Ok(Model { name: model.unwrap_or(&agent.name).to_owned(), agent: agent.name.clone() })
        }
        (None, Some(name)) => Err(not_found("model_not_found", "model", name, "model")),
        (None, None) => Err(Error::field("model", "is missing, and no agent is the default one")),
    }
}

/// A model as it was asked for, and the agent that it is.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) agent: String,
}

fn shown(name: &str, config: &Config) -> Value {
    json!({"id": name, "object": "model", "created": CREATED, "owned_by": config.owned_by})
}

/// `GET /v1/models`.
pub(crate) fn list(config: &Config, reply: Reply) -> Result<()> {
    let all = agents::all();
    let is_agent = |name: &str| all.iter().any(|agent| agent.name == name);
    let aliases = config.aliases.iter().filter(|(alias, agent)| is_agent(agent) && !is_agent(alias));
    let names = all.iter().map(|agent| &agent.name).chain(aliases.map(|(alias, _)| alias));
    let data: Vec<_> = names.map(|name| shown(name, config)).collect();
    reply.json(200, &json!({"object": "list", "data": data}))
}

/// `GET /v1/models/{id}`.
pub(crate) fn retrieve(request: &Request, config: &Config, reply: Reply) -> Result<()> {
    let name = request.param("id").unwrap_or_default();
    agent(Some(name), config)?;
    reply.json(200, &shown(name, config))
}
