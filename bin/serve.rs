//! `rhizomq serve`: puts the parts together, says when it is ready, waits for the signal to stop.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
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
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{
    admin,
    cli::ServeArgs,
    config::{ConfigError, Settings},
    console::{Console, Ready},
    data_dir::{DataDir, DataDirError},
    log,
};

/// Exit codes, for scripts: what was asked for makes no sense; the data directory can't be used; all else.
const BAD_SETTINGS: u8 = 2;
const BAD_DATA: u8 = 3;
const FAILED: u8 = 1;

/// Why the node does not run, or not any more.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Log(String),
    #[error("--join: {0}")]
    Ticket(#[from] TicketError),
    #[error(transparent)]
    Data(#[from] DataDirError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Rim(#[from] RimError),
    #[error("cannot listen for {what} on {address}: {source}; is another program there?")]
    Listen { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
}

impl ServeError {
    fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Log(_) | Self::Ticket(_) | Self::Listen { .. } => BAD_SETTINGS,
            Self::Data(error) if error.is_settings() => BAD_SETTINGS,
            Self::Data(_) | Self::Engine(_) => BAD_DATA,
            Self::Rim(_) => BAD_SETTINGS,
            Self::Driver(_) | Self::System { .. } => FAILED,
        }
    }
}

/// Runs a node until a signal stops it.
pub(crate) fn run(args: ServeArgs) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rhizomq: {error}");
            ExitCode::from(error.code())
        }
    }
}

fn start(args: ServeArgs) -> Result<(), ServeError> {
    let settings = Settings::resolve(args)?;
    log::start(&settings.log, settings.json).map_err(|error| ServeError::Log(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| ServeError::System { what: "cannot start the runtime", source })?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<(), ServeError> {
    let console = Console { json: settings.json };
    let ticket: Option<Ticket> = settings.join.as_deref().map(str::parse).transpose()?;
    let data = DataDir::open(&settings.data, ticket.as_ref())?;
    console.opened(&data.path, data.fresh);

    let started = Instant::now();
    let (epoch, seed) = (Epoch(random()?), random()?);
    let id = data.identity.node();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Now { mono_ms: 0, wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) };
    let (engine, report) = Engine::open(data.store.reader(), id, epoch, now, Planted::default())?;
    tell(&report);

    let name = settings.name.clone().unwrap_or_else(|| id.to_string()[..8].to_owned());
    let listener = listen("STOMP clients", settings.stomp).await?;
    let admin_listener = listen("the admin interface", settings.admin).await?;
    let (rim, rim_events) = Rim::open(RimConfig::new(settings.peer, epoch, &name), &data.identity, data.secret.clone())?;
    let local = |source| ServeError::System { what: "cannot tell the bound address", source };
    let peer = rim.local_addr().map_err(local)?;
    let addresses = if settings.advertise.is_empty() { vec![peer] } else { settings.advertise.clone() };
    let ready_stomp = listener.local_addr().map_err(local)?;
    let ready_admin = admin_listener.local_addr().map_err(local)?;

    let node = Node::new(
        now,
        engine,
        NodeConfig {
            name: name.clone(),
            site: settings.site.clone(),
            addresses: addresses.clone(),
            copies: settings.copies,
            confirm: settings.confirm,
            seed,
            timing: Timing::default(),
            swim: SwimConfig::default(),
            planted: Planted::default(),
        },
    );
    let (driver, handle) = Driver::new(
        Broker::new(node, BrokerConfig::default()),
        DriverConfig {
            store: Box::new(data.store),
            rim,
            rim_events,
            listener,
            clients: ListenerConfig::default(),
            join: ticket.map(|ticket| ticket.addresses).unwrap_or_default(),
            started,
        },
    )?;

    let ticket = Ticket { secret: data.secret.clone(), node: id, addresses };
    let (stop_admin, admin_stopped) = oneshot::channel::<()>();
    let source = Source { handle, ticket: Arc::new(ticket) };
    let admin = tokio::spawn(admin::serve(admin_listener, source, async {
        let _ = admin_stopped.await;
    }));
    let ready = Ready { stomp: ready_stomp, peer, admin: ready_admin, node: id.to_string(), name: &name };
    let stop = signals()?;
    console.ready(&ready);
    if data.fresh {
        console.next_steps(&ready);
    }
    let result = driver
        .run(async {
            stop.await;
            console.stopping();
        })
        .await;
    drop(stop_admin);
    admin.abort();
    result?;
    console.stopped();
    Ok(())
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { what, address, source })
}

/// Resolves at the first SIGTERM or SIGINT.
fn signals() -> Result<impl Future<Output = ()>, ServeError> {
    let system = |source| ServeError::System { what: "cannot wait for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn random() -> Result<u64, ServeError> {
    rand::rngs::SysRng.try_next_u64().map_err(|error| ServeError::System {
        what: "the system gives no randomness",
        source: std::io::Error::other(error),
    })
}

/// What was found in the store, in the log.
fn tell(report: &OpenReport) {
    for row in &report.damaged_rows {
        tracing::error!("a row of the store does not read: {row}");
    }
    for loss in &report.losses {
        tracing::error!(segment = %loss.segment, slots = ?loss.slots, "lost here; fetched again from other nodes that hold it");
    }
    tracing::info!(segments = report.segments, waiting = report.waiting, "store opened");
}

/// What the admin interface asks.
#[derive(Clone)]
struct Source {
    handle: Handle,
    ticket: Arc<Ticket>,
}

impl admin::Source for Source {
    async fn status(&self) -> Option<Value> {
        serde_json::to_value(self.handle.status().await?).ok()
    }

    fn ticket(&self) -> String {
        self.ticket.to_string()
    }
}

