//! A server as a child process: started, asked what it used, and gone when this is.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// What a server prints on standard output once it serves, before its address.
const LISTENING: &str = "listening on http://";

/// A server that listens.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts `command`, and waits until it says where it listens. Its log goes to the file `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        die_with_parent(&mut command);
        let log_file = fs::File::create(log)?;
        // Standard input stays open, and empty, for as long as this lives.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim_end().strip_prefix(LISTENING).map(str::parse) {
            Some(Ok(address)) => Ok(Self { child, address }),
            _ => {
                child.kill()?;
                child.wait()?;
                bail!("{command:?} does not serve: {}", fs::read_to_string(log)?)
            }
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU time that it has used, of its children that have ended too; known in steps of 10 ms.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // See proc_pid_stat(5). The second field is a name in brackets and may contain anything; utime, stime, cutime
        // and cstime are the 14th to the 17th.
        let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
        let times = fields.split(' ').skip(11).take(4);
        let ticks = times.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Duration::from_secs(1) * u32::try_from(ticks)?
            / u32::try_from(rustix::param::clock_ticks_per_second())?)
    }

    /// Memory of it that is resident, in KiB.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;

    #[expect(unsafe_code, reason = "the hook runs between fork and exec, and makes one system call there")]
    // SAFETY: prctl is async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(Into::into)
        });
    }
}
