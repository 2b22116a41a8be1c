//! What is measured: the rows, who takes part, and the figures the project wants to reach.

use std::time::Duration;

use serde::Serialize;
use virtio_driver::RingLayout;

use super::{
    TOWPATHD,
    switches::{SESSION_LIFE, Scene},
};
use crate::{frame::Sizes, probe::Distance};

/// What a row measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Flat out: busy cycles per packet and throughput.
    Throughput,
    /// Flat out with 64 KB sends: throughput against one thread's copy bandwidth.
    Tso,
    /// The same in one direction of a tunnel.
    OneWay(Direction),
    /// TCP in one direction of a tunnel, in pieces as large as a switch takes and gives them: busy cycles per 64 KB and throughput.
    Stream(Direction),
    /// The same for a guest that neither sends nor takes large packets, with every switch.
    Segments(Direction),
    /// Flat out between ports under rules, one of them answering the other: flows that both have seen packets of.
    Established,
    /// The same with a flow for each packet and its answer.
    NewSessions,
    /// One frame under way.
    OneInFlight,
    /// Open loop at this percentage of what the slower of towpathd, testpmd and 85 % of the generator can do.
    Load(u32),
}

/// Of a tunnel, seen from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the guest to the wire.
    Out,
    /// From the wire to the guest.
    In,
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

/// One row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Ring layout.
    pub(super) layout: RingLayout,
    /// Frame size.
    pub(super) sizes: Sizes,
    /// Flows per direction.
    pub(super) flows: u32,
    /// What is measured.
    pub(super) kind: Kind,
}

impl Row {
    fn new(layout: RingLayout, size: &str, flows: u32, kind: Kind) -> Self {
        Self { layout, sizes: size.parse().unwrap_or_default(), flows, kind }
    }

    /// `split/64/1000`, `packed/64/in-flight-1`, ...
    #[must_use]
    pub(super) fn name(&self) -> String {
        let base = format!("{}/{}", self.ring(), self.sizes);
        match self.kind {
            Kind::Throughput => format!("{base}/{}", self.flows),
            Kind::Tso => format!("{base}/tso"),
            Kind::OneWay(direction) => format!("{base}/{}/{}", self.flows, direction.name()),
            Kind::Stream(direction) => format!("{base}/stream-{}", direction.name()),
            Kind::Segments(direction) => format!("{base}/segments-{}", direction.name()),
            Kind::Established => format!("{base}/{}/established", self.flows),
            Kind::NewSessions => format!("{base}/new"),
            Kind::OneInFlight => format!("{base}/in-flight-1"),
            Kind::Load(percent) => format!("{base}/load-{percent}"),
        }
    }

    /// `split` or `packed`.
    #[must_use]
    pub(super) const fn ring(&self) -> &'static str {
        match self.layout {
            RingLayout::Split => "split",
            RingLayout::Packed => "packed",
        }
    }

    /// How long frames are sent before they are counted: until each flow has been seen in both directions, which takes a slow switch 6 us, or
    /// until sessions end as fast as others are made.
    #[must_use]
    pub(super) fn warm(&self, least: Duration) -> Duration {
        match self.kind {
            Kind::Established => least + Duration::from_micros(6) * self.flows,
            Kind::NewSessions => least + Duration::from_secs(u64::from(SESSION_LIFE)),
            _ => least,
        }
    }

    /// Whether this contestant takes part.
    #[must_use]
    pub(super) fn takes(&self, contestant: &str) -> bool {
        match self.kind {
            Kind::Throughput
            | Kind::OneWay(_)
            | Kind::Stream(_)
            | Kind::Segments(_)
            | Kind::Established
            | Kind::NewSessions => true,
            Kind::Tso => contestant == TOWPATHD,
            Kind::OneInFlight | Kind::Load(_) => contestant == TOWPATHD || contestant == "testpmd-io",
        }
    }
}

/// The rows that share one attachment of all switches.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    /// Ring layout.
    pub(super) layout: RingLayout,
    /// Whether segmentation offload is negotiated (and only switches that know it take part).
    pub(super) tso: bool,
    /// What the switches are set up for.
    pub(super) scene: Scene,
    /// Rows, in order; load rows come after the throughput rows their rate derives from.
    pub(super) rows: Vec<Row>,
}

/// All rows, or the few of a quick run.
#[must_use]
pub(super) fn visits(quick: bool) -> Vec<Visit> {
    let mut visits = Vec::new();
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let flows: &[u32] = if quick { &[1000] } else { &[1, 1000, 100_000] };
        let mut rows: Vec<Row> =
            flows.iter().map(|&flows| Row::new(layout, "64", flows, Kind::Throughput)).collect();
        rows.push(Row::new(layout, "1518", 1000, Kind::Throughput));
        rows.push(Row::new(layout, "64", 1, Kind::OneInFlight));
        if !quick {
            rows.push(Row::new(layout, "64", 1000, Kind::Load(50)));
            rows.push(Row::new(layout, "64", 1000, Kind::Load(90)));
        }
        visits.push(Visit { layout, tso: false, scene: Scene::Plain, rows });
    }
    let layouts: &[RingLayout] =
        if quick { &[RingLayout::Split] } else { &[RingLayout::Split, RingLayout::Packed] };
    for &layout in layouts {
        let rows = vec![Row::new(layout, "64K", 1, Kind::Tso)];
        visits.push(Visit { layout, tso: true, scene: Scene::Plain, rows });
    }
    visits
}

/// The rows of `--tunnel`.
#[must_use]
pub(super) fn tunnel_visits(quick: bool) -> Vec<Visit> {
    let layouts: &[RingLayout] =
        if quick { &[RingLayout::Split] } else { &[RingLayout::Split, RingLayout::Packed] };
    let directions = [Direction::Out, Direction::In];
    let of = |&layout: &RingLayout| {
        let mut frames = Vec::new();
        for size in ["64", "1518"] {
            frames.push(Row::new(layout, size, 1000, Kind::Throughput));
            if !quick {
                frames.extend(directions.map(|way| Row::new(layout, size, 1000, Kind::OneWay(way))));
            }
        }
        let of = |kind: fn(Direction) -> Kind| {
            directions.map(|way| Row::new(layout, "64K", 1, kind(way))).to_vec()
        };
        let (streams, segments) = (of(Kind::Stream), of(Kind::Segments));
        [(false, frames), (true, streams), (false, segments)].map(|(tso, rows)| Visit {
            layout,
            tso,
            scene: Scene::Tunnel,
            rows,
        })
    };
    layouts.iter().flat_map(of).collect()
}

/// Tuples of [`Kind::NewSessions`], which come back after a minute at a million a second.
const NEW_FLOWS: u32 = 64_000 * 1024;

/// The rows of `--policy`.
#[must_use]
pub(super) fn policy_visits(quick: bool) -> Vec<Visit> {
    let layouts: &[RingLayout] =
        if quick { &[RingLayout::Split] } else { &[RingLayout::Split, RingLayout::Packed] };
    let of = |&layout: &RingLayout| {
        let mut rows: Vec<Row> =
            [1000, 100_000, 1_000_000].map(|flows| Row::new(layout, "64", flows, Kind::Established)).to_vec();
        rows.push(Row::new(layout, "64", NEW_FLOWS, Kind::NewSessions));
        Visit { layout, tso: false, scene: Scene::Policy, rows }
    };
    layouts.iter().map(of).collect()
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Metric {
    /// Busy time stamp cycles per packet, by the switch's own counter.
    CyclesPerPacket,
    /// Gb/s.
    Throughput,
    /// Median latency, ns.
    LatencyP50,
    /// 99th percentile of latency, ns.
    LatencyP99,
    /// Gb/s as a share of one thread's copy bandwidth.
    CopyBandwidthShare,
}

/// A figure to reach against a peer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Target {
    /// What is compared.
    pub(super) metric: Metric,
    /// The ratio to reach: at most this (at least, for a share of bandwidth).
    pub(super) bound: f64,
    /// The ratio aimed at.
    pub(super) aim: Option<f64>,
}

impl Target {
    /// Whether a ratio reaches the bound.
    #[must_use]
    pub(super) fn reached(&self, ratio: f64) -> bool {
        match self.metric {
            Metric::CopyBandwidthShare | Metric::Throughput => ratio >= self.bound,
            _ => ratio <= self.bound,
        }
    }
}

/// The figures wanted of a row against a peer while the cores are near or far.
#[must_use]
pub(super) fn targets(row: &Row, peer: &str, distance: Distance) -> Vec<Target> {
    let cycles = |bound, aim| vec![Target { metric: Metric::CyclesPerPacket, bound, aim }];
    let small = row.sizes.longest() < 128;
    let split = row.layout == RingLayout::Split;
    if peer == super::ovs::VXLAN {
        let (most, least) = if small { (0.5, 2.0) } else { (1.0 / 1.5, 1.5) };
        return [(Metric::CyclesPerPacket, most), (Metric::Throughput, least)]
            .map(|(metric, bound)| Target { metric, bound, aim: None })
            .to_vec();
    }
    match (row.kind, peer, distance) {
        (Kind::Established, super::ovs::CONNTRACK, Distance::Near) => {
            cycles(if row.flows > 100_000 { 0.2 } else { 0.15 }, None)
        }
        (Kind::NewSessions, super::ovs::CONNTRACK, _) => {
            vec![Target { metric: Metric::Throughput, bound: 5.0, aim: None }]
        }
        (Kind::Throughput, "testpmd-io", Distance::Near) => match (small, split) {
            (true, true) => cycles(0.7, Some(0.5)),
            (true, false) => cycles(1.1, Some(0.8)),
            (false, true) => cycles(0.65, None),
            (false, false) => cycles(0.8, None),
        },
        (Kind::Throughput, "testpmd-io", Distance::Far) => cycles(if small { 0.9 } else { 0.6 }, None),
        (Kind::Throughput, "ovs-port", Distance::Near) if small => cycles(0.5, Some(0.35)),
        (Kind::OneInFlight, "testpmd-io", _) => {
            vec![Target { metric: Metric::LatencyP50, bound: 1.2, aim: None }]
        }
        (Kind::Load(_), "testpmd-io", _) => vec![
            Target { metric: Metric::LatencyP50, bound: 1.2, aim: None },
            Target { metric: Metric::LatencyP99, bound: 1.5, aim: None },
        ],
        (Kind::Tso, "one-copy", _) => {
            vec![Target { metric: Metric::CopyBandwidthShare, bound: 0.8, aim: None }]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own_and_quick_rows_are_among_all() {
        let names = |quick| -> Vec<String> {
            visits(quick).iter().flat_map(|visit| visit.rows.iter().map(Row::name)).collect()
        };
        let all = names(false);
        let mut unique = all.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), all.len());
        assert!(names(true).iter().all(|name| all.contains(name)));
        let tunnel = |quick| -> Vec<String> {
            tunnel_visits(quick).iter().flat_map(|visit| visit.rows.iter().map(Row::name)).collect()
        };
        let (some, all_of_tunnel) = (tunnel(true), tunnel(false));
        assert!(some.iter().all(|name| all_of_tunnel.contains(name)));
        assert!(all_of_tunnel.contains(&"packed/64K/stream-in".to_string()));
        assert!(all.contains(&"packed/64/100000".to_string()) && all.contains(&"split/64K/tso".to_string()));
    }

    #[test]
    fn targets_are_the_projects() {
        let row = |name: &str| {
            visits(false).into_iter().flat_map(|visit| visit.rows).find(|row| row.name() == name).unwrap()
        };
        let bound = |name, peer, distance| targets(&row(name), peer, distance).first().map(|t| t.bound);
        assert_eq!(bound("split/64/1", "testpmd-io", Distance::Near), Some(0.7));
        assert_eq!(bound("packed/64/1000", "testpmd-io", Distance::Near), Some(1.1));
        assert_eq!(bound("packed/1518/1000", "testpmd-io", Distance::Near), Some(0.8));
        assert_eq!(bound("split/1518/1000", "testpmd-io", Distance::Far), Some(0.6));
        assert_eq!(bound("split/64/1000", "ovs-port", Distance::Near), Some(0.5));
        assert_eq!(bound("split/64/1000", "ovs-normal", Distance::Near), None);
    }
}
