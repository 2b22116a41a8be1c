//! The kernel and initramfs of the test guests, made once per checkout in `target/guest`.
//!
//! The initramfs holds Debian's static busybox, the kernel's modules for virtio-net, a short init script and our agent, built
//! statically for any x86-64.

mod cpio;
mod kernel;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use kernel::Kernel;

use crate::Result;

const INIT: &str = include_str!("init.sh");
const UDHCPC: &str = include_str!("udhcpc.sh");
const BUSYBOX: &str = "/bin/busybox";

/// What a guest boots.
#[derive(Clone, Debug)]
pub struct GuestImage {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
}

impl GuestImage {
    /// Make what is missing or out of date and return where it is. Processes that do so at once wait for each other.
    ///
    /// # Errors
    /// A package cannot be downloaded, the agent not be built, a file not be written.
    pub fn prepare() -> Result<Self> {
        let folder = workspace().join("target/guest");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let lock = File::create(folder.join("lock")).context("open the lock of the guest image")?;
        lock.lock().context("lock the guest image")?;
        let kernel = Kernel::prepare(&folder)?;
        let agent = build_agent(&folder)?;
        let initramfs = folder.join("initramfs.cpio");
        let content = initramfs_of(&kernel, &agent)?;
        if fs::read(&initramfs).ok().as_ref() != Some(&content) {
            // A guest may be booting from the old file: replace it, do not write into it.
            let partial = folder.join("initramfs.partial");
            fs::write(&partial, content).context("write the initramfs")?;
            fs::rename(&partial, &initramfs).context("move the initramfs into place")?;
        }
        Ok(Self { kernel: kernel.vmlinuz, initramfs })
    }
}

/// The root of the checkout.
fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Build the agent so that it runs where there is nothing else: linked statically, for the plainest x86-64.
fn build_agent(folder: &Path) -> Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = "x86_64-unknown-linux-gnu";
    let build = folder.join("build");
    let output = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--package",
            "towpath-guest-agent",
            "--target",
            target,
        ])
        // The whole workspace's link-time optimization is for packets per second; here it only costs time.
        .args(["--config", "profile.release.lto=\"off\"", "--config", "profile.release.strip=\"symbols\""])
        .arg("--target-dir")
        .arg(&build)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C target-cpu=x86-64")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(workspace())
        .output()
        .context("run cargo to build the guest agent")?;
    if !output.status.success() {
        bail!("building the guest agent: {}", String::from_utf8_lossy(&output.stderr));
    }
    let binary = build.join(target).join("release/towpath-guest-agent");
    fs::read(&binary).with_context(|| format!("read {}", binary.display()))
}

fn initramfs_of(kernel: &Kernel, agent: &[u8]) -> Result<Vec<u8>> {
    let busybox = fs::read(BUSYBOX).with_context(|| format!("read {BUSYBOX} (package busybox-static)"))?;
    let mut archive = cpio::Archive::default();
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "modules"] {
        archive.folder(folder);
    }
    archive.character_device("dev/console", 0o600, (5, 1));
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("bin/busybox", 0o755, &busybox);
    archive.link("bin/sh", "busybox");
    archive.file("bin/udhcpc-script", 0o755, UDHCPC.as_bytes());
    archive.file("bin/towpath-guest-agent", 0o755, agent);
    let mut order = String::new();
    for (name, content) in &kernel.modules {
        archive.file(&format!("modules/{name}"), 0o644, content);
        order.push_str(name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}
