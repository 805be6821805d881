//! The OpenAI API before any agent: models, chat completions, responses and conversations.
//!
//! | module | what it owns |
//! | --- | --- |
//! | `models` | models, which are the configured agents and the names that the operator gave them |
//! | `chat` | chat completions: a turn that is told everything, and forgotten when it is answered |
//! | `responses` | responses: turns that are kept, gone on from, come back to and followed again |
//! | `conversations` | conversations: items in order, and turns that are taken one after the other |
//! | `store` | documents of any length in the plugin's storage |
//! | `room` | where things are kept, and what goes when the quota is full |
//! | `question` | what is asked of an agent, whichever endpoint it came by |
//! | `limits` | how often a caller may ask |
//! | `lists` | pages of items |
//! | `fields` | reading documents whose every fault is named |
//! | `silence` | how long a stream has said nothing |
//! | `failure`, `usage` | errors and tokens in the API's words |

mod chat;
mod config;
mod conversations;
mod failure;
mod fields;
mod limits;
mod lists;
mod models;
mod question;
mod responses;
mod room;
mod silence;
mod store;
mod usage;

#[cfg(test)]
mod tests;

use config::Config;
use plugway_sdk::prelude::*;

/// The adapter.
struct OpenAi;

impl HttpAdapter for OpenAi {
    fn handle(&self, request: Request, reply: Reply) -> Result<()> {
        let config: Config = host::config()?;
        let (request, config) = (&request, &config);
        match (request.method.as_str(), request.route.as_str()) {
            ("GET", "/v1/models") => models::list(config, reply),
            ("GET", "/v1/models/{id}") => models::retrieve(request, config, reply),
            ("POST", "/v1/chat/completions" | "/v1/responses") => {
                let Some(reply) = limits::admit(request, config, reply)? else { return Ok(()) };
                match request.route.as_str() {
                    "/v1/responses" => responses::create(request, config, reply),
                    _ => chat::complete(request, config, reply),
                }
            }
            ("GET", "/v1/responses/{id}") => responses::retrieve(request, config, reply),
            ("DELETE", "/v1/responses/{id}") => responses::delete(request, config, reply),
            ("POST", "/v1/responses/{id}/cancel") => responses::cancel(request, config, reply),
            ("GET", "/v1/responses/{id}/input_items") => responses::input_items(request, reply),
            ("POST", "/v1/conversations") => conversations::create(request, config, reply),
            ("GET", "/v1/conversations/{id}") => conversations::retrieve(request, reply),
            ("POST", "/v1/conversations/{id}") => conversations::update(request, config, reply),
            ("DELETE", "/v1/conversations/{id}") => conversations::delete(request, reply),
            ("GET", "/v1/conversations/{id}/items") => conversations::list_items(request, config, reply),
            ("POST", "/v1/conversations/{id}/items") => conversations::add_items(request, config, reply),
            ("GET", "/v1/conversations/{id}/items/{item}") => {
                conversations::retrieve_item(request, config, reply)
            }
            ("DELETE", "/v1/conversations/{id}/items/{item}") => {
                conversations::delete_item(request, config, reply)
            }
            (method, route) => Err(Error::internal(format!("no handler for {method} {route}"))),
        }
    }
}

impl Delivery for OpenAi {
    type Address = responses::Address;

    fn deliver(&self, task: TaskRef, address: Self::Address) -> Result<(), Failure> {
        responses::deliver(&task, &address, &host::config()?)
    }
}

plugway_sdk::export!(
    OpenAi: http + delivery,
    routes = [
        "GET /v1/models",
        "GET /v1/models/{id}",
        "POST /v1/chat/completions",
        "POST /v1/responses",
        "GET /v1/responses/{id}",
        "DELETE /v1/responses/{id}",
        "POST /v1/responses/{id}/cancel",
        "GET /v1/responses/{id}/input_items",
        "POST /v1/conversations",
        "GET /v1/conversations/{id}",
        "POST /v1/conversations/{id}",
        "DELETE /v1/conversations/{id}",
        "GET /v1/conversations/{id}/items",
        "POST /v1/conversations/{id}/items",
        "GET /v1/conversations/{id}/items/{item}",
        "DELETE /v1/conversations/{id}/items/{item}",
    ],
    config = Config,
    validate = Config::validate,
);
