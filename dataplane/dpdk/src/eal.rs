//! DPDK's environment abstraction layer, once per process.

use crate::Errno;
use std::ffi::CString;
use std::sync::{OnceLock, mpsc};
use std::{fs, io, thread};

/// Which memory DPDK takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Hugepages if enough are free, else ordinary memory, which costs up to three times as many cycles per packet.
    #[default]
    WhenFree,
    /// Ordinary memory, one file that other processes can map: what a virtio-user device needs.
    Never,
}

/// What may be asked of the EAL. Everything else is computed from the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalOptions {
    /// Memory for all mempools and drivers, in MiB.
    pub memory_mebibytes: u32,
    /// Where it comes from.
    pub hugepages: Hugepages,
    /// PCI addresses (`0000:3b:00.0`) of the devices that DPDK may take over; with none of them the PCI bus is not looked at.
    pub pci: Vec<String>,
    /// The CPU that the EAL's own thread is bound to; it sleeps there. Absent: the first that this process may use.
    pub cpu: Option<usize>,
    /// Further arguments, after those computed; what they say (memory, cores, IOVA) is not computed.
    pub extra: Vec<String>,
}

impl Default for EalOptions {
    /// 256 MiB of hugepages when free, no PCI device.
    fn default() -> Self {
        let hugepages = Hugepages::default();
        Self { memory_mebibytes: 256, hugepages, pci: Vec::new(), cpu: None, extra: Vec::new() }
    }
}

/// Why the EAL could not be initialised. None of these can be tried again in the same process, except [`EalError::OtherOptions`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EalError {
    /// Not enough memory, or it cannot be locked.
    #[error(
        "DPDK: no {mebibytes} MiB of memory: reserve hugepages (sysctl vm.nr_hugepages=N), or free some memory"
    )]
    NoMemory {
        /// What was asked for.
        mebibytes: u32,
    },
    /// An argument, most likely one of [`EalOptions::extra`], was refused.
    #[error("DPDK: the EAL refuses its arguments `{arguments}`: correct `eal` in towpathd.yaml")]
    Arguments {
        /// All arguments.
        arguments: String,
    },
    /// Somebody else in this process initialised the EAL.
    #[error(
        "DPDK: the EAL of this process is initialised already, and not by Towpath: start a process of its own"
    )]
    Foreign,
    /// It is initialised already, with other options.
    #[error(
        "DPDK: the EAL of this process runs with other options: restart the process to change `eal` or the memory"
    )]
    OtherOptions,
    /// Another reason.
    #[error("DPDK: the EAL does not start: {errno}")]
    Failed {
        /// What DPDK says.
        errno: Errno,
    },
    /// A thread could not be made.
    #[error("DPDK: no thread for the EAL ({0}): raise the process's limit of threads")]
    Thread(io::ErrorKind),
}

/// Proof that the EAL of this process runs. It runs until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Eal(());

static STARTED: OnceLock<(EalOptions, Result<Eal, EalError>)> = OnceLock::new();

impl Eal {
    /// Initialises the EAL on a thread of its own, which DPDK binds to one CPU; the caller's affinity stays. The first call of a
    /// process decides; later ones get its outcome.
    ///
    /// # Errors
    ///
    /// As [`EalError`] says; [`EalError::OtherOptions`] when an earlier call had other options.
    pub fn init(options: &EalOptions) -> Result<Eal, EalError> {
        let (first, outcome) = STARTED.get_or_init(|| (options.clone(), start(options)));
        if first == options { outcome.clone() } else { Err(EalError::OtherOptions) }
    }
}

/// What of the machine decides about the arguments.
#[derive(Clone, Copy, Debug)]
struct Machine {
    cpu: usize,
    free_hugepage_bytes: u64,
}

impl Machine {
    fn look() -> Self {
        let cpu = rustix::thread::sched_getaffinity(None)
            .ok()
            .and_then(|set| (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| set.is_set(*cpu)));
        Self { cpu: cpu.unwrap_or(0), free_hugepage_bytes: free_hugepage_bytes("/sys/kernel/mm/hugepages") }
    }
}

/// Bytes of free hugepages of all sizes. A kernel without hugepages has none.
fn free_hugepage_bytes(folder: &str) -> u64 {
    let Ok(sizes) = fs::read_dir(folder) else { return 0 };
    sizes
        .flatten()
        .filter_map(|size| {
            let kibibytes: u64 =
                size.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let pages: u64 =
                fs::read_to_string(size.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
            kibibytes.checked_mul(1024)?.checked_mul(pages)
        })
        .fold(0, u64::saturating_add)
}

/// The EAL's arguments: nothing it does leaves a file behind, and it touches no device it was not told of. What stands in
/// [`EalOptions::extra`] is not computed.
fn arguments(options: &EalOptions, machine: Machine) -> Vec<String> {
    let said = |names: &[&str]| {
        options.extra.iter().any(|argument| names.iter().any(|name| is_option(argument, name)))
    };
    let mut arguments = vec!["towpath".to_owned()];
    let mut add = |more: &[&str]| arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    // What DPDK says of a machine that works is of no use in the log of a daemon.
    add(&["--log-level", "lib.*:warning"]);
    if !said(&["-l", "-c", "--lcores"]) {
        add(&["--lcores", &format!("0@{}", options.cpu.unwrap_or(machine.cpu))]);
    }
    let wanted = u64::from(options.memory_mebibytes) << 20;
    let enough = machine.free_hugepage_bytes >= wanted;
    if enough && options.hugepages == Hugepages::WhenFree && !said(&["--no-huge"]) {
        add(&["--in-memory"]);
    } else {
        // DPDK 22.11 refuses --in-memory without hugepages; this is what it leaves out then.
        add(if said(&["--no-huge"]) { &["--no-shconf"] } else { &["--no-huge", "--no-shconf"] });
    }
    add(&["--no-telemetry"]);
    if !said(&["-m", "--socket-mem"]) {
        add(&["-m", &options.memory_mebibytes.to_string()]);
    }
    if options.pci.is_empty() {
        add(&["--no-pci"]);
        // Physical addresses are for devices; without one DPDK takes them all the same if it may.
        if !said(&["--iova-mode"]) {
            add(&["--iova-mode", "va"]);
        }
    }
    for address in &options.pci {
        add(&["-a", address]);
    }
    arguments.extend(options.extra.iter().cloned());
    arguments
}

/// Whether `argument` is the option `name`, alone or with its value.
fn is_option(argument: &str, name: &str) -> bool {
    match argument.strip_prefix(name) {
        Some(rest) if name.starts_with("--") => rest.is_empty() || rest.starts_with('='),
        Some(_) => !argument.starts_with("--"),
        None => false,
    }
}

/// Runs `rte_eal_init` on a new thread, which stays: DPDK takes it for its main lcore.
fn start(options: &EalOptions) -> Result<Eal, EalError> {
    let arguments = arguments(options, Machine::look());
    let refused = EalError::Arguments { arguments: arguments.join(" ") };
    let strings: Result<Vec<CString>, _> = arguments.into_iter().map(CString::new).collect();
    let strings = strings.map_err(|_| refused.clone())?;
    let (done, outcome) = mpsc::channel();
    thread::Builder::new()
        .name("eal".to_owned())
        .spawn(move || {
            if done.send(initialise(strings)).is_ok() {
                loop {
                    thread::park();
                }
            }
        })
        .map_err(|problem| EalError::Thread(problem.kind()))?;
    match outcome.recv() {
        Ok(Ok(())) => Ok(Eal(())),
        Ok(Err(Errno::Invalid)) => Err(refused),
        Ok(Err(Errno::NoMemory)) => Err(EalError::NoMemory { mebibytes: options.memory_mebibytes }),
        Ok(Err(Errno::Already)) => Err(EalError::Foreign),
        Ok(Err(errno)) => Err(EalError::Failed { errno }),
        Err(_) => Err(EalError::Thread(io::ErrorKind::Other)),
    }
}

fn initialise(strings: Vec<CString>) -> Result<(), Errno> {
    let count = strings.len() as i32;
    // DPDK keeps pointers into its arguments, permutes the array, and may write to the strings: all of it is given away for good.
    let mut pointers: Vec<*mut std::ffi::c_char> = strings.into_iter().map(CString::into_raw).collect();
    pointers.push(std::ptr::null_mut());
    let pointers = Vec::leak(pointers);
    // SAFETY: argc strings and a null pointer, none of which is ever freed; `STARTED` sees to it that this runs once, and a
    // second initialisation by others is refused by DPDK itself.
    if unsafe { dpdk_sys::rte_eal_init(count, pointers.as_mut_ptr()) } < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { cpu: 3, free_hugepage_bytes: 256 << 20 };

    #[test]
    fn hugepages_are_used_when_there_are_enough() {
        let line = arguments(&EalOptions::default(), MACHINE).join(" ");
        assert_eq!(
            line,
            "towpath --log-level lib.*:warning --lcores 0@3 --in-memory --no-telemetry -m 256 --no-pci --iova-mode va"
        );
        let options = EalOptions { memory_mebibytes: 257, ..EalOptions::default() };
        let line = arguments(&options, MACHINE).join(" ");
        assert_eq!(
            line,
            "towpath --log-level lib.*:warning --lcores 0@3 --no-huge --no-shconf --no-telemetry -m 257 --no-pci --iova-mode va"
        );
    }

    #[test]
    fn hugepages_are_left_alone_when_asked() {
        let options = EalOptions { hugepages: Hugepages::Never, ..EalOptions::default() };
        assert!(arguments(&options, MACHINE).contains(&"--no-huge".to_owned()));
    }

    #[test]
    fn only_named_pci_devices_are_taken() {
        let options = EalOptions {
            pci: vec!["0000:3b:00.0".to_owned(), "0000:3b:00.1".to_owned()],
            cpu: Some(7),
            extra: vec!["--log-level=5".to_owned()],
            ..EalOptions::default()
        };
        let line = arguments(&options, MACHINE).join(" ");
        assert!(line.contains(" --lcores 0@7 "), "{line}");
        assert!(line.ends_with(" -a 0000:3b:00.0 -a 0000:3b:00.1 --log-level=5"), "{line}");
    }

    #[test]
    fn what_is_said_is_not_computed() {
        let line = |extra: &[&str]| {
            let extra = extra.iter().map(|argument| (*argument).to_owned()).collect();
            arguments(&EalOptions { extra, ..EalOptions::default() }, MACHINE).join(" ")
        };
        let said = line(&["-m", "512", "--iova-mode=pa", "-l", "1"]);
        assert_eq!(
            said,
            "towpath --log-level lib.*:warning --in-memory --no-telemetry --no-pci -m 512 --iova-mode=pa -l 1"
        );
        assert!(line(&["-m512"]).ends_with("--iova-mode va -m512"));
        let ordinary = line(&["--no-huge"]);
        assert_eq!(ordinary.matches("--no-huge").count(), 1);
        assert!(ordinary.contains("--no-shconf") && !ordinary.contains("--in-memory"), "{ordinary}");
        assert!(line(&["--max-memory"]).contains(" -m 256 "), "another option");
    }

    #[test]
    fn a_machine_without_hugepages_has_none() {
        assert_eq!(free_hugepage_bytes("/nonexistent"), 0);
    }
}
