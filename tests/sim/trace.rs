//! What happened, as one number: two runs of a seed must leave the same. Printed line by line when asked for.

use std::{
    fmt::Arguments,
    hash::{DefaultHasher, Hasher},
};

#[derive(Default)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
    lines: u64,
    pub(crate) printed: bool,
}

impl Trace {
    pub(crate) fn new(printed: bool) -> Self {
        Self { printed, ..Self::default() }
    }

    /// Notes one happening: `what` and `details` tell it from others, `text` is for people.
    pub(crate) fn note(&mut self, now: u64, what: &str, details: &[u64], text: Arguments<'_>) {
        self.lines += 1;
        self.hasher.write_u64(now);
        self.hasher.write(what.as_bytes());
        details.iter().for_each(|&detail| self.hasher.write_u64(detail));
        if self.printed {
            println!("{:>7}.{:03} {what:<9} {text}", now / 1000, now % 1000);
        }
    }

    /// A fingerprint of all that was noted.
    pub(crate) fn fingerprint(&self) -> (u64, u64) {
        (self.lines, self.hasher.finish())
    }
}
