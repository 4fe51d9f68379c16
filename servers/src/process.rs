//! A process that ends with its owner: on drop, and through a guard process also when the owner is killed.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::log::Log;

/// How often a condition is looked at: small against the start of any server, cheap to check.
const LOOK: Duration = Duration::from_millis(10);
/// On drop, a server that does not end on its signal in this time is killed.
const DROP_PATIENCE: Duration = Duration::from_secs(5);

/// Waits for the end of its standard input, which the owner holds open: when the owner is gone, by SIGKILL too, it
/// signals the server. The start time tells the server from a later process with the same id.
const GUARD: &str = r#"
read -r _
pid=$1 begun=$2 signal=$3
stat=$(cat "/proc/$pid/stat" 2>/dev/null) || exit 0
set -- ${stat##*) }
[ "${20}" = "$begun" ] && kill -s "$signal" "$pid"
"#;

/// A running (or ended) server. It is not reaped behind our back, so its id stays its own until we have seen its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    guard: Child,
    /// Ends it at once without leaving anything behind.
    end: Signal,
}

impl Process {
    /// Starts `command` in a process group of its own (so that Ctrl-C reaches only the owner), its output appended to
    /// `output`. `end` is the signal it gets when its owner goes.
    pub fn spawn(name: impl Into<String>, mut command: Command, output: &Path, end: Signal) -> Result<Process> {
        let name = name.into();
        let out = File::options().create(true).append(true).open(output);
        let out = out.with_context(|| format!("opening {}", output.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let mut child =
            command.spawn().with_context(|| format!("starting {name}: {}", command.get_program().display()))?;
        match guard(child.id(), end) {
            Ok(guard) => Ok(Process { name, child, guard, end }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.context(format!("guarding {name}")))
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Returns when `ready`; fails, with the ends of `logs`, when the process ends before or `patience` is over.
    pub(crate) async fn until(
        &mut self,
        mut ready: impl FnMut() -> bool,
        patience: Duration,
        logs: &[&Log],
    ) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Err(with_tails(format!("{} did not start ({status})", self.name), logs));
            }
            if ready() {
                return Ok(());
            }
            if began.elapsed() > patience {
                let what = format!("{} was not ready after {} s", self.name, patience.as_secs());
                return Err(with_tails(what, logs));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Sends `signal` and waits for the end. After `patience` it is killed, and that is an error.
    pub async fn stop(&mut self, signal: Signal, patience: Duration) -> Result<()> {
        let began = Instant::now();
        if self.ended()?.is_some() {
            return Ok(());
        }
        self.signal(signal)?;
        while self.ended()?.is_none() {
            if began.elapsed() > patience {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} had to be killed: it did not stop within {} s", self.name, patience.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Only to a process that has not been reaped.
    fn signal(&mut self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("sending {signal} to {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing can be done about an error here; the guard goes last, in case we are killed meanwhile.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.signal(self.end);
            let began = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < DROP_PATIENCE {
                std::thread::sleep(LOOK);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

fn guard(pid: u32, signal: Signal) -> Result<Child> {
    let begun = start_time(pid).with_context(|| format!("process {pid} is not in /proc"))?;
    let name = signal.as_str().trim_start_matches("SIG");
    Command::new("sh")
        .args(["-c", GUARD, "pulso-guard", &pid.to_string(), &begun, name])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting sh")
}

/// Fields 4 (parent) and 22 (start time) of /proc/PID/stat; the name in field 2 may hold anything, so count behind it.
fn stat_field(pid: u32, field: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split_whitespace().nth(field - 3).map(str::to_owned)
}

fn start_time(pid: u32) -> Option<String> {
    stat_field(pid, 22)
}

/// A process that is not our child, told from a later one with the same id.
#[derive(Debug)]
pub(crate) struct Other {
    pid: u32,
    begun: String,
}

/// The processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<Other> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| stat_field(*pid, 4).is_some_and(|ppid| ppid == parent.to_string()))
        .filter_map(|pid| Some(Other { pid, begun: start_time(pid)? }))
        .collect()
}

impl Other {
    fn runs(&self) -> bool {
        stat_field(self.pid, 3).is_some_and(|state| state != "Z")
            && start_time(self.pid).is_some_and(|begun| begun == self.begun)
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn kill(&self, patience: Duration) -> Result<()> {
        let began = Instant::now();
        if self.runs() {
            // It may end between the look and the signal.
            let _ = kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGKILL);
        }
        while self.runs() {
            if began.elapsed() > patience {
                bail!("process {} does not end", self.pid);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

fn with_tails(what: String, logs: &[&Log]) -> anyhow::Error {
    let tails: Vec<String> = logs.iter().map(|log| log.tail()).collect();
    anyhow!("{what}; {}", tails.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(output: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::spawn("sleep", command, output, Signal::SIGKILL).unwrap()
    }

    fn gone(pid: u32, begun: &str) -> bool {
        !Other { pid, begun: begun.to_owned() }.runs()
    }

    #[tokio::test]
    async fn the_guard_ends_the_server_when_its_owner_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = sleeper(&folder.path().join("out"));
        assert!(process.ended().unwrap().is_none());
        // What the kernel does when the owner dies: its end of the pipe is closed.
        drop(process.guard.stdin.take());
        let began = Instant::now();
        while process.ended().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(10), "the guard did nothing");
            tokio::time::sleep(LOOK).await;
        }
    }

    #[tokio::test]
    async fn the_guard_spares_another_process_with_the_same_id() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = sleeper(&folder.path().join("out"));
        let pid = process.pid().to_string();
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "pulso-guard", &pid, "1", "KILL"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        guard.wait().unwrap();
        assert!(process.ended().unwrap().is_none());
    }

    #[tokio::test]
    async fn dropping_ends_server_and_guard() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(&folder.path().join("out"));
        let (pid, guard) = (process.pid(), process.guard.id());
        let begun = [pid, guard].map(|pid| start_time(pid).unwrap());
        drop(process);
        assert!(gone(pid, &begun[0]));
        assert!(gone(guard, &begun[1]));
    }

    #[tokio::test]
    async fn a_server_that_ends_early_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let log = Log::of_next_run(&output);
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such thing >&2; exit 3"]);
        let mut process = Process::spawn("server", command, &output, Signal::SIGKILL).unwrap();
        let error = process.until(|| false, Duration::from_secs(10), &[&log]).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such thing"), "{error}");
    }

    #[tokio::test]
    async fn children_are_found_and_killed() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(&folder.path().join("out"));
        let mine = children(std::process::id());
        let child = mine.into_iter().find(|child| child.pid == process.pid()).unwrap();
        child.kill(Duration::from_secs(10)).await.unwrap();
        assert!(!child.runs());
    }
}
