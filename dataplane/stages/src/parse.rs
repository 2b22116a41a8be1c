//! Finds the headers of each packet and checks what its sender asked to have done to it.
//!
//! A stage of its own because everything after it trusts [`Headers`](packet::Headers): a packet that goes on has headers that lie
//! inside its private head and agree with its length, and an [`Offload`](buf::Offload) recomputed from that head.
//!
//! Drops: every [`ParseError`](packet::ParseError) under its own name; [`DropReason::BadOffload`].

use engine::{Batch, DropReason, Output};

/// Runs the stage.
#[inline]
pub fn run(batch: &mut Batch<'_, '_>) {
    for index in batch.indices() {
        let Some(packet) = batch.burst.packet_mut(index) else { continue };
        let metadata = &mut batch.metadata[index];
        // What stands there is of an earlier burst.
        metadata.output = Output::Undecided;
        if let Err(error) = packet::parse_into(packet.head(), packet.len() as u32, &mut metadata.headers) {
            batch.drop(index, error.into());
            continue;
        }
        if packet.offload != buf::Offload::NONE {
            match packet::validate_offload(&metadata.headers, packet.offload, packet.len() as u32) {
                Ok(()) => {}
                Err(_) => {
                    batch.drop(index, DropReason::BadOffload);
                    continue;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Traffic, udp4};
    use buf::{Checksum, Offload};
    use engine::DropReason;

    #[test]
    fn finds_headers_and_names_what_it_refuses() {
        let traffic = Traffic::of([udp4(), vec![0; 10], udp4()[..30].to_vec()]);
        traffic.run(|batch, _| {
            super::run(batch);
            assert_eq!(batch.alive(), 0b001);
            assert_eq!(batch.metadata[0].headers.l3_offset, 14);
            let drops: Vec<_> = batch.drops().collect();
            assert_eq!(drops, [(DropReason::Runt, 1), (DropReason::Ipv4Truncated, 1)]);
        });
    }

    #[test]
    fn p01_refuses_a_checksum_range_outside_the_packet() {
        let offload =
            |start, offset| Offload { checksum: Checksum::Partial { start, offset }, segment: None };
        let traffic = Traffic::with_offloads([
            (udp4(), offload(34, 6)),
            (udp4(), offload(34, 60_000)),
            (udp4(), offload(0, 0)),
        ]);
        traffic.run(|batch, _| {
            super::run(batch);
            assert_eq!(batch.alive(), 0b001);
            assert_eq!(batch.drops().collect::<Vec<_>>(), [(DropReason::BadOffload, 2)]);
        });
    }
}
