//! What the demo shows things with: one daemon with two ports, one guest on each.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use towpath_tests::Result;
use towpath_tests::agent::{Job, Progress};
use towpath_tests::daemon::Daemon;
use towpath_tests::guest::{Guest, GuestConfig};
use towpath_tests::image::GuestImage;
use towpath_tests::manifests::Port;
use towpath_tests::scratch::Scratch;

use crate::report::Report;

/// Long enough for a machine that does other things too.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The whole setting. Fields are dropped in this order: guests, their switch, the folder.
pub(crate) struct World {
    pub(crate) sender: Guest,
    pub(crate) receiver: Guest,
    pub(crate) daemon: Daemon,
    pub(crate) ports: [Port; 2],
    pub(crate) image: GuestImage,
    pub(crate) scratch: Scratch,
}

impl World {
    /// Start everything, the two guests side by side.
    pub(crate) fn start(report: &mut Report) -> Result<Self> {
        report.progress("making the guests' kernel and initramfs");
        let image = GuestImage::prepare()?;
        let scratch = Scratch::new()?;
        let ports = [0, 1].map(|number| Port::number(number, scratch.path()));
        report.progress("starting towpathd");
        let daemon = Daemon::start(&scratch, "towpathd", 0, &ports)?;
        report.progress("booting two guests (software emulation)");
        let mut sender = Guest::start(&image, &scratch, GuestConfig::on_port("sender", &ports[0]))?;
        let mut receiver = Guest::start(&image, &scratch, GuestConfig::on_port("receiver", &ports[1]))?;
        sender.wait_ready()?;
        receiver.wait_ready()?;
        Ok(Self { sender, receiver, daemon, ports, image, scratch })
    }

    /// Start a TCP transfer from the sender to the receiver, at a pace that leaves time to disturb it.
    pub(crate) fn start_transfer(
        &mut self,
        ipv6: bool,
        port: u16,
        bytes: u64,
        pace: Option<u64>,
    ) -> Result<Transfer> {
        let to = SocketAddr::new(self.receiver.address(ipv6)?, port);
        let receiving = self.receiver.agent().receive(to)?;
        let sending = self.sender.agent().send(to, bytes, u64::from(port), pace)?;
        Ok(Transfer { sending, receiving, bytes })
    }

    /// Wait until the receiver has `bytes` of a transfer.
    pub(crate) fn until_received(
        &mut self,
        transfer: Transfer,
        bytes: u64,
        report: &mut Report,
    ) -> Result<Progress> {
        let agent = self.receiver.agent();
        towpath_tests::wait::until(&format!("{bytes} bytes of a TCP transfer"), LIMIT, || {
            let progress = agent.progress(transfer.receiving)?;
            report.progress(&format!(
                "TCP: {:.1} of {} MB",
                progress.bytes as f64 / 1e6,
                transfer.bytes / 1_000_000
            ));
            if progress.done && progress.bytes < bytes {
                bail!("the connection ended after {} of {} bytes", progress.bytes, transfer.bytes);
            }
            Ok((progress.bytes >= bytes).then_some(progress))
        })
    }

    /// Wait for the end of a transfer, and check that what came is what was sent.
    pub(crate) fn finish_transfer(&mut self, transfer: Transfer, report: &mut Report) -> Result<u64> {
        self.until_received(transfer, transfer.bytes, report)?;
        let sent = self.sender.agent().until_done(transfer.sending, LIMIT).context("the sender")?;
        let received = self.receiver.agent().until_done(transfer.receiving, LIMIT).context("the receiver")?;
        if (received.bytes, received.checksum) != (sent.bytes, sent.checksum) {
            bail!("{sent:?} were sent, {received:?} received");
        }
        Ok(received.checksum)
    }
}

/// A TCP transfer under way.
#[derive(Clone, Copy)]
pub(crate) struct Transfer {
    sending: Job,
    receiving: Job,
    bytes: u64,
}
