//! Rates, medians, ratios, and how they are shown.

use std::time::Duration;

use serde::Serialize;

/// What one measurement of one round got done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) messages: u64,
    /// Bytes of message bodies: the user's bytes, without framing.
    pub(super) body_bytes: u64,
    pub(super) elapsed: Duration,
    /// The median time of one group commit, where groups come one after the other.
    pub(super) p50: Option<Duration>,
}

impl Sample {
    fn messages_per_s(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    fn p50_ms(&self) -> Option<f64> {
        self.p50.map(|p50| p50.as_secs_f64() * 1e3)
    }

    fn mb_per_s(&self) -> f64 {
        self.body_bytes as f64 / 1e6 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// One line of the result: a thing measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    /// Messages per group commit.
    pub(super) batch: u32,
    /// What was measured.
    pub(super) what: &'static str,
    /// Median.
    pub(super) messages_per_s: f64,
    /// Median, in 10^6 bytes of bodies.
    pub(super) mb_per_s: f64,
    /// Median over the rounds of (the thing of interest / this) in the same round; None for the thing itself.
    pub(super) reached: Option<f64>,
    /// Milliseconds that one group commit takes: the median over the rounds of their medians.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p50_ms: Option<f64>,
    /// Median over the rounds of (the p50 of the thing of interest / this p50) in the same round; None for the thing itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p50_ratio: Option<f64>,
}

/// The samples of one batch size: one list per thing measured, all equally long. The first thing is the one of
/// interest, the others are its limits.
pub(super) struct Series {
    pub(super) batch: u32,
    pub(super) things: Vec<(&'static str, Vec<Sample>)>,
}

impl Series {
    /// A series that measures `names`; the first is the thing of interest.
    pub(super) fn new(batch: u32, names: &[&'static str]) -> Self {
        Self { batch, things: names.iter().map(|&name| (name, Vec::new())).collect() }
    }

    /// The figures, the thing of interest first.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let interest = self.things.first().map_or(&[][..], |thing| &thing.1);
        let figure = |(index, (what, samples)): (usize, &(&'static str, Vec<Sample>))| Figure {
            batch: self.batch,
            what,
            messages_per_s: median(samples.iter().map(Sample::messages_per_s).collect()),
            mb_per_s: median(samples.iter().map(Sample::mb_per_s).collect()),
            reached: (index > 0).then(|| {
                let pairs = interest.iter().zip(samples);
                median(pairs.map(|(ours, limit)| ours.messages_per_s() / limit.messages_per_s()).collect())
            }),
            p50_ms: samples.iter().map(Sample::p50_ms).collect::<Option<Vec<_>>>().map(median),
            p50_ratio: (index > 0).then(|| interest.iter().zip(samples)).and_then(|pairs| {
                let ratios = pairs.map(|(ours, limit)| Some(ours.p50_ms()? / limit.p50_ms()?));
                ratios.collect::<Option<Vec<_>>>().map(median)
            }),
        };
        self.things.iter().enumerate().map(figure).collect()
    }
}

/// The figures as a table.
pub(super) fn table(figures: &[Figure]) -> String {
    let mut out = format!(
        "{:>6}  {:<44} {:>12} {:>10} {:>9} {:>8} {:>9}\n",
        "batch", "measured", "messages/s", "MB/s", "reached", "p50 ms", "p50 ratio"
    );
    for figure in figures {
        let number = |value: Option<f64>, digits| value.map_or(String::new(), |value| format!("{value:.digits$}"));
        let reached = number(figure.reached, 2);
        let (p50, p50_ratio) = (number(figure.p50_ms, 3), number(figure.p50_ratio, 2));
        out.push_str(&format!(
            "{:>6}  {:<44} {:>12.0} {:>10.2} {reached:>9} {p50:>8} {p50_ratio:>9}\n",
            figure.batch, figure.what, figure.messages_per_s, figure.mb_per_s,
        ));
    }
    out
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(messages: u64) -> Sample {
        let p50 = Some(Duration::from_millis(1000 / messages));
        Sample { messages, body_bytes: messages * 1000, elapsed: Duration::from_secs(1), p50 }
    }

    #[test]
    fn ratios_are_taken_within_each_round() {
        // A slow second round halves both; the ratio must not see it.
        let things = vec![
            ("ours", vec![sample(50), sample(25), sample(50)]),
            ("limit", vec![sample(100), sample(50), sample(100)]),
        ];
        let figures = Series { batch: 10, things }.figures();
        assert_eq!((figures[0].messages_per_s, figures[0].reached), (50.0, None));
        assert_eq!((figures[0].p50_ms, figures[0].p50_ratio), (Some(20.0), None));
        assert_eq!((figures[1].p50_ms, figures[1].p50_ratio), (Some(10.0), Some(2.0)));
        assert_eq!((figures[1].messages_per_s, figures[1].mb_per_s, figures[1].reached), (100.0, 0.1, Some(0.5)));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }
}
