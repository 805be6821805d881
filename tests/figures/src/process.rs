//! Servers as child processes: started, asked what they used, and gone when this is.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Longest that a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest that one may take to end its children.
const FAREWELL: Duration = Duration::from_secs(3);
/// Lines of a log that are shown.
const LOG: usize = 20;
/// What a server prints on standard output once it serves, before its address.
const LISTENING: &str = "listening on http://";
const PAUSE: Duration = Duration::from_millis(10);

/// A server that listens, with the processes that it started.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Server {
    /// Starts `command`, and waits until it prints where it listens. Its log goes to the file `log`.
    ///
    /// # Errors
    /// It ends, or prints something else.
    pub fn announced(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        die_with_parent(&mut command);
        // Standard input stays open, and empty, for as long as this lives.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(fs::File::create(log)?);
        let mut child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim_end().strip_prefix(LISTENING).map(str::parse) {
            Some(Ok(address)) => Ok(Self { child, address, log: log.to_path_buf() }),
            _ => {
                child.kill()?;
                child.wait()?;
                bail!("{command:?} does not serve: {}", fs::read_to_string(log)?)
            }
        }
    }

    /// Starts `command`, which is to listen at `address`, and waits until it does. What it writes goes to the file
    /// `log`.
    ///
    /// # Errors
    /// It ends, or does not listen in time.
    pub fn start(mut command: Command, address: SocketAddr, log: &Path) -> anyhow::Result<Self> {
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

    /// Looks whether it still runs.
    ///
    /// # Errors
    /// It has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("a server ended with {status}: {}", self.log()),
            None => Ok(()),
        }
    }

    /// The last lines that it wrote.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG)..].join("\n")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its standard input; none if that was taken before.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// CPU time that it and its children have used, user and system, those that have ended too. Known in steps of
    /// 10 ms.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
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

    /// Memory of it that is resident, in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Memory of it and its children, in bytes; of what is shared with others a share.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> anyhow::Result<u64> {
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
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id.filter(|_| self.family().len() > 1) {
            // Asked first, so that it can end its children. This and the rest fail only when it has ended already.
            let _ = kill_process(id, Signal::TERM);
            let began = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < FAREWELL {
                thread::sleep(PAUSE);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of the loopback interface that was free a moment ago.
///
/// # Errors
/// The system gives none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Whether the program is there to be started.
pub fn is_installed(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command to its end.
///
/// # Errors
/// It does not start, or ends with another status than success.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
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
