//! A message log on two disks: written, copied, consumed once and for all. `cargo run -p rhizomq-engine --example log`

use std::error::Error;

use bytes::Bytes;
use rhizomq_engine::{EngineError, Local, NodeId, Store};

/// Bodies that wait, in order.
fn bodies<S: Store>(replica: &Local<S>) -> Result<Vec<String>, EngineError> {
    replica.waiting("jobs").map(|waits| Ok(String::from_utf8_lossy(&waits?.1.body).into_owned())).collect()
}

/// A queue of jobs, and a standby that takes it over.
pub fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (main_id, standby_id) = (NodeId::from_name("main"), NodeId::from_name("standby"));
    let (mut main, _) = Local::open_dir(dir.path().join("main"), main_id)?;
    let (mut standby, _) = Local::open_dir(dir.path().join("standby"), standby_id)?;

    // A hundred messages, one sync.
    for number in 1..=100 {
        main.publish("jobs", format!("job {number}"))?;
    }
    let done = main.commit()?;
    println!("{} messages in {} block(s) of one commit", done.units.len(), done.blocks.len());

    // The standby begins an exchange. Each message would travel as bytes, by whatever there is.
    let (mut to_main, mut sent, mut received) = (vec![standby.begin()], 0, 0);
    while !to_main.is_empty() {
        sent += to_main.iter().map(Bytes::len).sum::<usize>();
        let mut to_standby = Vec::new();
        for message in std::mem::take(&mut to_main) {
            to_standby.extend(main.answer(&message)?);
        }
        received += to_standby.iter().map(Bytes::len).sum::<usize>();
        for message in to_standby {
            to_main.extend(standby.answer(&message)?);
        }
    }
    println!("sent {sent} bytes, received {received}");

    // Main works off the first sixty, in order, and tells the standby of it.
    let first: Vec<_> = main.waiting("jobs").take(60).collect::<Result<_, _>>()?;
    assert_eq!(first[0].1.body, "job 1");
    first.iter().for_each(|(dot, _)| main.consume(*dot));
    main.commit()?;
    standby.pull_from(&main)?; // in one process it is one call

    // It consumes five more and dies before the standby hears of them. The standby goes on.
    let next: Vec<_> = main.waiting("jobs").take(5).collect::<Result<_, _>>()?;
    next.iter().for_each(|(dot, _)| main.consume(*dot));
    main.commit()?;
    drop(main);
    println!("main is dead; {} wait at the standby, from {:?}", bodies(&standby)?.len(), bodies(&standby)?[0]);
    assert_eq!(bodies(&standby)?.len(), 40, "five of them a second time: at least once, and known by their names");
    let rest: Vec<_> = standby.waiting("jobs").collect::<Result<_, _>>()?;
    rest.iter().for_each(|(dot, _)| standby.consume(*dot));
    standby.publish("jobs", "job 101")?;
    standby.commit()?;

    // Main is back, with a disk that does not know of the standby's work. Nothing consumed comes back.
    let (mut main, _) = Local::open_dir(dir.path().join("main"), main_id)?;
    println!("main is back with {} on its disk", bodies(&main)?.len());
    assert_eq!(bodies(&main)?.len(), 35);
    main.pull_from(&standby)?;
    standby.pull_from(&main)?;
    println!("together: {:?}", bodies(&main)?);
    assert_eq!((bodies(&main)?, bodies(&standby)?), (vec!["job 101".to_owned()], vec!["job 101".to_owned()]));

    // Its first life's segment has no stated end. All that is known of it is consumed, so it is folded: a few bytes
    // remember that.
    println!("segments kept: {}", main.engine().segments().count());
    assert_eq!(main.engine().segments().count(), 1);

    main.close()?;
    standby.close()?;
    Ok(())
}
