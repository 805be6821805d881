//! Compiling components: in a child process with bounded memory and time, or in this one.
//!
//! Invariant: whatever a component makes the compiler do, it happens in the child and ends within its bounds, or with
//! the gateway.

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytesize::ByteSize;
use rustix::process::{Resource, Rlimit, setpriority_process, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::engine::{Engine, EngineConfig, compile_settings};
use super::failure::{describe, shorten};

/// The hidden subcommand that this program starts itself with.
pub const COMPILE: &str = "compile-component";
/// How much of a compiler's message an error quotes.
const QUOTED: usize = 600;
/// How much of the child's standard error is read.
const STDERR: u64 = 64 << 10;
/// Niceness of the child: compiling gives way to what serves.
const NICENESS: i32 = 10;

/// Where components are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In this process, without bounds: for programs that are not `plugway` and so can't start themselves as one.
    InProcess,
    /// In a child: this program, started again with the subcommand [`COMPILE`].
    Child {
        /// Memory that it may use.
        memory: ByteSize,
        /// Time that it may take.
        timeout: Duration,
    },
}

impl Compiler {
    /// A child with the configured bounds. Only the `plugway` binary has the subcommand that this needs.
    pub fn child(config: &EngineConfig) -> Self {
        Self::Child { memory: config.compile_memory, timeout: config.compile_timeout }
    }

    /// Compiles a component to the engine's artefact. Dropping the future ends the child.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the component, or which bound it broke.
    pub(super) async fn compile(&self, engine: &Engine, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        match self {
            Self::InProcess => {
                let engine = engine.wasmtime().clone();
                tokio::task::spawn_blocking(move || engine.precompile_component(&bytes))
                    .await
                    .map_err(|error| format!("compiling it failed: {error}"))?
                    .map_err(|error| format!("not a valid component: {}", quote(&error)))
            }
            Self::Child { memory, timeout } => {
                let compiled = in_child(engine.largest_memory(), *memory, bytes);
                tokio::time::timeout(*timeout, compiled).await.unwrap_or_else(|_| {
                    let timeout = humantime::format_duration(*timeout);
                    Err(format!("compiling it took longer than {timeout} (engine.compile_timeout)"))
                })
            }
        }
    }
}

async fn in_child(largest_memory: usize, memory: ByteSize, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("can't run the compiler: {error}");
    let mut child = Command::new(own_program().map_err(failed)?)
        .arg0("plugway")
        .arg(COMPILE)
        .args(["--length", &bytes.len().to_string()])
        .args(["--largest-memory", &largest_memory.to_string()])
        .args(["--memory", &memory.as_u64().to_string()])
        // It needs none of the gateway's secrets, and no signal of the gateway's terminal.
        .env_clear()
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err("can't run the compiler: it has no pipes".to_owned());
    };
    let (mut artefact, mut said) = (Vec::new(), Vec::new());
    let mut stdout = stdout.take(memory.as_u64());
    // A child that ended early does not take its input: its status tells.
    let write = async {
        let _ = stdin.write_all(&bytes).await;
    };
    let read_error = async { stderr.take(STDERR).read_to_end(&mut said).await };
    let ((), artefact_read, error_read) = tokio::join!(write, stdout.read_to_end(&mut artefact), read_error);
    let status = child.wait().await.map_err(failed)?;
    // Open until now: its end tells the child that nobody waits for it any more.
    drop(stdin);
    artefact_read.and(error_read).map_err(failed)?;
    if status.success() { Ok(artefact) } else { Err(blame(status, &String::from_utf8_lossy(&said), memory)) }
}

/// The file of this program, also after another was put in its place.
fn own_program() -> std::io::Result<std::path::PathBuf> {
    if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() }
}

/// What a child's end says of the component.
fn blame(status: ExitStatus, said: &str, memory: ByteSize) -> String {
    let said = shorten(said.trim(), QUOTED);
    if said.contains("memory allocation of") {
        return format!("compiling it needs more than {memory} of memory (engine.compile_memory)");
    }
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("the compiler crashed on this component (signal {signal}): {said}"),
        (None, Some(1)) => format!("not a valid component: {said}"),
        (None, _) => format!("the compiler failed on this component ({status}): {said}"),
    }
}

/// The child's whole life: takes a component of `length` bytes from standard input, and writes its artefact to
/// standard output. Ends at once when standard input ends after that: then nobody waits for it.
///
/// # Errors
/// A sentence for standard error.
pub fn compile_component(length: u64, largest_memory: usize, memory: u64) -> Result<(), String> {
    // First, since threads inherit it. Where it is refused, compiling is merely less polite.
    let _ = setpriority_process(None, NICENESS);
    bound(memory).map_err(|error| format!("can't bound the compiler's memory: {error}"))?;
    let unread = |error: std::io::Error| format!("the component did not arrive: {error}");
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(length).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.len() as u64 != length {
        return Err("the component did not arrive whole".to_owned());
    }
    std::thread::Builder::new().spawn(end_with_parent).map_err(unread)?;
    let engine = wasmtime::Engine::new(&compile_settings(largest_memory)).map_err(|error| quote(&error))?;
    let artefact = engine.precompile_component(&bytes).map_err(|error| quote(&error))?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&artefact).and_then(|()| stdout.flush()).map_err(|error| error.to_string())
}

/// What counts is memory that is written to. On Linux that is the data limit; the address space would count what the
/// allocator only sets aside, a lot with many processors.
fn bound(memory: u64) -> rustix::io::Result<()> {
    let counted = if cfg!(target_os = "linux") { Resource::Data } else { Resource::As };
    setrlimit(counted, Rlimit { current: Some(memory), maximum: Some(memory) })?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
}

fn end_with_parent() {
    // Nothing more is ever sent: this returns when the other end is closed.
    let _ = std::io::stdin().lock().read(&mut [0]);
    std::process::exit(1);
}

fn quote(error: &wasmtime::Error) -> String {
    shorten(&describe(error), QUOTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::engine::tests::small_engine;

    /// A component of one core module, which has a function.
    const COMPONENT: &[u8] =
        b"\0asm\x0d\0\x01\0\x01\x18\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x04\x01\x02\0\x0b";

    #[test]
    fn an_artefact_of_the_childs_engine_loads_in_the_gateways() {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let hash = |engine: &wasmtime::Engine| {
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        let engine = small_engine();
        let child = wasmtime::Engine::new(&compile_settings(engine.largest_memory())).unwrap();
        assert_eq!(hash(&child), hash(engine.wasmtime()));
        let artefact = child.precompile_component(COMPONENT).unwrap();
        super::super::artefacts::load_artefact(engine.wasmtime(), &artefact).unwrap();
    }

    #[tokio::test]
    async fn in_process_the_same_artefact_comes_out() {
        let engine = small_engine();
        let child = wasmtime::Engine::new(&compile_settings(engine.largest_memory())).unwrap();
        let artefact = Compiler::InProcess.compile(&engine, COMPONENT.to_vec()).await.unwrap();
        assert_eq!(artefact, child.precompile_component(COMPONENT).unwrap());
        let reason =
            Compiler::InProcess.compile(&engine, b"\0asm\x0d\0\x01\0\x01".to_vec()).await.unwrap_err();
        assert!(reason.starts_with("not a valid component"), "{reason}");
    }

    #[test]
    fn the_end_of_a_compiler_is_put_into_words() {
        let memory = ByteSize::mib(1);
        let end = |raw, said| blame(ExitStatus::from_raw(raw), said, memory);
        assert_eq!(end(1 << 8, "unexpected end\n"), "not a valid component: unexpected end");
        assert!(end(6, "memory allocation of 8 bytes failed").contains("engine.compile_memory"));
        assert!(end(11, "").contains("signal 11"));
        assert!(end(101 << 8, "panicked").contains("panicked"));
    }
}
