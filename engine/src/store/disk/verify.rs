//! A complete check of the store: every frame of every log file, every row of the index, every value.

use std::ops::ControlFlow;

use super::{Damage, DiskStore, format::Places, frame::AFTER_ALL, log, replay::Source};
use crate::StoreError;

impl DiskStore {
    /// Reads everything and returns what is not as it was written. Takes as long as reading the whole store does.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the system does not let us read; damage is not an error here.
    pub fn verify(&self) -> Result<Vec<Damage>, StoreError> {
        let numbers = log::list(&self.places.log)?;
        let (places, table): (&Places, _) = (&self.places, &self.log.table);
        let source =
            Source { places, table, key: &self.log.key, salt: self.log.salt(), numbers: &numbers, synced: None };
        let replayed = source.replay(None, &mut |_| Ok(()))?;
        let mut damages = replayed.damages;
        damages.extend(replayed.torn_tail);
        let scan = self.shared.rows(&[], &AFTER_ALL, &mut |_, row| {
            match self.shared.value(&row) {
                Ok(Some(_)) => {}
                Ok(None) => damages.push(place(places.name(&table.path(row.file())), "the file is missing")),
                Err(StoreError::Damaged { place: file, detail }) => damages.push(place(file, &detail)),
                Err(error) => return Err(error),
            }
            Ok(ControlFlow::Continue(()))
        });
        match scan {
            Err(StoreError::Damaged { place: file, detail }) => damages.push(place(file, &detail)),
            result => result?,
        }
        Ok(damages)
    }
}

fn place(file: String, what: &str) -> Damage {
    Damage { file, offset: 0, len: 0, what: what.to_owned() }
}
