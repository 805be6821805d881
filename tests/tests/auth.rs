//! Keys: who has none or a wrong one is told so in one shape, and reaches nothing.

use http::Method;
use plugway_tests::update::message;
use plugway_tests::{Answer, Builder, Gateway, fixture};

const KEY: &str = "a-key-of-callers-0123456789";
const OTHER_KEY: &str = "another-key-of-callers-9876543210";
const ADMIN_KEY: &str = "a-key-of-the-operator-0123456789";

fn builder() -> Builder {
    Gateway::builder()
        .plugin("telegram")
        .component("steady", &fixture("steady"))
        .set("auth.keys", vec![KEY, OTHER_KEY])
        .set("auth.admin_keys", vec![ADMIN_KEY])
}

async fn ask(gateway: &Gateway, method: Method, path: &str, authorization: Option<&str>) -> Answer {
    let mut request = gateway.request(method, path);
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer")
}

#[tokio::test]
async fn routes_for_keys_refuse_who_has_none_or_a_wrong_one() {
    let gateway = builder().start().await;
    let task = gateway.accept(&message(1, 7, "hello")).await;
    let routes = [
        (Method::GET, format!("/stream/{task}")),
        (Method::GET, format!("/tasks/{task}")),
        (Method::POST, format!("/tasks/{task}/cancel")),
        (Method::POST, "/steady/locked".to_owned()),
        (Method::GET, "/steady/caller".to_owned()),
    ];
    let shorter = format!("Bearer {}", &KEY[..KEY.len() - 1]);
    let longer = format!("Bearer {KEY}0");
    let basic = format!("Basic {KEY}");
    let wrong = [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer "),
        Some(&*shorter),
        Some(&*longer),
        Some(&*basic),
        Some(KEY),
    ];
    let mut shapes = Vec::new();
    for (method, path) in &routes {
        for authorization in wrong {
            let answer = ask(&gateway, method.clone(), path, authorization).await;
            assert_eq!(answer.status, 401, "{method} {path} with {authorization:?}: {answer:?}");
            assert!(
                answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")),
                "{answer:?}"
            );
            shapes.push(answer.error());
        }
        for key in [KEY, OTHER_KEY] {
            let answer = ask(&gateway, method.clone(), path, Some(&format!("Bearer {key}"))).await;
            assert!(answer.status < 300 || answer.status == 409, "{method} {path} with a key: {answer:?}");
        }
    }
    assert!(
        shapes.iter().all(|error| error["type"] == "authentication_error" && *error == shapes[0]),
        "{shapes:?}"
    );
}

#[tokio::test]
async fn an_unknown_task_looks_like_any_other_to_who_has_no_key() {
    let gateway = builder().start().await;
    ask(&gateway, Method::GET, "/stream/task_0198c0de000070008000000000000000", None)
        .await
        .expect(401)
        .error();
    ask(&gateway, Method::GET, "/tasks/nonsense", None).await.expect(401).error();
}

#[tokio::test]
async fn what_tells_how_the_gateway_is_needs_no_key() {
    let gateway = builder().start().await;
    for path in ["/health", "/ready"] {
        ask(&gateway, Method::GET, path, None).await.expect(200);
    }
}

#[tokio::test]
async fn routes_that_the_plugin_guards_itself_need_no_key() {
    let gateway = builder().start().await;
    gateway.accept(&message(1, 7, "hello")).await;
    let echo = gateway.request(Method::POST, "/steady/echo").body("open").send().await.expect("an answer");
    assert_eq!(echo.status(), 200);
}

#[tokio::test]
async fn a_plugin_learns_who_calls_but_not_by_which_key() {
    let gateway = builder().start().await;
    let caller =
        ask(&gateway, Method::GET, "/steady/caller", Some(&format!("Bearer {KEY}"))).await.expect(200).text();
    assert!(caller != "nobody" && !caller.contains(KEY), "{caller}");
}

#[tokio::test]
async fn the_admin_api_is_for_the_operators_key_only() {
    let gateway = builder().start().await;
    ask(&gateway, Method::GET, "/admin/plugins", None).await.expect(401).error();
    let as_caller = ask(&gateway, Method::GET, "/admin/plugins", Some(&format!("Bearer {KEY}"))).await;
    assert!([401, 403].contains(&as_caller.status), "{as_caller:?}");
    ask(&gateway, Method::POST, "/admin/plugins/steady/disable", Some(&format!("Bearer {KEY}")))
        .await
        .error();
    ask(&gateway, Method::GET, "/admin/plugins", Some(&format!("Bearer {ADMIN_KEY}"))).await.expect(200);
    ask(&gateway, Method::POST, "/steady/locked", Some(&format!("Bearer {KEY}"))).await.expect(200);
}

#[tokio::test]
async fn a_callers_key_does_not_administer_where_no_other_is_set() {
    let gateway = Gateway::builder().set("auth.keys", vec![KEY]).start().await;
    let answer = ask(&gateway, Method::GET, "/admin/plugins", Some(&format!("Bearer {KEY}"))).await;
    let error = answer.expect(403).error();
    assert!(error["message"].as_str().is_some_and(|text| text.contains("auth.admin_keys")), "{error}");
}

#[tokio::test]
async fn without_keys_somebodys_page_reaches_nothing() {
    let gateway = Gateway::builder().component("steady", &fixture("steady")).start().await;
    let own = gateway.url("");
    let table = [
        ("host", "rebound.example.org", 403),
        ("origin", "https://evil.example.org", 403),
        ("origin", "null", 403),
        ("origin", &*own, 200),
        ("accept", "*/*", 200),
    ];
    for (name, value, status) in table {
        for (method, path) in [(Method::GET, "/metrics"), (Method::POST, "/steady/locked")] {
            let request = gateway.request(method, path).header(name, value);
            let answer =
                Answer::read(request.send().await.expect("an answer")).await.expect("a whole answer");
            assert_eq!(answer.status, status, "{path} with {name}: {value}: {answer:?}");
        }
    }
    for name in ["x-forwarded-for", "forwarded", "via"] {
        let request = gateway.request(Method::GET, "/admin/plugins").header(name, "203.0.113.7");
        assert_eq!(request.send().await.expect("an answer").status(), 403, "{name}");
    }
}

#[tokio::test]
async fn a_key_that_is_too_short_keeps_the_gateway_from_starting_and_is_not_shown() {
    let failure =
        Gateway::builder().set("auth.keys", vec!["short-key"]).try_start().await.expect_err("it ends");
    assert!(failure.output.contains("auth.keys") && failure.output.contains("16"), "{failure:?}");
    assert!(!failure.output.contains("short-key"), "{failure:?}");
}

#[tokio::test]
async fn no_key_shows_in_the_log() {
    let gateway = builder().set("telemetry.level", "info,plugway=debug,plugin=debug").start().await;
    for authorization in [format!("Bearer {KEY}"), format!("Bearer {KEY}-wrong")] {
        ask(&gateway, Method::GET, "/steady/caller", Some(&authorization)).await;
    }
    for key in [KEY, OTHER_KEY, ADMIN_KEY] {
        assert!(gateway.log().iter().all(|line| !line.contains(key)));
    }
}
