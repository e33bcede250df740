//! The figures as plots, each an SVG of its own.

use std::ops::Range;

use anyhow::anyhow;
use plotters::prelude::*;

use super::{args::Workload, figures::Figure, plan::Cell};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 360;
const COLORS: [RGBColor; 8] = [
    RGBColor(0x1b, 0x6c, 0xa8),
    RGBColor(0xd9, 0x5f, 0x02),
    RGBColor(0x1b, 0x9e, 0x77),
    RGBColor(0x75, 0x70, 0xb3),
    RGBColor(0xe7, 0x29, 0x8a),
    RGBColor(0x66, 0xa6, 0x1e),
    RGBColor(0xa6, 0x76, 0x1d),
    RGBColor(0x66, 0x66, 0x66),
];

/// One curve: what it is called, and its points.
type Curve = (String, Vec<(f64, f64)>);

/// What the axes are called.
type Axes = (&'static str, &'static str);

/// All plots that these figures are enough for.
///
/// # Errors
/// One can't be drawn.
pub(super) fn all(figures: &[Figure]) -> anyhow::Result<Vec<String>> {
    let mut sizes: Vec<_> = figures.iter().map(|figure| figure.cell.size()).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut plots = Vec::new();
    for size in sizes {
        let of = |workload| -> Vec<&Figure> {
            let is_of = |figure: &&Figure| figure.cell.size() == size && figure.cell.workload() == workload;
            figures.iter().filter(is_of).collect()
        };
        let rates = curves(&of(Workload::Send), |figure| match figure.cell {
            Cell::Send { window, connections, .. } => Some((format!("{connections} conn."), f64::from(window))),
            _ => None,
        });
        let title = format!("SEND with a receipt each, {size} B");
        plots.extend(log_log(&title, ("SENDs of a connection under way", "messages/s"), &rates)?);
        let bars: Vec<_> = of(Workload::Consume).into_iter().map(bar).collect();
        plots.extend(bars_of(&format!("Consuming a backlog, {size} B, messages/s"), &bars)?);
        let tails: Vec<_> = of(Workload::Latency).into_iter().filter_map(tail).collect();
        let title = format!("From end to end, {size} B");
        plots.extend(log_log(&title, ("one message in ... is slower", "milliseconds"), &tails)?);
        let rates = curves(&of(Workload::Fanout), |figure| match figure.cell {
            Cell::Fanout { subscribers, .. } => Some((String::new(), f64::from(subscribers))),
            _ => None,
        });
        plots.extend(log_log(&format!("Fan-out of a topic, {size} B"), ("subscribers", "deliveries/s"), &rates)?);
    }
    Ok(plots)
}

/// Rates against something, one curve per broker and name.
fn curves(figures: &[&Figure], place: impl Fn(&Figure) -> Option<(String, f64)>) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for figure in figures {
        let Some((name, x)) = place(figure) else { continue };
        let name = format!("{} {name}", figure.broker).trim().to_owned();
        let point = (x, figure.per_s.median);
        match curves.iter_mut().find(|curve| curve.0 == name) {
            Some(curve) => curve.1.push(point),
            None => curves.push((name, vec![point])),
        }
    }
    for (_, points) in &mut curves {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    curves
}

/// How slow one message in ten, in a hundred, and so on is.
fn tail(figure: &Figure) -> Option<Curve> {
    let times = figure.times.as_ref().filter(|times| !times.is_empty())?;
    let mut points = Vec::new();
    for step in 0.. {
        let one_in = 10_f64.powf(f64::from(step) / 4.0);
        if one_in > times.len() as f64 {
            break;
        }
        points.push((one_in, times.value_at_quantile(1.0 - 1.0 / one_in) as f64 / 1e6));
    }
    let what = figure.cell.to_string();
    let what = what.strip_prefix("latency: ").unwrap_or(&what);
    Some((format!("{}: {what}", figure.broker), points))
}

fn bar(figure: &Figure) -> (String, f64, (f64, f64)) {
    let what = figure.cell.to_string();
    let what = what.strip_prefix("consume: ").unwrap_or(&what);
    (format!("{}: {what}", figure.broker), figure.per_s.median, (figure.per_s.min, figure.per_s.max))
}

/// Curves on two logarithmic axes; none if nothing is there to be drawn.
fn log_log(title: &str, (x_name, y_name): Axes, curves: &[Curve]) -> anyhow::Result<Option<String>> {
    let points = || curves.iter().flat_map(|curve| &curve.1).filter(|point| point.0 > 0.0 && point.1 > 0.0);
    let range = |of: fn(&(f64, f64)) -> f64| -> Option<Range<f64>> {
        let (low, high) = (points().map(of).reduce(f64::min)?, points().map(of).reduce(f64::max)?);
        Some(low / 1.3..(high * 1.3).max(low * 2.0))
    };
    let (Some(x), Some(y)) = (range(|point| point.0), range(|point| point.1)) else { return Ok(None) };
    // From a power of ten, so that there are at least two to label; and room for the legend.
    let low = 10_f64.powf(y.start.log10().floor());
    let y = low..(y.end * 1.5 * 1.15_f64.powi(curves.len() as i32)).max(low * 11.0);
    drawn((WIDTH, HEIGHT), |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(x.log_scale(), y.log_scale())
            .map_err(failed)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(x_name).y_desc(y_name).x_label_formatter(&|x| short(*x)).y_label_formatter(&|y| short(*y));
        mesh.light_line_style(WHITE).draw().map_err(failed)?;
        for ((name, points), color) in curves.iter().zip(COLORS.into_iter().cycle()) {
            let points = points.iter().copied().filter(|point| point.0 > 0.0 && point.1 > 0.0);
            let series = LineSeries::new(points, color.stroke_width(2)).point_size(3);
            let drawn = chart.draw_series(series).map_err(failed)?;
            drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], color.stroke_width(2)));
        }
        let mut labels = chart.configure_series_labels();
        labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).draw().map_err(failed)
    })
    .map(Some)
}

/// Bars with the least and the most over the rounds as a line; none if there is none.
fn bars_of(title: &str, bars: &[(String, f64, (f64, f64))]) -> anyhow::Result<Option<String>> {
    let most = bars.iter().map(|bar| bar.2.1).fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(None);
    }
    let height = 70 + 24 * u32::try_from(bars.len()).unwrap_or(u32::MAX / 48);
    drawn((WIDTH, height), |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(24)
            .build_cartesian_2d(0.0..most * 1.05, 0.0..bars.len() as f64)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_y_axis()
            .disable_mesh()
            .x_label_formatter(&|x| short(*x))
            .draw()
            .map_err(failed)?;
        let mut brokers: Vec<&str> = Vec::new();
        for (place, (name, value, (low, high))) in bars.iter().enumerate() {
            let broker = name.split(':').next().unwrap_or_default();
            if !brokers.contains(&broker) {
                brokers.push(broker);
            }
            let color = COLORS[brokers.iter().position(|known| *known == broker).unwrap_or(0) % COLORS.len()];
            // The first one on top.
            let y = (bars.len() - 1 - place) as f64;
            let bar = Rectangle::new([(0.0, y + 0.1), (*value, y + 0.9)], color.mix(0.45).filled());
            chart.draw_series([bar]).map_err(failed)?;
            let spread = PathElement::new([(*low, y + 0.2), (*high, y + 0.2)], color.stroke_width(2));
            chart.draw_series([spread]).map_err(failed)?;
            let text = Text::new(name.clone(), (most * 0.01, y + 0.8), ("sans-serif", 12));
            chart.draw_series([text]).map_err(failed)?;
        }
        Ok(())
    })
    .map(Some)
}

fn drawn(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        draw(&root)?;
        root.present().map_err(failed)?;
    }
    Ok(text)
}

/// Numbers as people read them.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", trim(value / 1e6)),
        value if value >= 1e3 => format!("{}k", trim(value / 1e3)),
        value => trim(value),
    }
}

fn trim(value: f64) -> String {
    format!("{}", (value * 100.0).round() / 100.0)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a plot can't be drawn: {error}")
}
