//! What a node knows of durable subscriptions: the bindings in the registry, as committed here, in the order in which they
//! are asked for; and who of its clients reads which.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    destination::{Destination, TOPIC},
    dispatch::ConsumerId,
    durable::{Binding, set_of},
    selector::StoredFields,
    topic::{Patterns, check_pattern},
};

/// See the module docs.
#[derive(Default)]
pub(super) struct Book {
    /// By inbox.
    bindings: BTreeMap<Arc<str>, Binding>,
    /// In which order they were heard of here.
    places: BTreeMap<Arc<str>, u64>,
    next_place: u64,
    /// Inboxes by registry set, and by subscription.
    by_set: BTreeMap<String, BTreeSet<Arc<str>>>,
    by_name: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    by_topic: Patterns<Arc<str>>,
    /// Clients' subscriptions that read a durable one, both ways.
    readers: BTreeMap<ConsumerId, Arc<str>>,
    read: BTreeMap<Arc<str>, BTreeSet<ConsumerId>>,
}

impl Book {
    /// The members of a registry set are these now. Returns the subscriptions that changed.
    pub(super) fn refresh(&mut self, set: &str, members: &[Vec<u8>]) -> BTreeSet<Arc<str>> {
        // What peers have put there may be anything.
        let is_lawful = |binding: &Binding| {
            let pattern = binding.topic.strip_prefix(TOPIC);
            set_of(&binding.name) == set && pattern.is_some_and(|pattern| check_pattern(pattern).is_ok())
        };
        let members = members.iter().filter_map(|member| Binding::decode(member)).filter(is_lawful);
        let mut new: BTreeMap<_, _> = members.map(|binding| (binding.inbox(), binding)).collect();
        let old = self.by_set.remove(set).unwrap_or_default();
        let mut changed = BTreeSet::new();
        for inbox in old.iter().filter(|inbox| !new.contains_key(*inbox)) {
            changed.extend(self.remove(inbox));
        }
        if !new.is_empty() {
            self.by_set.insert(set.to_owned(), new.keys().cloned().collect());
        }
        new.retain(|inbox, _| !old.contains(inbox));
        for (inbox, binding) in new {
            changed.insert(Arc::clone(&binding.name));
            self.by_topic.insert(pattern_of(&binding), Arc::clone(&inbox));
            self.by_name.entry(Arc::clone(&binding.name)).or_default().insert(Arc::clone(&inbox));
            self.places.insert(Arc::clone(&inbox), self.next_place);
            self.next_place += 1;
            self.bindings.insert(inbox, binding);
        }
        changed
    }

    fn remove(&mut self, inbox: &Arc<str>) -> Option<Arc<str>> {
        let binding = self.bindings.remove(inbox)?;
        self.places.remove(inbox);
        self.by_topic.remove(pattern_of(&binding), inbox);
        if let Some(inboxes) = self.by_name.get_mut(&binding.name) {
            inboxes.remove(inbox);
            if inboxes.is_empty() {
                self.by_name.remove(&binding.name);
            }
        }
        Some(binding.name)
    }

    /// The binding that an inbox is of.
    pub(super) fn binding(&self, inbox: &str) -> Option<&Binding> {
        self.bindings.get(inbox)
    }

    /// All of a subscription, by inbox.
    pub(super) fn bindings_of(&self, name: &str) -> impl Iterator<Item = (&Arc<str>, &Binding)> {
        let inboxes = self.by_name.get(name).into_iter().flatten();
        inboxes.filter_map(|inbox| self.bindings.get_key_value(inbox))
    }

    /// The inboxes of a subscription.
    pub(super) fn inboxes_of(&self, name: &str) -> Vec<Arc<str>> {
        self.by_name.get(name).into_iter().flatten().cloned().collect()
    }

    /// All subscriptions.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    /// The inboxes that a message to a topic waits in: one for each subscription that wants it. Of several it is the one that
    /// was heard of first: what a producer sends before and after another one turns up keeps its order. With a selector it wants
    /// what that lets through; a message has no name yet.
    pub(super) fn targets(&self, topic: &Destination, head: &[u8]) -> Vec<String> {
        let fields = StoredFields { head, id: "" };
        let wants = |binding: &Binding| binding.selector.as_ref().is_none_or(|selector| selector.matches(&fields));
        let mut first: BTreeMap<&Arc<str>, (u64, Arc<str>)> = BTreeMap::new();
        for inbox in self.by_topic.matches(topic.name()) {
            let (Some(binding), Some(place)) = (self.bindings.get(&inbox), self.places.get(&inbox)) else { continue };
            if !wants(binding) {
                continue;
            }
            let best = first.entry(&binding.name).or_insert_with(|| (*place, Arc::clone(&inbox)));
            if *place < best.0 {
                *best = (*place, inbox);
            }
        }
        first.into_values().map(|(_, inbox)| inbox.to_string()).collect()
    }

    /// A client's subscription reads a durable one.
    pub(super) fn begin(&mut self, id: ConsumerId, name: &Arc<str>) {
        self.readers.insert(id, Arc::clone(name));
        self.read.entry(Arc::clone(name)).or_default().insert(id);
    }

    /// It does so no more; without effect if it does not.
    pub(super) fn end(&mut self, id: ConsumerId) {
        let Some(name) = self.readers.remove(&id) else { return };
        if let Some(readers) = self.read.get_mut(&name) {
            readers.remove(&id);
            if readers.is_empty() {
                self.read.remove(&name);
            }
        }
    }

    /// Who of this node's clients reads a subscription.
    pub(super) fn readers_of(&self, name: &str) -> Vec<ConsumerId> {
        self.read.get(name).into_iter().flatten().copied().collect()
    }

    /// All of a connection.
    pub(super) fn readers_in(&self, first: ConsumerId, last: ConsumerId) -> Vec<ConsumerId> {
        self.readers.range(first..=last).map(|(id, _)| *id).collect()
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.bindings.len()
            + self.places.len()
            + self.by_set.len()
            + self.by_name.len()
            + self.readers.len()
            + self.read.len()
            + (self.by_topic.size() - 1)
    }
}

fn pattern_of(binding: &Binding) -> &str {
    binding.topic.strip_prefix(TOPIC).unwrap_or(&binding.topic)
}

#[cfg(test)]
mod tests {
    use rhizomq_engine::Epoch;

    use super::*;
    use crate::{broker::ConnId, selector::Selector, session::SubKey};

    fn binding(name: &str, topic: &str, number: u64) -> Binding {
        Binding { name: name.into(), topic: topic.into(), life: Epoch(7), number, selector: None }
    }

    fn targets(book: &Book, topic: &str) -> Vec<String> {
        book.targets(&Destination::parse(topic).unwrap(), b"a:1\n")
    }

    #[test]
    fn each_subscription_gets_a_message_once_however_many_bindings_match() {
        let mut book = Book::default();
        let set = set_of("name/a");
        let bindings = [binding("name/a", "/topic/x.*", 1), binding("name/a", "/topic/x.#", 2)];
        let changed = book.refresh(&set, &bindings.each_ref().map(Binding::encode));
        assert_eq!(changed, BTreeSet::from(["name/a".into()]));
        assert_eq!(targets(&book, "/topic/x.y"), [&*bindings[0].inbox()]);
        assert_eq!(targets(&book, "/topic/x.y.z"), [&*bindings[1].inbox()]);
        assert!(targets(&book, "/topic/z").is_empty());
        assert!(book.refresh(&set, &bindings.each_ref().map(Binding::encode)).is_empty(), "nothing changed");

        let changed = book.refresh(&set, &[bindings[1].encode()]);
        assert_eq!(changed.len(), 1);
        assert_eq!(targets(&book, "/topic/x.y"), [&*bindings[1].inbox()]);
        book.refresh(&set, &[]);
        assert_eq!(book.remembered(), 0);
    }

    #[test]
    fn the_first_that_was_heard_of_goes_on_getting_what_both_want() {
        let mut book = Book::default();
        let set = set_of("name/a");
        let (early, late) = (binding("name/a", "/topic/x", 9), binding("name/a", "/topic/x", 1));
        assert!(late.inbox() < early.inbox());
        book.refresh(&set, &[early.encode()]);
        book.refresh(&set, &[late.encode(), early.encode()]);
        assert_eq!(targets(&book, "/topic/x"), [&*early.inbox()]);
        book.refresh(&set, &[late.encode()]);
        assert_eq!(targets(&book, "/topic/x"), [&*late.inbox()]);
    }

    #[test]
    fn a_binding_with_a_selector_gets_what_that_lets_through() {
        let mut book = Book::default();
        let set = set_of("name/a");
        let with = |number, text| Binding {
            selector: Selector::parse(text).unwrap(),
            ..binding("name/a", "/topic/x", number)
        };
        let bindings = [with(1, "a = 2"), with(2, "a = 1")];
        assert_eq!(Binding::decode(&bindings[0].encode()), Some(bindings[0].clone()));
        book.refresh(&set, &bindings.each_ref().map(Binding::encode));
        assert_eq!(targets(&book, "/topic/x"), [&*bindings[1].inbox()]);
        book.refresh(&set, &[bindings[0].encode()]);
        assert!(targets(&book, "/topic/x").is_empty());
        let mut broken = bindings[0].encode();
        *broken.last_mut().unwrap() = b'(';
        assert_eq!(Binding::decode(&broken), None);
    }

    #[test]
    fn members_that_are_none_are_passed_over() {
        let mut book = Book::default();
        let set = set_of("name/a");
        let members =
            [vec![9, 9], binding("name/a", "/queue/x", 1).encode(), binding("name/a", "/topic/>.x", 1).encode()];
        assert!(book.refresh(&set, &members).is_empty());
        let elsewhere = binding("name/b", "/topic/x", 1).encode();
        assert_ne!(set_of("name/b"), set);
        assert!(book.refresh(&set, &[elsewhere]).is_empty());
        assert_eq!(book.remembered(), 0);
    }

    #[test]
    fn readers_are_known_as_long_as_they_read() {
        let mut book = Book::default();
        let id = |sub| ConsumerId { conn: ConnId(1), sub: SubKey(sub) };
        let name: Arc<str> = "name/a".into();
        book.begin(id(1), &name);
        book.begin(id(2), &name);
        assert_eq!(book.readers_of("name/a"), [id(1), id(2)]);
        assert_eq!(book.readers_in(id(0), id(1)), [id(1)]);
        book.end(id(1));
        book.end(id(1));
        book.end(id(2));
        assert_eq!(book.remembered(), 0);
    }
}
