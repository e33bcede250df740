//! What a node knows of all policies: the statements in the registry, as committed here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Policy, Statement, pattern::Pattern, set_of};
use crate::{
    destination::{Destination, REPLY_QUEUE},
    topic::Patterns,
};

/// See the module docs.
#[derive(Default)]
pub(crate) struct Book {
    by_pattern: BTreeMap<Arc<str>, Arc<Policy>>,
    by_name: Patterns<Pattern>,
    by_set: BTreeMap<String, BTreeSet<Arc<str>>>,
}

impl Book {
    /// The members of a registry set are these now. What peers have put there may be anything.
    pub(crate) fn refresh(&mut self, set: &str, members: &[Vec<u8>]) {
        let mut latest: BTreeMap<Arc<str>, (u64, Policy)> = BTreeMap::new();
        let statements = members.iter().filter_map(|member| Statement::decode(member));
        for Statement { pattern, at, policy } in statements.filter(|statement| set_of(&statement.pattern) == set) {
            let known = latest.entry(pattern).or_default();
            *known = known.clone().max((at, policy));
        }
        for pattern in self.by_set.remove(set).unwrap_or_default() {
            if !latest.contains_key(&pattern) {
                self.by_pattern.remove(&pattern);
                let pattern = Pattern::new(&pattern);
                self.by_name.remove(pattern.name(), &pattern);
            }
        }
        if !latest.is_empty() {
            self.by_set.insert(set.to_owned(), latest.keys().cloned().collect());
        }
        for (text, (_, policy)) in latest {
            let pattern = Pattern::new(&text);
            self.by_name.insert(pattern.name(), pattern.clone());
            self.by_pattern.insert(text, Arc::new(policy));
        }
    }

    /// The policy that holds for a destination, with its pattern.
    pub(crate) fn find(&self, destination: &Destination) -> Option<(Arc<str>, &Arc<Policy>)> {
        if self.by_pattern.is_empty() || destination.as_str().starts_with(REPLY_QUEUE) {
            return None;
        }
        let matching = self.by_name.matches(destination.name());
        let best = matching.into_iter().find(|pattern| pattern.is_for(destination))?;
        let policy = self.by_pattern.get(&best.text)?;
        Some((best.text, policy))
    }

    /// All of them, by pattern.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Policy>)> {
        self.by_pattern.iter()
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.by_pattern.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(pattern: &str, at: u64, ttl: u64) -> Vec<u8> {
        let policy = Policy { ttl_ms: Some(ttl), ..Policy::default() };
        Statement { pattern: pattern.into(), at, policy }.encode()
    }

    fn found(book: &Book, destination: &str) -> Option<String> {
        book.find(&Destination::parse(destination).unwrap()).map(|(pattern, _)| pattern.to_string())
    }

    fn book_of(patterns: &[&str]) -> Book {
        let mut book = Book::default();
        let mut sets: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        patterns.iter().for_each(|pattern| sets.entry(set_of(pattern)).or_default().push(statement(pattern, 1, 1)));
        sets.iter().for_each(|(set, members)| book.refresh(set, members));
        book
    }

    #[test]
    fn the_most_specific_pattern_counts() {
        let book = book_of(&["#", "orders.*", "/topic/orders.*", "orders.#", "*.new", "/queue/orders.new"]);
        for (destination, pattern) in [
            ("/queue/orders.new", "/queue/orders.new"),
            ("orders.new", "orders.*"),
            ("/topic/orders.new", "/topic/orders.*"),
            ("/queue/orders.a.b", "orders.#"),
            ("/queue/x.new", "*.new"),
            ("/queue/x", "#"),
        ] {
            assert_eq!(found(&book, destination).as_deref(), Some(pattern), "{destination}");
        }
        assert_eq!(found(&book, "/reply-queue/x"), None);
        assert_eq!(found(&book_of(&["/topic/#"]), "/queue/x"), None);
    }

    #[test]
    fn of_several_statements_about_a_pattern_the_latest_holds_and_strange_ones_are_passed_over() {
        let mut book = Book::default();
        let set = set_of("a");
        let ttl = |book: &Book| book.find(&Destination::parse("a").unwrap()).and_then(|(_, policy)| policy.ttl_ms);
        book.refresh(&set, &[statement("a", 5, 50), statement("a", 9, 90), vec![7, 7]]);
        assert_eq!((ttl(&book), book.len()), (Some(90), 1));
        book.refresh(&set, &[statement("a", 9, 90), statement("a", 5, 50)]);
        assert_eq!(ttl(&book), Some(90), "in whatever order they stand there");
        book.refresh(&set, &[statement("a", 5, 50), statement("a", 5, 60)]);
        assert_eq!(ttl(&book), Some(60), "at the same time: all nodes choose the same");
        assert_ne!(set_of("b"), set);
        book.refresh(&set, &[statement("b", 5, 50)]);
        assert_eq!((ttl(&book), book.len(), book.by_name.size()), (None, 0, 1), "nothing is left of it");
    }
}
