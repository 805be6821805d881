//! A child process that dies with the test, and whose output is kept.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually::eventually;

/// Lines that a process has written so far, of both streams, in the order in which they were read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output(Arc<Mutex<Vec<String>>>);

impl Output {
    pub(crate) fn push(&self, line: String) {
        self.0.lock().expect("no reader panicked").push(line);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no reader panicked").clone()
    }

    /// Prints all of it where a failed test shows it; nothing unless the test is failing.
    pub(crate) fn print_if_failing(&self, of: &str) {
        if std::thread::panicking() {
            let lines: String = self.lines().iter().map(|line| format!("  {line}\n")).collect();
            eprintln!("---- log of {of} ----\n{lines}---- end of the log ----");
        }
    }

    /// What follows `prefix` in the first line that begins so.
    pub(crate) fn after(&self, prefix: &str) -> Option<String> {
        self.lines().iter().find_map(|line| line.strip_prefix(prefix).map(str::to_owned))
    }
}

/// A running child. It is killed when this is dropped, and by the kernel when the test is.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`; what it writes goes to `output` (lines of standard output to `stdout` too).
    pub(crate) fn start(mut command: Command, stdout: Output, output: Output) -> Self {
        die_with_parent(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.get_program().to_owned();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program:?} does not start: {error}"));
        let readers = vec![
            read(child.stdout.take().expect("it is piped"), vec![stdout, output.clone()]),
            read(child.stderr.take().expect("it is piped"), vec![output]),
        ];
        Self { child, readers }
    }

    /// Its memory now, in bytes: what is resident and its own.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process runs, and the system has /proc");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("it has memory");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        kilobytes << 10
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be waited for")
    }

    /// SIGKILL, and waits until nothing of it is left.
    pub(crate) fn kill(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join();
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids are small");
        let pid = Pid::from_raw(id).expect("process ids are positive");
        // Fails only when it has ended already.
        let _ = kill_process(pid, signal);
    }

    /// Waits until it has ended by itself and all its output was read.
    pub(crate) async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let status = eventually(deadline, || {
            let ended = self.ended();
            async move { ended.ok_or_else(|| "the process runs on".to_owned()) }
        })
        .await;
        self.join();
        status
    }

    fn join(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader of output does not panic");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read(stream: impl Read + Send + 'static, outputs: Vec<Output>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(lines.read_until(b'\n', &mut line), Ok(read) if read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            outputs.iter().for_each(|output| output.push(text.clone()));
            line.clear();
        }
    })
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    #[expect(unsafe_code, reason = "the hook runs between fork and exec, and makes one system call there")]
    // SAFETY: prctl is async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into)
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}
