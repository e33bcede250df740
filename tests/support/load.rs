//! Clients at work while something happens: what they know to be confirmed, and what they got.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{cluster::Ledger, stomp::Client};

/// Between two messages of a producer.
const PACE: Duration = Duration::from_millis(4);

/// Messages that a consumer holds at most, on their way to it included.
const PREFETCH: usize = 10;

/// An acknowledgement that was confirmed is known to the other nodes after that.
const ON_ITS_WAY: Duration = Duration::from_millis(250);

/// How long a consumer that stops waits for the receipts of its acknowledgements.
const LAST_RECEIPTS: Duration = Duration::from_secs(10);

/// Between two tries to connect.
const AGAIN: Duration = Duration::from_millis(50);

/// Producers and consumers of one queue. Whoever loses its connection connects again.
pub struct Load {
    queue: String,
    stop: Arc<AtomicBool>,
    /// How often a client lost its connection.
    broken: Arc<AtomicUsize>,
    /// When receipts for acknowledgements came.
    acked: Arc<Mutex<Vec<Instant>>>,
    confirmed: Arc<Mutex<Vec<(String, Instant)>>>,
    producers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<Ledger>>,
}

impl Load {
    pub fn new(queue: &str) -> Self {
        Self {
            queue: queue.to_owned(),
            stop: Arc::default(),
            broken: Arc::default(),
            acked: Arc::default(),
            confirmed: Arc::default(),
            producers: Vec::new(),
            consumers: Vec::new(),
        }
    }

    /// A client that sends one message after the other, each with a receipt; `name` begins their texts.
    pub fn produce(&mut self, at: SocketAddr, name: &str) {
        let (stop, broken, confirmed) = (self.stop.clone(), self.broken.clone(), self.confirmed.clone());
        let (queue, name) = (self.queue.clone(), name.to_owned());
        self.producers.push(std::thread::spawn(move || {
            let mut number = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut client) = Client::connect(at) else {
                    std::thread::sleep(AGAIN);
                    continue;
                };
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let text = format!("{name}-{number}");
                    if client.send_confirmed(&queue, text.as_bytes()).is_err() {
                        broken.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    confirmed.lock().unwrap().push((text, Instant::now()));
                    std::thread::sleep(PACE);
                }
            }
        }));
    }

    /// A client that consumes and acknowledges.
    pub fn consume(&mut self, at: SocketAddr) {
        let (stop, broken, acked) = (self.stop.clone(), self.broken.clone(), self.acked.clone());
        let queue = self.queue.clone();
        self.consumers.push(std::thread::spawn(move || {
            let mut ledger = Ledger::default();
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut client) = Client::connect(at) else {
                    std::thread::sleep(AGAIN);
                    continue;
                };
                let prefetch = PREFETCH.to_string();
                let subscription = [
                    ("id", "0"),
                    ("destination", queue.as_str()),
                    ("ack", "client-individual"),
                    ("prefetch-count", prefetch.as_str()),
                ];
                if client.write("SUBSCRIBE", &subscription, b"").is_err() {
                    continue;
                }
                // By receipt, what was acknowledged.
                let (mut answered, mut number) = (BTreeMap::new(), 0);
                let mut done = None;
                while done.is_none_or(|done: Instant| !answered.is_empty() && done.elapsed() < LAST_RECEIPTS) {
                    if stop.load(Ordering::Relaxed) {
                        done.get_or_insert_with(Instant::now);
                    }
                    match client.next_frame(Duration::from_millis(100)) {
                        // It goes back unread, to whoever consumes the rest.
                        Ok(frame) if frame.command == "MESSAGE" && done.is_some() => {}
                        Ok(frame) if frame.command == "MESSAGE" => {
                            ledger.note(&frame);
                            number += 1;
                            let receipt = number.to_string();
                            if client.ack_with_receipt(&frame, &receipt).is_err() {
                                broken.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                            answered.insert(receipt, frame.text());
                        }
                        Ok(frame) if frame.command == "RECEIPT" => {
                            let body =
                                answered.remove(frame.header("receipt-id")).expect("a receipt that was asked for");
                            ledger.note_acked(body);
                            acked.lock().unwrap().push(Instant::now());
                        }
                        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {}
                        // An ERROR, or the end of the connection.
                        _ => {
                            broken.fetch_add(1, Ordering::Relaxed);
                            break;
                        }
                    }
                }
            }
            ledger
        }));
    }

    /// How often one of the clients lost its connection.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }

    /// Confirmed acknowledgements by now.
    pub fn acked(&self) -> usize {
        self.acked.lock().unwrap().len()
    }

    /// What may be in flight at a cut or a death that came about between that moment and now: what was confirmed, or about to
    /// be, and whose consumption may not have got around then.
    pub fn in_flight_since(&self, moment: Instant) -> u64 {
        let around = moment.checked_sub(ON_ITS_WAY).unwrap_or(moment);
        let acked = self.acked.lock().unwrap().iter().filter(|at| **at < around).count();
        (self.confirmed() + self.producers.len()).saturating_sub(acked) as u64
    }

    /// What may come again because of a death between that moment and now: what is handed out at most, and whose consumption may
    /// not have got around. What only waits comes once, from whoever holds it.
    pub fn handed_out_since(&self, moment: Instant) -> u64 {
        let around = moment.checked_sub(ON_ITS_WAY).unwrap_or(moment);
        let acked = self.acked.lock().unwrap().iter().filter(|at| **at >= around).count();
        (PREFETCH * self.consumers.len() + acked) as u64
    }

    /// Texts that are confirmed by now.
    pub fn confirmed(&self) -> usize {
        self.confirmed.lock().unwrap().len()
    }

    /// When a text that begins so was first confirmed after that moment, if one was.
    pub fn first_after(&self, moment: Instant, name: &str) -> Option<Duration> {
        let confirmed = self.confirmed.lock().unwrap();
        let later = |(text, at): &&(String, Instant)| *at > moment && text.starts_with(name);
        confirmed.iter().find(later).map(|(_, at)| *at - moment)
    }

    /// The longest time between two confirmations of texts that begin so, from that moment to now: from the first one after
    /// it on, which has to be there.
    pub fn longest_pause_after(&self, moment: Instant, name: &str) -> Option<Duration> {
        let confirmed = self.confirmed.lock().unwrap();
        let times: Vec<_> = confirmed.iter().filter(|(text, _)| text.starts_with(name)).map(|(_, at)| *at).collect();
        let last = times.last().filter(|last| **last > moment + Duration::from_secs(4))?;
        let before = times.iter().rev().find(|at| **at <= moment).copied().unwrap_or(moment);
        let later = times.iter().filter(|at| **at > moment && *at <= last);
        let (_, longest) =
            later.fold((before, Duration::ZERO), |(before, longest), &at| (at, longest.max(at - before)));
        Some(longest)
    }

    /// Everybody stops: what was confirmed, and what came.
    pub fn end(self) -> (BTreeSet<String>, Ledger) {
        self.stop.store(true, Ordering::Relaxed);
        self.producers.into_iter().for_each(|producer| producer.join().expect("a producer"));
        let mut ledger = Ledger::default();
        self.consumers.into_iter().for_each(|consumer| ledger.absorb(consumer.join().expect("a consumer")));
        let confirmed = self.confirmed.lock().unwrap().iter().map(|(text, _)| text.clone()).collect();
        (confirmed, ledger)
    }
}

/// What a load has seen must be as promised: all that was confirmed came; what came again was in flight when something
/// happened, at most once for each time, and is marked, but for what two sides delivered while neither saw the other.
///
/// # Panics
/// It is not.
pub fn judge(confirmed: &BTreeSet<String>, ledger: &Ledger, in_flight: u64, apart: Option<(Instant, Instant)>) {
    assert_eq!(ledger.missing(confirmed), Vec::<&String>::new());
    let unmarked: Vec<_> = ledger.unmarked.iter().filter(|(_, count)| **count > 1).collect();
    assert!(unmarked.is_empty(), "second deliveries without the mark: {unmarked:?}");
    let again = ledger.again_after_ack();
    println!(
        "{} confirmed, {} acknowledged, {} delivered again, {} of them after their acknowledgement; {in_flight} were in flight",
        confirmed.len(),
        ledger.acked.len(),
        ledger.duplicates(),
        again.len(),
    );
    assert!(ledger.duplicates() <= in_flight, "{} came again, {in_flight} were in flight", ledger.duplicates());
    let is_apart = |at: Instant| apart.is_some_and(|(from, to)| (from..to).contains(&at));
    let wrong: Vec<_> = again.iter().filter(|(_, at, marked)| !marked && !is_apart(*at)).map(|one| one.0).collect();
    assert!(wrong.is_empty(), "consumed for good, and delivered as if for the first time: {wrong:?}");
}
