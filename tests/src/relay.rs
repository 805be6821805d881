//! A relay of TCP connections that cuts them when it is told to, and keeps how each began.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longest beginning of a connection that is kept.
const BEGINNING: usize = 16 << 10;

/// The running relay.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    cut: watch::Sender<()>,
    beginnings: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<()>,
}

impl Relay {
    /// Relays what comes to an address of its own to `host`, as "127.0.0.1:8080".
    pub async fn start(host: &str) -> Self {
        let target: SocketAddr = host.parse().expect("the host is an address");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let port = listener.local_addr().expect("the listener is bound").port();
        let (cut, cuts) = watch::channel(());
        let beginnings = Arc::<Mutex<Vec<String>>>::default();
        let mut server = JoinSet::new();
        let kept = Arc::clone(&beginnings);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (mut cuts, kept) = (cuts.clone(), Arc::clone(&kept));
                cuts.mark_unchanged();
                connections.spawn(async move {
                    tokio::select! {
                        _ = cuts.changed() => {}
                        () = relay(client, target, &kept) => {}
                    }
                });
            }
        });
        Self { port, cut, beginnings, _server: server }
    }

    /// Address of `path` behind it.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Closes all connections at once, whatever is under way on them.
    pub fn cut(&self) {
        self.cut.send_replace(());
    }

    /// What the client of each connection said first, as the head of a request.
    pub fn beginnings(&self) -> Vec<String> {
        self.beginnings.lock().expect("no connection panicked").clone()
    }
}

async fn relay(mut client: TcpStream, target: SocketAddr, beginnings: &Mutex<Vec<String>>) {
    // Either side may go away at any time: then the other one is closed too.
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let mut beginning = Vec::with_capacity(BEGINNING);
    while !beginning.ends_with(b"\r\n\r\n") && beginning.len() < BEGINNING {
        if !matches!(client.read_buf(&mut beginning).await, Ok(read) if read > 0) {
            return;
        }
    }
    let text = String::from_utf8_lossy(&beginning).into_owned();
    beginnings.lock().expect("no connection panicked").push(text);
    if server.write_all(&beginning).await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
