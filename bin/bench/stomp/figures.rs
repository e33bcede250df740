//! From samples to figures: medians over the rounds, how far they spread, and ratios to what the machine could do.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{limits::Limits, plan::Cell, workloads::Sample};
use crate::bench::figures::median;

/// Times from a microsecond to ten minutes, to three digits; in nanoseconds.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("these bounds are good")
}

/// As a histogram takes it.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A value over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<_> = values.collect();
        let min = values.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let max = values.iter().copied().reduce(f64::max).unwrap_or(0.0);
        Self { median: median(values), min, max }
    }
}

/// Times in milliseconds: each over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Times {
    pub(super) p50: Spread,
    pub(super) p99: Spread,
    #[serde(rename = "p99.9")]
    pub(super) p999: Spread,
    pub(super) max: Spread,
}

impl Times {
    fn of(rounds: &[&Histogram<u64>]) -> Self {
        let at = |quantile: f64| Spread::of(rounds.iter().map(|times| times.value_at_quantile(quantile) as f64 / 1e6));
        let max = Spread::of(rounds.iter().map(|times| times.max() as f64 / 1e6));
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max }
    }
}

/// The machine's limits for one thing, medians over the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct LimitFigures {
    /// Messages a second appended and synced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) disk_per_s: Option<f64>,
    /// Messages a second over TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tcp_per_s: Option<f64>,
    /// What a message takes at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) floor_ms: Option<f64>,
}

/// One thing at one broker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    #[serde(flatten)]
    pub(super) cell: Cell,
    pub(super) broker: String,
    /// Messages of all rounds that got a receipt.
    pub(super) sent: u64,
    /// Deliveries of all rounds.
    pub(super) received: u64,
    /// Messages sent, or deliveries, a second.
    pub(super) per_s: Spread,
    /// Of their bodies, in 10^6 bytes a second.
    pub(super) mb_per_s: Spread,
    pub(super) limits: LimitFigures,
    /// The rate against the lower of the disk's and TCP's limits: the median of the rounds' own ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reached: Option<f64>,
    /// To the receipt (`send`), or from end to end (`latency`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) times_ms: Option<Times>,
    /// The p50 against what a message takes at least: the median of the rounds' own ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p50_ratio: Option<f64>,
    /// By how much the generator itself was late, at p99, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) late_p99_ms: Option<f64>,
    /// The times of all rounds together, for plots.
    #[serde(skip)]
    pub(super) times: Option<Histogram<u64>>,
}

/// What the rounds found of one thing: the machine's limits, and a sample of each broker (by its place among them).
#[derive(Debug, Default)]
pub(super) struct Series {
    /// One per round.
    pub(super) limits: Vec<Limits>,
    /// One per broker; a list is empty where the thing can't be measured, and else as long as `limits`.
    pub(super) samples: Vec<Vec<Sample>>,
}

impl Series {
    /// The figures of all brokers that have one.
    pub(super) fn figures(&self, cell: &Cell, names: &[String]) -> Vec<Figure> {
        let measured = names.iter().zip(&self.samples).filter(|(_, samples)| !samples.is_empty());
        measured.map(|(name, samples)| self.figure(cell, name, samples)).collect()
    }

    fn figure(&self, cell: &Cell, broker: &str, samples: &[Sample]) -> Figure {
        let rate = |sample: &Sample| sample.events as f64 / sample.elapsed.as_secs_f64().max(1e-9);
        let megabytes = f64::from(cell.size()) / 1e6;
        let pairs = || samples.iter().zip(&self.limits);
        let reached: Option<Vec<_>> = pairs()
            .map(|(sample, limits)| {
                let least = limits.disk.into_iter().chain(limits.tcp).reduce(f64::min)?;
                Some(rate(sample) / least.max(1e-9))
            })
            .collect();
        let ratios: Option<Vec<_>> = pairs()
            .map(|(sample, limits)| {
                let p50 = sample.times.as_ref()?.value_at_quantile(0.5) as f64 / 1e9;
                Some(p50 / limits.floor?.max(1e-9))
            })
            .collect();
        let times: Vec<_> = samples.iter().filter_map(|sample| sample.times.as_ref()).collect();
        let late: Vec<_> = samples.iter().filter_map(|sample| sample.late.as_ref()).collect();
        Figure {
            cell: cell.clone(),
            broker: broker.to_owned(),
            sent: samples.iter().map(|sample| sample.sent).sum(),
            received: samples.iter().map(|sample| sample.received).sum(),
            per_s: Spread::of(samples.iter().map(rate)),
            mb_per_s: Spread::of(samples.iter().map(|sample| rate(sample) * megabytes)),
            limits: self.limits(),
            reached: reached.map(median),
            times_ms: (!times.is_empty()).then(|| Times::of(&times)),
            p50_ratio: ratios.map(median),
            late_p99_ms: (!late.is_empty()).then(|| Times::of(&late).p99.median),
            times: together(&times),
        }
    }

    fn limits(&self) -> LimitFigures {
        let of = |limit: fn(&Limits) -> Option<f64>| {
            self.limits.iter().map(limit).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()).map(median)
        };
        LimitFigures {
            disk_per_s: of(|limits| limits.disk),
            tcp_per_s: of(|limits| limits.tcp),
            floor_ms: of(|limits| limits.floor.map(|seconds| seconds * 1e3)),
        }
    }
}

fn together(rounds: &[&Histogram<u64>]) -> Option<Histogram<u64>> {
    let (first, others) = rounds.split_first()?;
    let mut all = (*first).clone();
    for times in others {
        // All were made with the same bounds.
        all.add(*times).ok()?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(events: u64, p50_ms: u64) -> Sample {
        let mut times = histogram();
        times.record(p50_ms * 1_000_000).unwrap();
        let elapsed = Duration::from_secs(1);
        Sample { sent: events, received: events, events, elapsed, times: Some(times), late: None, problems: vec![] }
    }

    #[test]
    fn ratios_are_taken_within_each_round_and_to_the_lower_limit() {
        // The second round is slow for all; the ratios must not see it.
        let limit = |rate: f64| Limits { disk: Some(rate), tcp: Some(10.0 * rate), floor: Some(1.0 / rate) };
        let cell = Cell::Send { window: 1, connections: 1, size: 100 };
        let samples = vec![vec![sample(500, 2), sample(250, 4), sample(500, 2)], vec![]];
        let series = Series { limits: vec![limit(1_000.0), limit(500.0), limit(1_000.0)], samples };
        let figures = series.figures(&cell, &["ours".to_owned(), "theirs".to_owned()]);
        assert_eq!(figures.len(), 1);
        let figure = &figures[0];
        assert_eq!(figure.per_s, Spread { median: 500.0, min: 250.0, max: 500.0 });
        assert_eq!((figure.reached, figure.sent, figure.mb_per_s.median), (Some(0.5), 1_250, 0.05));
        assert!((figure.p50_ratio.unwrap() - 2.0).abs() < 0.01, "{figure:?}");
        assert_eq!(figure.limits.floor_ms, Some(1.0));
        assert_eq!(figure.times.as_ref().map(|times| times.len()), Some(3));
        let text = serde_json::to_value(figure).unwrap();
        assert_eq!((text["workload"].as_str(), text["window"].as_u64()), (Some("send"), Some(1)));
    }
}
