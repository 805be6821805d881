//! The mock takes what the host takes, and refuses what it refuses. The end-to-end tests run the same list on the gateway.

#[path = "../../tests/plugins/strict/src/cases.rs"]
mod cases;

use plugway_sdk::{mock::Mock, prelude::*};

struct Strict;

impl HttpAdapter for Strict {
    fn handle(&self, _request: Request, reply: Reply) -> Result<()> {
        for (name, expected, got) in cases::run()? {
            assert_eq!(got, expected, "{name}");
        }
        reply.text(200, "all")
    }
}

plugway_sdk::export!(
    Strict: http,
    routes = ["GET /strict"],
    origins = ["http://127.0.0.1:9"],
    secrets = ["token"]
);

#[test]
fn the_mock_refuses_what_the_host_refuses() {
    let mock = Mock::new();
    mock.secret("token", "a-secret-of-the-test");
    mock.outgoing(|_| Ok(Response::empty(204)));
    let answer = mock.get("/strict").handle(&Strict);
    assert_eq!((answer.status, answer.error.clone()), (200, None));
    assert!(mock.sent().is_empty(), "nothing of what is denied is sent");
}
