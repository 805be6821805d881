//! Servers as child processes: started, asked what they used, and gone when this is.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Longest that a server may take to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// A server that listens, with the processes that it started.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Server {
    /// Starts `command`, which is to listen at `address`, and waits until it does. What it writes goes to the file
    /// `log`.
    pub(crate) fn start(mut command: Command, address: SocketAddr, log: &Path) -> anyhow::Result<Self> {
        die_with_parent(&mut command);
        let out = fs::File::create(log)?;
        command.stdin(Stdio::piped()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
        let mut server = Self { child, address, log: log.to_path_buf() };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            server.check()?;
            if began.elapsed() > PATIENCE {
                bail!("{command:?} does not listen: {}", server.log());
            }
            thread::sleep(PAUSE);
        }
        Ok(server)
    }

    /// An error if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("a server ended with {status}: {}", self.log()),
            None => Ok(()),
        }
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its standard input; none if that was taken before.
    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// CPU time that it and its children have used, user and system. Known in steps of 10 ms.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut ticks = 0;
        for id in self.family() {
            let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
            // See proc_pid_stat(5). The second field is a name in brackets and may contain anything; utime, stime,
            // cutime and cstime are the 14th to the 17th.
            let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
            let times = fields.split(' ').skip(11).take(4);
            ticks += times.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        }
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Memory of it and its children, in bytes; of what is shared with others a share.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        let mut total = 0;
        for id in self.family() {
            let maps = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
            let line = maps.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
            total += line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024;
        }
        Ok(total)
    }

    /// Its id, its children's, and theirs.
    fn family(&self) -> Vec<u32> {
        let mut ids = vec![self.child.id()];
        let mut at = 0;
        while let Some(id) = ids.get(at) {
            // A server's main thread is what starts others.
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            ids.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            at += 1;
        }
        ids
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked first, so that it can end its children.
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id {
            // This and the rest fail only when it has ended already.
            let _ = kill_process(id, Signal::TERM);
        }
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < Duration::from_secs(3) {
            thread::sleep(PAUSE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of the loopback interface that was free a moment ago.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Whether the program is there to be started.
pub(crate) fn is_installed(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?} does not start"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;

    #[expect(unsafe_code, reason = "the hook runs between fork and exec, and makes one system call there")]
    // SAFETY: prctl is async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(Into::into)
        });
    }
}
