//! The table as curves: cost and time against the number of nodes.

use std::error::Error;

use plotters::prelude::*;

use super::Cost;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 300;

type Curve<'a> = (&'a str, RGBColor, &'a dyn Fn(&Cost) -> f64);

/// Three plots beside each other, as one SVG file's text.
pub(crate) fn svg(costs: &[Cost]) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let areas = root.split_evenly((1, 3));
        let plots: [(&str, &[Curve<'_>]); 3] = [
            ("quiet: sent by a node, bytes/s", &[("bytes", BLUE, &|cost| cost.bytes)]),
            (
                "until all agree, s",
                &[("a tenth dies", RED, &|cost| cost.failed), ("two halves meet", BLUE, &|cost| cost.merged)],
            ),
            (
                "sent by a node meanwhile, kB",
                &[("a tenth dies", RED, &|cost| cost.failed_kb), ("two halves meet", BLUE, &|cost| cost.merged_kb)],
            ),
        ];
        for (area, (title, curves)) in areas.iter().zip(plots) {
            draw(area, costs, title, curves)?;
        }
        root.present()?;
    }
    Ok(text)
}

fn draw(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    costs: &[Cost],
    title: &str,
    curves: &[Curve<'_>],
) -> Result<(), Box<dyn Error>> {
    let nodes = |cost: &Cost| cost.nodes as f64;
    let (Some(first), Some(last)) = (costs.first().map(nodes), costs.last().map(nodes)) else { return Ok(()) };
    let top = curves.iter().flat_map(|(_, _, value)| costs.iter().map(value)).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(30)
        .y_label_area_size(45)
        .build_cartesian_2d((first..last).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("nodes")
        .x_label_formatter(&|nodes| format!("{nodes:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    for &(name, color, value) in curves {
        let points = costs.iter().map(|cost| (nodes(cost), value(cost)));
        chart
            .draw_series(LineSeries::new(points, &color))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], color));
    }
    if curves.len() > 1 {
        chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).border_style(BLACK).draw()?;
    }
    Ok(())
}
