//! `rhizomq serve`: puts the parts together, says when it is ready, and ends in order when told to.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::TryRng;
use rhizomq_engine::{
    Engine, EngineError, Epoch, NodeId, Now, OpenReport, Planted, Store, StoreError, Unaccounted,
    store::{Damage, DiskStore},
};
use rhizomq_net::{
    GivenUp, Node, NodeConfig, Size, SplitOrder, SwimConfig, Ticket, TicketError, Timing,
    rim::{Identity, Keyring, Rim, RimConfig, RimError, RimEvents, Secrets},
    trusted_networks,
};
use rhizomq_stomp::{
    Backlog, Broker, BrokerConfig, DrainingStatus, JobQuestion, StoreStatus, UnaccountedStatus,
    policies::PolicyChange,
    rim::{Driver, DriverConfig, DriverError, Handle},
    users::UserChange,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

use crate::{
    admin, backup,
    cli::ServeArgs,
    config::{ConfigError, Settings},
    console::{Console, Ready},
    data_dir::{self, DataDir, DataDirError},
    findings, jobs,
    limits::OWN_FILES,
    listen::{Doors, ListenError},
    lives::Attempts,
    log::{self, FilterError},
    output::complain,
    policies, quarantine, users,
};

/// Places found broken on opening that are remembered; beyond that they are counted again in the next life.
const MAX_TOLD: usize = 10_000;

/// How long answers under way may take when the node stops.
const ADMIN_PATIENCE: Duration = Duration::from_secs(1);

/// How long the peer port of an earlier life is waited for, and how often it is tried.
const PORT_PATIENCE: Duration = Duration::from_secs(10);
const PORT_PAUSE: Duration = Duration::from_millis(100);

/// Why a node did not start, or ended before it was told to. See [`ServeError::exit_code`].
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("--join: {0}")]
    Ticket(#[from] TicketError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("the data directory cannot be used: {0}")]
    Engine(#[from] EngineError),
    #[error("cannot listen on {flag} {address}: {source}")]
    Bind { flag: &'static str, address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("--peer: {0}")]
    Rim(#[from] RimError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("the system gives no random bytes, so this life of the node can't be named: {0}")]
    NoRandomness(rand::rngs::SysError),
    #[error("at most {limit} files may be open, too few for a node; raise the limit (`ulimit -n`) above {OWN_FILES}")]
    Files { limit: u64 },
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
}

impl ServeError {
    /// Whether reading back what is on disk may help: the system refused to write or read.
    fn is_of_the_disk(&self) -> bool {
        let store = match self {
            Self::Driver(DriverError::Store(error))
            | Self::Engine(EngineError::Store(error))
            | Self::DataDir(DataDirError::Store(error)) => error,
            _ => return false,
        };
        matches!(
            store,
            StoreError::Io { .. } | StoreError::Damaged { .. } | StoreError::Full { .. } | StoreError::Locked { .. }
        )
    }

    /// The codes that `serve --help` names.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Filter(_) | Self::Ticket(_) => 2,
            Self::DataDir(error) if error.is_settings() => 2,
            Self::DataDir(_) | Self::Engine(_) | Self::Driver(DriverError::Store(_)) => 3,
            Self::Listen(ListenError::Tls(_)) => 2,
            Self::Bind { .. } | Self::Listen(ListenError::Bind { .. }) | Self::Rim(RimError::Bind { .. }) => 4,
            _ => 1,
        }
    }
}

/// Runs a node until a signal stops it.
pub(crate) fn run(args: ServeArgs) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn start(args: ServeArgs) -> Result<(), ServeError> {
    let settings = Settings::resolve(args)?;
    log::start(&settings.log, settings.json)?;
    let ticket = settings.join.as_deref().map(str::parse::<Ticket>).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| ServeError::System { what: "cannot start the runtime", source })?;
    runtime.block_on(serve(settings, ticket))
}

async fn serve(settings: Settings, ticket: Option<Ticket>) -> Result<(), ServeError> {
    let max_connections = settings.limits.possible_connections().map_err(|limit| ServeError::Files { limit })?;
    // The addresses come first: a port that is taken should not leave a half-made data directory behind.
    let doors = Doors::open(settings.stomp, &settings.listen).await?;
    let (stomp, others, open) = (doors.stomp(), doors.others(), doors.open_in_the_clear());
    let (asking, admin) = bind("--admin", settings.admin).await?;
    let opened = DataDir::open(&settings.data, ticket.as_ref(), settings.memory.disk_options())?;
    let DataDir { path, identity, secret, store, damages, fresh, set_aside } = opened;
    let console = Console { json: settings.json };
    console.opened(&path, fresh);
    let signals = Signals::catch()?;
    let (stop, stopping) = watch::channel(false);

    let mut host = Host {
        name: settings.name.clone().unwrap_or_else(|| format!("node-{:?}", identity.node())),
        peer: settings.peer,
        settings,
        identity,
        // The ticket may be of a network that this node is of no more.
        join: ticket.filter(|ticket| ticket.secret == secret).map(|ticket| ticket.addresses).unwrap_or_default(),
        secrets: Secrets::new(&path, secret),
        doors,
        stopping,
        current: Current::default(),
        status: StoreStatus {
            set_aside: set_aside.map(|aside| aside.place.display().to_string()),
            ..StoreStatus::default()
        },
        places: 0,
        told: BTreeSet::new(),
        has_users: false,
        max_connections,
    };
    let (mut life, _) = host.begin(store, &damages).await?;
    let source = Source {
        current: host.current.clone(),
        secrets: host.secrets.clone(),
        addresses: host.addresses(),
        data: path.clone(),
        node: host.identity.node(),
    };
    let (stop_admin, admin_stops) = oneshot::channel::<()>();
    let admin_task = tokio::spawn(admin::serve(asking, source, async {
        // Told, or the node is gone: either way it is time.
        let _ = admin_stops.await;
    }));
    let node = host.identity.node().to_string();
    let ready = Ready { stomp, others, peer: host.peer, admin, node, name: &host.name };
    console.ready(&ready);
    console.tell_of_users(host.has_users, host.settings.listen.require_login);
    console.warn_of_open_doors(&open);
    if fresh {
        console.next_steps(&ready);
    }
    let told = Console { json: console.json };
    tokio::spawn(async move {
        signals.wait().await;
        told.stopping();
        let _ = stop.send(true);
    });

    let mut attempts = Attempts::default();
    loop {
        let begun = Instant::now();
        let error = match host.live(life).await {
            Ok(()) => break,
            Err(error) => error,
        };
        match host.begin_again(error, begun.elapsed(), &mut attempts, &path).await? {
            Some((next, epoch)) => {
                console.reopened(&epoch.to_string());
                life = next;
            }
            None => break,
        }
    }
    let _ = stop_admin.send(());
    // Whoever asks slowly can't hold up the end.
    if let Ok(Ok(Err(error))) = tokio::time::timeout(ADMIN_PATIENCE, admin_task).await {
        tracing::warn!(%error, "the admin interface failed");
    }
    console.stopped();
    Ok(())
}

/// What all lives of the process share.
struct Host {
    settings: Settings,
    name: String,
    identity: Identity,
    secrets: Secrets,
    doors: Doors,
    /// As asked for until the first life has bound it.
    peer: SocketAddr,
    join: Vec<SocketAddr>,
    /// True once a signal came.
    stopping: watch::Receiver<bool>,
    current: Current,
    status: StoreStatus,
    /// Places on the disk found broken, in all lives.
    places: u64,
    /// Those of them that were found on opening: the next life finds them again.
    told: BTreeSet<(String, u64, String)>,
    /// Whether there were any at the start of the life.
    has_users: bool,
    max_connections: usize,
}

impl Host {
    fn addresses(&self) -> Vec<SocketAddr> {
        if self.settings.advertise.is_empty() { vec![self.peer] } else { self.settings.advertise.clone() }
    }

    /// A new life on a store just opened.
    async fn begin(&mut self, store: DiskStore, damages: &[Damage]) -> Result<(Driver, Epoch), ServeError> {
        let epoch = Epoch(random()?);
        let started = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Now { mono_ms: 0, wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) };
        let (mut engine, report) = Engine::open(store.reader(), self.identity.node(), epoch, now, Planted::default())?;
        tell(&report);
        self.count(damages, &report);
        if self.status.unaccounted.len() < MAX_TOLD {
            self.status.unaccounted.extend(report.unaccounted.map(UnaccountedStatus::from));
        }
        self.settings.memory.limit(&mut engine);
        // Whom to let in is known before anybody knocks.
        let (network, next_network) = (self.secrets.current(), self.secrets.next().map_err(DataDirError::from)?);
        let former_networks = self.secrets.former().map_err(DataDirError::from)?;
        let keyring = trusted_networks(&engine, network.clone(), next_network.clone());
        let (rim, rim_events) = self.open_rim(epoch, keyring).await?;
        let system = |what| move |source| ServeError::System { what, source };
        self.peer = rim.local_addr().map_err(system("cannot tell the peer port"))?;
        let listeners = self.doors.listeners().map_err(system("the client ports"))?;
        let config = NodeConfig {
            name: self.name.clone(),
            site: self.settings.site.clone(),
            network,
            next_network,
            former_networks,
            addresses: self.addresses(),
            copies: self.settings.copies,
            confirm: self.settings.confirm,
            confirm_sites: self.settings.confirm_sites,
            seed: random()?,
            timing: Timing::default(),
            swim: SwimConfig::default(),
            planted: Planted::default(),
        };
        let mut node = Node::new(now, engine, config);
        node.propose(self.settings.propose);
        let limits = &self.settings.limits;
        let clients = limits.listeners(self.max_connections, self.settings.listen.origins.clone());
        let config = BrokerConfig {
            max_clients: self.max_connections,
            require_login: self.settings.listen.require_login,
            session: limits.session(),
            duplicates: limits.duplicates(),
            ..BrokerConfig::default()
        };
        let mut broker = Broker::new(node, config);
        self.has_users = !broker.has_no_users();
        if !report.losses.is_empty() {
            broker.handle_losses(now, &report.losses);
        }
        let memory = self.settings.memory.status(&store);
        let driver = DriverConfig {
            store: Box::new(store),
            rim,
            rim_events,
            listeners,
            secrets: self.secrets.clone(),
            clients,
            join: self.join.clone(),
            started,
            scrub: self.settings.scrub,
            store_status: self.status.clone(),
            damaged_places: self.places,
            memory,
        };
        let (driver, handle) = Driver::new(broker, driver)?;
        self.current.set(Some(handle));
        Ok((driver, epoch))
    }

    /// Counts what was found broken on opening, each place once. Messages that are missing without a place that the log would
    /// tell lie in a part of it that was not read again: then each segment that misses some stands for a place.
    fn count(&mut self, damages: &[Damage], report: &OpenReport) {
        let in_files = damages.iter().map(|damage| (damage.file.clone(), damage.offset, damage.what.clone()));
        let in_rows = report.damaged_rows.iter().map(|row| (row.clone(), 0, String::new()));
        let mut places: Vec<_> = in_files.chain(in_rows).collect();
        if places.is_empty() {
            places.extend(report.losses.iter().map(|loss| (loss.segment.to_string(), 0, format!("{:?}", loss.slots))));
        }
        for place in places {
            if self.told.len() >= MAX_TOLD {
                self.told.pop_first();
            }
            self.places += u64::from(self.told.insert(place));
        }
    }

    /// The port of an earlier life may take a moment to be free again.
    async fn open_rim(&self, epoch: Epoch, keyring: Keyring) -> Result<(Rim, RimEvents), ServeError> {
        let begun = Instant::now();
        loop {
            let config = RimConfig::new(self.peer, epoch, &self.name);
            match Rim::open(config, &self.identity, keyring.clone()) {
                Err(RimError::Bind { .. }) if self.status.reopened > 0 && begun.elapsed() < PORT_PATIENCE => {
                    tokio::time::sleep(PORT_PAUSE).await;
                }
                result => return Ok(result?),
            }
        }
    }

    async fn live(&mut self, life: Driver) -> Result<(), ServeError> {
        let mut stopping = self.stopping.clone();
        let (result, places) = life
            .run(async move {
                // The sender lives as long as the signals are waited for.
                let _ = stopping.wait_for(|stopping| *stopping).await;
            })
            .await;
        self.current.set(None);
        self.places = places;
        Ok(result?)
    }

    /// After a failed life: reads the store back from disk and begins a new one, unless the error is of another kind or
    /// came too often. `None` when the node is told to stop meanwhile.
    async fn begin_again(
        &mut self,
        mut error: ServeError,
        mut lived: Duration,
        attempts: &mut Attempts,
        data: &Path,
    ) -> Result<Option<(Driver, Epoch)>, ServeError> {
        loop {
            let Some(pause) = attempts.next(lived).filter(|_| error.is_of_the_disk()) else { return Err(error) };
            tracing::error!(%error, ?pause, "the store is read back from disk, in a new life of this node");
            self.status.reopened += 1;
            self.status.reopened_because = Some(error.to_string());
            let mut stopping = self.stopping.clone();
            if tokio::time::timeout(pause, stopping.wait_for(|stopping| *stopping)).await.is_ok() {
                return Ok(None);
            }
            let place = data.join("store");
            let options = self.settings.memory.disk_options();
            let opened = tokio::task::spawn_blocking(move || quarantine::open(&place, options)).await;
            let opened = opened
                .map_err(|error| StoreError::Damaged { place: data.display().to_string(), detail: error.to_string() });
            let begun = match opened.and_then(|opened| opened) {
                Ok((store, report)) => {
                    data_dir::tell(&report);
                    self.begin(store, &report.damages).await
                }
                Err(error) => Err(DataDirError::from(error).into()),
            };
            match begun {
                Ok(life) => return Ok(Some(life)),
                Err(next) => (error, lived) = (next, Duration::ZERO),
            }
        }
    }
}

/// The running life as other tasks see it; nothing between two lives.
#[derive(Clone, Default)]
struct Current(Arc<Mutex<Option<Handle>>>);

impl Current {
    // Nothing panics while the lock is held.
    fn set(&self, handle: Option<Handle>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = handle;
    }

    fn get(&self) -> Option<Handle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let error = |source| ServeError::Bind { flag, address, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}

fn random() -> Result<u64, ServeError> {
    rand::rngs::SysRng.try_next_u64().map_err(ServeError::NoRandomness)
}

/// What the engine could not show of what it had vouched for.
fn tell(report: &OpenReport) {
    for loss in &report.losses {
        let slots = format!("{:?}", loss.slots);
        tracing::error!(
            segment = %loss.segment, slots,
            "messages are missing after damage; they are fetched from another node, and lost if none has them"
        );
    }
    if let Some(Unaccounted { from, at_most }) = report.unaccounted {
        let from = from.map_or("of an unknown life".to_owned(), |dot| format!("from {dot} on"));
        let at_most = at_most.map_or("no bound is known".to_owned(), |count| format!("{count} at most"));
        tracing::error!(
            from,
            at_most,
            "the log has lost commits, and messages that this node took in may have been in them: those {from}, {at_most}; \
             other nodes that have copies give them back, and what was consumed in them may be delivered again"
        );
    }
    for row in &report.damaged_rows {
        tracing::error!(row, "damage in a row of the store; its content comes from other nodes");
    }
    tracing::info!(segments = report.segments, waiting = report.waiting, "the engine is open");
}

/// The running node as the admin interface sees it.
#[derive(Clone)]
struct Source {
    current: Current,
    secrets: Secrets,
    addresses: Vec<SocketAddr>,
    data: PathBuf,
    node: NodeId,
}

impl Source {
    fn handle(&self) -> Result<Handle, String> {
        self.current
            .get()
            .ok_or_else(|| "the node is stopping, or reading its store back after a failed write".to_owned())
    }
}

impl users::Source for Source {
    async fn users(&self) -> Result<Value, String> {
        let list = self.handle()?.users().await.ok_or("the node is stopping")?;
        // Plain data always has a JSON form.
        Ok(json!({ "users": serde_json::to_value(list).unwrap_or_default() }))
    }

    async fn change_user(&self, change: UserChange) -> Result<Value, String> {
        let (handle, name) = (self.handle()?, change.name().to_owned());
        let is_kept = handle.change_user(change).await.ok_or("the node is stopping")?;
        if !is_kept.map_err(|error| error.to_string())? {
            return Err("the change is not on disk after 10 s; it may be later".to_owned());
        }
        let users = handle.users().await.ok_or("the node is stopping")?;
        Ok(json!({ "user": name, "users": users.len() }))
    }
}

impl policies::Source for Source {
    async fn policies(&self) -> Result<Value, String> {
        let list = self.handle()?.policies().await.ok_or("the node is stopping")?;
        // Plain data always has a JSON form.
        Ok(json!({ "policies": serde_json::to_value(list).unwrap_or_default() }))
    }

    async fn change_policy(&self, change: PolicyChange) -> Result<Value, String> {
        let (handle, pattern) = (self.handle()?, change.pattern().to_owned());
        let is_kept = handle.change_policy(change).await.ok_or("the node is stopping")?;
        if !is_kept.map_err(|error| error.to_string())? {
            return Err("the change is not on disk after 10 s; it may be later".to_owned());
        }
        Ok(json!({ "pattern": pattern }))
    }
}

impl jobs::Source for Source {
    async fn jobs(&self, question: JobQuestion) -> Result<Value, String> {
        let answer = self.handle()?.ask_jobs(question).await.ok_or("the node is stopping")?;
        // Plain data always has a JSON form.
        Ok(serde_json::to_value(answer.map_err(|error| error.to_string())?).unwrap_or_default())
    }
}

impl admin::Source for Source {
    async fn status(&self) -> Option<Value> {
        // The status is plain data: it always has a JSON form.
        serde_json::to_value(self.current.get()?.status().await?).ok()
    }

    fn ticket(&self) -> String {
        let ticket = Ticket { secret: self.secrets.current(), node: self.node, addresses: self.addresses.clone() };
        ticket.to_string()
    }

    async fn verify(&self) -> Result<Value, String> {
        let verified = self.handle()?.verify().await.map_err(|error| error.to_string())?;
        Ok(findings::report(&verified.checked, &verified.findings, verified.more, &[]))
    }

    async fn forget(&self, node: NodeId) -> Result<Value, String> {
        let forgotten = self.handle()?.forget(node).await.ok_or("the node is stopping")?;
        let forgotten = forgotten.map_err(|error| error.to_string())?;
        let what = match forgotten.what {
            GivenUp::Node => "node",
            GivenUp::Merge => "merge",
        };
        Ok(json!({
            "node": node.to_string(),
            "given_up": what,
            "waiting_here": forgotten.waiting_here,
            "replicas": forgotten.replicas,
        }))
    }

    async fn set_size(&self, size: Size) -> Result<Value, String> {
        let policy = size.to_string();
        self.handle()?.set_size(size).await.ok_or("the node is stopping")?.map_err(|error| error.to_string())?;
        Ok(json!({ "policy": policy }))
    }

    async fn subscriptions(&self) -> Result<Value, String> {
        let list = self.handle()?.subscriptions().await.ok_or("the node is stopping")?;
        // Plain data always has a JSON form.
        Ok(json!({ "subscriptions": serde_json::to_value(list).unwrap_or_default() }))
    }

    async fn remove_subscription(&self, name: String) -> Result<Value, String> {
        match self.handle()?.remove_subscription(name.clone()).await.ok_or("the node is stopping")? {
            true => Ok(json!({ "removed": name })),
            false => {
                Err("there is no durable subscription of that name; `rhizomq subscription list` shows all".to_owned())
            }
        }
    }

    async fn drain(&self, cancel: bool) -> Result<Value, String> {
        let handle = self.handle()?;
        if cancel {
            handle.cancel_drain().await.ok_or("the node is stopping")?.map_err(|error| error.to_string())?;
            return Ok(json!({ "draining": null }));
        }
        let status = handle.drain().await.ok_or("the node is stopping")?;
        // Plain data always has a JSON form.
        Ok(json!({ "draining": serde_json::to_value(DrainingStatus::from(status)).unwrap_or_default() }))
    }

    async fn merge(&self, ticket: Ticket, size: Option<Size>) -> Result<Value, String> {
        let handle = self.handle()?;
        let merging = handle.merge(ticket, size).await.ok_or("the node is stopping")?;
        let merging = merging.map_err(|error| error.to_string())?;
        Ok(json!({
            "node": merging.node.to_string(),
            "addresses": merging.addresses,
            "already": merging.already,
        }))
    }

    async fn split(&self, order: SplitOrder, dry_run: bool) -> Result<Value, String> {
        let plan = self.handle()?.split(order, dry_run).await.ok_or("the node is stopping")?;
        let (plan, backlogs) = plan.map_err(|error| error.to_string())?;
        let ids = |nodes: BTreeSet<NodeId>| nodes.iter().map(ToString::to_string).collect::<Vec<_>>();
        let backlog = |(name, Backlog { leave, stay, short })| json!({ "name": name, "leave": leave, "stay": stay, "short_of_copies": short });
        Ok(json!({
            "leaving": ids(plan.leaving),
            "staying": ids(plan.staying),
            "backlogs": backlogs.into_iter().map(backlog).collect::<Vec<_>>(),
            "away": ids(plan.away),
            "out_of_reach_segments": plan.out_of_reach,
            "unproven_segments": plan.unproven,
        }))
    }

    async fn cancel_split(&self) -> Result<Value, String> {
        self.handle()?.cancel_split().await.ok_or("the node is stopping")?.map_err(|error| error.to_string())?;
        Ok(json!({ "splitting": null }))
    }

    async fn give_up_part_of(&self, node: NodeId) -> Result<Value, String> {
        let lost = self.handle()?.give_up_part_of(node).await.ok_or("the node is stopping")?;
        let lost = lost.map_err(|error| error.to_string())?;
        let nodes: Vec<_> = lost.nodes.iter().map(ToString::to_string).collect();
        Ok(json!({ "given_up": lost.name, "nodes": nodes, "waiting_here": lost.waiting_here }))
    }

    async fn backup(&self, dir: PathBuf) -> Result<Value, String> {
        let taken = backup::take(&self.handle()?, self.node, &self.data, &dir).await;
        let (manifest, copied) = taken.map_err(|error| error.to_string())?;
        tracing::info!(dir = %dir.display(), files = manifest.files.len(), "a backup was taken");
        let damages =
            copied.damages.iter().map(|damage| format!("{} at {}: {}", damage.file, damage.offset, damage.what));
        Ok(json!({
            "node": self.node.to_string(),
            "files": manifest.files.len(),
            "bytes": manifest.files.iter().map(|file| file.bytes).sum::<u64>(),
            "damages": damages.collect::<Vec<_>>(),
        }))
    }
}

/// SIGINT and SIGTERM, caught from the moment the node can be killed in the middle of something.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn catch() -> Result<Self, ServeError> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let terminate = signal(SignalKind::terminate());
            terminate
                .map(|terminate| Self { terminate })
                .map_err(|source| ServeError::System { what: "cannot catch SIGTERM", source })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    #[cfg(unix)]
    async fn wait(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }

    #[cfg(not(unix))]
    async fn wait(self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
