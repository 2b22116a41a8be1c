//! The real daemon, its real command line, and counterparts nobody here wrote: QEMU, DPDK's driver, crates.io's front end.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod configuration;
mod crash;
mod guests;
mod hostile;
mod messages;
mod operation;
mod ring_paths;
mod rules;
mod uplink;

use std::time::Duration;

use towpath_tests::Result;
use towpath_tests::daemon::Daemon;
use towpath_tests::frontend::Frontend;
use towpath_tests::manifests::Port;
use towpath_tests::scratch::Scratch;

/// Enough on a machine that does other things too.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A daemon with `N` ports.
pub(crate) struct Setting<const N: usize> {
    // Dropped in this order.
    pub(crate) daemon: Daemon,
    pub(crate) ports: [Port; N],
    pub(crate) scratch: Scratch,
}

impl<const N: usize> Setting<N> {
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(|_| {})
    }

    /// Start with ports that `change` has changed.
    pub(crate) fn start_with(change: impl Fn(&mut Port)) -> Result<Self> {
        let scratch = Scratch::new()?;
        let ports = std::array::from_fn(|number| {
            let mut port = Port::number(u8::try_from(number).unwrap(), scratch.path());
            change(&mut port);
            port
        });
        let daemon = Daemon::start(&scratch, "towpathd", 0, &ports)?;
        Ok(Self { daemon, ports, scratch })
    }

    /// What a person would ask for first when something went wrong.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        let ports = self.ports.iter().map(|port| vec!["describe", "port", &port.name]);
        for command in ports.chain([vec!["workers"]]) {
            text.push_str(&self.daemon.towpath_text(&command).unwrap_or_else(|e| e.to_string()));
        }
        text
    }

    /// A front end on port `number`, which forwards for it.
    pub(crate) fn attach(&self, number: usize) -> Result<Frontend> {
        self.attach_to(&self.ports[number])
    }

    /// A front end on a port, which forwards for it.
    pub(crate) fn attach_to(&self, port: &Port) -> Result<Frontend> {
        let frontend = Frontend::attach_within(&port.socket, LIMIT)?;
        self.daemon.until_phase(&port.name, "Forwarding")?;
        Ok(frontend)
    }
}
