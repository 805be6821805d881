//! A plugin that looks for what a sandbox must not show: environment, arguments, files.

use plugway_sdk::prelude::*;

struct Nosy;

impl HttpAdapter for Nosy {
    fn handle(&self, _request: Request, reply: Reply) -> Result<()> {
        let mut found: Vec<String> =
            std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
        found.extend(std::env::args());
        for path in ["/", ".", "/etc/passwd", "plugway.toml", "data", "/proc/self/environ"] {
            found.extend(std::fs::read_to_string(path));
            found.extend(std::fs::read_dir(path).into_iter().map(|_| format!("directory {path}")));
        }
        found.extend(std::fs::write("/tmp/left-behind", "x").map(|()| "a file was written".to_owned()));
        reply.text(200, found.join("\n"))
    }
}

plugway_sdk::export!(Nosy: http, routes = ["GET /nosy" by plugin]);
