//! The servers that are compared: the model server, and the gateways before it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use plugway_figures::process::{Server, free_address};
use plugway_figures::python;

use crate::content::Content;
use crate::http::request;
use crate::streams::{Call, Received};
use crate::workshop::Workshop;

/// Longest that a server that listens gets to serve.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time for a server to be where it waits.
const SETTLE: Duration = Duration::from_secs(1);
/// Name of the model everywhere.
const MODEL: &str = "model";
/// The key that LiteLLM wants.
const KEY: &str = "sk-0123456789abcdef";
/// What the last line of a whole stream of chunks has in it.
pub(crate) const DONE: &str = "data: [DONE]";

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The model server, asked directly.
    #[value(skip)]
    Direct,
    /// The gateway, its plugin `openai` before an agent of kind `openai`.
    #[value(skip)]
    Plugway,
    /// LiteLLM's proxy, one worker.
    Litellm,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Plugway, Self::Litellm];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "model server",
            Self::Plugway => "Plugway",
            Self::Litellm => "LiteLLM",
        }
    }

    /// What it needs and isn't there, in a sentence. Installs what needs no password.
    pub(crate) fn missing(self, workshop: &Workshop) -> Option<String> {
        let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("requirements.txt");
        match self {
            Self::Direct | Self::Plugway => None,
            Self::Litellm => {
                python::install(&workshop.python(), &requirements).err().map(|error| format!("{error:#}"))
            }
        }
    }

    /// Starts one before this model server.
    fn start(self, workshop: &Workshop, model: SocketAddr) -> anyhow::Result<Server> {
        match self {
            Self::Direct => bail!("the model server is there already"),
            Self::Plugway => workshop.gateway(&format!(
                "[workers]\ncount = 64\n[agents.model]\nkind = \"openai\"\nbase_url = \"http://{model}/v1\"\n\
                 model = \"{MODEL}\"\n"
            )),
            Self::Litellm => litellm(workshop, model),
        }
    }
}

/// A server that serves.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    server: Server,
    /// Bytes, before it was asked anything.
    pub(crate) idle: u64,
}

impl Subject {
    /// All that are there.
    pub(crate) fn all(workshop: &Workshop) -> anyhow::Result<Vec<Self>> {
        let model = workshop.model()?;
        let address = model.address();
        let mut subjects = vec![Self::ready(Kind::Direct, model)?];
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Direct && workshop.has(*kind)) {
            eprintln!("starting: {}", kind.title());
            let subject = kind.start(workshop, address).and_then(|server| Self::ready(kind, server));
            subjects.push(subject.with_context(|| format!("{} can't be started", kind.title()))?);
        }
        Ok(subjects)
    }

    fn ready(kind: Kind, mut server: Server) -> anyhow::Result<Self> {
        let began = Instant::now();
        thread::sleep(SETTLE);
        let idle = server.memory()?;
        let mut subject = loop {
            server.check()?;
            let subject = Self { kind, server, idle };
            match subject.stream(1, 10, Duration::ZERO) {
                Ok(_) => break subject,
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                Err(_) => {
                    thread::sleep(Duration::from_millis(100));
                    server = subject.server;
                }
            }
        };
        // What the first ones open stays open.
        subject.stream(20, 10, Duration::from_millis(1))?;
        subject.server.check()?;
        Ok(subject)
    }

    /// So many streams at once of so many chunks each.
    pub(crate) fn stream(&self, streams: usize, chunks: u32, pause: Duration) -> anyhow::Result<Received> {
        let text = format!("/words {chunks} {}ms", pause.as_millis());
        let key = if self.kind == Kind::Litellm { KEY } else { "" };
        let call = Call {
            address: self.server.address(),
            request: completion(MODEL, &text, key),
            content: Content::Marks(chunks),
            end: DONE,
        };
        call.run(streams).with_context(|| format!("{}; its log: {}", self.kind.title(), self.server.log()))
    }

    /// CPU time that it has used.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        self.server.cpu()
    }

    /// Memory in bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        self.server.memory()
    }
}

/// The request for a streamed chat completion.
pub(crate) fn completion(model: &str, text: &str, key: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"model":"{model}","stream":true,"stream_options":{{"include_usage":true}},"messages":[{{"role":"user","content":"{text}"}}]}}"#
    );
    request("POST", "/v1/chat/completions", key, &body)
}

fn litellm(workshop: &Workshop, model: SocketAddr) -> anyhow::Result<Server> {
    let (address, home) = (free_address()?, workshop.home("litellm")?);
    let config = format!(
        "model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n      \
         api_base: http://{model}/v1\n      api_key: none\ngeneral_settings:\n  master_key: {KEY}\n\
         litellm_settings:\n  telemetry: false\n"
    );
    fs::write(home.join("config.yaml"), config)?;
    let mut command = Command::new(workshop.python().join("bin/litellm"));
    // Prices of models come with the package; it need not ask for newer ones.
    command.current_dir(&home).env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    command.args(["--config", "config.yaml", "--host", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--num_workers", "1", "--telemetry", "False"]);
    Server::start(command, address, &workshop.log("litellm"))
}
