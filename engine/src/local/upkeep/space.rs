//! What stays takes little more than its own space and memory, however it came and whatever went.

use super::{tests::*, *};
use crate::store::MemoryStore;

#[test]
fn messages_committed_one_by_one_become_few_blocks_after_a_checkpoint_and_not_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut a = on_disk(dir.path());
    let mut most = 0;
    for number in 0..6_000_u32 {
        a.publish("q", [&number.to_be_bytes()[..], &[7; 96]].concat()).expect("lawful");
        a.commit().expect("there is room");
        most = most.max(a.engine.block_count());
    }
    // A checkpoint comes after 256 KiB of log here: some 700 of these.
    assert!((500..3_000).contains(&most), "{most} blocks at most");
    let written = a.store.stats().written;
    assert!(written < 6_000 * 700, "{written} bytes of log");
    a.compact().expect("there is room");
    assert!(a.engine.block_count() < 20, "{} blocks", a.engine.block_count());
    assert_eq!(numbers(&a), (0..6_000).collect::<Vec<_>>());
    drop(a);
    let a = on_disk(dir.path());
    assert_eq!(numbers(&a), (0..6_000).collect::<Vec<_>>());
    assert!(a.engine.block_count() < 20);
}

#[test]
fn what_is_consumed_before_a_checkpoint_is_written_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut a, _) = Local::open_dir(dir.path(), node()).expect("opens");
    let mut payload = 0;
    for number in 0..1_000_u32 {
        publish(&mut a, number..number + 1);
        payload += 1_000;
        dots(&a).into_iter().for_each(|dot| a.consume(dot));
        a.commit().expect("there is room");
    }
    let written = a.store.stats().written;
    assert!(written * 10 < payload * 17, "{written} bytes for {payload}, one message in a commit");
}

#[test]
fn a_third_that_stays_takes_little_more_than_its_own_space_and_the_rest_is_written_once() {
    let mut a = Local::in_memory(node()).expect("memory");
    let mut stay = 0;
    let mut rewritten = 0;
    for round in 0..40_u32 {
        publish(&mut a, round * 256..(round + 1) * 256);
        let news = dots(&a).split_off(stay);
        let gone: Vec<_> =
            news.into_iter().enumerate().filter(|(place, _)| place % 3 != 0).map(|(_, dot)| dot).collect();
        for some in gone.chunks(64) {
            let before = stored(&a);
            some.iter().for_each(|dot| a.consume(*dot));
            a.commit().expect("memory");
            rewritten += before.saturating_sub(stored(&a)) / 2;
        }
        stay = a.waiting("q").count();
    }
    let (kept, live) = (stored(&a), stay * 1_000);
    assert!(kept * 10 < live * 15 + 10 * limits::REWRITE_SPARE_BYTES as usize, "{kept} bytes for {live} that wait");
    assert!(rewritten < 40 * 256 * 1_000 / 2, "{rewritten} bytes were written again");
    let _: &Local<MemoryStore> = &a;
}
