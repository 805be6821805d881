//! A plugin that tries what the contract takes and what it refuses. The same list runs on the SDK's mock. It takes any
//! configuration, so it can stand in the place of any other.

mod cases;

use plugway_sdk::prelude::*;

struct Strict;

impl HttpAdapter for Strict {
    fn handle(&self, _request: Request, reply: Reply) -> Result<()> {
        reply.json(200, &cases::run()?)
    }
}

plugway_sdk::export!(
    Strict: http,
    routes = ["GET /strict" by plugin],
    origins = ["http://127.0.0.1:9"],
    secrets = ["token"],
    config = serde_json::Value
);
