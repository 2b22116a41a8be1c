//! The results as a picture: busy cycles per packet, one bar per system, one chart per distance.

use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::prelude::*;

use super::{report::Results, sampler::CEILING};
use crate::probe::Distance;

const COLOURS: [(&str, RGBColor); 5] = [
    ("towpathd", RGBColor(0, 114, 178)),
    ("testpmd-io", RGBColor(230, 159, 0)),
    ("ovs-port", RGBColor(0, 158, 115)),
    ("ovs-normal", RGBColor(153, 153, 153)),
    ("ovs-vxlan", RGBColor(153, 153, 153)),
];

/// One bar: row, system, median and quartiles.
struct Bar<'a> {
    row: &'a str,
    system: &'static str,
    median: f64,
    q1: f64,
    q3: f64,
}

fn bars(results: &Results, distance: Distance) -> Vec<Bar<'_>> {
    results
        .figures
        .iter()
        .filter(|(_, d, f)| *d == distance && f.contestant != CEILING)
        .filter_map(|(row, _, f)| {
            let s = f.cycles_per_packet?;
            Some(Bar { row, system: f.contestant, median: s.median, q1: s.q1, q3: s.q3 })
        })
        .collect()
}

/// Writes the picture.
///
/// # Errors
///
/// When the file cannot be written.
pub(super) fn write(path: &Path, results: &Results) -> anyhow::Result<()> {
    let charts: Vec<_> = [Distance::Near, Distance::Far]
        .into_iter()
        .map(|distance| (distance, bars(results, distance)))
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    let heights: Vec<u32> = charts.iter().map(|(_, bars)| 110 + 18 * bars.len() as u32).collect();
    let area = SVGBackend::new(path, (1000, heights.iter().sum::<u32>().max(120))).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow!("drawing: {error}");
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut rest = area.clone();
    for ((distance, bars), height) in charts.iter().zip(heights) {
        let (top, below) = rest.split_vertically(height);
        chart(&top, *distance, bars)?;
        rest = below;
    }
    area.present().map_err(|e| failed(&e)).with_context(|| format!("writing {}", path.display()))
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    distance: Distance,
    bars: &[Bar<'_>],
) -> anyhow::Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("drawing: {error}");
    let most = bars.iter().map(|bar| bar.q3).fold(1.0, f64::max) * 1.1;
    let count = bars.len() as f64;
    let title =
        format!("busy TSC cycles per packet, cores {distance} (median and quartiles; less is better)");
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(30)
        .y_label_area_size(230)
        .build_cartesian_2d(0.0..most, count..0.0)
        .map_err(|e| failed(&e))?;
    let label = |y: &f64| {
        let bar = bars.get(y.floor() as usize);
        bar.map_or_else(String::new, |bar| format!("{} {}", bar.row, bar.system))
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_labels(10)
        .draw()
        .map_err(|e| failed(&e))?;
    for (index, bar) in bars.iter().enumerate() {
        let y = index as f64;
        let colour =
            COLOURS.iter().find(|(name, _)| *name == bar.system).map_or(BLACK, |(_, colour)| *colour);
        let body = Rectangle::new([(0.0, y + 0.15), (bar.median, y + 0.85)], colour.filled());
        let whisker = PathElement::new(vec![(bar.q1, y + 0.5), (bar.q3, y + 0.5)], BLACK.stroke_width(2));
        chart.draw_series([body]).map_err(|e| failed(&e))?;
        chart.draw_series([whisker]).map_err(|e| failed(&e))?;
        let (_, pixel) = chart.backend_coord(&(0.0, y + 0.5));
        let (left, top) = area.get_base_pixel();
        let text = Text::new(label(&y), (10, pixel - top - 6), ("sans-serif", 13));
        let _ = left;
        area.draw(&text).map_err(|e| failed(&e))?;
        let (x, _) = chart.backend_coord(&(bar.q3.max(bar.median), y + 0.5));
        let value =
            Text::new(format!("{:.0}", bar.median), (x - left + 4, pixel - top - 6), ("sans-serif", 12));
        area.draw(&value).map_err(|e| failed(&e))?;
    }
    Ok(())
}
