//! Finds the headers of each packet and checks what its sender asked to have done to it.
//!
//! A stage of its own because everything after it trusts [`Headers`](packet::Headers): a packet that goes on has headers that lie
//! inside its private head and agree with its length, and an [`Offload`](buf::Offload) recomputed from that head.
//!
//! Drops: every [`ParseError`](packet::ParseError) under its own name; [`DropReason::BadOffload`].

use engine::{Batch, DropReason, Indices};

/// Runs the stage.
#[inline]
pub fn run(batch: &mut Batch<'_, '_>) {
    let Batch { burst, metadata, verdicts, .. } = batch;
    for (index, (packet, metadata)) in burst.packets().iter().zip(metadata.iter_mut()).enumerate() {
        if let Err(error) = packet::parse_into(packet.head(), packet.len() as u32, &mut metadata.headers) {
            verdicts.drop(index, error.into());
        }
    }
    for index in Indices(verdicts.alive() & burst.with_offload()) {
        let (Some(packet), headers) = (burst.packet(index), &metadata[index].headers) else { continue };
        if packet::validate_offload(headers, burst.offload(index), packet.len() as u32).is_err() {
            verdicts.drop(index, DropReason::BadOffload);
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
        let offload = |start, offset| Offload {
            checksum: Checksum::Partial { start, offset },
            segment: None,
            tunnel: 0,
        };
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
