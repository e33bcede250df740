//! Where nodes stand, and how copies are spread over places: a rule for whom to name next, and whose copy may go.
//!
//! Copies on one site die with it, and copies on another cost its distance. So a new segment has at least as many holders
//! on its origin's site as a receipt waits for (as far as there are nodes), and at least one elsewhere, even if that is one
//! more than the number of copies. Receipts wait for the nearest disks, unless [`confirm_sites`] asks for more sites; the
//! copies elsewhere follow asynchronously. Nodes without a site stand together on one without a name.
//!
//! What is there stays where it is: a site that is new, or that a merge brought, gets copies of what is taken from then
//! on. For that an open segment that could be spread better is closed, and the next one is.
//!
//! [`confirm_sites`]: super::NodeConfig::confirm_sites

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rhizomq_engine::{Key, NodeId, SegmentId};

use super::{Node, roster::record_of};

/// A place; nodes whose record has not arrived stand nowhere yet.
pub(super) type Site = Option<Arc<str>>;

/// Where nodes stand, by their records.
pub(super) type Sites = BTreeMap<NodeId, Arc<str>>;

/// What holders together are to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// So many, this time; fewer while there are fewer nodes.
    pub(super) copies: usize,
    /// So many of them on the origin's site.
    pub(super) home: usize,
    /// On so many sites.
    pub(super) sites: usize,
}

/// A node that could become a holder.
#[derive(Clone, Debug)]
pub(super) struct Outsider {
    pub(super) node: NodeId,
    pub(super) site: Site,
    pub(super) keeps_up: bool,
    pub(super) is_observer: bool,
    /// Highest random weight wins where all else is equal.
    pub(super) weight: [u8; 32],
}

/// Waiting messages and the places of their copies, over the segments that a node looks after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// By site: its live nodes, and messages of which one of them or more has a copy.
    pub sites: BTreeMap<String, (u32, u64)>,
    /// Messages with copies on one site only, although there are several within reach and more than one copy is wanted.
    pub on_one_site: u64,
}

fn distinct<'a>(sites: impl Iterator<Item = &'a Site>) -> BTreeSet<&'a str> {
    sites.filter_map(Option::as_deref).collect()
}

fn count_at(sites: &[Site], place: &Site) -> usize {
    if place.is_none() { 0 } else { sites.iter().filter(|site| *site == place).count() }
}

/// Whom to name, best first, so that holders on these sites get the shape as far as it can be had. Of several candidates
/// those come first that store what they are sent, then members, then the heaviest; and where any site will do, one with
/// few holders.
pub(super) fn choose(shape: Shape, home: &Site, holders: &[Site], mut outsiders: Vec<Outsider>) -> Vec<NodeId> {
    let mut holders = holders.to_vec();
    let mut chosen = Vec::new();
    loop {
        let known: BTreeSet<Arc<str>> = holders.iter().flatten().cloned().collect();
        let is_elsewhere = |one: &Outsider| one.keeps_up && one.site.as_ref().is_some_and(|site| !known.contains(site));
        let is_home = |one: &Outsider| one.keeps_up && one.site.is_some() && one.site == *home;
        let anywhere = outsiders.iter().any(is_elsewhere) && known.len() < shape.sites;
        let at_home = outsiders.iter().any(is_home) && count_at(&holders, home) < shape.home;
        if !anywhere && !at_home && holders.len() >= shape.copies {
            return chosen;
        }
        let fits = |one: &&(usize, &Outsider)| match (anywhere, at_home) {
            (true, _) => is_elsewhere(one.1),
            (false, true) => is_home(one.1),
            (false, false) => true,
        };
        let order = |one: &(usize, &Outsider)| {
            let Outsider { site, keeps_up, is_observer, weight, .. } = one.1;
            (!keeps_up, count_at(&holders, site), *is_observer, Reverse(*weight))
        };
        let all: Vec<_> = outsiders.iter().enumerate().collect();
        let Some(&(place, _)) = all.iter().filter(fits).min_by_key(|one| order(one)) else { return chosen };
        let next = outsiders.remove(place);
        holders.push(next.site);
        chosen.push(next.node);
    }
}

/// Whether holders on these sites have the shape without one more that stands on `site`, as far as they have it with it.
pub(super) fn is_spare(shape: Shape, home: &Site, others: &[Site], site: &Site) -> bool {
    let sites = distinct(others.iter());
    let keeps_sites = site.as_deref().is_none_or(|site| sites.contains(site)) || sites.len() >= shape.sites;
    let keeps_home = site.is_none() || site != home || count_at(others, home) >= shape.home;
    others.len() >= shape.copies && keeps_sites && keeps_home
}

impl Node {
    /// Where a node stands; `None` until its record arrives.
    pub fn site(&self, node: NodeId) -> Option<&str> {
        self.sites.get(&node).map(AsRef::as_ref)
    }

    /// Whether a node stands where this one does.
    pub fn is_near(&self, node: NodeId) -> bool {
        self.site(node).is_some_and(|site| site == self.config.site)
    }

    pub(super) fn place_of(&self, node: NodeId) -> Site {
        self.sites.get(&node).cloned()
    }

    pub(super) fn places_of<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeId>) -> Vec<Site> {
        nodes.into_iter().map(|&node| self.place_of(node)).collect()
    }

    /// A registry key changed: follow it if it is some node's record.
    pub(super) fn note_site(&mut self, key: &Key) {
        let Some(node) = record_of(key) else { return };
        match self.published_site(node) {
            Some(site) => self.sites.insert(node, site.into()),
            None => self.sites.remove(&node),
        };
    }

    pub(super) fn read_sites(&mut self) {
        self.sites.insert(self.id(), self.config.site.as_str().into());
        let keys: Vec<Key> = self.engine.registry().keys().cloned().collect();
        let me = self.id();
        keys.iter().filter(|key| record_of(key) != Some(me)).for_each(|key| self.note_site(key));
    }

    /// What the holders of a new segment are to be like. A single copy stays where it is taken.
    pub(super) fn shape(&self) -> Shape {
        let copies = self.config.copies as usize;
        let sites = (self.config.confirm_sites as usize).max(if copies > 1 { 2 } else { 1 });
        Shape { copies, home: copies.min(self.config.confirm as usize), sites }
    }

    /// On how many sites a receipt is waited for: as many as configured, or as have nodes that store what they are sent.
    pub(super) fn wanted_sites(&self) -> usize {
        if self.config.confirm_sites < 2 {
            return 1;
        }
        let is_there = |node: &NodeId| self.keeps_up(*node) && self.is_with_me(*node);
        let present = self.linked().into_iter().filter(is_there).chain([self.id()]);
        let present: Vec<_> = present.collect();
        distinct(self.places_of(&present).iter()).len().clamp(1, self.config.confirm_sites as usize)
    }

    /// How many sites these stand on.
    pub(super) fn count_sites(&self, nodes: &[NodeId]) -> usize {
        distinct(self.places_of(nodes).iter()).len()
    }

    /// Closes the open segment if the next one can be spread over more sites, up to as many as are wanted.
    pub(super) fn spread_next_segment(&mut self) {
        let Some(open) = self.engine.open_segment() else { return };
        let named: Vec<_> = self.named(open).into_iter().collect();
        let shape = Shape { copies: 0, home: 0, ..self.shape() };
        // With no holder named there was no message yet.
        if !named.is_empty() && !self.outsiders_for(open, &named, shape, &named).is_empty() {
            self.engine.close_segment();
        }
    }

    /// See [`Spread`].
    pub fn spread(&self) -> Spread {
        let mut spread = Spread::default();
        for node in self.roster_ids().into_iter().filter(|&node| self.is_alive(node)) {
            if let Some(site) = self.site(node) {
                spread.sites.entry(site.to_owned()).or_default().0 += 1;
            }
        }
        let is_wanted = self.config.copies > 1 && spread.sites.len() > 1;
        for segment in self.engine.segments().filter(|&segment| self.looks_after(segment)) {
            self.add_to_spread(segment, &mut spread, is_wanted);
        }
        spread
    }

    fn add_to_spread(&self, segment: SegmentId, spread: &mut Spread, is_wanted: bool) {
        let waiting = self.engine.waiting_in(segment);
        let mut by_site = BTreeMap::from([(self.config.site.as_str(), waiting.clone())]);
        for &node in self.holders_of(segment).iter().filter(|&&node| node != self.id() && self.is_alive(node)) {
            if let (Some(site), Some(has)) = (self.site(node), self.confirms.has(node, segment)) {
                by_site.entry(site).or_default().union_with(&has.intersection(&waiting));
            }
        }
        let mut elsewhere = rhizomq_engine::RangeSet::new();
        for (site, has) in by_site {
            if site != self.config.site {
                elsewhere.union_with(&has);
            }
            spread.sites.entry(site.to_owned()).or_default().1 += has.len();
        }
        if is_wanted {
            spread.on_one_site += waiting.difference(&elsewhere).len();
        }
    }
}

#[cfg(test)]
mod tests {
    use rhizomq_engine::Epoch;

    use super::*;
    use crate::node::placement::weight;

    const SHAPE: Shape = Shape { copies: 3, home: 2, sites: 2 };

    fn site(name: &str) -> Site {
        Some(name.into())
    }

    fn segment(number: u32) -> SegmentId {
        SegmentId { node: NodeId([1; 16]), epoch: Epoch(7), number }
    }

    /// Nodes 1, 2, ... on these sites.
    fn outsiders(segment: SegmentId, sites: &[&str]) -> Vec<Outsider> {
        let outsider = |(name, byte): (&&str, u8)| {
            let node = NodeId([byte; 16]);
            let weight = weight(segment, node);
            Outsider { node, site: site(name), keeps_up: true, is_observer: false, weight }
        };
        sites.iter().zip(1..).map(outsider).collect()
    }

    fn bytes(nodes: &[NodeId]) -> Vec<u8> {
        nodes.iter().map(|node| node.0[0]).collect()
    }

    /// The sites of holders chosen for a new segment of a node on the first site.
    fn chosen_sites(shape: Shape, sites: &[&str]) -> Vec<String> {
        let all = outsiders(segment(1), sites);
        let chosen = choose(shape, &site(sites[0]), &[site(sites[0])], all[1..].to_vec());
        let mut names: Vec<_> = chosen
            .iter()
            .map(|node| sites[usize::from(node.0[0]) - 1].to_owned())
            .chain([sites[0].to_owned()])
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_segment_has_receipts_near_and_a_copy_far() {
        assert_eq!(chosen_sites(SHAPE, &["a", "a", "a", "b", "b", "b"]), ["a", "a", "b"]);
        let two = Shape { copies: 2, ..SHAPE };
        assert_eq!(chosen_sites(two, &["a", "a", "a", "b", "b"]), ["a", "a", "b"], "one copy more");
        assert_eq!(chosen_sites(two, &["a", "b", "b"]), ["a", "b"], "nobody else is near");
        assert_eq!(chosen_sites(SHAPE, &["a", "a", "a", "a"]), ["a", "a", "a"], "one site is like none");
        assert_eq!(chosen_sites(SHAPE, &["a", "b", "c", "c"]), ["a", "b", "c"], "few holders first");
        let three_sites = Shape { sites: 3, ..SHAPE };
        assert_eq!(chosen_sites(three_sites, &["a", "a", "b", "b", "c"]), ["a", "a", "b", "c"]);
        let single = Shape { copies: 1, home: 1, sites: 1 };
        assert_eq!(chosen_sites(single, &["a", "a", "b"]), ["a"]);
    }

    #[test]
    fn members_that_keep_up_come_first_where_the_site_is_the_same() {
        let mut all = outsiders(segment(1), &["a", "a", "b", "b", "b"]);
        (all[2].is_observer, all[3].keeps_up) = (true, false);
        let holders = [site("a"), site("a")];
        assert_eq!(bytes(&choose(SHAPE, &site("a"), &holders, all[2..].to_vec())), [5]);
        all.remove(4);
        assert_eq!(bytes(&choose(SHAPE, &site("a"), &holders, all[2..].to_vec())), [3], "an observer that keeps up");
        // Whoever does not keep up is no reason to go to another site.
        all.remove(2);
        all[0].node = NodeId([9; 16]);
        assert_eq!(bytes(&choose(SHAPE, &site("a"), &holders, vec![all[0].clone(), all[2].clone()])), [9]);
    }

    #[test]
    fn the_choice_is_the_same_in_any_order_and_fair_over_many_segments() {
        let sites = ["a", "a", "a", "b", "b", "b"];
        let mut counts = BTreeMap::new();
        for number in 0..3_000 {
            let mut all = outsiders(segment(number), &sites);
            all.remove(0);
            let chosen = choose(SHAPE, &site("a"), &[site("a")], all.clone());
            all.reverse();
            assert_eq!(chosen, choose(SHAPE, &site("a"), &[site("a")], all));
            chosen.iter().for_each(|node| *counts.entry(node.0[0]).or_insert(0) += 1);
        }
        // One of two near, one of three far.
        for (node, share) in [(2, 1_500), (3, 1_500), (4, 1_000), (5, 1_000), (6, 1_000)] {
            let count = counts.get(&node).copied().unwrap_or(0);
            assert!((share * 9 / 10..=share * 11 / 10).contains(&count), "node {node}: {count}, {share} were fair");
        }
    }

    #[test]
    fn no_copy_goes_that_the_shape_needs() {
        let [a, b] = [site("a"), site("b")];
        let spare = |others: &[&Site], one: &Site| {
            is_spare(SHAPE, &a, &others.iter().map(|&site| site.clone()).collect::<Vec<_>>(), one)
        };
        assert!(spare(&[&a, &a, &b], &a));
        assert!(!spare(&[&a, &a, &a], &b), "the only one elsewhere");
        assert!(!spare(&[&a, &b, &b], &a), "receipts would go far");
        assert!(spare(&[&a, &b, &b], &b), "they do that already");
        assert!(!spare(&[&a, &b], &b), "too few");
    }
}
