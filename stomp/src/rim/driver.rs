//! The core's loop: inputs from links, clients, the store and the clock go into the broker in bounded turns; what it
//! wants done is handed to the tasks that do it. The loop itself never waits for a socket or a disk to take something.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rhizomq_engine::{
    Dot, NodeId, Now, Store, StoreError,
    store::{Copied, Finding, Part},
};
use rhizomq_net::{
    CancelError, CommitError, DrainStage, DrainStatus, ForgetError, Forgotten, GiveUpPartError, LostPart, MergeError,
    Merging, Output as NetOutput, Size, SizeError, SplitError, SplitOrder, SplitPlan, Ticket,
    rim::{NetworkSecret, Refused, Rim, RimEvent, RimEvents, SecretError, Secrets},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    alarm::Alarm,
    client::{ClientInput, Clients},
    damage::DamageLog,
    listen::{self, Listener, ListenerConfig},
    logins::{Checked, Checks},
    scrub::{Jobs, MaintenanceError, Scrubber, Verified},
    writer::{Writer, Written},
};
use crate::{
    Backlogs, Broker, ChangeId, ConnId, JobAskId, JobError, JobQuestion, JobsStatus, MemoryStatus, Output,
    PolicyStatus, Status, StoreStatus, SubscriptionStatus, UserStatus, Verdict,
    policies::{PolicyChange, PolicyError},
    users::{UserChange, UserError},
};

/// Inputs of each kind taken in one turn, before outputs are handed out: heart-beats must leave in time.
const TURN: usize = 256;

/// Inputs from clients that may wait for the core; each holds at most 64 KiB.
const CLIENT_QUEUE: usize = 1024;

/// Questions from the admin interface that may wait.
const QUESTION_QUEUE: usize = 64;

/// The loop looks at the clock at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How long a shutdown may take before it is cut short.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

/// Between two words in the log about refused writes.
const REFUSALS_TOLD: Duration = Duration::from_secs(10);

/// What the loop is made of, besides the broker.
pub struct DriverConfig {
    /// Where the rows go. Its reader is what the broker's engine reads.
    pub store: Box<dyn Store>,
    /// The links.
    pub rim: Rim,
    /// Their events.
    pub rim_events: RimEvents,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Limits of all of them together.
    pub clients: ListenerConfig,
    /// The secrets that the node is known by.
    pub secrets: Secrets,
    /// Addresses of a cluster to join, dialled for ever besides the roster.
    pub join: Vec<SocketAddr>,
    /// The zero of the monotonic clock that the broker was made with.
    pub started: Instant,
    /// Bytes of the store that are read in a second to find damage; `None`: none.
    pub scrub: Option<u64>,
    /// What became of the store so far, for the status.
    pub store_status: StoreStatus,
    /// Places found broken in earlier lives of this process.
    pub damaged_places: u64,
    /// How the memory was shared out, for the status.
    pub memory: MemoryStatus,
}

/// Why the loop ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The store broke. What was confirmed is on disk; restart to reopen it.
    #[error("the store can't be trusted any more: {0}")]
    Store(#[from] StoreError),
    /// A secret can't be put on disk: peers would not know this node any more after a restart.
    #[error("the network's secret can't be kept: {0}")]
    Secret(#[from] SecretError),
    /// No thread for the store.
    #[error("the store has no thread: {0}")]
    Thread(std::io::Error),
    /// The system gives no randomness.
    #[error("the system gives no random bytes, so passcodes can't be checked: {0}")]
    NoRandomness(SecretError),
}

/// A question to the core.
enum Question {
    Status(oneshot::Sender<Status>),
    Forget(NodeId, oneshot::Sender<Result<Forgotten, ForgetError>>),
    SetSize(Size, oneshot::Sender<Result<(), SizeError>>),
    Subscriptions(oneshot::Sender<Vec<SubscriptionStatus>>),
    RemoveSubscription(String, oneshot::Sender<bool>),
    Drain(oneshot::Sender<Option<DrainStatus>>),
    CancelDrain(oneshot::Sender<Result<(), CancelError>>),
    Merge(Ticket, Option<Size>, oneshot::Sender<Result<Merging, MergeError>>),
    Split(SplitOrder, bool, oneshot::Sender<Result<(SplitPlan, Backlogs), SplitError>>),
    CancelSplit(oneshot::Sender<Result<(), SplitError>>),
    GiveUpPart(NodeId, oneshot::Sender<Result<LostPart, GiveUpPartError>>),
    Users(oneshot::Sender<Vec<UserStatus>>),
    ChangeUser(UserChange, oneshot::Sender<Result<bool, UserError>>),
    Policies(oneshot::Sender<Vec<PolicyStatus>>),
    ChangePolicy(PolicyChange, oneshot::Sender<Result<bool, PolicyError>>),
    Jobs(JobQuestion, oneshot::Sender<Result<JobsStatus, JobError>>),
}

/// Asks the core questions from other tasks. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    questions: mpsc::Sender<Question>,
    jobs: Jobs,
}

impl Handle {
    /// Reads the whole store and says what is broken in it.
    ///
    /// # Errors
    /// See [`MaintenanceError`].
    pub async fn verify(&self) -> Result<Verified, MaintenanceError> {
        self.jobs.verify().await
    }

    /// Copies the store into an empty directory, as of one moment after the call.
    ///
    /// # Errors
    /// See [`MaintenanceError`].
    pub async fn copy_store(&self, to: PathBuf) -> Result<Copied, MaintenanceError> {
        self.jobs.copy(to).await
    }

    /// The node's status; `None` when the core has stopped.
    pub async fn status(&self) -> Option<Status> {
        let (answer, status) = oneshot::channel();
        self.questions.send(Question::Status(answer)).await.ok()?;
        status.await.ok()
    }

    /// Forgets a node that will never come back; `None` when the core has stopped. See `Node::forget`.
    pub async fn forget(&self, node: NodeId) -> Option<Result<Forgotten, ForgetError>> {
        let (answer, forgotten) = oneshot::channel();
        self.questions.send(Question::Forget(node, answer)).await.ok()?;
        forgotten.await.ok()
    }

    /// Sets the policy for the number of members; `None` when the core has stopped. See `Node::set_size`.
    pub async fn set_size(&self, size: Size) -> Option<Result<(), SizeError>> {
        let (answer, done) = oneshot::channel();
        self.questions.send(Question::SetSize(size, answer)).await.ok()?;
        done.await.ok()
    }

    /// All durable subscriptions; `None` when the core has stopped.
    pub async fn subscriptions(&self) -> Option<Vec<SubscriptionStatus>> {
        let (answer, list) = oneshot::channel();
        self.questions.send(Question::Subscriptions(answer)).await.ok()?;
        list.await.ok()
    }

    /// Deletes a durable subscription, and what waits for it. Whether there is one; `None` when the core has stopped.
    pub async fn remove_subscription(&self, name: String) -> Option<bool> {
        let (answer, done) = oneshot::channel();
        self.questions.send(Question::RemoveSubscription(name, answer)).await.ok()?;
        done.await.ok()
    }

    /// All users; `None` when the core has stopped.
    pub async fn users(&self) -> Option<Vec<UserStatus>> {
        let (answer, list) = oneshot::channel();
        self.questions.send(Question::Users(answer)).await.ok()?;
        list.await.ok()
    }

    /// Changes a user on all nodes. Whether that is on disk here; `None` when the core has stopped. See
    /// [`Broker::change_user`].
    pub async fn change_user(&self, change: UserChange) -> Option<Result<bool, UserError>> {
        let (answer, done) = oneshot::channel();
        self.questions.send(Question::ChangeUser(change, answer)).await.ok()?;
        done.await.ok()
    }

    /// All policies; `None` when the core has stopped.
    pub async fn policies(&self) -> Option<Vec<PolicyStatus>> {
        let (answer, list) = oneshot::channel();
        self.questions.send(Question::Policies(answer)).await.ok()?;
        list.await.ok()
    }

    /// Changes a policy on all nodes. Whether that is on disk here; `None` when the core has stopped. See
    /// [`Broker::change_policy`].
    pub async fn change_policy(&self, change: PolicyChange) -> Option<Result<bool, PolicyError>> {
        let (answer, done) = oneshot::channel();
        self.questions.send(Question::ChangePolicy(change, answer)).await.ok()?;
        done.await.ok()
    }

    /// Asks all nodes within reach about jobs; `None` when the core has stopped. See [`Broker::ask_jobs`].
    pub async fn ask_jobs(&self, question: JobQuestion) -> Option<Result<JobsStatus, JobError>> {
        let (answer, done) = oneshot::channel();
        self.questions.send(Question::Jobs(question, answer)).await.ok()?;
        done.await.ok()
    }

    /// Begins to leave the cluster for good, or tells how far that is; `None` when the core has stopped or is stopping.
    pub async fn drain(&self) -> Option<DrainStatus> {
        let (answer, done) = oneshot::channel();
        self.questions.send(Question::Drain(answer)).await.ok()?;
        done.await.ok().flatten()
    }

    /// Takes that back; `None` when the core has stopped.
    pub async fn cancel_drain(&self) -> Option<Result<(), CancelError>> {
        let (answer, done) = oneshot::channel();
        self.questions.send(Question::CancelDrain(answer)).await.ok()?;
        done.await.ok()
    }

    /// Merges with the cluster of a ticket; `None` when the core has stopped. See `Node::merge`.
    pub async fn merge(&self, ticket: Ticket, size: Option<Size>) -> Option<Result<Merging, MergeError>> {
        let (answer, merging) = oneshot::channel();
        self.questions.send(Question::Merge(ticket, size, answer)).await.ok()?;
        merging.await.ok()
    }

    /// Parts the cluster into two, or only says what would come of it; `None` when the core has stopped. See `Node::split`.
    pub async fn split(&self, order: SplitOrder, dry_run: bool) -> Option<Result<(SplitPlan, Backlogs), SplitError>> {
        let (answer, plan) = oneshot::channel();
        self.questions.send(Question::Split(order, dry_run, answer)).await.ok()?;
        plan.await.ok()
    }

    /// Takes that back; `None` when the core has stopped. See `Node::cancel_split`.
    pub async fn cancel_split(&self) -> Option<Result<(), SplitError>> {
        let (answer, done) = oneshot::channel();
        self.questions.send(Question::CancelSplit(answer)).await.ok()?;
        done.await.ok()
    }

    /// Gives up the part of a split cluster that a node is of; `None` when the core has stopped. See `Node::give_up_part_of`.
    pub async fn give_up_part_of(&self, node: NodeId) -> Option<Result<LostPart, GiveUpPartError>> {
        let (answer, done) = oneshot::channel();
        self.questions.send(Question::GiveUpPart(node, answer)).await.ok()?;
        done.await.ok()
    }
}

/// The latest refusals that are kept, to tell why a merge does not come about.
const REFUSALS: usize = 64;

/// See the module docs.
pub struct Driver {
    broker: Broker,
    rim: Rim,
    rim_events: RimEvents,
    writer: Writer,
    written: mpsc::Receiver<Written>,
    clients: Clients,
    checks: Checks,
    /// Clients that have sent all they want to, while their passcodes are being checked.
    ended: BTreeSet<ConnId>,
    checked: mpsc::Receiver<Checked>,
    /// Who waits for a change of users or policies to be on disk.
    changes: BTreeMap<ChangeId, Box<dyn FnOnce(bool) + Send>>,
    /// Who waits for an answer about jobs.
    job_asks: BTreeMap<JobAskId, oneshot::Sender<Result<JobsStatus, JobError>>>,
    client_inputs: mpsc::Receiver<ClientInput>,
    accepting: tokio::task::JoinHandle<()>,
    /// Dropped when no more clients are to come in.
    stop_accepting: Option<oneshot::Sender<()>>,
    questions: mpsc::Receiver<Question>,
    join: Vec<SocketAddr>,
    started: Instant,
    refused_at: Option<Instant>,
    alarm: Alarm,
    scrubber: Scrubber,
    findings: mpsc::Receiver<Finding>,
    damage: DamageLog,
    store_status: StoreStatus,
    memory: MemoryStatus,
    /// By address, the latest of each.
    refusals: VecDeque<Refused>,
    stopped: bool,
    /// Something that must not fail has: the life ends.
    failed: Option<DriverError>,
    secrets: Secrets,
}

/// The clocks, with `started` as the monotonic one's zero.
pub(super) fn now(started: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Now { mono_ms: ms(started.elapsed()), wall_ms: ms(wall) }
}

impl Driver {
    /// Puts the parts together. Has to be called in a Tokio runtime.
    ///
    /// # Errors
    /// [`DriverError::Thread`].
    pub fn new(broker: Broker, config: DriverConfig) -> Result<(Self, Handle), DriverError> {
        let (scrubber, findings) =
            Scrubber::start(config.store.checker(), config.scrub).map_err(DriverError::Thread)?;
        // As good a key as any other.
        let key = NetworkSecret::generate().map_err(DriverError::NoRandomness)?;
        let (checks, checked) = Checks::new(*key.as_bytes());
        let (writer, written) = Writer::start(config.store).map_err(DriverError::Thread)?;
        let (sender, client_inputs) = mpsc::channel(CLIENT_QUEUE);
        let (asker, questions) = mpsc::channel(QUESTION_QUEUE);
        let (stop_accepting, stop) = oneshot::channel();
        let accepting = tokio::spawn(listen::accept(config.listeners, config.clients, sender, stop));
        let driver = Self {
            broker,
            rim: config.rim,
            rim_events: config.rim_events,
            writer,
            written,
            clients: Clients::default(),
            checks,
            ended: BTreeSet::new(),
            checked,
            changes: BTreeMap::new(),
            job_asks: BTreeMap::new(),
            client_inputs,
            accepting,
            stop_accepting: Some(stop_accepting),
            questions,
            join: config.join,
            started: config.started,
            refused_at: None,
            alarm: Alarm::default(),
            scrubber,
            findings,
            damage: DamageLog::new(config.damaged_places),
            store_status: config.store_status,
            memory: config.memory,
            refusals: VecDeque::new(),
            stopped: false,
            failed: None,
            secrets: config.secrets,
        };
        if !driver.join.is_empty() {
            driver.rim.dial([(None, driver.join.clone())]);
        }
        let jobs = driver.scrubber.jobs();
        Ok((driver, Handle { questions: asker, jobs }))
    }

    /// Runs until `stop` is done, then shuts down in order: clients are told, what waits is written, peers hear a
    /// good-bye.
    ///
    /// How it ended, and how many places on the disk are known to be broken. After [`DriverError::Store`] nothing may be
    /// trusted but what is read back: open the store again, in a new life.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> (Result<(), DriverError>, u64) {
        tokio::pin!(stop);
        let mut stopping = false;
        let patience = tokio::time::sleep(Duration::MAX);
        tokio::pin!(patience);
        let mut result = Ok(());
        self.drain_outputs();
        while !self.stopped {
            let wake_at = self.alarm.wake_at(self.broker.deadline());
            let ahead = wake_at.saturating_sub(now(self.started).mono_ms);
            let deadline = Instant::now() + Duration::from_millis(ahead).min(LONGEST_SLEEP);
            tokio::select! {
                biased;
                () = &mut stop, if !stopping => {
                    stopping = true;
                    patience.as_mut().reset(tokio::time::Instant::now() + SHUTDOWN_PATIENCE);
                    self.stop_accepting = None;
                    self.broker.shutdown(now(self.started));
                }
                () = &mut patience, if stopping => {
                    tracing::warn!("the shutdown is cut short");
                    break;
                }
                written = self.written.recv() => {
                    let ended = || DriverError::Thread(std::io::Error::other("the store's thread has ended"));
                    if let Err(error) = written.ok_or_else(ended).and_then(|written| self.handle_written(written)) {
                        self.broker.abandon(now(self.started), &format!("{error}. Connect again: what has no receipt was not confirmed."));
                        self.drain_outputs();
                        result = Err(error);
                        break;
                    }
                }
                () = tokio::time::sleep_until(deadline.into()) => {}
                Some(event) = self.rim_events.recv() => self.handle_link(event),
                Some(input) = self.client_inputs.recv() => self.handle_client(input),
                Some(checked) = self.checked.recv() => self.handle_checked(checked),
                Some(question) = self.questions.recv() => self.handle_question(question),
                Some(finding) = self.findings.recv() => self.handle_finding(&finding),
            }
            self.take_inputs();
            let now = now(self.started);
            if self.alarm.rings(now.mono_ms, self.broker.deadline()) {
                self.broker.handle_timeout(now);
            }
            self.drain_outputs();
            if let Some(error) = self.failed.take() {
                result = Err(error);
                break;
            }
        }
        if let Err(error) = &result {
            tracing::error!(%error, "nothing more is confirmed in this life");
        }
        let places = self.damage.places();
        self.finish().await;
        (result, places)
    }

    /// Whatever ended the wait, each source gets its turn, so that none can starve the others; and what waits here is
    /// taken in before time is looked at, so that nobody is called silent whose words wait.
    fn take_inputs(&mut self) {
        for _ in 0..TURN {
            let Some(event) = self.rim_events.try_recv() else { break };
            self.handle_link(event);
        }
        for _ in 0..TURN {
            let Ok(input) = self.client_inputs.try_recv() else { break };
            self.handle_client(input);
        }
        while let Ok(checked) = self.checked.try_recv() {
            self.handle_checked(checked);
        }
        for _ in 0..TURN {
            let Ok(question) = self.questions.try_recv() else { break };
            self.handle_question(question);
        }
    }

    async fn finish(self) {
        let Self { rim, mut rim_events, writer, mut clients, mut client_inputs, accepting, scrubber, findings, .. } =
            self;
        drop(findings);
        // Tasks of links and clients may wait for room in these queues while they end.
        let draining = tokio::spawn(async move { while rim_events.recv().await.is_some() {} });
        let closing = async {
            while !clients.is_empty() {
                match client_inputs.recv().await {
                    Some(ClientInput::Closed(conn)) => clients.remove(conn),
                    Some(_) => {}
                    None => break,
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
        accepting.abort();
        rim.shutdown(Duration::from_secs(1)).await;
        // The reading thread first: it uses what the writer's closes.
        scrubber.finish().await;
        writer.finish().await;
        draining.abort();
    }

    fn handle_written(&mut self, written: Written) -> Result<(), DriverError> {
        let now = now(self.started);
        match written {
            Written::Done(seq) => self.broker.handle_committed(now, seq, Ok(())),
            Written::Refused(seq, why) => {
                // A full disk refuses whatever is tried, several times a second.
                if self.refused_at.is_none_or(|at| at.elapsed() >= REFUSALS_TOLD) {
                    self.refused_at = Some(Instant::now());
                    tracing::error!(why, "a write was refused; told again in {REFUSALS_TOLD:?}, if it goes on");
                }
                self.broker.handle_committed(now, seq, Err(CommitError::Refused(why)));
            }
            Written::Broken(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn handle_link(&mut self, event: RimEvent) {
        let now = now(self.started);
        match event {
            RimEvent::LinkUp { link, hello, remote } => {
                tracing::info!(peer = %hello.node, name = hello.name, %remote, "linked");
                self.broker.handle_link_up(now, link, hello);
            }
            RimEvent::LinkDown { link, reason } => {
                tracing::info!(link = link.0, reason, "link down");
                self.broker.handle_link_down(now, link);
            }
            RimEvent::Message { link, bytes } => self.broker.handle_message(now, link, bytes),
            RimEvent::Datagram { link, bytes } => self.broker.handle_datagram(now, link, bytes),
            RimEvent::Refused(refused) => self.note_refusal(refused),
        }
    }

    /// The rim has logged it; a merge that does not come about tells it too.
    fn note_refusal(&mut self, refused: Refused) {
        self.refusals.retain(|other| other.remote != refused.remote);
        if self.refusals.len() == REFUSALS {
            self.refusals.pop_front();
        }
        self.refusals.push_back(refused);
    }

    fn handle_client(&mut self, input: ClientInput) {
        let now = now(self.started);
        match input {
            ClientInput::Open(conn, peer, writer, gate) => {
                self.clients.insert(conn, writer, gate);
                self.broker.handle_client_open_from(now, conn, peer);
            }
            ClientInput::Bytes(conn, bytes) => self.broker.handle_client_bytes(now, conn, &bytes),
            ClientInput::Flushed(conn, total) => self.broker.handle_client_flushed(now, conn, total),
            // Who has sent DISCONNECT is owed the receipts, and is closed when they are written.
            ClientInput::Ended(conn) if self.broker.is_leaving(conn) => {}
            // What it has sent behind CONNECT counts, if it is let in.
            ClientInput::Ended(conn) if self.broker.is_asked(conn) => _ = self.ended.insert(conn),
            ClientInput::Ended(conn) | ClientInput::Closed(conn) => self.remove_client(conn),
        }
    }

    fn remove_client(&mut self, conn: ConnId) {
        self.ended.remove(&conn);
        self.clients.remove(conn);
        self.checks.forget(conn);
        self.broker.handle_client_closed(now(self.started), conn);
    }

    /// A passcode was checked.
    fn handle_checked(&mut self, checked: Checked) {
        let (clients, verdict) = self.checks.finish(checked);
        clients.into_iter().for_each(|conn| self.tell_verdict(conn, verdict));
    }

    fn tell_verdict(&mut self, conn: ConnId, verdict: Verdict) {
        self.broker.handle_login_checked(now(self.started), conn, verdict);
        if self.ended.remove(&conn) && !self.broker.is_leaving(conn) {
            self.remove_client(conn);
        }
    }

    fn change_user(&mut self, change: &UserChange, answer: oneshot::Sender<Result<bool, UserError>>) {
        match self.broker.change_user(now(self.started), change) {
            Ok(id) => {
                let what = match change {
                    UserChange::Add { .. } => "makes a user",
                    UserChange::Passcode { .. } => "changes a user's passcode",
                    UserChange::Access { .. } => "changes what a user may do",
                    UserChange::Remove { .. } => "removes a user",
                };
                tracing::warn!(user = ?change.name(), "an operator {what}");
                self.changes.insert(id, Box::new(|is_kept| drop(answer.send(Ok(is_kept)))));
            }
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn change_policy(&mut self, change: &PolicyChange, answer: oneshot::Sender<Result<bool, PolicyError>>) {
        match self.broker.change_policy(now(self.started), change) {
            Ok(id) => {
                let what = match change {
                    PolicyChange::Set { .. } => "sets a policy",
                    PolicyChange::Remove { .. } => "removes a policy",
                };
                tracing::warn!(pattern = ?change.pattern(), "an operator {what}");
                self.changes.insert(id, Box::new(|is_kept| drop(answer.send(Ok(is_kept)))));
            }
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn ask_jobs(&mut self, question: JobQuestion, answer: oneshot::Sender<Result<JobsStatus, JobError>>) {
        if let JobQuestion::Remove(called) = &question {
            tracing::warn!(?called, "an operator removes a job");
        }
        match self.broker.ask_jobs(now(self.started), question) {
            Ok(ask) => _ = self.job_asks.insert(ask, answer),
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn handle_question(&mut self, question: Question) {
        match question {
            Question::Forget(node, answer) => {
                let forgotten = self.broker.forget(now(self.started), node);
                if forgotten.is_ok() {
                    tracing::warn!(%node, "an operator lets the cluster forget a node");
                }
                let _ = answer.send(forgotten);
            }
            Question::SetSize(size, answer) => {
                let done = self.broker.set_size(now(self.started), &size);
                if done.is_ok() {
                    tracing::warn!(%size, "an operator sets the number of members");
                }
                let _ = answer.send(done);
            }
            Question::Subscriptions(answer) => {
                let _ = answer.send(self.broker.subscriptions());
            }
            Question::RemoveSubscription(name, answer) => {
                let done = self.broker.remove_subscription(now(self.started), &name);
                if done {
                    tracing::warn!(?name, "an operator deletes a durable subscription");
                }
                let _ = answer.send(done);
            }
            Question::Users(answer) => {
                let _ = answer.send(self.broker.users());
            }
            Question::ChangeUser(change, answer) => self.change_user(&change, answer),
            Question::Policies(answer) => {
                let _ = answer.send(self.broker.policies());
            }
            Question::ChangePolicy(change, answer) => self.change_policy(&change, answer),
            Question::Jobs(question, answer) => self.ask_jobs(question, answer),
            Question::Drain(answer) => {
                if self.broker.node().drain_stage() == DrainStage::No {
                    tracing::warn!("an operator drains this node: it leaves the cluster for good");
                }
                let _ = answer.send(self.broker.drain(now(self.started)));
            }
            Question::CancelDrain(answer) => {
                let done = self.broker.cancel_drain(now(self.started));
                if done.is_ok() {
                    tracing::warn!("an operator takes the drain back: this node stays");
                }
                let _ = answer.send(done);
            }
            Question::Merge(ticket, size, answer) => {
                // What was refused before is no answer to this.
                self.refusals.retain(|refused| !ticket.addresses.contains(&refused.remote));
                let merging = self.broker.merge(now(self.started), &ticket, size.as_ref());
                if let Ok(merging) = &merging {
                    tracing::warn!(node = %merging.node, "an operator merges this cluster with another one");
                }
                let _ = answer.send(merging);
            }
            Question::Split(order, dry_run, answer) => {
                let _ = answer.send(self.split(order, dry_run));
            }
            Question::CancelSplit(answer) => {
                let done = self.broker.cancel_split(now(self.started));
                if done.is_ok() {
                    tracing::warn!("an operator takes the split back: the cluster stays one");
                }
                let _ = answer.send(done);
            }
            Question::GiveUpPart(node, answer) => {
                let done = self.broker.give_up_part_of(now(self.started), node);
                if let Ok(lost) = &done {
                    tracing::warn!(
                        split = lost.name,
                        nodes = lost.nodes.len(),
                        messages = lost.waiting_here,
                        "an operator gives up the other part of a split: what lies here of its messages is delivered here"
                    );
                }
                let _ = answer.send(done);
            }
            Question::Status(answer) => {
                let mut status = self.broker.status();
                status.damage.places = self.damage.places();
                status.store = StoreStatus { scrubs: self.scrubber.rounds(), ..self.store_status.clone() };
                let MemoryStatus { budget, index_cache, .. } = self.memory;
                status.memory = MemoryStatus { budget, index_cache, ..status.memory };
                for merging in &mut status.merging {
                    let refused =
                        self.refusals.iter().rev().find(|refused| merging.addresses.contains(&refused.remote));
                    merging.refused = refused.map(ToString::to_string);
                }
                let _ = answer.send(status);
            }
        }
    }

    fn split(&mut self, order: SplitOrder, dry_run: bool) -> Result<(SplitPlan, Backlogs), SplitError> {
        let plan = self.broker.plan_split(&order)?;
        if !dry_run {
            let secret = NetworkSecret::generate().map_err(|_| SplitError::NoRandomness)?;
            tracing::warn!(name = order.name, leaving = order.leaving.len(), "an operator splits the cluster");
            self.broker.split(now(self.started), order, secret)?;
        }
        Ok(plan)
    }

    /// Something on the disk is broken: it is told once, given up, and what is still good of the file is written anew.
    fn handle_finding(&mut self, finding: &Finding) {
        let is_new = self.damage.is_new(finding);
        if is_new {
            tracing::error!("damage on the disk: {finding}");
        }
        if let Some(key) = &finding.row {
            let is_here = self.broker.handle_broken_row(now(self.started), key);
            if is_new && is_here {
                tracing::info!(segment = ?finding.segment, "the broken row is written again from memory");
            }
        }
        if let (Some(segment), Some(slot)) = (finding.segment, finding.slots.first()) {
            let now = now(self.started);
            self.broker.handle_damage(now, Dot { segment, slot }, &finding.damage.what);
        }
        if matches!(finding.part, Part::Log | Part::Index) {
            self.writer.renew(finding.damage.file.clone());
        }
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Net(output) => self.perform(output),
                Output::ClientBytes { conn, bytes } => self.clients.send(conn, bytes),
                Output::ClientClose { conn } => self.clients.close(conn),
                Output::ClientPause { conn } => self.clients.pause(conn, true),
                Output::ClientResume { conn } => self.clients.pause(conn, false),
                Output::Check { conn, check } => {
                    let verdict = self.checks.ask(conn, check);
                    verdict.into_iter().for_each(|verdict| self.tell_verdict(conn, verdict));
                    self.checks.take_displaced().into_iter().for_each(|conn| self.tell_verdict(conn, Verdict::Busy));
                }
                Output::Changed { change, is_kept } => {
                    if let Some(answer) = self.changes.remove(&change) {
                        answer(is_kept);
                    }
                }
                Output::Jobs { ask, answer } => {
                    if let Some(waiting) = self.job_asks.remove(&ask) {
                        let _ = waiting.send(answer);
                    }
                }
                Output::Stopped => self.stopped = true,
            }
        }
    }

    fn note_secret(&mut self, result: Result<(), SecretError>) {
        if let Err(error) = result {
            self.failed.get_or_insert(error.into());
        }
    }

    fn perform(&mut self, output: NetOutput) {
        // What was to be done before it is not: nothing more is said.
        if self.failed.is_some() {
            return;
        }
        match output {
            NetOutput::Send { link, bytes } => self.rim.send(link, bytes),
            NetOutput::Datagram { link, bytes } => self.rim.datagram(link, bytes),
            NetOutput::Close { link, reason } => {
                tracing::warn!(link = link.0, reason, "closing a link");
                self.rim.close(link, reason);
            }
            NetOutput::Commit { seq, batch } => self.writer.write(seq, batch),
            NetOutput::Dial(targets) => {
                let roster = targets.into_iter().map(|(node, addresses)| (Some(node), addresses));
                let join = (!self.join.is_empty()).then(|| (None, self.join.clone()));
                self.rim.dial(roster.chain(join));
            }
            NetOutput::Trust(keyring) => self.rim.trust(keyring),
            // Small files, rarely, and nothing may be done before they are on disk.
            NetOutput::Keep(secret) => self.note_secret(self.secrets.keep(secret.as_ref())),
            NetOutput::Former(secrets) => self.note_secret(self.secrets.keep_former(&secrets)),
            NetOutput::Rekey(secret) => {
                tracing::warn!("the cluster is split: this node is of a network of its own part now");
                self.note_secret(self.secrets.replace(&secret));
                // Those are of the other part, or on the roster.
                self.join.clear();
            }
            _ => {}
        }
    }
}
