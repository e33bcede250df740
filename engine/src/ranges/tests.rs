//! `RangeSet` against the plainest model there is: a `BTreeSet` of slots.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

type Model = BTreeSet<Slot>;

/// A few slots out of few, so that ranges touch and overlap often, with the far end of the numbers in play too.
fn slots() -> impl Strategy<Value = Vec<Slot>> {
    prop::collection::vec(prop_oneof![9 => 1..60u32, 1 => Slot::MAX - 9..=Slot::MAX], 0..40)
}

/// Many ranges, in several chunks, or few among as many slots.
fn many() -> impl Strategy<Value = Vec<Slot>> {
    prop_oneof![prop::collection::vec(1..400u32, 60..200), prop::collection::vec(1..400u32, 0..12)]
}

fn assert_normal(set: &RangeSet) {
    set.ranges.check();
    let ranges: Vec<_> = set.iter_ranges().collect();
    assert!(ranges.iter().all(|&(start, end)| 1 <= start && start <= end), "{set:?}");
    assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0 - 1), "{set:?}");
    assert!(set.iter_ranges().rev().eq(ranges.iter().rev().copied()) && set.iter_ranges().len() == ranges.len());
}

fn bytes(set: &RangeSet) -> Vec<u8> {
    postcard::to_allocvec(set).unwrap()
}

#[derive(Clone, Debug)]
enum Edit {
    Insert(Slot),
    InsertRange(Slot, Slot),
    RemoveRange(Slot, Slot),
}

fn edit() -> impl Strategy<Value = Edit> {
    let bound = || prop_oneof![5 => 0..60u32, 4 => 0..400u32, 1 => Slot::MAX - 9..=Slot::MAX];
    // A range is short, or the model would be filled with four billion slots.
    let range = || {
        (bound(), prop_oneof![9 => 0..3u32, 3 => 0..12u32, 1 => 0..200u32])
            .prop_map(|(a, more)| (a, a.saturating_add(more)))
    };
    prop_oneof![
        bound().prop_map(Edit::Insert),
        range().prop_map(|(a, b)| Edit::InsertRange(a, b)),
        range().prop_map(|(a, b)| Edit::RemoveRange(a, b)),
        range().prop_map(|(a, b)| Edit::InsertRange(b.saturating_add(1), a)),
    ]
}

proptest! {
    #[test]
    fn edits_do_what_they_do_to_a_set(edits in prop::collection::vec(edit(), 0..300)) {
        let (mut set, mut model) = (RangeSet::new(), Model::new());
        for edit in edits {
            match edit {
                Edit::Insert(slot) => prop_assert_eq!(set.insert(slot), slot > 0 && model.insert(slot)),
                Edit::InsertRange(a, b) => {
                    set.insert_range(a, b);
                    model.extend(a.max(1)..=b);
                }
                Edit::RemoveRange(a, b) => {
                    set.remove_range(a, b);
                    model.retain(|slot| *slot < a || *slot > b);
                }
            }
            assert_normal(&set);
            for slot in 0..64 {
                let rank = model.contains(&slot).then(|| model.range(..slot).count() as u64);
                prop_assert_eq!(set.rank(slot), rank);
                let end = (slot..).take_while(|slot| model.contains(slot)).last();
                prop_assert_eq!(set.end_of(slot), end);
            }
            prop_assert!(set.iter().eq(model.iter().copied()), "{:?} is not {:?}", set, model);
        }
        prop_assert_eq!(&set, &model.iter().copied().collect(), "one set, two forms");
        prop_assert_eq!(bytes(&set), bytes(&model.iter().rev().copied().collect()));
    }

    #[test]
    fn operations_agree_with_those_of_sets(left in prop_oneof![slots(), many()], right in prop_oneof![slots(), many()]) {
        let (a, b): (RangeSet, RangeSet) = (left.iter().copied().collect(), right.iter().copied().collect());
        let (x, y): (Model, Model) = (left.into_iter().collect(), right.into_iter().collect());
        for (set, model) in [
            (a.union(&b), x.union(&y).copied().collect::<Model>()),
            (a.difference(&b), x.difference(&y).copied().collect()),
            (a.intersection(&b), x.intersection(&y).copied().collect()),
        ] {
            assert_normal(&set);
            prop_assert!(set.iter().eq(model.iter().copied()), "{:?} is not {:?}", set, model);
        }
        let mut grown = a.clone();
        grown.union_with(&b);
        prop_assert_eq!(&grown, &a.union(&b));
        prop_assert_eq!(a.is_subset(&b), x.is_subset(&y));
        prop_assert!(a.intersection(&b).is_subset(&a));
        prop_assert_eq!(a.len(), x.len() as u64);
        prop_assert_eq!(a.is_empty(), x.is_empty());
        prop_assert_eq!((a.first(), a.last()), (x.first().copied(), x.last().copied()));
        prop_assert_eq!(a == b, x == y);
    }

    #[test]
    fn questions_about_a_window_agree_with_a_set(slots in prop_oneof![slots(), many()], a in 0..70u32, more in 0..40u32, far in any::<bool>()) {
        let a = if far { Slot::MAX - a } else { a };
        let b = a.saturating_add(more);
        let set: RangeSet = slots.iter().copied().collect();
        let model: Model = slots.into_iter().collect();
        let within: Vec<Slot> = model.iter().copied().filter(|slot| (a..=b).contains(slot)).collect();
        let outside: Vec<Slot> = (a.max(1)..=b).filter(|slot| !model.contains(slot)).collect();
        prop_assert_eq!(set.iter_within(a, b).collect::<Vec<_>>(), within.clone());
        let (clip, complement) = (set.clip(a, b), set.complement_within(a, b));
        assert_normal(&clip);
        assert_normal(&complement);
        prop_assert_eq!(clip.iter().collect::<Vec<_>>(), within);
        prop_assert_eq!(complement.iter().collect::<Vec<_>>(), outside);
        prop_assert_eq!(set.contains(a), model.contains(&a));
        prop_assert_eq!(set.next_at_or_after(a), model.range(a..).next().copied());
        prop_assert!(set.iter_within(b.saturating_add(1), a).next().is_none() || b == Slot::MAX);
    }

    #[test]
    fn the_laws_of_sets_hold(a in prop_oneof![slots(), many()], b in prop_oneof![slots(), many()], c in slots()) {
        let [a, b, c]: [RangeSet; 3] = [a, b, c].map(|slots| slots.into_iter().collect());
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.union(&b).union(&c), a.union(&b.union(&c)));
        prop_assert_eq!(a.union(&a), a.clone());
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(a.difference(&b), a.difference(&a.intersection(&b)));
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert_eq!(a.difference(&b).intersection(&b), RangeSet::new());
        prop_assert_eq!(a.difference(&b.union(&c)), a.difference(&b).difference(&c));
    }

    #[test]
    fn bytes_come_back_as_the_same_set(slots in slots()) {
        let set: RangeSet = slots.into_iter().collect();
        prop_assert_eq!(postcard::from_bytes::<RangeSet>(&bytes(&set)).unwrap(), set);
    }

    #[test]
    fn any_bytes_give_a_set_in_normal_form_or_an_error(input in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(set) = postcard::from_bytes::<RangeSet>(&input) {
            assert_normal(&set);
        }
    }
}

#[test]
fn the_last_slot_number_is_a_slot_like_any_other() {
    let mut set = RangeSet::from_range(Slot::MAX - 1, Slot::MAX);
    set.insert_range(Slot::MAX, Slot::MAX);
    set.insert_range(Slot::MAX - 2, Slot::MAX - 2);
    assert_eq!(set, RangeSet::from_range(Slot::MAX - 2, Slot::MAX));
    assert_eq!(postcard::from_bytes::<RangeSet>(&bytes(&set)).unwrap(), set);
    assert_eq!(RangeSet::from_range(0, Slot::MAX).len(), u64::from(Slot::MAX));
    assert_eq!(RangeSet::from_range(0, Slot::MAX).complement_within(0, Slot::MAX), RangeSet::new());
}

#[test]
fn a_set_past_the_last_slot_or_with_too_many_ranges_is_refused() {
    let pairs = |pairs: &[(u32, u32)]| postcard::to_allocvec(pairs).unwrap();
    assert!(postcard::from_bytes::<RangeSet>(&pairs(&[(Slot::MAX - 1, 0)])).is_ok());
    for bad in
        [vec![(Slot::MAX, 0)], vec![(5, Slot::MAX)], vec![(Slot::MAX - 1, 0), (0, 0)], vec![(Slot::MAX - 2, 0), (0, 0)]]
    {
        assert!(postcard::from_bytes::<RangeSet>(&pairs(&bad)).is_err(), "{bad:?}");
    }
    assert!(postcard::from_bytes::<RangeSet>(&pairs(&vec![(0, 0); MAX_RANGES])).is_ok());
    assert!(postcard::from_bytes::<RangeSet>(&pairs(&vec![(0, 0); MAX_RANGES + 1])).is_err());
    // A count without content must fail by running out of bytes, not of memory.
    assert!(postcard::from_bytes::<RangeSet>(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    let too_many: RangeSet = (0..=MAX_RANGES as u32).map(|i| 2 * i + 1).collect();
    assert!(postcard::to_allocvec(&too_many).is_err());
}

#[test]
fn text_for_people() {
    let set: RangeSet = [7, 3, 1, 2, 5, 4].into_iter().collect();
    assert_eq!(format!("{set:?}"), "{1-5, 7}");
    assert_eq!(format!("{:?}", RangeSet::new()), "{}");
}
