//! A sorted map of registry keys that knows, for any range of keys, how many there are and the sum of their hashes.
//!
//! A B-tree with a [`Sum`] in each node. Sums do not depend on the shape of the tree, so replicas that came to the same
//! entries by different ways agree; and a range is the difference of two prefixes, so asking for one visits two paths and
//! hashes nothing. All changes and questions cost O(log n), but for iteration.

use super::{Key, Value};

/// Entries of a leaf, or children of an inner node, at most.
const FAN: usize = 32;

/// A node with less is joined with its neighbour where both fit into one.
const LOW: usize = FAN / 4;

/// Number of entries, and their hashes added up lane by lane. Addition can be taken back: that is what makes ranges of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) count: u64,
    pub(super) lanes: [u64; 4],
}

impl Sum {
    fn of(hash: &[u8; 32]) -> Self {
        let mut lanes = [0; 4];
        for (lane, bytes) in lanes.iter_mut().zip(hash.chunks_exact(8)) {
            *lane = bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        }
        Self { count: 1, lanes }
    }

    fn plus(mut self, other: Self) -> Self {
        self.count = self.count.wrapping_add(other.count);
        self.lanes.iter_mut().zip(other.lanes).for_each(|(mine, theirs)| *mine = mine.wrapping_add(theirs));
        self
    }

    pub(super) fn minus(mut self, other: Self) -> Self {
        self.count = self.count.wrapping_sub(other.count);
        self.lanes.iter_mut().zip(other.lanes).for_each(|(mine, theirs)| *mine = mine.wrapping_sub(theirs));
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) hash: [u8; 32],
    /// Out of the leaf, which has room to spare: a value is the largest part of an entry.
    pub(super) value: Box<Value>,
}

#[derive(Clone, Debug)]
struct Child {
    /// No key of the child is less; of a node's first child it is not looked at.
    from: Key,
    node: Node,
}

#[derive(Clone, Debug)]
struct Node {
    sum: Sum,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Leaf(Vec<Entry>),
    Inner(Vec<Child>),
}

/// The map. See the module's description.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: Node,
}

#[cfg(test)]
thread_local! {
    /// Entries and children whose sums or keys were looked at, for tests of cost.
    pub(super) static VISITED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn note_visits(_count: usize) {
    #[cfg(test)]
    VISITED.with(|visited| visited.set(visited.get() + _count));
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Node { sum: Sum::default(), content: Content::Leaf(Vec::new()) } }
    }
}

impl Tree {
    /// Sum of everything. O(1).
    pub(super) fn sum(&self) -> Sum {
        self.root.sum
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        let mut node = &self.root;
        loop {
            match &node.content {
                Content::Inner(children) => node = &children[child_of(children, &key.0)].node,
                Content::Leaf(entries) => {
                    return entries.binary_search_by(|e| e.key.cmp(key)).ok().map(|at| &entries[at]);
                }
            }
        }
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let (_, split) = self.root.insert(entry, true);
        if let Some(right) = split {
            let left =
                std::mem::replace(&mut self.root, Node { sum: Sum::default(), content: Content::Leaf(Vec::new()) });
            let sum = left.sum.plus(right.node.sum);
            let first = Child { from: Key(Vec::new()), node: left };
            self.root = Node { sum, content: Content::Inner(vec![first, right]) };
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.root.remove(key);
        while let Content::Inner(children) = &mut self.root.content
            && children.len() <= 1
        {
            let only = children.pop().map(|child| child.node);
            self.root = only.unwrap_or_else(|| Self::default().root);
        }
    }

    /// Sum of the entries with keys below this one.
    pub(super) fn before(&self, key: &[u8]) -> Sum {
        let (mut node, mut sum) = (&self.root, Sum::default());
        loop {
            match &node.content {
                Content::Inner(children) => {
                    let at = child_of(children, key);
                    note_visits(at + 1);
                    sum = children[..at].iter().fold(sum, |sum, child| sum.plus(child.node.sum));
                    node = &children[at].node;
                }
                Content::Leaf(entries) => {
                    let below = entries.iter().take_while(|entry| entry.key.as_bytes() < key);
                    return below.fold(sum, |sum, entry| {
                        note_visits(1);
                        sum.plus(Sum::of(&entry.hash))
                    });
                }
            }
        }
    }

    /// The entry that has this many before it.
    pub(super) fn nth(&self, mut number: u64) -> Option<&Entry> {
        let mut node = &self.root;
        loop {
            match &node.content {
                Content::Leaf(entries) => return entries.get(usize::try_from(number).ok()?),
                Content::Inner(children) => {
                    node = children.iter().map(|child| &child.node).find(|node| {
                        note_visits(1);
                        let is_here = number < node.sum.count;
                        number -= if is_here { 0 } else { node.sum.count };
                        is_here
                    })?;
                }
            }
        }
    }

    /// Entries from this key on, in order.
    pub(super) fn iter_from(&self, key: &[u8]) -> Iter<'_> {
        let (mut node, mut above) = (&self.root, Vec::new());
        loop {
            match &node.content {
                Content::Inner(children) => {
                    let at = child_of(children, key);
                    above.push(children[at + 1..].iter());
                    node = &children[at].node;
                }
                Content::Leaf(entries) => {
                    let at = entries.partition_point(|entry| entry.key.as_bytes() < key);
                    return Iter { above, leaf: entries[at..].iter() };
                }
            }
        }
    }
}

/// Entries in order.
pub(super) struct Iter<'a> {
    /// What is left of the nodes on the way to the leaf.
    above: Vec<std::slice::Iter<'a, Child>>,
    leaf: std::slice::Iter<'a, Entry>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        loop {
            if let Some(entry) = self.leaf.next() {
                note_visits(1);
                return Some(entry);
            }
            match self.above.last_mut()?.next().map(|child| &child.node.content) {
                Some(Content::Leaf(entries)) => self.leaf = entries.iter(),
                Some(Content::Inner(children)) => self.above.push(children.iter()),
                None => drop(self.above.pop()),
            }
        }
    }
}

impl Node {
    /// Puts an entry in; gives back what that adds to the sum, and a new right neighbour if this node was full.
    /// `is_last`: no key of the tree is beyond this node.
    fn insert(&mut self, entry: Entry, is_last: bool) -> (Sum, Option<Child>) {
        let (added, split) = match &mut self.content {
            Content::Leaf(entries) => match entries.binary_search_by(|e| e.key.cmp(&entry.key)) {
                Ok(at) => {
                    let added = Sum::of(&entry.hash).minus(Sum::of(&entries[at].hash));
                    entries[at] = entry;
                    (added, None)
                }
                Err(at) => {
                    let added = Sum::of(&entry.hash);
                    let right = insert_into(entries, at, entry, is_last);
                    (added, right.map(|right| (right[0].key.clone(), Content::Leaf(right))))
                }
            },
            Content::Inner(children) => {
                let at = child_of(children, &entry.key.0);
                let is_last = is_last && at + 1 == children.len();
                let (added, split) = children[at].node.insert(entry, is_last);
                let right = split.and_then(|child| insert_into(children, at + 1, child, is_last));
                (added, right.map(|right| (right[0].from.clone(), Content::Inner(right))))
            }
        };
        self.sum = self.sum.plus(added);
        let split = split.map(|(from, content)| {
            let node = Node { sum: content.sum(), content };
            self.sum = self.sum.minus(node.sum);
            Child { from, node }
        });
        (added, split)
    }

    /// Takes an entry out; gives back what goes from the sum.
    fn remove(&mut self, key: &Key) -> Option<Sum> {
        let gone = match &mut self.content {
            Content::Leaf(entries) => {
                let at = entries.binary_search_by(|entry| entry.key.cmp(key)).ok()?;
                Sum::of(&entries.remove(at).hash)
            }
            Content::Inner(children) => {
                let at = child_of(children, &key.0);
                let gone = children[at].node.remove(key)?;
                if children[at].node.content.len() < LOW {
                    join_with_neighbour(children, at);
                }
                gone
            }
        };
        self.sum = self.sum.minus(gone);
        Some(gone)
    }
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(children) => children.len(),
        }
    }

    fn sum(&self) -> Sum {
        match self {
            Self::Leaf(entries) => entries.iter().fold(Sum::default(), |sum, entry| sum.plus(Sum::of(&entry.hash))),
            Self::Inner(children) => children.iter().fold(Sum::default(), |sum, child| sum.plus(child.node.sum)),
        }
    }
}

/// The child that a key belongs to. An inner node always has one.
fn child_of(children: &[Child], key: &[u8]) -> usize {
    children[1..].partition_point(|child| child.from.as_bytes() <= key)
}

/// Inserts into a node's list; one that was full is cut, and what went to the right is given back. Cut in half, but for
/// the end of the tree: keys that come in order leave full nodes behind them.
fn insert_into<T>(items: &mut Vec<T>, at: usize, item: T, is_last: bool) -> Option<Vec<T>> {
    if items.len() < FAN {
        items.insert(at, item);
        return None;
    }
    let middle = if is_last && at == FAN { FAN } else { FAN / 2 };
    let mut right = items.split_off(middle);
    if at < middle {
        items.insert(at, item)
    } else {
        right.insert(at - middle, item)
    }
    Some(right)
}

/// Puts a node that has become small together with a neighbour, if both fit with room to spare; an empty one goes.
fn join_with_neighbour(children: &mut Vec<Child>, at: usize) {
    let left = at.saturating_sub(1).min(children.len().saturating_sub(2));
    let Some([a, b]) = children.get(left..left + 2) else { return };
    if a.node.content.len() + b.node.content.len() > FAN - LOW {
        return;
    }
    let Child { node: right, .. } = children.remove(left + 1);
    let node = &mut children[left].node;
    match (&mut node.content, right.content) {
        (Content::Leaf(mine), Content::Leaf(theirs)) => mine.extend(theirs),
        (Content::Inner(mine), Content::Inner(theirs)) => mine.extend(theirs),
        _ => unreachable!("all leaves of a B-tree are equally deep"),
    }
    node.sum = node.sum.plus(right.sum);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn entry(name: u16, content: u8) -> Entry {
        let hash = *blake3::hash(&[name.to_be_bytes()[0], name.to_be_bytes()[1], content]).as_bytes();
        let stamp = crate::hlc::Clock::new(crate::NodeId([1; 16]), crate::Epoch(1)).tick(1);
        Entry { key: key(name), hash, value: Box::new(Value::register(vec![content], stamp)) }
    }

    fn key(name: u16) -> Key {
        Key(name.to_be_bytes().to_vec())
    }

    /// Sums, order and bounds of each node; gives back its depth.
    fn check(node: &Node, from: Option<&[u8]>, to: Option<&[u8]>) -> usize {
        assert_eq!(node.sum, node.content.sum());
        assert!(node.content.len() <= FAN);
        let within =
            |key: &Key| from.is_none_or(|from| from <= key.as_bytes()) && to.is_none_or(|to| key.as_bytes() < to);
        match &node.content {
            Content::Leaf(entries) => {
                assert!(entries.is_sorted_by(|a, b| a.key < b.key) && entries.iter().all(|entry| within(&entry.key)));
                1
            }
            Content::Inner(children) => {
                assert!(!children.is_empty());
                // A first child's key is not looked at, until its node joins a neighbour and it is no longer the first.
                assert!(from.is_none_or(|from| children[0].from.as_bytes() == from));
                let depths = children.iter().enumerate().map(|(at, child)| {
                    let from = if at == 0 { from } else { Some(child.from.as_bytes()) };
                    let to = children.get(at + 1).map_or(to, |next| Some(next.from.as_bytes()));
                    check(&child.node, from, to)
                });
                let depths: std::collections::BTreeSet<_> = depths.collect();
                assert_eq!(depths.len(), 1, "leaves at different depths");
                depths.into_iter().next().unwrap_or_default() + 1
            }
        }
    }

    fn same(tree: &Tree, model: &BTreeMap<Key, Entry>, bounds: &[u16]) {
        check(&tree.root, None, None);
        assert!(tree.iter_from(&[]).eq(model.values()));
        assert_eq!(tree.sum().count as usize, model.len());
        for bound in bounds {
            let from = key(*bound);
            assert!(tree.iter_from(&from.0).eq(model.range(from.clone()..).map(|(_, entry)| entry)));
            let below: Vec<_> = model.range(..from.clone()).map(|(_, entry)| entry).collect();
            let sum = below.iter().fold(Sum::default(), |sum, entry| sum.plus(Sum::of(&entry.hash)));
            assert_eq!(tree.before(&from.0), sum);
            assert_eq!(tree.get(&from), model.get(&from));
            assert_eq!(tree.nth(below.len() as u64), model.range(from..).next().map(|(_, entry)| entry));
        }
    }

    /// Deep enough for inner nodes to be put together with their neighbours.
    #[test]
    fn a_deep_tree_of_which_most_is_removed_keeps_its_order() {
        let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
        for name in 0..20_000 {
            tree.insert(entry(name, 0));
            model.insert(key(name), entry(name, 0));
        }
        for name in (0..20_000).filter(|name| name % 100 > 1) {
            tree.remove(&key(name));
            model.remove(&key(name));
        }
        same(&tree, &model, &[0, 1, 777, 10_001, 19_999]);
        (0..20_000).step_by(7).for_each(|name| {
            tree.insert(entry(name, 1));
            model.insert(key(name), entry(name, 1));
        });
        same(&tree, &model, &[0, 1, 777, 10_001, 19_999]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn it_is_a_sorted_map_with_sums(
            steps in vec((any::<bool>(), 0..700u16, any::<u8>()), 0..1500),
            bounds in vec(0..750u16, 10),
            shuffle in any::<u64>(),
        ) {
            let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
            for (is_insert, name, content) in steps {
                if is_insert {
                    tree.insert(entry(name, content));
                    model.insert(key(name), entry(name, content));
                } else {
                    // Whole runs go, so that nodes run empty.
                    for name in name..name + 40 {
                        tree.remove(&key(name));
                        model.remove(&key(name));
                    }
                }
            }
            same(&tree, &model, &bounds);
            // The same entries put in by another way have the same sums.
            let mut other = Tree::default();
            let mut entries: Vec<_> = model.values().cloned().collect();
            entries.sort_by_key(|entry| *blake3::keyed_hash(&entry.hash, &shuffle.to_le_bytes()).as_bytes());
            entries.into_iter().for_each(|entry| other.insert(entry));
            prop_assert_eq!(other.sum(), tree.sum());
            same(&other, &model, &bounds);
        }
    }

    #[test]
    fn it_grows_in_any_order_and_shrinks_to_nothing() {
        let names = |order: usize| -> Vec<u16> {
            match order {
                0 => (0..5000).collect(),
                1 => (0..5000).rev().collect(),
                _ => (0..5000u32).map(|n| (n * 2731 % 5000) as u16).collect(),
            }
        };
        for order in 0..3 {
            let (mut tree, mut model) = (Tree::default(), BTreeMap::new());
            for name in names(order) {
                tree.insert(entry(name, 1));
                model.insert(key(name), entry(name, 1));
            }
            same(&tree, &model, &[0, 1, 31, 32, 33, 2500, 4999, 5000]);
            assert!(check(&tree.root, None, None) <= 4, "5,000 entries in leaves of at least 8 on average");
            for name in names(2 - order) {
                tree.remove(&key(name));
                model.remove(&key(name));
                if name % 500 == 0 {
                    same(&tree, &model, &[0, 1000, 3000, 5000]);
                }
            }
            assert_eq!((tree.sum(), check(&tree.root, None, None)), (Sum::default(), 1));
        }
    }
}
