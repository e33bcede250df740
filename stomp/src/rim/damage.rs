//! Which places on the disk were found broken: each is told and counted once, however often a check comes by.

use std::collections::BTreeSet;

use rhizomq_engine::store::{Finding, Part};

/// Places remembered; beyond that they are counted again.
const MAX_PLACES: usize = 10_000;

pub(super) struct DamageLog {
    seen: BTreeSet<(Part, String, u64, String)>,
    places: u64,
}

impl DamageLog {
    /// `places` were found in earlier lives of the process.
    pub(super) fn new(places: u64) -> Self {
        Self { seen: BTreeSet::new(), places }
    }

    pub(super) fn places(&self) -> u64 {
        self.places
    }

    pub(super) fn is_new(&mut self, finding: &Finding) -> bool {
        let damage = &finding.damage;
        let name = format!("{} {:?} {:?}", damage.what, finding.segment, finding.slots.first());
        if self.seen.len() >= MAX_PLACES {
            self.seen.pop_first();
        }
        let is_new = self.seen.insert((finding.part, damage.file.clone(), damage.offset, name));
        self.places += u64::from(is_new);
        is_new
    }
}
