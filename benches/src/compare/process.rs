//! Processes of ours: each one ends with this one, whatever happens.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Pid;

/// A running child. Dropping it kills and reaps it; it also dies when this process does.
pub(super) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `program` in a process group of its own (Ctrl-C is ours to handle), output going to `log`.
    ///
    /// Must be called on the main thread: the kernel ends the child when the *thread* that started it ends.
    ///
    /// # Errors
    ///
    /// When it cannot be started, `setpriv` (util-linux) among the reasons.
    pub(super) fn start(
        name: &str,
        program: &Path,
        args: &[String],
        env: &[(&str, &Path)],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let out = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let err = out.try_clone()?;
        let child = command(program, args, env)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("starting {name} ({})", program.display()))?;
        Ok(Self { name: name.to_string(), child })
    }

    /// Its process id.
    #[must_use]
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// An error when it has ended.
    ///
    /// # Errors
    ///
    /// Its exit status, in words.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ends a stopped process too. Both fail only when it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn command(program: &Path, args: &[String], env: &[(&str, &Path)]) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig").arg("KILL").arg("--").arg(program).args(args).process_group(0);
    for (name, value) in env {
        command.env(name, value);
    }
    command
}

/// Runs a short helper to its end and returns its standard output.
///
/// # Errors
///
/// Its standard error, when it fails.
pub(super) fn output(program: &str, args: &[String], env: &[(&str, &Path)]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    for (name, value) in env {
        command.env(name, value);
    }
    let output = command.output().with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

type Transcript = Arc<(Mutex<String>, Condvar)>;

/// A child spoken with over its standard input and output.
pub(super) struct Dialogue {
    process: Process,
    input: ChildStdin,
    transcript: Transcript,
}

impl Dialogue {
    /// Starts `program` line-buffered, as [`Process::start`] does; its output is also copied to `log`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(super) fn start(name: &str, program: &str, args: &[String], log: &Path) -> anyhow::Result<Self> {
        let mut all = vec!["-oL".to_string(), program.to_string()];
        all.extend_from_slice(args);
        let err = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let mut copy = err.try_clone()?;
        let mut child = command(Path::new("stdbuf"), &all, &[])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(err)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let process = Process { name: name.to_string(), child };
        let (Some(input), Some(mut output)) = (input, output) else { bail!("{name} has no pipes") };
        let transcript = Transcript::default();
        let writer = Arc::clone(&transcript);
        // Ends when the child closes its output, at the latest when it is killed.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                let bytes = buffer.get(..n).unwrap_or_default();
                let _logged = copy.write_all(bytes);
                let (text, changed) = &*writer;
                text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(bytes));
                changed.notify_all();
            }
        });
        Ok(Self { process, input, transcript })
    }

    /// Its process id.
    #[must_use]
    pub(super) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// The child.
    pub(super) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Sends a line.
    ///
    /// # Errors
    ///
    /// When the child does not read any more.
    pub(super) fn send(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.input, "{line}").with_context(|| format!("writing {line:?} to {}", self.process.name))
    }

    /// Sends lines and returns the output after them, up to and including the first line that contains `until`.
    ///
    /// # Errors
    ///
    /// When that line does not come in time.
    pub(super) fn ask(&mut self, lines: &[&str], until: &str) -> anyhow::Result<String> {
        let from = self.transcript.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        for line in lines {
            self.send(line)?;
        }
        self.wait(from, until, Duration::from_secs(10))
    }

    /// Waits for a line that contains `until`, from the beginning on.
    ///
    /// # Errors
    ///
    /// When it does not come in time, with the end of what came.
    pub(super) fn expect(&mut self, until: &str, patience: Duration) -> anyhow::Result<String> {
        self.wait(0, until, patience)
    }

    fn wait(&mut self, from: usize, until: &str, patience: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        let (text, changed) = &*self.transcript;
        let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = text.get(from..).unwrap_or_default();
            if let Some(at) = new.find(until)
                && let Some(end) = new.get(at..).and_then(|rest| rest.find('\n'))
            {
                return Ok(new.get(..at + end).unwrap_or_default().to_string());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let tail: String =
                    new.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect();
                bail!("{} did not say {until:?} within {patience:?}; last: {tail}", self.process.name);
            }
            text = changed.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
