//! Counts steps of work, for tests that say what it does not grow with; elsewhere it is nothing.

/// See the module docs.
#[derive(Default)]
pub(super) struct Steps(#[cfg(test)] u64);

impl Steps {
    /// One more.
    #[inline]
    pub(super) fn count(&mut self) {
        #[cfg(test)]
        {
            self.0 += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn number(&self) -> u64 {
        self.0
    }
}
