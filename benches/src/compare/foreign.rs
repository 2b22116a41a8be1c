//! The foreign generator: testpmd forwarding prepared frames (`net_pcap` with `infinite_rx`) into `net_virtio_user`.
//!
//! It is nobody's of this project, so a generator of ours that agrees with it measures the switch and not itself. Its
//! mempool cache is enlarged (`--mbcache=512`): with the default one, mbufs cycle through the whole pool whenever the
//! switch is fast (`docs/benchmarks.md`).

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::Pid;
use virtio_driver::{MemoryOptions, RingLayout, SharedMemory};

use super::{
    process::Dialogue,
    switches::{Places, Switch, number_after, text},
    testpmd::eal,
};
use crate::frame::{Endpoint, Ports, Sender, Sizes};

/// A running foreign generator.
pub(super) struct Foreign {
    dialogue: Dialogue,
}

impl Foreign {
    /// Starts it on both ports of a switch that runs and listens.
    ///
    /// # Errors
    ///
    /// When it does not come up.
    pub(super) fn start(
        places: &Places<'_>,
        switch: &dyn Switch,
        layout: RingLayout,
        sizes: &Sizes,
        flows: u32,
    ) -> anyhow::Result<Self> {
        let packed = u8::from(layout == RingLayout::Packed);
        // Both of its threads share the generator's core: one polls, the main one sleeps.
        let mut args = eal(places, (places.other_core, places.other_core), 512);
        args.push("--single-file-segments".to_string());
        for index in 0..2u8 {
            let file = places.folder.join(format!("foreign-{index}.pcap"));
            write_pcap(&file, index, sizes, flows)?;
            args.extend([
                "--vdev".to_string(),
                format!("net_pcap{index},rx_pcap={},infinite_rx=1", text(&file)),
            ]);
        }
        for (index, socket) in switch.sockets().iter().enumerate() {
            let mac = Endpoint::numbered(index as u8).mac_text();
            let device = format!(
                "net_virtio_user{index},path={},queues=1,queue_size=256,mrg_rxbuf=1,in_order=1,packed_vq={packed},mac={mac}",
                text(socket)
            );
            args.extend(["--vdev".to_string(), device]);
        }
        let rest = "-- --interactive --nb-cores=1 --forward-mode=io --mbcache=512 --portlist=0,2,1,3 --no-lsc-interrupt --disable-link-check";
        args.extend(rest.split(' ').map(str::to_string));
        let log = places.folder.join("foreign.log");
        let mut dialogue = Dialogue::start("testpmd (generator)", "dpdk-testpmd", &args, &log)?;
        dialogue.expect("Done", Duration::from_secs(60)).with_context(|| tail(&log))?;
        dialogue.ask(&["start"], "packets/burst=").with_context(|| tail(&log))?;
        Ok(Self { dialogue })
    }

    /// Its process.
    pub(super) fn pid(&self) -> Pid {
        self.dialogue.pid()
    }

    /// Frames delivered per second to both ports, in millions, over `time`.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub(super) fn delivered_mpps(&mut self, time: Duration) -> anyhow::Result<f64> {
        let (before, start) = (self.received()?, Instant::now());
        std::thread::sleep(time);
        let (after, end) = (self.received()?, Instant::now());
        Ok((after - before) / (end - start).as_secs_f64() / 1e6)
    }

    fn received(&mut self) -> anyhow::Result<f64> {
        let mut total = 0.0;
        for port in ["2", "3"] {
            let stats = self
                .dialogue
                .ask(&[&format!("show port stats {port}"), "show port info 999"], "ports array")?;
            total += number_after(&stats, "RX-packets").context("testpmd's port statistics")?;
        }
        Ok(total)
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(4).collect();
    format!("its last lines: {}", lines.into_iter().rev().collect::<Vec<_>>().join(" | "))
}

/// Writes one direction's frames, one per flow and size, as a classic pcap file (little endian, Ethernet).
fn write_pcap(path: &Path, index: u8, sizes: &Sizes, flows: u32) -> anyhow::Result<()> {
    let memory = SharedMemory::new(1 << 16, MemoryOptions::default())?;
    let (me, peer) = (Endpoint::numbered(index), Endpoint::numbered(index ^ 1));
    let mut sender = Sender::new(me, peer, sizes, flows, Ports::of_end(index % 2 == 1, false), 0);
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 2 | 4 << 16, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    // As many as the mempool can hold twice over.
    for _ in 0..flows.min(2000) {
        let (_, len) = sender.write(&memory, 0, 0)?;
        for word in [0, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(memory.read_vec(0, len as usize)?);
    }
    fs::write(path, file).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pcap_file_holds_the_generators_frames() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pcap");
        write_pcap(&path, 0, &"64".parse().unwrap(), 10).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 24 + 10 * (16 + 60));
        assert_eq!(&bytes[24 + 16..24 + 22], &Endpoint::numbered(1).mac);
    }
}
