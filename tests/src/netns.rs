//! Network namespaces that live as long as their test: each is held by a process of ours, so that neither a failed test nor a killed one
//! leaves anything behind, and no two runs meet.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Result;
use crate::process::Process;
use crate::scratch::Scratch;

/// The kernel makes a namespace at once; a busy machine starts the process that holds it later.
const START: Duration = Duration::from_secs(20);

/// What holds a namespace: its own view of `/sys` shows its own interfaces.
const HOLD: &str = "mount -t sysfs sysfs /sys && ip link set lo up && echo it stands && exec sleep infinity";

/// A network namespace with nothing in it but its loopback interface. It ends with its last process, this one's included.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    holder: Process,
}

impl Namespace {
    /// Make one. The calling thread must outlive it.
    ///
    /// # Errors
    /// The kernel refuses: it takes root.
    pub fn new(scratch: &Scratch, name: &str) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", HOLD]);
        let log = scratch.join(&format!("{name}.namespace"));
        let mut holder = Process::spawn(&format!("the namespace {name}"), &command, &log)?;
        holder.until_log("it stands", START)?;
        Ok(Self { name: name.to_owned(), holder })
    }

    /// Its name, in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process that holds it: `ip link .. netns` takes it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.id())).args(["--net", "--mount", "--"]).arg(program);
        command
    }

    /// Run `words` inside, a program and its arguments with spaces between; returns what it wrote.
    ///
    /// # Errors
    /// It fails; what it complained about is in the error.
    pub fn run(&self, words: &str) -> Result<String> {
        let mut parts = words.split_whitespace();
        let mut command = self.command(parts.next().context("a program to run")?);
        let output = command.args(parts).output().with_context(|| format!("run {words}"))?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("in {}: {words}: {}: {complaint}", self.name, output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Run several commands, one per line, as [`Namespace::run`].
    ///
    /// # Errors
    /// The first that fails.
    pub fn run_all(&self, lines: &str) -> Result<()> {
        lines.lines().map(str::trim).filter(|line| !line.is_empty()).try_for_each(|line| {
            self.run(line)?;
            Ok(())
        })
    }

    /// Do `work` on a thread inside. A socket made there stays there, whoever uses it afterwards.
    ///
    /// # Errors
    /// Those of `work`, and that the kernel does not let the thread in.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/proc/{}/ns/net", self.id());
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        let inside = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("enter the namespace {}", self.name))?;
            work()
        };
        let result = thread::scope(|scope| scope.spawn(inside).join());
        result.map_err(|_| anyhow!("the thread in the namespace {} panicked", self.name))?
    }

    /// Join it with `other` by a pair of virtual Ethernet interfaces, up on both sides.
    ///
    /// # Errors
    /// The kernel refuses, or one of the names is taken.
    pub fn join(&self, interface: &str, other: &Self, others_interface: &str, mtu: u16) -> Result<()> {
        let peer = other.id();
        self.run(&format!(
            "ip link add {interface} mtu {mtu} type veth peer name {others_interface} mtu {mtu} netns {peer}"
        ))?;
        self.run(&format!("ip link set {interface} up"))?;
        other.run(&format!("ip link set {others_interface} up")).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::path::Path;

    #[test]
    #[ignore = "needs root: run by `make test`"]
    fn two_namespaces_joined_reach_each_other_and_end_with_their_holders() -> Result<()> {
        let scratch = Scratch::new()?;
        let (one, other) = (Namespace::new(&scratch, "one")?, Namespace::new(&scratch, "other")?);
        one.join("u0", &other, "u0", 1500)?;
        one.run("ip address add 192.0.2.1/24 dev u0")?;
        other.run("ip address add 192.0.2.2/24 dev u0")?;
        let listener = other.enter(|| Ok(UdpSocket::bind("192.0.2.2:9000")?))?;
        let sender = one.enter(|| Ok(UdpSocket::bind("192.0.2.1:0")?))?;
        listener.set_read_timeout(Some(START))?;
        sender.send_to(b"across", "192.0.2.2:9000")?;
        let mut bytes = [0; 16];
        let (length, from) = listener.recv_from(&mut bytes)?;
        assert_eq!((&bytes[..length], from.ip()), (&b"across"[..], "192.0.2.1".parse()?));
        assert!(one.run("ls /sys/class/net")?.contains("u0"), "its /sys is its own");
        let left = format!("/proc/{}", one.id());
        drop(one);
        assert!(!Path::new(&left).exists());
        Ok(())
    }
}
