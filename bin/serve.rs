//! `rhizomq serve`: puts the parts together, says when it is ready, and ends in order when told to.

use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::TryRng;
use rhizomq_engine::{Engine, EngineError, Epoch, Now, OpenReport, Planted, Store};
use rhizomq_net::{
    Node, NodeConfig, SwimConfig, Ticket, TicketError, Timing,
    rim::{Rim, RimConfig, RimError},
};
use rhizomq_stomp::{
    Broker, BrokerConfig,
    rim::{Driver, DriverConfig, DriverError, Handle, ListenerConfig},
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::oneshot};

use crate::{
    admin,
    cli::ServeArgs,
    config::{ConfigError, Settings},
    console::{Console, Ready},
    data_dir::{DataDir, DataDirError},
    log::{self, FilterError},
};

/// Clients at a time, if the system lets the process open so many files.
const MAX_CLIENTS: u64 = 10_000;

/// Files that the node may open besides its clients' sockets: the log, the index, links, the admin interface.
const OWN_FILES: u64 = 160;

/// How long answers under way may take when the node stops.
const ADMIN_PATIENCE: Duration = Duration::from_secs(1);

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
    /// The codes that `serve --help` names.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Filter(_) | Self::Ticket(_) => 2,
            Self::DataDir(error) if error.is_settings() => 2,
            Self::DataDir(_) | Self::Engine(_) | Self::Driver(DriverError::Store(_)) => 3,
            Self::Bind { .. } | Self::Rim(RimError::Bind { .. }) => 4,
            _ => 1,
        }
    }
}

/// Runs a node until a signal stops it.
pub(crate) fn run(args: ServeArgs) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rhizomq: {error}");
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
    let max_connections = client_limit()?;
    // The addresses come first: a port that is taken should not leave a half-made data directory behind.
    let (clients, stomp) = bind("--stomp", settings.stomp).await?;
    let (asking, admin) = bind("--admin", settings.admin).await?;
    let DataDir { path, identity, secret, store, fresh } = DataDir::open(&settings.data, ticket.as_ref())?;
    let console = Console { json: settings.json };
    console.opened(&path, fresh);

    let id = identity.node();
    let name = settings.name.clone().unwrap_or_else(|| format!("node-{id:?}"));
    let epoch = Epoch(random()?);
    let (rim, rim_events) = Rim::open(RimConfig::new(settings.peer, epoch, &name), &identity, secret.clone())?;
    let peer = rim.local_addr().map_err(|source| ServeError::System { what: "cannot tell the peer port", source })?;
    let addresses = if settings.advertise.is_empty() { vec![peer] } else { settings.advertise.clone() };

    let started = Instant::now();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Now { mono_ms: 0, wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) };
    let (engine, report) = Engine::open(store.reader(), id, epoch, now, Planted::default())?;
    tell(&report);
    let config = NodeConfig {
        name: name.clone(),
        site: settings.site.clone(),
        addresses: addresses.clone(),
        copies: settings.copies,
        confirm: settings.confirm,
        seed: random()?,
        timing: Timing::default(),
        swim: SwimConfig::default(),
        planted: Planted::default(),
    };
    let broker = Broker::new(Node::new(now, engine, config), BrokerConfig::default());
    let driver = DriverConfig {
        store: Box::new(store),
        rim,
        rim_events,
        listener: clients,
        clients: ListenerConfig { max_connections },
        join: ticket.map(|ticket| ticket.addresses).unwrap_or_default(),
        started,
    };
    let (driver, handle) = Driver::new(broker, driver)?;
    let signals = Signals::catch()?;

    let ticket = Ticket { secret, node: id, addresses }.to_string();
    let (stop_admin, admin_stops) = oneshot::channel::<()>();
    let source = Source { handle, ticket };
    let admin_task = tokio::spawn(admin::serve(asking, source, async {
        // Told, or the node is gone: either way it is time.
        let _ = admin_stops.await;
    }));
    let ready = Ready { stomp, peer, admin, node: id.to_string(), name: &name };
    console.ready(&ready);
    if fresh {
        console.next_steps(&ready);
    }
    driver
        .run(async {
            signals.wait().await;
            console.stopping();
        })
        .await?;
    let _ = stop_admin.send(());
    // Whoever asks slowly can't hold up the end.
    if let Ok(Ok(Err(error))) = tokio::time::timeout(ADMIN_PATIENCE, admin_task).await {
        tracing::warn!(%error, "the admin interface failed");
    }
    console.stopped();
    Ok(())
}

/// How many clients there may be at a time: clients must not take the descriptors that the store needs.
fn client_limit() -> Result<usize, ServeError> {
    let limit = rlimit::increase_nofile_limit(MAX_CLIENTS + OWN_FILES).unwrap_or(1024);
    let clients = limit.saturating_sub(OWN_FILES).min(MAX_CLIENTS);
    if clients == 0 {
        return Err(ServeError::Files { limit });
    }
    if clients < MAX_CLIENTS {
        tracing::warn!(clients, limit, "fewer clients than {MAX_CLIENTS} are taken: the limit on open files is low");
    }
    Ok(clients as usize)
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
        let slots = loss.slots.len();
        tracing::error!(segment = %loss.segment, slots, "messages are missing after damage; asking other nodes for them");
    }
    for row in &report.damaged_rows {
        tracing::error!(row, "damage in a row of the store; its content comes from other nodes");
    }
    tracing::info!(segments = report.segments, waiting = report.waiting, "the engine is open");
}

/// The running node as the admin interface sees it.
#[derive(Clone)]
struct Source {
    handle: Handle,
    ticket: String,
}

impl admin::Source for Source {
    async fn status(&self) -> Option<Value> {
        // The status is plain data: it always has a JSON form.
        serde_json::to_value(self.handle.status().await?).ok()
    }

    fn ticket(&self) -> String {
        self.ticket.clone()
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
