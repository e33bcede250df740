//! Durable topic subscriptions: how they are called, and the inboxes that their messages wait in.
//!
//! Three spellings, three ways to say who one is:
//!
//! | known from | identity | [`DurableName`] |
//! |---|---|---|
//! | RabbitMQ: `durable:true`, `auto-delete:false` | the `id` and the topic | `id/ID/TOPIC` |
//! | the same with `x-queue-name` | that name; it may be bound to several topics | `name/NAME` |
//! | ActiveMQ Classic: `activemq.subscriptionName`; Artemis: `durable-subscription-name` | `client-id` of CONNECT, and the name | `client/CLIENT/NAME` |
//!
//! A subscription is one or more bindings in a registry set: each binds an inbox to a topic or pattern. A binding is
//! new each time that one is made. Its inbox is called by the name, by the life of the node that made it, and by the number of
//! its add to the set: so what waits for a subscription that was deleted never turns up in one that was made later under
//! the same name, and whoever meets a message of an inbox can tell whether its binding was deleted or has only not been
//! heard of yet. Mostly there is one; two sides of a cut that both make the same subscription make two, which its consumers
//! read both, and a message goes to the one that its node heard of first.
//!
//! A binding may have a selector: what it does not match is not kept for it. To ask for another one, or for none, is to make the
//! binding anew, and what waited by the old one is dropped, as JMS has it.
//!
//! A member of the set: a byte of version, then `postcard` of name, topic, life and number; in version 2 the selector follows.

use std::sync::Arc;

use rhizomq_engine::Epoch;
use serde::{Deserialize, Serialize};

use crate::{destination::DURABLE, selector::Selector, spread};

/// Bytes of the longest name, as text.
pub const MAX_DURABLE_NAME_LEN: usize = 255;

/// Registry sets that subscriptions are spread over: whole sets travel when one changes.
const SETS: u64 = 64;

/// Of a member's layout: without a selector, and with one. So programs that know no selectors read the former.
const VERSION: u8 = 1;
const VERSION_WITH_SELECTOR: u8 = 2;

/// What a durable subscription is called on all nodes: see the module's text. Characters other than printable ASCII, and
/// `%` and `/` within a part, are written as `%` and two hex digits for each byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurableName {
    text: Arc<str>,
    /// Whether it has one topic at a time, so that another one takes the place of the first.
    has_one_topic: bool,
}

/// The name is longer than [`MAX_DURABLE_NAME_LEN`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name of the durable subscription would have {0} bytes, with what tells it from others; at most \
     {MAX_DURABLE_NAME_LEN} are allowed"
)]
pub struct NameTooLong(usize);

impl DurableName {
    /// RabbitMQ's, by the subscription's `id`.
    ///
    /// # Errors
    /// [`NameTooLong`].
    pub fn of_id(id: &str, topic: &str) -> Result<Self, NameTooLong> {
        Self::new(&["id", id, topic], true)
    }

    /// RabbitMQ's, by `x-queue-name`.
    ///
    /// # Errors
    /// [`NameTooLong`].
    pub fn of_queue(name: &str) -> Result<Self, NameTooLong> {
        Self::new(&["name", name], false)
    }

    /// That of both ActiveMQs.
    ///
    /// # Errors
    /// [`NameTooLong`].
    pub fn of_client(client: &str, name: &str) -> Result<Self, NameTooLong> {
        Self::new(&["client", client, name], true)
    }

    fn new(parts: &[&str], has_one_topic: bool) -> Result<Self, NameTooLong> {
        let text = parts.iter().map(|part| plain(part)).collect::<Vec<_>>().join("/");
        if text.len() > MAX_DURABLE_NAME_LEN {
            return Err(NameTooLong(text.len()));
        }
        Ok(Self { text: text.into(), has_one_topic })
    }

    /// As people and the registry write it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same, shared.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// Whether a new topic takes the place of an earlier one.
    pub fn has_one_topic(&self) -> bool {
        self.has_one_topic
    }
}

fn plain(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'%' | b'/' => text.push_str(&format!("%{byte:02x}")),
            b'!'..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text
}

/// One inbox of a subscription, and the topic or pattern that fills it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The text of its [`DurableName`].
    pub(crate) name: Arc<str>,
    /// As a destination, `/topic/...`.
    pub(crate) topic: Arc<str>,
    /// The life of the node that made it.
    pub(crate) life: Epoch,
    /// The number of the add, among those of that life to the set.
    pub(crate) number: u64,
    /// What it is to get; `None`: all.
    pub(crate) selector: Option<Selector>,
}

#[derive(Serialize, Deserialize)]
struct Member<'a> {
    name: &'a str,
    topic: &'a str,
    life: Epoch,
    number: u64,
}

impl Binding {
    /// The member of the set.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let member = Member { name: &self.name, topic: &self.topic, life: self.life, number: self.number };
        // Texts and numbers always encode into memory; nothing at all would be read by nobody.
        let encoded = match &self.selector {
            None => postcard::to_extend(&member, vec![VERSION]),
            Some(selector) => postcard::to_extend(&(member, selector.as_str()), vec![VERSION_WITH_SELECTOR]),
        };
        encoded.unwrap_or_default()
    }

    /// Reads a member; `None` for what no version that this program knows has written.
    pub(crate) fn decode(member: &[u8]) -> Option<Self> {
        let (version, content) = member.split_first()?;
        let (member, selector) = match *version {
            VERSION => (postcard::from_bytes(content).ok()?, None),
            VERSION_WITH_SELECTOR => {
                let (member, text): (_, &str) = postcard::from_bytes(content).ok()?;
                (member, Some(Selector::parse(text).ok()??))
            }
            _ => return None,
        };
        let Member { name, topic, life, number } = member;
        Some(Self { name: name.into(), topic: topic.into(), life, number, selector })
    }

    /// Where its messages wait.
    pub(crate) fn inbox(&self) -> Arc<str> {
        format!("{DURABLE}{}/{}-{:x}", self.name, self.life, self.number).into()
    }
}

/// The registry set that a subscription is in.
pub(crate) fn set_of(name: &str) -> String {
    set_name(spread::number_of(name, SETS))
}

fn set_name(number: u64) -> String {
    format!("{SET_PREFIX}{number:02x}")
}

const SET_PREFIX: &str = "subscriptions/";

/// Whether a set of the registry holds subscriptions.
pub(crate) fn is_set(set: &str) -> bool {
    set.starts_with(SET_PREFIX)
}

/// All sets that hold any.
pub(crate) fn sets() -> impl Iterator<Item = String> {
    (0..SETS).map(set_name)
}

/// What the name of an inbox tells: the subscription, the life and the number. `None` if it is not that of a durable
/// subscription.
pub(crate) fn read_inbox(inbox: &str) -> Option<(&str, Epoch, u64)> {
    let (name, rest) = inbox.strip_prefix(DURABLE)?.rsplit_once('/')?;
    let (life, number) = rest.split_once('-')?;
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if life.len() != 16 || !is_hex(life) || !is_hex(number) {
        return None;
    }
    Some((name, Epoch(u64::from_str_radix(life, 16).ok()?), u64::from_str_radix(number, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn binding() -> Binding {
        let name = DurableName::of_client("app 1", "orders/new").unwrap().to_shared();
        Binding { name, topic: "/topic/a.*".into(), life: Epoch(0x12), number: 300, selector: None }
    }

    #[test]
    fn different_identities_have_different_names_and_all_are_plain() {
        let names = [
            DurableName::of_id("a", "b/c"),
            DurableName::of_id("a/b", "c"),
            DurableName::of_id("a%2fb", "c"),
            DurableName::of_queue("a/b/c"),
            DurableName::of_client("a", "b/c"),
            DurableName::of_client("a/b", "c"),
            DurableName::of_client("", "a\nb\u{fc}\x1b[31m"),
        ]
        .map(Result::unwrap);
        assert_eq!(names.iter().map(DurableName::as_str).collect::<BTreeSet<_>>().len(), names.len());
        assert_eq!(names[0].as_str(), "id/a/b%2fc");
        assert_eq!(names[6].as_str(), "client//a%0ab%c3%bc%1b[31m");
        assert!(names.iter().all(|name| name.as_str().bytes().all(|byte| byte.is_ascii_graphic())));
        assert!(DurableName::of_queue(&"x".repeat(250)).is_ok());
        assert_eq!(DurableName::of_queue(&"\n".repeat(250)), Err(NameTooLong(755)));
        assert!(!names[3].has_one_topic() && names[4].has_one_topic());
    }

    #[test]
    fn inboxes_tell_what_they_are_of_and_only_theirs_do() {
        let inbox = binding().inbox();
        assert_eq!(&*inbox, "/durable/client/app%201/orders%2fnew/0000000000000012-12c");
        assert_eq!(read_inbox(&inbox), Some(("client/app%201/orders%2fnew", Epoch(0x12), 300)));
        for other in
            ["/queue/a", "/durable/x", "/durable/x/y", "/durable/x/0000000000000012-", "/durable/x/+0000000000012-1"]
        {
            assert_eq!(read_inbox(other), None, "{other}");
        }
    }

    #[test]
    fn members_are_read_as_what_they_were() {
        let bytes = binding().encode();
        assert_eq!(Binding::decode(&bytes), Some(binding()));
        assert_eq!(Binding::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Binding::decode(&[&[2], &bytes[1..]].concat()), None, "of a later version");
        // What version 1 has written must go on being read: these bytes never change.
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "011b636c69656e742f6170702532303\
             12f6f72646572732532666e65770a2f746f7069632f612e2a12ac02"
        );
    }

    #[test]
    fn names_are_spread_over_all_sets() {
        let used: BTreeSet<_> = (0..2_000).map(|number| set_of(&format!("client/{number}/x"))).collect();
        assert_eq!(used, sets().collect());
        assert!(used.iter().all(|set| is_set(set)));
    }
}
