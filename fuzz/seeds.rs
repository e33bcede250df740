//! Writes the seeds of all targets to `seeds/`, as the laws in the three crates have them.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let crates = [rhizomq_engine::fuzzing::TARGETS, rhizomq_net::fuzzing::TARGETS, rhizomq_stomp::fuzzing::TARGETS];
    for target in crates.into_iter().flatten() {
        let dir = root.join(target.name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            if !(target.law)(&seed) {
                return Err(io::Error::other(format!("seed {number} of {} is not taken in", target.name)));
            }
            fs::write(dir.join(number.to_string()), seed)?;
        }
    }
    Ok(())
}
