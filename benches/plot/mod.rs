//! Tables of cost as curves: one per size of the delta, against the size of what it is merged into.

use std::{error::Error, time::Duration};

use plotters::prelude::*;

const WIDTH: u32 = 480;
const HEIGHT: u32 = 320;
const COLORS: [RGBColor; 3] = [BLUE, RED, GREEN];

/// What was measured: for each `k` the cost at each `n`.
pub(crate) struct Curves {
    pub(crate) title: String,
    pub(crate) costs: Vec<(u32, Vec<(u32, Duration)>)>,
}

/// A plot for each, two beside each other, as one SVG file's text.
pub(crate) fn svg(plots: &[Curves]) -> Result<String, Box<dyn Error>> {
    let rows = plots.len().div_ceil(2);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (2 * WIDTH, rows as u32 * HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, plot) in root.split_evenly((rows, 2)).iter().zip(plots) {
            draw(area, plot)?;
        }
        root.present()?;
    }
    Ok(text)
}

fn draw(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    Curves { title, costs }: &Curves,
) -> Result<(), Box<dyn Error>> {
    let micros = |cost: Duration| cost.as_secs_f64() * 1e6;
    let points = || costs.iter().flat_map(|(_, costs)| costs);
    let (Some(first), Some(last)) = (points().map(|(n, _)| *n).min(), points().map(|(n, _)| *n).max()) else {
        return Ok(());
    };
    let low = points().map(|(_, cost)| micros(*cost)).fold(f64::MAX, f64::min).max(0.01);
    let high = points().map(|(_, cost)| micros(*cost)).fold(low, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 13))
        .margin(8)
        .x_label_area_size(30)
        .y_label_area_size(55)
        .build_cartesian_2d((f64::from(first)..f64::from(last)).log_scale(), (low / 2.0..high * 4.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("n, slots that are there")
        .y_desc("microseconds")
        .x_label_formatter(&|n| format!("{n:.0}"))
        .y_label_formatter(&|cost| format!("{cost}"))
        .light_line_style(WHITE)
        .draw()?;
    for ((k, costs), color) in costs.iter().zip(COLORS) {
        let points = costs.iter().map(|(n, cost)| (f64::from(*n), micros(*cost).max(low)));
        chart
            .draw_series(LineSeries::new(points, &color))?
            .label(format!("k = {k}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], color));
    }
    chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).border_style(BLACK).draw()?;
    Ok(())
}
