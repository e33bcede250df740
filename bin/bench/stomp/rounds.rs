//! The rounds: each goes through all that is to be measured, and at each thing through the limits and all brokers, so that a
//! noisy neighbour hurts them alike.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    args::StompArgs,
    figures::{Figure, Series},
    limits,
    plan::Cell,
    progress::Progress,
    subject::Subject,
    workloads::{Amount, measure},
};

/// The part of a round that warms up, and that each limit takes.
const PART: u32 = 4;

/// What came of all rounds.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) figures: Vec<Figure>,
    /// What should not have happened, and where.
    pub(super) problems: Vec<String>,
}

/// Measures everything. What goes wrong is told beside what has been measured by then: after the first measurement that can't
/// be brought to its end nothing more is.
pub(super) async fn run(args: &StompArgs, subjects: &[Arc<Subject>], progress: &Progress) -> Outcome {
    let has_several_nodes = subjects.iter().any(|subject| subject.addresses.len() > 1);
    let cells = Cell::all(args, has_several_nodes);
    let per_round: usize =
        cells.iter().map(|cell| subjects.iter().filter(|subject| is_for(cell, subject)).count()).sum();
    progress.begin(per_round as u64 * u64::from(args.rounds + 1));
    let empty = || Series { limits: Vec::new(), samples: subjects.iter().map(|_| Vec::new()).collect() };
    let mut run = Run { args, subjects, progress, problems: Vec::new() };
    let mut series: Vec<_> = cells.iter().map(|_| empty()).collect();
    // The first round warms up: connections, caches, what a runtime compiles as it goes.
    'rounds: for round in 0..=args.rounds {
        for (cell, series) in cells.iter().zip(&mut series) {
            if let Err(error) = run.once(round, cell, series).await {
                run.problems.push(format!("{cell}, {} B: {error:#}", cell.size()));
                break 'rounds;
            }
        }
    }
    let names: Vec<_> = subjects.iter().map(|subject| subject.name.clone()).collect();
    let figures = cells.iter().zip(&series).flat_map(|(cell, series)| series.figures(cell, &names)).collect();
    Outcome { figures, problems: run.problems }
}

fn is_for(cell: &Cell, subject: &Subject) -> bool {
    !cell.is_elsewhere() || subject.addresses.len() > 1
}

struct Run<'a> {
    args: &'a StompArgs,
    subjects: &'a [Arc<Subject>],
    progress: &'a Progress,
    problems: Vec<String>,
}

impl Run<'_> {
    /// One thing in one round.
    async fn once(&mut self, round: u32, cell: &Cell, series: &mut Series) -> anyhow::Result<()> {
        let whole = Duration::from_millis(self.args.round_ms);
        let backlog = u64::from(self.args.backlog);
        let warming = Amount { length: whole / PART, backlog: backlog.div_ceil(u64::from(PART)) };
        let amount = if round == 0 { warming } else { Amount { length: whole, backlog } };
        if round > 0 {
            let subject = &self.subjects[0];
            let several = self.subjects.iter().any(|subject| subject.addresses.len() > 1);
            let place: (&Path, bool) = (&self.args.dir, several);
            series.limits.push(limits::measure(cell, place, &subject.noise, whole / PART).await?);
        }
        for (subject, samples) in self.subjects.iter().zip(&mut series.samples) {
            if !is_for(cell, subject) {
                continue;
            }
            self.progress.say(round, self.args.rounds, &subject.name, cell);
            let sample = measure(subject, cell, amount).await.map_err(|error| error.context(subject.name.clone()))?;
            let place = format!("{}, {cell}, {} B", subject.name, cell.size());
            self.problems.extend(sample.problems.iter().map(|problem| format!("{place}: {problem}")));
            if round > 0 {
                samples.push(sample);
            }
            self.progress.step();
        }
        Ok(())
    }
}
