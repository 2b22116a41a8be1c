//! `towpathd` as a service manager sees it: sd_notify(3), signals, exit status.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// Ends with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Service {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

fn start(folder: &Path) -> (Service, UnixDatagram) {
    let manager = UnixDatagram::bind(folder.join("notify")).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let config = format!(
        "host: node-a\napi: {{socket: {0}/api.sock}}\nmetrics: {{listen: \"127.0.0.1:0\"}}\nmanifests: {0}/manifests\n",
        folder.display()
    );
    std::fs::write(folder.join("towpathd.yaml"), config).unwrap();
    std::fs::create_dir(folder.join("manifests")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_towpathd"))
        .arg("--config")
        .arg(folder.join("towpathd.yaml"))
        .env("NOTIFY_SOCKET", folder.join("notify"))
        .env("WATCHDOG_USEC", "100000")
        .env_remove("WATCHDOG_PID")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (Service(child), manager)
}

/// The next message that is not a sign of life, and how many of those came before.
fn message(manager: &UnixDatagram) -> (String, u32) {
    let mut alive = 0;
    loop {
        let mut bytes = [0; 1024];
        let length = manager.recv(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..length]).trim().to_owned();
        if text != "WATCHDOG=1" {
            return (text, alive);
        }
        alive += 1;
    }
}

#[test]
fn it_says_when_it_is_ready_alive_reloading_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let (mut service, manager) = start(folder.path());
    assert_eq!(message(&manager), ("READY=1".to_owned(), 0));
    let mut bytes = [0; 64];
    let length = manager.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length].trim_ascii(), b"WATCHDOG=1");
    for broken in [false, true] {
        if broken {
            std::fs::write(folder.path().join("manifests/a.yaml"), "kind: Nothing\n").unwrap();
        }
        service.signal(Signal::HUP);
        let (reloading, _) = message(&manager);
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        assert_eq!(message(&manager).0, "READY=1", "whatever came of it");
    }
    service.signal(Signal::TERM);
    assert_eq!(message(&manager).0, "STOPPING=1");
    assert!(service.0.wait().unwrap().success());
    assert!(!folder.path().join("api.sock").exists());
}

#[test]
#[ignore = "needs systemd-analyze: run by `make test`"]
fn the_unit_is_one_that_systemd_takes() {
    let folder = tempfile::tempdir().unwrap();
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/towpathd.service");
    let text = std::fs::read_to_string(unit).unwrap();
    // Where it will be installed there is nothing yet.
    let text = text.replace("/usr/bin/towpathd", env!("CARGO_BIN_EXE_towpathd"));
    assert!(text.contains("Type=notify\n") && text.contains(env!("CARGO_BIN_EXE_towpathd")));
    let file = folder.path().join("towpathd.service");
    let verify = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Command::new("systemd-analyze").arg("verify").arg(&file).output().unwrap()
    };
    let output = verify(&text);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("towpathd.service")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
    // It would have said so.
    let output = verify(&text.replace("ProtectSystem=", "ProtectSistem="));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ProtectSistem"), "{output:?}");
}
