//! Passcodes are checked here, beside the core: a few at a time, for each takes time and memory; the others wait, and each
//! address gets its turn, so that who guesses passcodes does not keep others waiting.
//!
//! Equal questions are asked once, and what was right is remembered, so that many clients of one user can connect again at a
//! time. Remembered are keyed hashes over the verifier and the passcode, of this life of the process alone: a changed
//! passcode has another verifier, and so is never found.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::IpAddr,
};

use tokio::sync::mpsc;

use super::listen::client_of;
use crate::{ConnId, LoginCheck, Verdict, users::HashError};

/// Checks at a time.
const AT_WORK: usize = 2;

/// Different checks that may wait, and of these from one address.
const WAITING: usize = 1024;
const WAITING_OF_ADDRESS: usize = 256;

/// Right answers that are remembered.
const REMEMBERED: usize = 4096;

/// Names a check without telling what it is about.
type Tag = [u8; 32];

/// What came of a check.
#[derive(Debug)]
pub(super) struct Checked {
    tag: Tag,
    result: Result<bool, HashError>,
}

/// See the module docs.
pub(super) struct Checks {
    key: [u8; 32],
    done: mpsc::Sender<Checked>,
    at_work: usize,
    /// By address; none is empty. Addresses take turns in this order.
    waiting: BTreeMap<Option<IpAddr>, VecDeque<(Tag, LoginCheck)>>,
    turns: VecDeque<Option<IpAddr>>,
    /// Who waits for which.
    clients: HashMap<Tag, Vec<ConnId>>,
    /// Who has lost its place to an address with fewer checks.
    displaced: Vec<ConnId>,
    remembered: HashSet<Tag>,
    /// The oldest first.
    oldest: VecDeque<Tag>,
}

impl Checks {
    /// With a key that nobody else knows.
    pub(super) fn new(key: [u8; 32]) -> (Self, mpsc::Receiver<Checked>) {
        let (done, results) = mpsc::channel(AT_WORK);
        let checks = Self {
            key,
            done,
            at_work: 0,
            waiting: BTreeMap::new(),
            turns: VecDeque::new(),
            clients: HashMap::new(),
            displaced: Vec::new(),
            remembered: HashSet::new(),
            oldest: VecDeque::new(),
        };
        (checks, results)
    }

    /// Has a passcode checked. The verdict, if it is known at once.
    pub(super) fn ask(&mut self, conn: ConnId, check: LoginCheck) -> Option<Verdict> {
        let tag = self.tag(&check);
        if self.remembered.contains(&tag) {
            return Some(Verdict::Right);
        }
        if let Some(clients) = self.clients.get_mut(&tag) {
            clients.push(conn);
            return None;
        }
        let address = check.address.map(client_of);
        let of_address = self.waiting.get(&address).map_or(0, VecDeque::len);
        let waiting: usize = self.waiting.values().map(VecDeque::len).sum();
        if of_address >= WAITING_OF_ADDRESS || waiting >= WAITING && !self.displace(of_address) {
            return Some(Verdict::Busy);
        }
        self.clients.insert(tag, vec![conn]);
        if of_address == 0 {
            self.turns.push_back(address);
        }
        self.waiting.entry(address).or_default().push_back((tag, check));
        self.work();
        None
    }

    /// Makes room for one of an address that has so many, at the expense of the one that has the most. Whether it could.
    fn displace(&mut self, of_address: usize) -> bool {
        let longest =
            self.waiting.iter().max_by_key(|(_, queue)| queue.len()).filter(|(_, queue)| queue.len() > of_address + 1);
        let Some(address) = longest.map(|(address, _)| *address) else { return false };
        let last = self.waiting.get_mut(&address).and_then(VecDeque::pop_back);
        let clients = last.and_then(|(tag, _)| self.clients.remove(&tag));
        self.displaced.extend(clients.into_iter().flatten());
        true
    }

    /// Whose checks gave way to others.
    pub(super) fn take_displaced(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.displaced)
    }

    /// A client is gone: nobody waits for what only it has asked.
    pub(super) fn forget(&mut self, conn: ConnId) {
        // Few wait, and few go while they do.
        let Some((&tag, clients)) = self.clients.iter_mut().find(|(_, clients)| clients.contains(&conn)) else {
            return;
        };
        clients.retain(|other| *other != conn);
        if !clients.is_empty() {
            return;
        }
        let found = self.waiting.iter_mut().find_map(|(address, queue)| {
            let place = queue.iter().position(|(waiting, _)| *waiting == tag)?;
            queue.remove(place);
            Some((*address, queue.is_empty()))
        });
        // Else it is at work, and is done with when that is finished.
        if let Some((address, is_empty)) = found {
            self.clients.remove(&tag);
            if is_empty {
                self.waiting.remove(&address);
                self.turns.retain(|turn| *turn != address);
            }
        }
    }

    /// One is done: who waited for it, and what came of it.
    pub(super) fn finish(&mut self, checked: Checked) -> (Vec<ConnId>, Verdict) {
        self.at_work -= 1;
        let verdict = match checked.result {
            Ok(true) => Verdict::Right,
            Ok(false) => Verdict::Wrong,
            Err(HashError) => Verdict::Busy,
        };
        if verdict == Verdict::Right && self.remembered.insert(checked.tag) {
            self.oldest.push_back(checked.tag);
            if self.oldest.len() > REMEMBERED
                && let Some(oldest) = self.oldest.pop_front()
            {
                self.remembered.remove(&oldest);
            }
        }
        let clients = self.clients.remove(&checked.tag).unwrap_or_default();
        self.work();
        (clients, verdict)
    }

    /// Begins as many as may be at work.
    fn work(&mut self) {
        while self.at_work < AT_WORK
            && let Some((tag, check)) = self.next()
        {
            self.at_work += 1;
            let done = self.done.clone();
            tokio::task::spawn_blocking(move || {
                let result = check.verifier.check(&check.passcode);
                // The driver may have ended.
                let _ = done.blocking_send(Checked { tag, result });
            });
        }
    }

    /// The next of the address whose turn it is.
    fn next(&mut self) -> Option<(Tag, LoginCheck)> {
        let address = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(&address)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&address);
        } else {
            self.turns.push_back(address);
        }
        next
    }

    fn tag(&self, check: &LoginCheck) -> Tag {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // Each has one length, or says it: where the passcode begins is clear.
        hasher.update(check.verifier.salt()).update(check.verifier.hash());
        hasher.update(&(check.name.len() as u64).to_le_bytes()).update(check.name.as_bytes());
        hasher.update(check.passcode.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::users::{Cost, Passcode, Verifier};

    const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

    fn verifier(passcode: &str, salt: u8) -> Arc<Verifier> {
        Arc::new(Verifier::new(&Passcode::claimed(passcode), [salt; 16], CHEAP).unwrap())
    }

    fn check(verifier: &Arc<Verifier>, passcode: &str, address: u8) -> LoginCheck {
        let address = Some(IpAddr::from([192, 0, 2, address]));
        LoginCheck {
            passcode: Passcode::claimed(passcode),
            verifier: verifier.clone(),
            name: "ada".to_owned(),
            address,
        }
    }

    /// All that come out, in order.
    async fn all(checks: &mut Checks, results: &mut mpsc::Receiver<Checked>) -> Vec<(Vec<ConnId>, Verdict)> {
        let mut out = Vec::new();
        while checks.at_work > 0 {
            let checked = results.recv().await.unwrap();
            out.push(checks.finish(checked));
        }
        out
    }

    #[tokio::test]
    async fn what_was_right_is_remembered_until_the_passcode_is_changed() {
        let (mut checks, mut results) = Checks::new([1; 32]);
        let one = verifier("a", 1);
        assert_eq!(checks.ask(ConnId(1), check(&one, "a", 1)), None);
        // The same question: it is asked once.
        assert_eq!(checks.ask(ConnId(2), check(&one, "a", 2)), None);
        assert_eq!(all(&mut checks, &mut results).await, [(vec![ConnId(1), ConnId(2)], Verdict::Right)]);
        assert_eq!(checks.ask(ConnId(3), check(&one, "a", 1)), Some(Verdict::Right));
        assert_eq!(checks.ask(ConnId(4), check(&one, "b", 1)), None);
        assert_eq!(
            checks.ask(ConnId(5), check(&verifier("c", 2), "a", 1)),
            None,
            "of another verifier nothing is known"
        );
        let mut verdicts: Vec<_> = all(&mut checks, &mut results).await;
        verdicts.sort_by_key(|(clients, _)| clients[0]);
        assert_eq!(verdicts, [(vec![ConnId(4)], Verdict::Wrong), (vec![ConnId(5)], Verdict::Wrong)]);
        assert_eq!(checks.ask(ConnId(4), check(&one, "b", 1)), None, "what was wrong is not remembered");
        all(&mut checks, &mut results).await;
        assert!(checks.clients.is_empty() && checks.waiting.is_empty() && checks.turns.is_empty());
    }

    #[tokio::test]
    async fn who_guesses_waits_for_its_turn_and_gets_only_so_many() {
        let (mut checks, mut results) = Checks::new([1; 32]);
        let one = verifier("right", 1);
        let mut busy = 0;
        for guess in 0..WAITING_OF_ADDRESS as u64 + 10 {
            let verdict = checks.ask(ConnId(guess), check(&one, &format!("guess {guess}"), 1));
            busy += u64::from(verdict == Some(Verdict::Busy));
        }
        // Those at work do not wait.
        assert_eq!(busy, 10 - AT_WORK as u64);
        assert_eq!(checks.ask(ConnId(9_999), check(&one, "right", 2)), None);
        let order = all(&mut checks, &mut results).await;
        let place = order.iter().position(|(clients, _)| clients == &[ConnId(9_999)]).unwrap();
        assert!(place < 2 * AT_WORK + 2, "it was the {place}th of {}", order.len());
        assert_eq!(order[place].1, Verdict::Right);
    }

    #[tokio::test]
    async fn a_newcomer_finds_room_where_a_few_addresses_have_taken_all() {
        let (mut checks, mut results) = Checks::new([1; 32]);
        let one = verifier("right", 1);
        let mut conn = 0;
        for address in 1..=5 {
            for _ in 0..WAITING_OF_ADDRESS {
                conn += 1;
                checks.ask(ConnId(conn), check(&one, &format!("guess {conn}"), address));
            }
        }
        checks.take_displaced();
        assert_eq!(checks.ask(ConnId(9_999), check(&one, "right", 99)), None);
        assert_eq!(checks.take_displaced().len(), 1);
        assert_eq!(checks.waiting.values().map(VecDeque::len).sum::<usize>(), WAITING);
        let order = all(&mut checks, &mut results).await;
        let place = order.iter().position(|(clients, _)| clients == &[ConnId(9_999)]).unwrap();
        assert!(place < 20, "it was the {place}th of {}", order.len());
        assert!(checks.clients.is_empty() && checks.waiting.is_empty() && checks.turns.is_empty());
    }

    #[tokio::test]
    async fn for_whom_is_gone_nothing_is_checked() {
        let (mut checks, mut results) = Checks::new([1; 32]);
        let one = verifier("right", 1);
        for conn in 0..20 {
            checks.ask(ConnId(conn), check(&one, &conn.to_string(), 1));
        }
        (0..20).for_each(|conn| checks.forget(ConnId(conn)));
        let order = all(&mut checks, &mut results).await;
        assert_eq!(order.len(), AT_WORK, "those at work are finished");
        assert!(order.iter().all(|(clients, _)| clients.is_empty()) && checks.clients.is_empty());
    }

    #[tokio::test]
    async fn only_so_many_right_answers_are_remembered() {
        let (mut checks, _results) = Checks::new([1; 32]);
        for number in 0..REMEMBERED as u64 + 1 {
            let mut tag = [0; 32];
            tag[..8].copy_from_slice(&number.to_le_bytes());
            checks.at_work += 1;
            checks.finish(Checked { tag, result: Ok(true) });
        }
        assert_eq!((checks.remembered.len(), checks.oldest.len()), (REMEMBERED, REMEMBERED));
        assert!(!checks.remembered.contains(&[0; 32]), "the oldest is forgotten");
    }
}
