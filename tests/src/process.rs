//! A child process that cannot outlive its test.
//!
//! It is ended by its process id when its [`Process`] is dropped, and by the kernel (`setpriv --pdeathsig`) should the test die
//! without dropping anything. The kernel counts the death of the thread that spawned it: start processes from a thread that stays.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Result, wait};

/// How much of a log an error shows.
const TAIL_LINES: usize = 30;

/// A running program, its output in a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Start `command`, its output and errors going to `log`, with nothing to read unless the command says otherwise.
    ///
    /// # Errors
    /// The program cannot be started, or the log not be written.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Result<Self> {
        Self::spawn_with(name, command, log, Stdio::null())
    }

    /// [`Process::spawn`], with something to read: a pipe, for [`Process::stdin`].
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn_with(name: &str, command: &Command, log: &Path, stdin: Stdio) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            guarded.current_dir(folder);
        }
        let child = guarded
            .stdin(stdin)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), ended: None })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The other end of its standard input, if it was started with a pipe.
    pub fn stdin(&mut self) -> Option<&mut impl io::Write> {
        self.child.stdin.as_mut()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("ask after {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Fails with the end of its log if it has ended.
    ///
    /// # Errors
    /// It has.
    pub fn assert_running(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.tail()),
        }
    }

    /// Look until `probe` gives something; fails at once when the process ends.
    ///
    /// # Errors
    /// The process ended, the time is over (with the end of the log), or `probe` failed.
    pub fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let found = wait::until(what, limit, || {
            let value = probe(self)?;
            if value.is_none() {
                self.assert_running()?;
            }
            Ok(value)
        });
        found.with_context(|| format!("{} says:\n{}", self.name, self.tail()))
    }

    /// Wait until its log contains `text`.
    ///
    /// # Errors
    /// As [`Process::until`].
    pub fn until_log(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.until(&format!("{text:?} in its log"), limit, |p| Ok(p.log().contains(text).then_some(())))
    }

    /// Send a signal.
    ///
    /// # Errors
    /// It is not there any more.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.assert_running()?;
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Wait for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait::until(&format!("the end of {name}"), limit, || self.ended())
    }

    /// SIGTERM, then wait for its end.
    ///
    /// # Errors
    /// It was gone before, or does not end in time.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// SIGKILL, then wait for its end.
    ///
    /// # Errors
    /// The kernel does not let us.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.child.kill().with_context(|| format!("kill {}", self.name))?;
            self.ended = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        tail(&self.log())
    }
}

/// The last lines of a text.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell of anything else.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_dropped_process_is_gone() {
        let scratch = Scratch::new().unwrap();
        let mut command = Command::new("sleep");
        command.arg("1000");
        let process = Process::spawn("sleep", &command, &scratch.join("log")).unwrap();
        let status = format!("/proc/{}", process.id());
        assert!(Path::new(&status).exists());
        drop(process);
        assert!(!Path::new(&status).exists());
    }

    #[test]
    fn an_end_is_told_with_the_log() {
        let scratch = Scratch::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason; exit 3"]);
        let mut process = Process::spawn("shell", &command, &scratch.join("log")).unwrap();
        let error = process.until("godot", Duration::from_secs(10), |_| Ok(None::<()>)).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("the reason") && text.contains("exit status: 3"), "{text}");
    }
}
