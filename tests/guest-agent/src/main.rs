//! The agent: reads requests from a serial line and answers them. Started by the guest's init script.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use towpath_guest_agent::crowd::{self, Crowd};
use towpath_guest_agent::pattern::{Checksum, Pattern};
use towpath_guest_agent::transfer::{self, Job};
use towpath_guest_agent::{Exited, Reply, Request};

/// What the agent keeps between requests.
#[derive(Default)]
struct Agent {
    memory: Vec<u8>,
    jobs: Vec<Job>,
    crowd: Crowd,
}

impl Agent {
    fn answer(&mut self, request: Request) -> Result<Reply, String> {
        match request {
            Request::Run { command } => run(&command).map_err(|e| format!("{command}: {e}")),
            Request::FillMemory { bytes, seed } => {
                self.memory = vec![0; bytes];
                Pattern::new(seed).fill(&mut self.memory);
                Ok(self.checksum())
            }
            Request::MemoryChecksum => Ok(self.checksum()),
            Request::Receive { listen } => {
                let job = transfer::receive(listen).map_err(|e| format!("listen on {listen}: {e}"))?;
                Ok(self.keep(job))
            }
            Request::Send { to, bytes, seed, bytes_per_second } => {
                let job = transfer::send(to, bytes, seed, bytes_per_second);
                Ok(self.keep(job))
            }
            Request::Serve { listen, name } => {
                let name = u8::try_from(name).map_err(|e| format!("{name}: {e}"))?;
                crowd::serve(listen, name).map_err(|e| format!("listen on {listen}: {e}"))?;
                Ok(Reply::Ready)
            }
            Request::OpenCrowd { to, count } => Ok(Reply::Crowd { counts: self.crowd.open(to, count) }),
            Request::AskCrowd => Ok(Reply::Crowd { counts: self.crowd.ask() }),
            Request::Progress { job } => {
                let job = self.jobs.get(job).ok_or_else(|| format!("no job {job}"))?;
                Ok(Reply::Progress(job.progress()))
            }
        }
    }

    fn checksum(&self) -> Reply {
        Reply::Checksum { checksum: Checksum::of(&self.memory) }
    }

    fn keep(&mut self, job: Job) -> Reply {
        self.jobs.push(job);
        Reply::Job { job: self.jobs.len() - 1 }
    }
}

fn run(command: &str) -> io::Result<Reply> {
    let output = Command::new("/bin/sh").arg("-c").arg(command).output()?;
    let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Reply::Exited(Exited { status, stdout: text(&output.stdout), stderr: text(&output.stderr) }))
}

fn serve(device: &str) -> io::Result<()> {
    let port = OpenOptions::new().read(true).write(true).open(device)?;
    let mut writer = port.try_clone()?;
    let mut say = |reply: &Reply| -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        writer.write_all(&line)
    };
    say(&Reply::Ready)?;
    let mut agent = Agent::default();
    for line in BufReader::new(port).lines() {
        let line = line?;
        if line.is_empty() {
            continue;
        }
        let reply = serde_json::from_str(&line)
            .map_err(|e| format!("not a request: {e}"))
            .and_then(|request| agent.answer(request))
            .unwrap_or_else(|reason| Reply::Refused { reason });
        say(&reply)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(device) = std::env::args().nth(1) else {
        eprintln!("usage: towpath-guest-agent SERIAL-DEVICE");
        return ExitCode::from(2);
    };
    match serve(&device) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("towpath-guest-agent: {device}: {e}");
            ExitCode::FAILURE
        }
    }
}
