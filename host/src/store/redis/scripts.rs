//! The Lua scripts: every change of the store is one of them, and so happens wholly or not at all.
//!
//! A script's first line says what it may do: `allow-oom` are those that end or free something, which go on when Redis
//! is out of memory. The prelude is put behind that line, and then the parts that the second line names (`-- uses`).

use redis::Cmd;

const PRELUDE: &str = include_str!("lua/prelude.lua");
/// What only some scripts need: Redis would make all of it anew for every call.
const PARTS: [(&str, &str); 4] = [
    ("outbox", include_str!("lua/part_outbox.lua")),
    ("tasks", include_str!("lua/part_tasks.lua")),
    ("kv", include_str!("lua/part_kv.lua")),
    ("claims", include_str!("lua/part_claims.lua")),
];

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
        let uses = body.lines().next().and_then(|line| line.strip_prefix("-- uses ")).unwrap_or_default();
        let mut code = format!("{flags}\n{PRELUDE}");
        for (name, part) in PARTS {
            if uses.split(' ').any(|used| used == name) {
                code.push_str(part);
            }
        }
        code.push_str(body);
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
    peek,
    settle,
    submit,
    sweep,
);
