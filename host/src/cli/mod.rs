//! The command line.

#[macro_use]
mod output;

mod build;
mod config;
mod dev;
mod inspect;
mod list;
mod serve;
mod tryout;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::plugins::{COMPILE, compile_component};

/// The agent gateway that you extend by dropping in a .wasm.
///
/// Platforms reach agents through plugins: WebAssembly components in the plugin directory, reloaded while the gateway
/// serves. Without a configuration it listens on 127.0.0.1:8080, keeps its data in ./data, loads ./plugins/*.wasm
/// and answers with the built-in echo agent.
#[derive(Debug, Parser)]
#[command(name = "plugway", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve.
    Serve(ServeArgs),
    /// Build the plugins under the plugin directory, serve, and rebuild a plugin when its sources change.
    Dev(ServeArgs),
    /// Build, check and look at plugins.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Compile the component on standard input to standard output, with bounds: what the gateway starts itself as.
    #[command(name = COMPILE, hide = true)]
    Compile(CompileArgs),
}

/// What the gateway tells its compiler, in bytes.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CompileArgs {
    /// Length of the component.
    #[arg(long)]
    pub(crate) length: u64,
    /// The largest memory that any plugin may be granted.
    #[arg(long)]
    pub(crate) largest_memory: usize,
    /// Memory that compiling may take.
    #[arg(long)]
    pub(crate) memory: u64,
}

/// Where the configuration comes from, and what overrides it.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML). Without one: ./plugway.toml if it is there, else the defaults.
    #[arg(long, value_name = "FILE", env = "PLUGWAY_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Address to listen on, as 127.0.0.1:8080; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Where the embedded store and the artefact cache are kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where plugins (*.wasm) are dropped.
    #[arg(long, value_name = "DIR")]
    pub(crate) plugins_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// Build plugin crates and install them, atomically, into the plugin directory.
    ///
    /// Each crate becomes FOLDER.wasm, built for wasm32-wasip2 with settings that keep it small and quick to start.
    Build(BuildArgs),
    /// Run the whole loading transaction on a component without serving it, and say what is wrong.
    Check(CheckArgs),
    /// Print what a component says of itself: version, contract, roles, routes, wants, size.
    Inspect(CheckArgs),
    /// List what a running gateway serves.
    List(ListArgs),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BuildArgs {
    /// Folders of plugin crates. Without any: every crate under the plugin directory.
    #[arg(value_name = "CRATE_DIR")]
    pub(crate) crates: Vec<PathBuf>,
    /// Where the components go, and where crates are looked for.
    #[arg(long, value_name = "DIR", default_value = "plugins")]
    pub(crate) out: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CheckArgs {
    /// The component.
    #[arg(value_name = "FILE.wasm")]
    pub(crate) file: PathBuf,
    /// Configuration file whose [plugins.NAME] table the plugin is checked against.
    #[arg(long, value_name = "FILE", env = "PLUGWAY_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ListArgs {
    /// Address of the gateway.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", env = "PLUGWAY_URL")]
    pub(crate) url: String,
    /// Key for its administration, where it needs one.
    #[arg(long, value_name = "KEY", env = "PLUGWAY_ADMIN_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the configuration, and print what is in effect with secrets hidden.
    Check(ServeArgs),
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// Whatever went wrong, in words for the user.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(args) => serve::serve(&args),
            Command::Dev(args) => dev::dev(&args),
            Command::Plugin(PluginCommand::Build(args)) => build::build(&args),
            Command::Plugin(PluginCommand::Check(args)) => inspect::check(&args),
            Command::Plugin(PluginCommand::Inspect(args)) => inspect::inspect(&args),
            Command::Plugin(PluginCommand::List(args)) => list::list(&args),
            Command::Config(ConfigCommand::Check(args)) => config::check(&args),
            Command::Compile(args) => compile(args),
        }
    }
}

/// The gateway reads what is said here: the reason alone.
fn compile(args: CompileArgs) -> anyhow::Result<()> {
    if let Err(reason) = compile_component(args.length, args.largest_memory, args.memory) {
        eprintln!("{reason}");
        std::process::exit(1);
    }
    Ok(())
}
