//! Debian's cloud kernel, downloaded as a package and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::Result;

/// Modules a virtio-net guest may need, in the order they must be loaded; a kernel that has one built in lacks the file.
const MODULES: &[&str] = &[
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The kernel itself.
    pub(super) vmlinuz: PathBuf,
    /// Its modules: file name and uncompressed content, in the order they must be loaded.
    pub(super) modules: Vec<(String, Vec<u8>)>,
}

impl Kernel {
    /// The kernel in `folder`, downloaded if it is not there.
    pub(super) fn prepare(folder: &Path) -> Result<Self> {
        let unpacked = folder.join("kernel");
        if !unpacked.join("boot").exists() {
            download(folder, &unpacked)?;
        }
        let vmlinuz = only_entry(&unpacked.join("boot"), "vmlinuz-")?;
        let tree = only_entry(&unpacked.join("lib/modules"), "")?;
        let modules =
            MODULES.iter().filter_map(|name| module(&tree, name).transpose()).collect::<Result<Vec<_>>>()?;
        if !modules.iter().any(|(name, _)| name.starts_with("virtio_net.")) {
            bail!("{} has no virtio_net module", tree.display());
        }
        Ok(Self { vmlinuz, modules })
    }
}

/// Run a program to its end and return what it wrote.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// The newest package of a cloud kernel: 6.12 if the release has it, else whatever it has.
fn newest_package() -> Result<String> {
    let found =
        output(Command::new("apt-cache").args(["--names-only", "search", "^linux-image-6.*-cloud-amd64"]))?;
    let found = String::from_utf8_lossy(&found).into_owned();
    let version = |name: &str| -> Vec<u32> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    found
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.ends_with("-cloud-amd64") || name.ends_with("-cloud-amd64-unsigned"))
        // Metapackages have no kernel inside: their names have no full version.
        .filter(|name| version(name).len() >= 4)
        .max_by_key(|name| (version(name), name.ends_with("-unsigned")))
        .map(str::to_owned)
        .context("apt knows no linux-image-6.*-cloud-amd64 package; is `apt-get update` needed?")
}

fn download(folder: &Path, unpacked: &Path) -> Result<()> {
    let package = newest_package()?;
    eprintln!("guest image: downloading {package}");
    let downloads = tempfile::tempdir_in(folder).context("make a folder for the download")?;
    output(
        Command::new("apt-get")
            .args(["-o", "APT::Sandbox::User=root", "download", &package])
            .current_dir(downloads.path()),
    )
    .with_context(|| format!("download {package}"))?;
    let deb = only_entry(downloads.path(), "linux-image-")?;
    let partial = downloads.path().join("unpacked");
    output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&partial))?;
    if unpacked.exists() {
        fs::remove_dir_all(unpacked)?;
    }
    fs::rename(&partial, unpacked).context("move the kernel into place")
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("{} has no {prefix}*", folder.display())
}

/// The module `name` below `tree`, uncompressed, if it is there.
fn module(tree: &Path, name: &str) -> Result<Option<(String, Vec<u8>)>> {
    for folder in ["kernel/drivers/virtio", "kernel/drivers/net", "kernel/net/core"] {
        let plain = tree.join(folder).join(format!("{name}.ko"));
        if plain.exists() {
            return Ok(Some((format!("{name}.ko"), fs::read(&plain)?)));
        }
        let compressed = plain.with_extension("ko.xz");
        if compressed.exists() {
            let content = output(Command::new("xz").args(["--decompress", "--stdout"]).arg(&compressed))?;
            return Ok(Some((format!("{name}.ko"), content)));
        }
    }
    Ok(None)
}
