//! What `tshark`, whose dissectors nobody here wrote, says of frames.

use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};
use towpath_tests::Result;
use towpath_tests::scratch::Scratch;

/// A capture file (pcap, microseconds, Ethernet) of these frames.
fn capture(frames: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (number, frame) in frames.iter().enumerate() {
        let length = u32::try_from(frame.len())?;
        for word in [1, u32::try_from(number)?, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    Ok(file)
}

/// The protocols of each frame, joined by colons; fails if any of them is malformed, has a wrong checksum, or is worth a warning.
pub(crate) fn dissect(scratch: &Scratch, frames: &[Vec<u8>]) -> Result<Vec<String>> {
    let path = scratch.join("services.pcap");
    fs::write(&path, capture(frames)?)?;
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(&path);
    for check in ["ip", "udp", "tcp"] {
        command.args(["-o", &format!("{check}.check_checksum:TRUE")]);
    }
    command.args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=a"]);
    for field in ["frame.protocols", "_ws.malformed", "_ws.expert.severity", "_ws.expert.message"] {
        command.args(["-e", field]);
    }
    let output = command.output().context("run tshark")?;
    ensure!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let mut protocols = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split('|').collect();
        // Severities are 0x200000 (chat), 0x400000 (note), 0x600000 (warning), 0x800000 (error).
        let severe = fields[2]
            .split(',')
            .filter_map(|word| word.trim().parse::<u32>().ok())
            .any(|level| level >= 0x0060_0000);
        ensure!(fields[1].is_empty() && !severe, "frame {}: {line}", number + 1);
        protocols.push(fields[0].to_owned());
    }
    ensure!(protocols.len() == frames.len(), "{} of {} frames dissected", protocols.len(), frames.len());
    Ok(protocols)
}
