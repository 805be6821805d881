//! The outgoing client against real servers that answer, break and lie, and against names that change their minds.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::testing::{Server, Step, answer};
use super::*;

const LOCAL: &str = "127.0.0.0/8";

fn egress_with(config: Config, lookup: Lookup) -> Egress {
    let tls = Tls::trusting(rustls::RootCertStore::empty());
    Egress::with_lookup(config, tls, Handle::current(), lookup)
}

fn egress() -> Egress {
    egress_with(Config::default(), connect::system_lookup(4))
}

/// Names lead where the test says, one answer a lookup, the last one again and again.
fn scripted(answers: &[&[&str]]) -> (Lookup, Arc<AtomicUsize>) {
    let answers: Vec<Vec<std::net::SocketAddr>> = answers
        .iter()
        .map(|list| list.iter().map(|ip| std::net::SocketAddr::new(ip.parse().unwrap(), 0)).collect())
        .collect();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let lookup: Lookup = Arc::new(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let answer = answers[number.min(answers.len() - 1)].clone();
        Box::pin(async move { Ok(answer) })
    });
    (lookup, asked)
}

fn grant(origins: &[&str], networks: &[&str], secrets: &[(&str, &str)]) -> Grant {
    let secrets: BTreeMap<_, _> =
        secrets.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(value).unwrap())).collect();
    Grant::plugin(
        "demo",
        origins.iter().map(|origin| origin.parse().unwrap()),
        networks.iter().map(|network| network.parse().unwrap()).collect(),
        secrets,
    )
}

fn request(method: &str, url: &str, body: &str) -> EgressRequest {
    EgressRequest {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: Vec::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        timeout: Duration::from_secs(5),
    }
}

fn denied(answer: Result<EgressResponse, EgressError>) -> String {
    match answer {
        Err(EgressError::Denied(sentence)) => sentence,
        other => panic!("not denied: {other:?}"),
    }
}

#[tokio::test]
async fn a_request_goes_out_and_its_answer_comes_back() {
    let server = Server::answering(answer(201, "x-a: b\r\nkeep-alive: timeout=5\r\n", "made")).await;
    let grant = grant(&[&server.origin()], &[LOCAL], &[]);
    let mut asked = request("post", &format!("{}/p/q?r=s#t", server.origin()), "{}");
    asked.headers = vec![
        ("Content-Type".to_owned(), "application/json".to_owned()),
        ("accept-encoding".to_owned(), "gzip".to_owned()),
    ];
    let got = egress().send(&grant, asked).await.unwrap();
    assert_eq!((got.status, got.header("x-a"), &got.body[..]), (201, Some("b"), &b"made"[..]));
    assert_eq!(got.header("keep-alive"), None);
    let seen = &server.seen()[0];
    assert!(seen.head.starts_with("POST /p/q?r=s HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!(seen.body, "{}");
    assert_eq!(seen.header("host"), Some(&*server.address.to_string()));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert_eq!(seen.header("user-agent"), Some(USER_AGENT));
}

#[tokio::test]
async fn an_origin_that_was_not_granted_is_denied_with_the_line_to_add() {
    let server = Server::answering(answer(200, "", "")).await;
    let grant = grant(&["https://api.example.com"], &[LOCAL], &[]);
    let sentence = denied(egress().send(&grant, request("GET", &server.origin(), "")).await);
    let line = format!("`origins = [\"{}\"]` to [plugins.demo] in plugway.toml", server.origin());
    assert!(sentence.contains(&line), "{sentence}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn addresses_are_denied_however_they_are_written() {
    let egress = egress();
    let port = Server::answering(answer(200, "", "inside")).await.address.port();
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "127.0.0.1.",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.168.0.1",
        "localhost",
        "LOCALHOST",
    ] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{port}/");
            let origin = Origin::of(&Url::parse(&url).unwrap()).to_string();
            let sentence = denied(egress.send(&grant(&[&origin], &[], &[]), request("GET", &url, "")).await);
            assert!(sentence.contains("private_networks = ["), "{url}: {sentence}");
            assert!(
                check_callback_url(&Grant::callbacks(Vec::new()), &url).is_err()
                    || host.to_lowercase().starts_with("localhost")
            );
        }
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_reaches_nothing_inside() {
    let server = Server::answering(answer(200, "connection: close\r\n", "inside")).await;
    let port = server.address.port();
    let url = format!("http://rebind.example:{port}/");
    let origin = format!("http://rebind.example:{port}");

    // The first answer is public (and leads nowhere), the second is this machine.
    let (lookup, asked) = scripted(&[&["192.0.2.1", "127.0.0.1"], &["127.0.0.1"], &["::ffff:127.0.0.1"]]);
    let egress = egress_with(Config::default(), lookup);
    for _ in 0..3 {
        let sentence = denied(egress.send(&grant(&[&origin], &[], &[]), request("GET", &url, "")).await);
        assert!(sentence.contains("rebind.example"), "{sentence}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert!(server.seen().is_empty());

    // One lookup, whose vetted address is the one that is connected to.
    let (lookup, asked) = scripted(&[&["10.9.9.9", "127.0.0.1"], &["10.9.9.9"]]);
    let egress = egress_with(Config::default(), lookup);
    let got = egress.send(&grant(&[&origin], &[LOCAL], &[]), request("GET", &url, "")).await.unwrap();
    assert_eq!((got.status, asked.load(Ordering::SeqCst)), (200, 1));
}

#[tokio::test]
async fn a_kept_connection_serves_no_grant_that_could_not_have_made_it() {
    let server = Server::answering(answer(200, "", "inside")).await;
    let url = format!("http://name.example:{}/", server.address.port());
    let (lookup, _) = scripted(&[&["127.0.0.1"]]);
    let egress = egress_with(Config::default(), lookup);
    let origin = url.trim_end_matches('/');
    assert!(egress.send(&grant(&[origin], &[LOCAL], &[]), request("GET", &url, "")).await.is_ok());
    denied(egress.send(&grant(&[origin], &[], &[]), request("GET", &url, "")).await);
    assert!(egress.send(&grant(&[origin], &[LOCAL], &[]), request("GET", &url, "")).await.is_ok());
    let connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0]);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let inside = Server::answering(answer(200, "", "inside")).await;
    let location = format!("location: {}/\r\n", inside.origin());
    let server = Server::answering(answer(302, &location, "")).await;
    let grant = grant(&[&server.origin()], &[LOCAL], &[]);
    let got = egress().send(&grant, request("GET", &server.origin(), "")).await.unwrap();
    assert_eq!(got.status, 302);
    assert!(inside.seen().is_empty());
}

#[tokio::test]
async fn a_secret_goes_out_and_does_not_come_back() {
    let token = "123456:AA-secret_token";
    let echo = format!("{{\"url\":\"/bot{token}/x\",\"encoded\":\"{}\"}}", token.replace(':', "%3A"));
    let server = Server::answering(answer(200, &format!("x-echo: {token}\r\n"), &echo)).await;
    let grant = grant(&[&server.origin()], &[LOCAL], &[("token", token)]);
    let mut asked =
        request("POST", &format!("{}/bot{{secret:token}}/getMe", server.origin()), "say {secret:token}");
    asked.headers.push(("authorization".to_owned(), "Bearer {secret:token}".to_owned()));
    let got = egress().send(&grant, asked).await.unwrap();
    let seen = &server.seen()[0];
    assert!(seen.head.starts_with(&format!("POST /bot{token}/getMe HTTP/1.1")), "{}", seen.head);
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {token}")));
    assert_eq!(seen.body, "say {secret:token}");
    assert_eq!(got.header("x-echo"), Some("[secret:token]"));
    assert_eq!(got.body, "{\"url\":\"/bot[secret:token]/x\",\"encoded\":\"[secret:token]\"}");
}

#[tokio::test]
async fn a_secret_that_was_not_sent_is_not_looked_for_in_the_answer() {
    let server = Server::answering(answer(200, "x-id: 12345678\r\n", "{\"message_id\":123456780}")).await;
    let secrets = [("token", "4711:AA-secret_token"), ("webhook_secret", "12345678")];
    let grant = grant(&[&server.origin()], &[LOCAL], &secrets);
    let url = format!("{}/bot{{secret:token}}/sendMessage", server.origin());
    let got = egress().send(&grant, request("POST", &url, "")).await.unwrap();
    assert_eq!((got.header("x-id"), &got.body[..]), (Some("12345678"), &b"{\"message_id\":123456780}"[..]));
}

#[tokio::test]
async fn errors_hold_no_secret() {
    let server = Server::start(|_, _| vec![Step::Send("HTTP/1.1 2".to_owned()), Step::Reset]).await;
    let grant = grant(&[&server.origin(), "http://127.0.0.1:1"], &[LOCAL], &[("token", "s3cret-value")]);
    for origin in [server.origin(), "http://127.0.0.1:1".to_owned()] {
        let url = format!("{origin}/bot{{secret:token}}/x");
        let error = egress().send(&grant, request("POST", &url, "")).await.unwrap_err();
        assert!(!format!("{error:?} {error}").contains("s3cret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_secret_that_is_not_granted_or_not_in_its_place_is_denied() {
    let grant = grant(&["http://127.0.0.1:1"], &[LOCAL], &[("token", "s3cret-value")]);
    let egress = egress();
    let ask = |url: &str| egress.send(&grant, request("GET", url, ""));
    let sentence = denied(ask("http://127.0.0.1:1/{secret:other}").await);
    assert!(sentence.contains("`secrets = { other = \"env:…\" }` to [plugins.demo]"), "{sentence}");
    assert!(denied(ask("http://127.0.0.1:1/?k={secret:token}").await).contains("query"));
    assert!(denied(ask("http://u:p@127.0.0.1:1/").await).contains("password"));
    assert!(denied(ask("ftp://127.0.0.1:1/").await).contains("http"));
    assert!(denied(ask("not a url").await).contains("URL"));
    denied(ask("http://{secret:token}/").await);
}

#[tokio::test]
async fn what_belongs_to_the_connection_can_not_be_set() {
    let grant = grant(&["http://127.0.0.1:1"], &[LOCAL], &[]);
    let egress = egress();
    for name in [
        "Host",
        "Connection",
        "Transfer-Encoding",
        "Content-Length",
        "Upgrade",
        "proxy-connection",
        "a b",
        "",
    ] {
        let mut asked = request("GET", "http://127.0.0.1:1/", "");
        asked.headers.push((name.to_owned(), "x".to_owned()));
        denied(egress.send(&grant, asked).await);
    }
    let mut asked = request("GET", "http://127.0.0.1:1/", "");
    asked.headers.push(("x-a".to_owned(), "a\r\nx-b: c".to_owned()));
    assert!(denied(egress.send(&grant, asked).await).contains("x-a"));
    for method in ["CONNECT", "TRACE", "BREW", ""] {
        denied(egress.send(&grant, request(method, "http://127.0.0.1:1/", "")).await);
    }
}

#[tokio::test]
async fn it_is_told_whether_the_server_can_have_got_anything() {
    let ask = |egress: Egress, url: String| async move {
        let origin = url.parse::<Origin>().unwrap();
        let grant = grant(&[origin.as_str()], &[LOCAL], &[]);
        let asked = EgressRequest { timeout: Duration::from_millis(300), ..request("POST", &url, "{}") };
        egress.send(&grant, asked).await.unwrap_err()
    };
    // Refused.
    let error = ask(egress(), "http://127.0.0.1:1".to_owned()).await;
    assert!(matches!(error, EgressError::Unreachable(_)), "{error:?}");
    // No such name.
    let failing: Lookup = Arc::new(|_| Box::pin(async { Err(io::Error::other("no such name")) }));
    let error = ask(egress_with(Config::default(), failing), "http://none.example".to_owned()).await;
    assert!(matches!(&error, EgressError::Unreachable(why) if why.contains("no such name")), "{error:?}");
    // The name server hangs: by the request's own time, and by that for connecting.
    let hanging: Lookup = Arc::new(|_| Box::pin(std::future::pending()));
    let error =
        ask(egress_with(Config::default(), Arc::clone(&hanging)), "http://slow.example".to_owned()).await;
    assert!(matches!(error, EgressError::Unreachable(_)), "{error:?}");
    let hasty = Config { connect_timeout: Duration::from_millis(20), ..Config::default() };
    let error = ask(egress_with(hasty, hanging), "http://slow.example".to_owned()).await;
    assert!(matches!(&error, EgressError::Unreachable(why) if why.contains("20ms")), "{error:?}");
    // TLS does not come about: the other side says nothing.
    let mute = Server::start(|_, _| Vec::new()).await;
    let error = ask(egress(), format!("https://{}", mute.address)).await;
    assert!(matches!(error, EgressError::Unreachable(_)), "{error:?}");
    // From here on the request was written.
    for (steps, timeout) in [
        (vec![Step::Hang], true),
        (vec![Step::Send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab".to_owned()), Step::Hang], true),
        (vec![Step::Close], false),
        (vec![Step::Reset], false),
        (vec![Step::Send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab".to_owned()), Step::Close], false),
        (vec![Step::Send("rubbish\r\n\r\n".to_owned())], false),
        (vec![Step::Send(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(200_000)))], false),
    ] {
        let script = steps.clone();
        let server = Server::start(move |_, _| script.clone()).await;
        let error = ask(egress(), server.origin()).await;
        let expected = if timeout {
            matches!(error, EgressError::Timeout)
        } else {
            matches!(error, EgressError::Interrupted(_))
        };
        assert!(expected, "{steps:?}: {error:?}");
        assert_eq!(server.seen().len(), 1, "{steps:?}");
    }
}

#[tokio::test]
async fn tls_garbage_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let _speaker = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-x\r\n").await;
        }
    }));
    let error = egress().send(&grant(&[&url], &[LOCAL], &[]), request("POST", &url, "{}")).await.unwrap_err();
    assert!(matches!(error, EgressError::Unreachable(_)), "{error:?}");
}

/// A kept connection on which the server has given up: a request that was written to it is not repeated, one that was
/// not goes to a new connection.
#[tokio::test]
async fn nothing_is_sent_twice_behind_the_callers_back() {
    let server = Server::start(|seen, before| match before {
        0 => vec![Step::Send(answer(200, "", "first"))],
        // The server takes the second request and dies of it.
        1 => {
            assert_eq!(seen.connection, 0);
            vec![Step::Reset]
        }
        _ => vec![Step::Send(answer(200, "", "later"))],
    })
    .await;
    let (egress, grant) = (egress(), grant(&[&server.origin()], &[LOCAL], &[]));
    let post = |body: &'static str| egress.send(&grant, request("POST", &server.origin(), body));
    assert_eq!(post("a").await.unwrap().body, "first");
    let error = post("b").await.unwrap_err();
    assert!(matches!(error, EgressError::Interrupted(_)), "{error:?}");
    let bodies: Vec<_> = server.seen().iter().map(|seen| seen.body.clone()).collect();
    assert_eq!(bodies, ["a", "b"]);
    assert_eq!(post("c").await.unwrap().body, "later");
}

#[tokio::test]
async fn a_connection_that_the_server_closed_while_it_was_idle_is_replaced() {
    let server = Server::start(|_, _| vec![Step::Send(answer(200, "", "fine")), Step::Close]).await;
    let (egress, grant) = (egress(), grant(&[&server.origin()], &[LOCAL], &[]));
    for number in 0..20 {
        let answer = egress.send(&grant, request("POST", &server.origin(), &number.to_string())).await;
        match answer {
            Ok(answer) => assert_eq!(answer.body, "fine"),
            // The close can come while the request is being written: then nobody knows, and the caller is told so.
            Err(error) => assert!(matches!(error, EgressError::Interrupted(_)), "{error:?}"),
        }
    }
    let mut bodies: Vec<_> = server.seen().iter().map(|seen| seen.body.clone()).collect();
    let all = bodies.len();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), all, "a body came twice");
}

#[tokio::test]
async fn bodies_have_bounds() {
    let server = Server::answering(answer(200, "", &"x".repeat(2000))).await;
    let grant = grant(&[&server.origin()], &[LOCAL], &[]);
    let config =
        Config { response_body: ByteSize::b(1000), request_body: ByteSize::b(10), ..Config::default() };
    let egress = egress_with(config, connect::system_lookup(4));
    let error = egress.send(&grant, request("GET", &server.origin(), "")).await.unwrap_err();
    assert!(matches!(&error, EgressError::Interrupted(why) if why.contains("larger than")), "{error:?}");
    denied(egress.send(&grant, request("POST", &server.origin(), "12345678901")).await);
    let head = egress.send_for_head(&grant, request("GET", &server.origin(), "")).await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn it_works_from_another_runtime() {
    let main = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (server, egress) =
        main.block_on(async { (Server::answering(answer(200, "", "hello")).await, egress()) });
    let grant = grant(&[&server.origin()], &[LOCAL], &[]);
    for _ in 0..2 {
        // A runtime that is gone afterwards, and has no I/O of its own: the connection must outlive it.
        let guest = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sent = guest.block_on(egress.send(&grant, request("GET", &server.origin(), "")));
        assert_eq!(sent.unwrap().body, "hello");
    }
    assert!(server.seen().iter().all(|seen| seen.connection == 0));
}

#[tokio::test]
async fn an_abandoned_request_ends() {
    let server = Server::start(|_, _| vec![Step::Hang]).await;
    let (egress, grant) = (egress(), grant(&[&server.origin()], &[LOCAL], &[]));
    let asked = egress.send(&grant, request("GET", &server.origin(), ""));
    assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err());
}

/// The certificate is for `secure.example`, by an authority that only this test trusts.
#[tokio::test]
async fn https_is_spoken_with_whom_the_certificate_names() {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let pem = include_bytes!("testdata/secure.example.pem");
    let authority = CertificateDer::from_pem_slice(include_bytes!("testdata/authority.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pem).unwrap()],
            PrivateKeyDer::from_pem_slice(pem).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
            let whole = answer(200, "", "private");
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, whole.as_bytes()).await;
        }
    }));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority).unwrap();
    let trusting = |tls| {
        let (lookup, _) = scripted(&[&["127.0.0.1"]]);
        Egress::with_lookup(Config::default(), tls, Handle::current(), lookup)
    };
    let ask = |egress: Egress, host: &str| {
        let url = format!("https://{host}:{port}");
        async move { egress.send(&grant(&[&url], &[LOCAL], &[]), request("GET", &url, "")).await }
    };
    let got = ask(trusting(Tls::trusting(roots.clone())), "secure.example").await.unwrap();
    assert_eq!(got.body, "private");
    for (tls, host) in [(Tls::trusting(roots), "other.example"), (Tls::default(), "secure.example")] {
        let error = ask(trusting(tls), host).await.unwrap_err();
        assert!(matches!(&error, EgressError::Unreachable(why) if why.contains("certificate")), "{error:?}");
    }
}
