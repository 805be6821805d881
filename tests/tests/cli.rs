//! The command line: what it tells, what it refuses, and in which words.

use std::fs;
use std::path::Path;

use plugway_tests::{Failure, Gateway, fixture, plugin, run, with_contract_version};
use tempfile::TempDir;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

async fn plugway(directory: &Path, arguments: &[&str]) -> Failure {
    run(directory, arguments, &[]).await
}

/// It ends with an error, and says all of `parts`.
#[track_caller]
fn assert_refused(failure: &Failure, parts: &[&str]) {
    assert!(failure.code.is_some_and(|code| code != 0), "{failure:?}");
    for part in parts {
        assert!(failure.output.contains(part), "{part:?} in {failure:?}");
    }
    assert!(!failure.output.contains("stack backtrace"), "{failure:?}");
}

async fn check(config: &str) -> Failure {
    let directory = directory();
    fs::write(directory.path().join("plugway.toml"), config).expect("the configuration can be written");
    plugway(directory.path(), &["config", "check", "--config", "plugway.toml"]).await
}

#[tokio::test]
async fn help_names_every_command() {
    let directory = directory();
    let help = plugway(directory.path(), &["--help"]).await;
    assert_eq!(help.code, Some(0));
    for command in ["serve", "dev", "plugin", "config"] {
        assert!(help.stdout.contains(command), "{command} in {}", help.stdout);
    }
    let serve = plugway(directory.path(), &["serve", "--help"]).await;
    for option in ["--config", "--listen", "--data-dir", "--plugins-dir"] {
        assert!(serve.stdout.contains(option), "{option} in {}", serve.stdout);
    }
    let plugins = plugway(directory.path(), &["plugin", "--help"]).await;
    for command in ["build", "check", "inspect", "list"] {
        assert!(plugins.stdout.contains(command), "{command} in {}", plugins.stdout);
    }
    assert!(plugway(directory.path(), &["--version"]).await.stdout.starts_with("plugway "));
}

#[tokio::test]
async fn an_unknown_command_is_refused() {
    let directory = directory();
    assert_refused(&plugway(directory.path(), &["fly"]).await, &["fly"]);
}

#[tokio::test]
async fn config_check_prints_what_is_in_effect_and_hides_secrets() {
    let config = "
        listen = \"127.0.0.1:9999\"
        [auth]
        keys = [\"a-key-of-callers-0123456789\"]
        [workers]
        count = 7
        [callbacks]
        secret = \"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\"
        [plugins.telegram.secrets]
        bot_token = \"4711:written-into-the-file\"
        [agents.model]
        kind = \"openai\"
        base_url = \"http://127.0.0.1:11434/v1\"
        model = \"llama3.2\"
        api_key = \"sk-written-into-the-file\"
    ";
    let checked = check(config).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let shown: toml::Table = toml::from_str(&checked.stdout).expect("it prints TOML");
    assert_eq!(shown["listen"].as_str(), Some("127.0.0.1:9999"));
    assert_eq!(shown["workers"]["count"].as_integer(), Some(7));
    assert_eq!(shown["workers"]["max_attempts"].as_integer(), Some(3), "a default");
    for secret in ["a-key-of-callers", "C2FVsBQIhrscChlQIMV", "4711:written", "sk-written"] {
        assert!(!checked.output.contains(secret), "{secret} in {}", checked.output);
    }
}

#[tokio::test]
async fn the_environment_goes_before_the_file_and_the_file_before_the_defaults() {
    let directory = directory();
    fs::write(directory.path().join("plugway.toml"), "[workers]\ncount = 7\n").expect("written");
    let arguments = ["config", "check", "--config", "plugway.toml"];
    let count = async |environment: &[(&str, &str)]| {
        let checked = run(directory.path(), &arguments, environment).await;
        let shown: toml::Table =
            toml::from_str(&checked.stdout).unwrap_or_else(|error| panic!("{error}: {checked:?}"));
        shown["workers"]["count"].as_integer()
    };
    assert_eq!(count(&[]).await, Some(7));
    assert_eq!(count(&[("MAX_WORKERS", "9")]).await, Some(9), "a name of the specifications");
    assert_eq!(
        count(&[("MAX_WORKERS", "9"), ("PLUGWAY__WORKERS__COUNT", "11")]).await,
        Some(11),
        "its own name wins"
    );
}

#[tokio::test]
async fn what_is_wrong_in_the_configuration_is_named() {
    let table = [
        ("[workers]\ncount = \"many\"", "workers.count"),
        ("[workers]\ncuont = 4", "cuont"),
        ("[wrokers]\ncount = 4", "wrokers"),
        ("[workers]\ncount = -1", "workers.count"),
        ("listen = \"nonsense\"", "listen"),
        ("listen = 8080", "listen"),
        ("[store]\nkind = \"oracle\"", "store"),
        ("[limits]\nbody = \"ten bananas\"", "limits.body"),
        ("[stream]\nheartbeat = \"sometimes\"", "stream.heartbeat"),
        ("[limits]\nbodies = \"1MiB\"", "limits.bodies"),
        ("[auth]\nkeys = \"one\"", "auth.keys"),
        ("[callbacks]\nprivate_networks = [\"everything\"]", "callbacks.private_networks"),
        ("[agents.model]\nkind = \"openai\"", "agents.model"),
        ("[agents.model]\nkind = \"oracle\"", "agents.model"),
        ("[plugins.telegram]\norigins = [\"not an origin\"]", "plugins.telegram.origins"),
        ("[plugins.telegram]\nmount = \"no slash\"", "plugins.telegram.mount"),
        ("[plugins.telegram.limits]\nmemory = \"a lot\"", "plugins.telegram.limits.memory"),
    ];
    for (config, key) in table {
        assert_refused(&check(config).await, &[key]);
    }
    assert_refused(&check("[workers\ncount = 4").await, &["plugway.toml", "1"]);
}

#[tokio::test]
async fn what_is_wrong_in_the_environment_is_named() {
    let directory = directory();
    for (name, value) in
        [("MAX_WORKERS", "many"), ("PLUGWAY__WORKERS__COUNT", "many"), ("WEBHOOK_PORT", "70000")]
    {
        let failure = run(directory.path(), &["config", "check"], &[(name, value)]).await;
        assert_refused(&failure, &[name]);
    }
}

#[tokio::test]
async fn a_missing_configuration_file_is_named() {
    let directory = directory();
    assert_refused(
        &plugway(directory.path(), &["serve", "--config", "nowhere.toml"]).await,
        &["nowhere.toml"],
    );
}

#[tokio::test]
async fn a_plugin_is_inspected() {
    let directory = directory();
    let file = plugin("telegram");
    let inspected = plugway(directory.path(), &["plugin", "inspect", &file.to_string_lossy()]).await;
    assert_eq!(inspected.code, Some(0), "{inspected:?}");
    for part in
        ["telegram", "0.1", "http", "delivery", "POST /webhook", "https://api.telegram.org", "bot_token"]
    {
        assert!(inspected.stdout.contains(part), "{part:?} in {}", inspected.stdout);
    }
}

#[tokio::test]
async fn a_plugin_is_checked_and_what_is_wrong_is_said() {
    let directory = directory();
    let good = plugin("telegram");
    assert_eq!(plugway(directory.path(), &["plugin", "check", &good.to_string_lossy()]).await.code, Some(0));

    let corrupt = directory.path().join("corrupt.wasm");
    fs::write(&corrupt, b"not a component").expect("written");
    let checked = plugway(directory.path(), &["plugin", "check", &corrupt.to_string_lossy()]).await;
    assert_refused(&checked, &["not a WebAssembly file"]);

    let other = directory.path().join("other.wasm");
    fs::write(&other, with_contract_version(&good, "0.1.0", "0.9.0")).expect("written");
    let checked = plugway(directory.path(), &["plugin", "check", &other.to_string_lossy()]).await;
    assert_refused(&checked, &["0.9", "0.1", "rebuild"]);

    let broken = fixture("broken");
    let checked = plugway(directory.path(), &["plugin", "check", &broken.to_string_lossy()]).await;
    assert_refused(&checked, &["describe", "I do not know my own name"]);
    assert_refused(&plugway(directory.path(), &["plugin", "check", "nowhere.wasm"]).await, &["nowhere.wasm"]);
}

#[tokio::test]
async fn plugins_of_a_running_gateway_are_listed() {
    let gateway = Gateway::builder().plugin("telegram").component("broken", &fixture("broken")).start().await;
    let listed = plugway(gateway.directory(), &["plugin", "list", "--url", &gateway.url("")]).await;
    assert_eq!(listed.code, Some(0), "{listed:?}");
    for part in ["telegram", "serving", "broken", "refused", "describe", "https://api.telegram.org"] {
        assert!(listed.stdout.contains(part), "{part:?} in {}", listed.stdout);
    }
}

#[tokio::test]
async fn two_gateways_do_not_share_a_data_directory() {
    let builder = Gateway::builder();
    let first = builder.clone().start().await;
    let second = builder.try_start().await.expect_err("the second ends");
    assert_refused(&second, &["data"]);
    first.get("/health").await.expect(200);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let first = Gateway::builder().start().await;
    let second = Gateway::builder().listen(first.host()).try_start().await.expect_err("the second ends");
    assert_refused(&second, &[first.host()]);
}

#[tokio::test]
async fn a_public_address_needs_keys() {
    let open = Gateway::builder().listen("0.0.0.0:0").try_start().await.expect_err("it ends");
    assert_refused(&open, &["auth.keys"]);
    let closed = Gateway::builder().listen("0.0.0.0:0").set("auth.keys", vec!["a-key-of-callers-0123456789"]);
    let gateway = closed.start().await;
    gateway.get("/health").await.expect(200);
}
