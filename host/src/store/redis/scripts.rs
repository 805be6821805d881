//! The Lua scripts: every change of the store is one of them, and so happens wholly or not at all.
//!
//! A script's first line says what it may do: `allow-oom` are those that end or free something, which go on when Redis
//! is out of memory. The prelude is put behind that line.

use redis::Cmd;

const PRELUDE: &str = include_str!("lua/prelude.lua");

/// A script, ready to be called by its hash.
#[derive(Debug)]
pub(super) struct Script {
    code: String,
    sha: String,
    /// It adds something: refused while Redis is out of memory.
    pub(super) adds: bool,
}

impl Script {
    fn new(source: &str) -> Self {
        let (flags, body) = source.split_once('\n').unwrap_or((source, ""));
        let code = format!("{flags}\n{PRELUDE}\n{body}");
        let sha = redis::Script::new(&code).get_hash().to_owned();
        Self { code, sha, adds: !flags.contains("allow-oom") }
    }

    /// Calls it: the prefix and the time are its first arguments, all others follow.
    pub(super) fn call(&self, base: &str, (wall, steady): (&str, &str)) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.sha).arg(1).arg(base).arg(wall).arg(steady);
        cmd
    }

    /// Makes Redis know it.
    pub(super) fn load(&self) -> Cmd {
        let mut cmd = redis::cmd("SCRIPT");
        cmd.arg("LOAD").arg(&self.code);
        cmd
    }
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        /// All scripts by name.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)*
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self { $($name: Script::new(include_str!(concat!("lua/", stringify!($name), ".lua"))),)* }
            }

            pub(super) fn all(&self) -> impl Iterator<Item = &Script> {
                [$(&self.$name,)*].into_iter()
            }
        }
    };
}

scripts!(
    append,
    cancel,
    claim,
    claim_deliveries,
    enqueue,
    finish,
    kv_delete,
    kv_put,
    pause,
    probe,
    release,
    release_sweep,
    renew,
    renew_delivery,
    replay,
    reserve,
    settle,
    submit,
    sweep,
);
