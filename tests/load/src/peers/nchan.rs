//! nchan on nginx: one worker, one channel, events by POST.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use plugway_figures::process::{Server, free_address, is_installed};

use super::{Feed, Peer};
use crate::publish::Posts;
use crate::workshop::Workshop;

/// Where distributions put nginx' modules.
const MODULES: [&str; 3] = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules"];
const MODULE: &str = "ngx_nchan_module.so";

/// What is missing, in a sentence.
pub(super) fn missing() -> Option<String> {
    let there = is_installed("nginx") && module().is_some();
    (!there).then(|| {
        "nginx with nchan is not installed; on Debian: sudo apt-get install nginx libnginx-mod-nchan"
            .to_owned()
    })
}

fn module() -> Option<PathBuf> {
    MODULES.iter().map(|directory| Path::new(directory).join(MODULE)).find(|path| path.is_file())
}

pub(super) fn start(workshop: &Workshop, clients: usize) -> anyhow::Result<Peer> {
    let address = free_address()?;
    let home = workshop.home("nchan")?;
    let module = module().unwrap_or_default();
    // Streams are cut off when fewer than a sixteenth are free.
    let connections = clients * 5 / 4 + 100;
    let config = format!(
        r"load_module {module};
daemon off;
worker_processes 1;
pid {home}/pid;
error_log stderr warn;
events {{ worker_connections {connections}; use epoll; }}
http {{
  access_log off;
  tcp_nodelay on;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  server {{
    listen {address} backlog=4096;
    location = /publish {{
      nchan_publisher;
      nchan_channel_id load;
      nchan_message_buffer_length 1000;
      nchan_message_timeout 1m;
    }}
    location = /subscribe {{
      nchan_subscriber eventsource;
      nchan_channel_id load;
      nchan_subscriber_first_message newest;
    }}
  }}
}}
",
        module = module.display(),
        home = home.display(),
    );
    fs::write(home.join("nginx.conf"), config)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&home).arg("-c").arg(home.join("nginx.conf")).args(["-e", "stderr"]);
    let server = Server::start(command, address, &workshop.log("nchan"))?;
    let feed = Feed::Posts(Posts::open(address, "/publish")?);
    Ok(Peer::new(vec![server], "/subscribe", feed))
}
