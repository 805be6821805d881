//! A plugin that panics when the host asks what it is.

use plugway_sdk::prelude::*;

struct Broken;

impl HttpAdapter for Broken {
    fn handle(&self, _request: Request, reply: Reply) -> Result<()> {
        reply.text(200, "never served")
    }
}

fn name() -> &'static str {
    panic!("I do not know my own name")
}

plugway_sdk::export!(Broken: http, routes = ["GET /broken" by plugin], name = name());
