//! A register on disk: written on both sides of a cut, and across a restart. `cargo run -p rhizomq-engine --example register`

use std::error::Error;

use rhizomq_engine::{Local, NodeId, Store};

/// What is in the register, as text.
fn motto<S: Store>(replica: &mut Local<S>) -> String {
    replica.register("motto").get().map(String::from_utf8_lossy).unwrap_or_default().into_owned()
}

/// One motto, two writers.
pub fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (north, south) = (NodeId::from_name("north"), NodeId::from_name("south"));

    let (mut a, _) = Local::open_dir(dir.path().join("north"), north)?;
    a.register("motto").set("stand firm")?;
    println!("before the commit, north says: {:?}", motto(&mut a));
    assert_eq!(motto(&mut a), "", "nothing shows before it is on disk");
    a.commit()?;
    println!("after it:                      {:?}", motto(&mut a));

    // Cut apart, both write. Stamps are the wall clock, but never behind what was seen.
    let (mut b, _) = Local::open_dir(dir.path().join("south"), south)?;
    b.pull_from(&a)?;
    a.register("motto").set("hold the line")?;
    a.commit()?;
    std::thread::sleep(std::time::Duration::from_millis(5));
    b.register("motto").set("bend, don't break")?;
    b.commit()?;

    // The later write wins, on both sides, whoever asks whom first.
    a.pull_from(&b)?;
    b.pull_from(&a)?;
    println!("north and south agree on:      {:?}", motto(&mut a));
    assert_eq!((motto(&mut a), motto(&mut b)), ("bend, don't break".to_owned(), "bend, don't break".to_owned()));

    // North loses power: nothing is closed in order. What was committed is there again.
    drop(a);
    let (mut a, found) = Local::open_dir(dir.path().join("north"), north)?;
    println!("after a restart, {} batches replayed: {:?}", found.replayed, motto(&mut a));
    assert_eq!(motto(&mut a), "bend, don't break");
    assert!(found.damages.is_empty() && a.found().losses.is_empty());

    a.register("motto").set("grow")?;
    a.commit()?;
    b.pull_from(&a)?;
    println!("and the last word is:          {:?}", motto(&mut b));
    assert_eq!(motto(&mut b), "grow", "a new life's stamps are above what the old one saw");
    Ok(())
}
