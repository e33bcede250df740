//! Gathering on a disk: a crash in the middle leaves the old blocks or the new one, and a check beside it finds nothing wrong.

use std::{io::ErrorKind, ops::ControlFlow, sync::Arc};

use super::{
    checks::Host,
    faulty::{Fault, FaultyFiles},
    *,
};
use crate::{Engine, Entry, Epoch, NodeId, Now, Planted, Unit, limits};

const LATER: Now = Now { mono_ms: limits::REWRITE_AGAIN_MS, wall_ms: 0 };

fn bodies(engine: &Engine) -> Vec<Bytes> {
    let segments: Vec<_> = engine.segments().collect();
    let dots = segments.into_iter().flat_map(|segment| {
        engine.waiting_in(segment).iter().map(move |slot| crate::Dot { segment, slot }).collect::<Vec<_>>()
    });
    dots.map(|dot| engine.message(dot).unwrap().unwrap().body).collect()
}

fn settle(store: &mut DiskStore, engine: &mut Engine) -> Result<(), StoreError> {
    loop {
        if engine.needs_segment() {
            engine.begin_segment(Now::default());
        }
        let Some(commit) = engine.poll_commit(Now::default()) else { return Ok(()) };
        if let Err(error) = store.commit(&[commit.batch]) {
            engine.handle_commit_failed();
            return Err(error);
        }
        engine.handle_committed();
    }
}

#[test]
fn whatever_of_a_gathering_reaches_the_disk_all_messages_are_there_and_it_is_done_again() {
    let faults = (0..40).map(|at| Fault::Write(at * 331, ErrorKind::Other)).chain([
        Fault::Sync,
        Fault::Create,
        Fault::Write(500, ErrorKind::StorageFull),
        Fault::Write(9_000, ErrorKind::StorageFull),
    ]);
    for fault in faults {
        let dir = tempfile::tempdir().unwrap();
        let files = FaultyFiles::default();
        let open = |life| {
            let (store, report) = DiskStore::open_on(dir.path(), small(), Arc::new(files.clone())).unwrap();
            assert_eq!(report.damages, [], "{fault:?}");
            let opened = Engine::open(store.reader(), NodeId([1; 16]), Epoch(life), Now::default(), Planted::default());
            let (engine, report) = opened.unwrap();
            assert!(report.losses.is_empty() && report.damaged_rows.is_empty(), "{fault:?}: {report:?}");
            (store, engine)
        };
        let (mut store, mut engine) = open(1);
        for number in 0..100 {
            let entries = vec![Entry::new(["q", "r"][number % 2], format!("{number:0>90}"))];
            engine.publish(Unit { entries, ..Unit::default() }).unwrap();
            settle(&mut store, &mut engine).unwrap();
            if number == 50 {
                store.checkpoint().unwrap();
            }
        }
        let whole = bodies(&engine);
        assert!(engine.gather(LATER, 0, usize::MAX).is_last);
        files.arm(fault);
        let result = settle(&mut store, &mut engine);
        files.disarm();
        assert_eq!(bodies(&engine), whole, "{fault:?}, {result:?}");
        drop((store, engine));

        let (mut store, mut engine) = open(2);
        assert_eq!(bodies(&engine), whole, "{fault:?}, {result:?}");
        assert_eq!(store.verify().unwrap(), []);
        engine.gather(LATER, 0, usize::MAX);
        settle(&mut store, &mut engine).unwrap();
        store.checkpoint().unwrap();
        assert!(engine.block_count() <= 2, "{fault:?}: {} blocks", engine.block_count());
        assert_eq!(bodies(&engine), whole);
        drop((store, engine));
        let (store, engine) = open(3);
        assert_eq!((bodies(&engine), store.verify().unwrap()), (whole, vec![]));
    }
}

#[test]
fn a_check_finds_nothing_wrong_while_blocks_are_gathered_at_any_step_of_it() {
    let mut steps = 1;
    let mut at = 0;
    while at < steps {
        let mut host = Host::new();
        for number in 0..24 {
            host.publish(&format!("m{number} "), 40);
        }
        let mut checker = host.disk.get_mut().checker().unwrap();
        let mut found = Vec::new();
        let mut step = 0;
        let mut pace = |_| {
            if step == at {
                assert!(host.engine.gather(LATER, 0, usize::MAX).is_last);
                host.settle();
                assert_eq!(host.engine.block_count(), 1);
            }
            step += 1;
            ControlFlow::Continue(())
        };
        checker.check(&mut pace, &mut |finding| found.push(finding)).unwrap();
        assert_eq!(found, [], "gathered at step {at}");
        (steps, at) = (step.min(40), at + 1);
    }
    assert!(steps > 24, "{steps} steps");
}
