//! The gateway takes what the contract takes, and refuses what it refuses. The SDK's mock runs the same list.

use plugway_tests::{Gateway, fixture};
use serde_json::Value;

#[tokio::test]
async fn the_gateway_refuses_what_the_mock_refuses() {
    let gateway = Gateway::builder()
        .component("strict", &fixture("strict"))
        .set("plugins.strict.origins", vec!["http://127.0.0.1:9"])
        .set("plugins.strict.private_networks", vec!["127.0.0.0/8"])
        .set("plugins.strict.secrets.token", "env:STRICT_TOKEN")
        .env("STRICT_TOKEN", "a-secret-of-the-test")
        .start()
        .await;
    let outcomes = gateway.get("/strict").await.expect(200).json();
    let outcomes = outcomes.as_array().expect("a list of outcomes");
    assert!(outcomes.len() > 50, "{outcomes:?}");
    let wrong: Vec<&Value> = outcomes.iter().filter(|outcome| outcome[1] != outcome[2]).collect();
    assert!(wrong.is_empty(), "name, expected, got: {wrong:#?}");
}
